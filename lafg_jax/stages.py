"""What has been done in a workdir: a stage is skipped while its outputs match its inputs.

`<workdir>/stages.json` keeps, for each stage, the key it ran with (a hash of its config section,
class list and inputs) and a hash of each output, so that an output that was edited by hand or cut
short is noticed as well.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from lafg_jax.utils.files import file_hash, replacing


def is_done(
  workdir: str | os.PathLike, stage: str, key: str, outputs: Sequence[str | os.PathLike]
) -> bool:
  """Whether `stage` can be skipped; logs the decision, the key and, for a rerun, the reason.

  Args:
    outputs: files or folders, relative to `workdir` or absolute.
  """
  record = _read(workdir).get(stage)
  reason = "first run" if record is None else _why_rerun(record, workdir, key, outputs)
  if reason:
    logging.info("stage %s [%s]: running (%s)", stage, key[:12], reason)
  else:
    logging.info("stage %s [%s]: skipped (up to date)", stage, key[:12])
  return not reason


def _why_rerun(record, workdir, key, outputs) -> str:
  if any(not (Path(workdir) / output).exists() for output in outputs):
    return "output missing"
  if record.get("key") != key:
    return "config or inputs changed"
  if record.get("outputs") != _hashes(workdir, outputs):
    return "output changed since it was written"
  return ""


def mark_done(
  workdir: str | os.PathLike, stage: str, key: str, outputs: Sequence[str | os.PathLike]
) -> None:
  """Records that `stage` wrote `outputs` under `key`; the arguments are those of `is_done`."""
  record = {"key": key, "outputs": _hashes(workdir, outputs)}
  text = json.dumps({**_read(workdir), stage: record}, indent=2, sort_keys=True) + "\n"
  with replacing(Path(workdir) / "stages.json") as temporary:
    temporary.write_text(text, encoding="utf-8")


def _hashes(workdir, outputs) -> dict[str, str]:
  # Relative names keep the record true when the whole workdir is moved.
  paths = [Path(workdir) / output for output in outputs]
  return {os.path.relpath(path, workdir): file_hash(path) for path in paths}


def _read(workdir) -> dict[str, dict]:
  path = Path(workdir) / "stages.json"
  if not path.exists():
    return {}
  try:
    records = json.loads(path.read_text(encoding="utf-8"))
  except ValueError:
    records = None
  if not isinstance(records, dict) or not all(isinstance(r, dict) for r in records.values()):
    logging.warning("%s is damaged: every stage counts as not yet run", path)
    return {}
  return records
