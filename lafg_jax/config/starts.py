"""`run.json` of a workdir: with which config, command and versions each run of it began."""

import datetime
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.config import secrets
from lafg_jax.config.table import ROWS
from lafg_jax.utils import config_keys
from lafg_jax.utils.files import replacing

FILE = "run.json"


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
  set_secrets = {key for key in flat if secrets.is_secret(key) and flat[key] != ROWS[key].default}
  now = {k: secrets.HIDDEN if k in set_secrets else secrets.plain(x) for k, x in flat.items()}
  old = before.get("config", {})
  start = {
    "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "host": socket.gethostname(),
    "command": secrets.command(command),
    "stages": list(stages),
    "versions": {"python": sys.version.split()[0]} | versions,
    "changed": {k: [old[k], x] for k, x in now.items() if k in old and old[k] != x},
  }
  found = {"config": now, "starts": [*before.get("starts", []), start]}
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def config_of(workdir: str) -> dict[str, Any] | None:
  """The flat config of the newest start in a workdir; None where there is none."""
  config: dict[str, Any] | None = _read(Path(workdir, FILE)).get("config")
  return config


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
