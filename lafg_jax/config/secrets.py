"""What may be shown of a run: its config and command without what the table marks as secret."""

import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config.table import ROWS
from lafg_jax.utils import config_keys

HIDDEN = "..."
# NAME:PASSWORD@ of an address, and what stands behind '=' in its query.
_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"([?&][^=&\s]+=)[^&\s]+")
# Tokens of the hub, of OpenAI and of GitHub.
_TOKEN = re.compile(r"\b(hf_|sk-|gh[a-z]_|github_pat_)[\w-]{8,}")
_FLAG = re.compile(r"(--?config\.([^=\s]+))(=.*)?", re.DOTALL)


def without(config: ConfigDict) -> dict[str, Any]:
  """The flat config without secret keys, and without what `plain` hides."""
  values = config_keys.flatten(config)
  return {key: plain(x) for key, x in values.items() if not is_secret(key)}


def command(argv: Sequence[str]) -> list[str]:
  """The words of a command line, with secrets replaced by '...'."""
  shown: list[str] = []
  hide_next = False
  for word in argv:
    flag = _FLAG.fullmatch(word)
    if hide_next:
      word = HIDDEN
    elif flag and flag[3] and is_secret(flag[2]):
      word = f"{flag[1]}={HIDDEN}"
    hide_next = bool(flag and not flag[3] and is_secret(flag[2]))
    shown.append(plain(word))
  return shown


def is_secret(key: str) -> bool:
  """Whether the table of keys marks a key as secret."""
  return key in ROWS and ROWS[key].secret


def plain(value: Any) -> Any:
  """The value; of a text or a list of them, without tokens, and addresses without logins."""
  if isinstance(value, list):
    return [plain(x) for x in value]
  if not isinstance(value, str):
    return value
  text = _TOKEN.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", value))
  return _QUERY.sub(rf"\1{HIDDEN}", text) if "://" in text else text
