"""What a task does, stage by stage, and what of it has been done in a workdir.

A stage is skipped while its outputs match its inputs. `<workdir>/stages.json` keeps, for each one,
the key it ran with (a hash of what its output depends on) and a hash of each output, so that an
output that was edited by hand or cut short is noticed as well.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from lafg_jax.runtime import distributed, interrupts, remote_workdir
from lafg_jax.utils.files import file_hash, fingerprint, replacing


class Stage(NamedTuple):
  """One step of a task: files in, files out.

  run: (config, workdir) -> None, or False where it was stopped before its end: then nothing is
    recorded, and no later stage runs. A rerun goes on where it stopped.
  inputs: (config, workdir) -> what the output depends on, as `fingerprint` takes it.
  outputs: config -> files and folders, relative to the workdir; a stage without any always runs.
  all_processes: every process takes part. Else process 0 works, and the others wait for it.
  """

  name: str
  run: Callable[[ConfigDict, str], Any]
  inputs: Callable[[ConfigDict, str], list[Any]]
  outputs: Callable[[ConfigDict], list[str]]
  all_processes: bool = False


def run_all(
  stages: Iterable[Stage], config: ConfigDict, workdir: str, store: str | None = None
) -> bool:
  """Runs stages in order, skips those that are done, and says whether all came to their end.

  Args:
    stages: of one task.
    config: resolved.
    workdir: for what they write.
    store: a folder that workdirs share. What a stage of one process writes goes there too, and a
      stage with the same inputs takes it from there.
  """
  for stage in stages:
    work = functools.partial(_run, stage, config, workdir, None if stage.all_processes else store)
    if not (work() if stage.all_processes else distributed.agree(f"stage {stage.name}", work)):
      return False
    remote_workdir.exchange()
    interrupts.check()
  return True


def _run(stage: Stage, config: ConfigDict, workdir: str, store: str | None) -> bool:
  outputs = stage.outputs(config)
  if not outputs:
    return stage.run(config, workdir) is not False
  key = fingerprint(*stage.inputs(config, workdir))
  asked = functools.partial(is_done, workdir, stage.name, key, outputs)
  # All run a stage together, or none does.
  if distributed.agree(f"stage {stage.name}", asked) if stage.all_processes else asked():
    return True
  kept = Path(store, f"{stage.name}-{key[:16]}") if store else None
  if kept is not None and kept.is_dir():
    _link(outputs, kept, Path(workdir))
  elif stage.run(config, workdir) is False:
    return False
  elif kept is not None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
      _link(outputs, Path(workdir), Path(temporary, "whole"))
      # Another process may have been as quick, with the same files.
      with contextlib.suppress(OSError):
        os.rename(Path(temporary, "whole"), kept)
  if distributed.process_index() == 0:
    mark_done(workdir, stage.name, key, outputs)
  return True


def _link(names: Sequence[str], source: Path, target: Path) -> None:
  """The same files in another folder: links, since every file is replaced and none is changed."""
  for name in names:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).unlink(missing_ok=True)
    os.link(source / name, target / name)


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
