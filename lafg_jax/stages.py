"""The stages of a task, and the record of those that are done in a workdir.

A stage is skipped while its outputs match its inputs. `<workdir>/stages.json` keeps for each stage
its key (a hash of what its output depends on) and a hash of each output, so that an output that
somebody edited or that is incomplete is noticed.
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
    recorded, no later stage runs, and a rerun resumes it.
  inputs: (config, workdir) -> what the output depends on, as `fingerprint` takes it.
  outputs: config -> files and folders, relative to the workdir; a stage without any always runs.
  all_processes: every process takes part; otherwise process 0 works and the others wait.
  """

  name: str
  run: Callable[[ConfigDict, str], Any]
  inputs: Callable[[ConfigDict, str], list[Any]]
  outputs: Callable[[ConfigDict], list[str]]
  all_processes: bool = False


def run_all(
  stages: Iterable[Stage], config: ConfigDict, workdir: str, store: str | None = None
) -> bool:
  """Runs stages in order, skips those that are done, and returns whether all were completed.

  `store` is a folder that workdirs share: the output of a stage of one process is kept there too,
  and a stage with the same inputs takes it from there.
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
      # Another process may have stored the same files meanwhile.
      with contextlib.suppress(OSError):
        os.rename(Path(temporary, "whole"), kept)
  if distributed.process_index() == 0:
    mark_done(workdir, stage.name, key, outputs)
  return True


def _link(names: Sequence[str], source: Path, target: Path) -> None:
  """Links files into another folder; that is safe, as files are replaced and never changed."""
  for name in names:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).unlink(missing_ok=True)
    os.link(source / name, target / name)


def is_done(
  workdir: str | os.PathLike, stage: str, key: str, outputs: Sequence[str | os.PathLike]
) -> bool:
  """Whether `stage` can be skipped; logs the decision, the key and, for a rerun, the reason.

  `outputs` are files or folders, relative to `workdir` or absolute.
  """
  reason = _why_run(workdir, stage, key, outputs)
  decision = f"running ({reason})" if reason else "skipped (up to date)"
  logging.info("stage %s [%s]: %s", stage, key[:12], decision)
  return not reason


def will_run(stage: Stage, config: ConfigDict, workdir: str) -> bool:
  """Whether `stage` would run now; logs nothing."""
  key = fingerprint(*stage.inputs(config, workdir))
  return bool(_why_run(workdir, stage.name, key, stage.outputs(config)))


def _why_run(
  workdir: str | os.PathLike, stage: str, key: str, outputs: Sequence[str | os.PathLike]
) -> str:
  """Why `stage` cannot be skipped; '' where it can."""
  record = _read(workdir).get(stage)
  if record is None:
    return "first run"
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
  # Relative names stay right when the workdir is moved.
  paths = [Path(workdir) / output for output in outputs]
  return {os.path.relpath(path, workdir): file_hash(path) for path in paths}


def _read(workdir) -> dict[str, dict]:
  path = Path(workdir) / "stages.json"
  if not path.exists():
    return {}
  with contextlib.suppress(ValueError):
    records = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(records, dict) and all(isinstance(r, dict) for r in records.values()):
      return records
  logging.warning("%s is damaged: every stage counts as not yet run", path)
  return {}
