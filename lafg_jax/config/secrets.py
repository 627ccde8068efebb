"""What may be shown of a run: its config and command without what the table marks as secret."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config.table import ROWS
from lafg_jax.utils import config_keys

_HIDDEN = "..."
# NAME:PASSWORD@ of an address.
_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")
_FLAG = re.compile(r"(--?config\.([^=\s]+))(=.*)?", re.DOTALL)


def without(config: ConfigDict) -> dict[str, Any]:
  """The flat config without secret keys, and without names and passwords in addresses."""
  values = config_keys.flatten(config)
  return {key: plain(x) for key, x in values.items() if not _is_secret(key)}


def command(argv: Sequence[str]) -> str:
  """A command line, as a shell takes it, with secrets replaced by '...'."""
  shown: list[str] = []
  hide_next = False
  for word in argv:
    flag = _FLAG.fullmatch(word)
    if hide_next:
      word = _HIDDEN
    elif flag and flag[3] and _is_secret(flag[2]):
      word = f"{flag[1]}={_HIDDEN}"
    hide_next = bool(flag and not flag[3] and _is_secret(flag[2]))
    shown.append(plain(word))
  return shlex.join(shown)


def _is_secret(key: str) -> bool:
  return key in ROWS and ROWS[key].secret


def plain(value: Any) -> Any:
  """The value; of a text or a list of them, without names and passwords in addresses."""
  if isinstance(value, list):
    return [plain(x) for x in value]
  return _LOGIN.sub(f"{_HIDDEN}@", value) if isinstance(value, str) else value
