"""`run.json` of a workdir: with which config, command and versions each run of it began."""

import datetime
import json
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config.table import ROWS
from lafg_jax.utils import config_keys
from lafg_jax.utils.files import replacing

FILE = "run.json"
_HIDDEN = "..."
_USER = re.compile(r"(://)[^/@\s]+@")
_QUERY = re.compile(r"([?&][^=&\s]+=)[^&\s]+")
# Tokens of the hub, of OpenAI and of GitHub.
_TOKEN = re.compile(r"\b(hf_|sk-|gh[a-z]_|github_pat_)[\w-]{8,}")
_FLAG = re.compile(r"--?config\.([^=]+)=", re.DOTALL)


def record(
  workdir: str,
  config: ConfigDict,
  command: Sequence[str],
  stages: Sequence[str],
  versions: dict[str, str],
) -> None:
  """Adds a start to `<workdir>/run.json`, which has the config of the newest start too.

  Of each start: 'began' (UTC), 'host', 'command' (words; none in a notebook), 'stages', 'versions',
  and 'changed', the keys that differ from the start before: {key: [old, new]}. What the table of
  keys calls secret, and tokens and passwords in URLs, are '...'.
  """
  path = Path(workdir, FILE)
  before = _read(path)
  flat = json.loads(json.dumps(config_keys.flatten(config), default=str))
  now = {key: _shown(key, value) for key, value in flat.items()}
  old = before.get("config", {})
  start = {
    "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "host": socket.gethostname(),
    "command": [_shown_word(word) for word in command],
    "stages": list(stages),
    "versions": {"python": sys.version.split()[0]} | versions,
    "changed": {k: [old[k], x] for k, x in now.items() if k in old and old[k] != x},
  }
  found = {"config": now, "starts": [*before.get("starts", []), start]}
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
  if not path.exists():
    return {}
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(found["config"], dict) and isinstance(found["starts"], list):
      return found
  except (ValueError, KeyError, TypeError):
    pass
  logging.warning("%s is damaged: earlier starts are left out", path)
  return {}


def _shown(key: str, value: Any) -> Any:
  if key in ROWS and ROWS[key].secret and value != ROWS[key].default:
    return _HIDDEN
  return _without_tokens(value) if isinstance(value, str) else value


def _shown_word(word: str) -> str:
  match = _FLAG.match(word)
  if match and match[1] in ROWS and ROWS[match[1]].secret:
    return match[0] + _HIDDEN
  return _without_tokens(word)


def _without_tokens(text: str) -> str:
  text = _TOKEN.sub(rf"\1{_HIDDEN}", _USER.sub(rf"\1{_HIDDEN}@", text))
  return _QUERY.sub(rf"\1{_HIDDEN}", text) if "://" in text else text
