"""The command as a user runs it: killed, interrupted, run again, and misused."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ("--config", "configs/synthetic.py:prototypes")
COMMAND = [sys.executable, "-m", "lafg_jax.ablate", *CONFIG]
# What most misuses get as far as.
IMPORTS = ("lafg_jax.ablation.plan", "lafg_jax.tasks.class_retrieval.stages")
# Every process of a run inherits it, orphans too.
MARK = "LAFG_JAX_ABLATE_TEST"
PATIENCE_S = 900
TABLE = "study/generated/synthetic_scratch.json"


def arguments(small, variants, workdir, *more):
  keys = [f"--config.{key}={value}" for key, value in (small | {"train.steps": 2}).items()]
  return [f"--variants={variants}", f"--workdir={workdir}", "--tuned=", "--seeds=3", *keys, *more]


def environment(**more):
  return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | more


def finished(workdir):
  return {path: path.stat().st_mtime_ns for path in Path(workdir, "cells").rglob("*.json")}


def wait_for(holds):
  end = time.monotonic() + PATIENCE_S
  while not holds():
    assert time.monotonic() < end, "it takes too long"
    time.sleep(0.02)


@contextlib.contextmanager
def started(folder, arguments):
  """A run in a process group of its own, as a terminal makes it; its output goes to a file."""
  with open(folder / "said", "w") as file:
    process = subprocess.Popen(
      [*COMMAND, *arguments], cwd=ROOT, env=environment(**{MARK: str(folder)}),
      stdout=file, stderr=file, start_new_session=True,
      # Whoever has started the tests in the background has left it ignored.
      preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
      yield process
    finally:
      process.kill()
      process.wait()


def alive(folder):
  """Processes of the run; zombies aside, and Python's tracker, which ends by itself after it."""
  found = []
  for entry in Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError):
      if f"{MARK}={folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
        state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        tracker = b"resource_tracker" in (entry / "cmdline").read_bytes()
        found += [int(entry.name)] if state not in "ZX" and not tracker else []
  return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_killed_interrupted_and_run_to_its_end(tmp_path, small, variants, forked):
  workdir = tmp_path / "w"
  given = arguments(small, variants(), workdir, "--groups=all")

  with started(tmp_path, [*given, "--jobs=2"]) as process:
    wait_for(lambda: len(finished(workdir)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(tmp_path))
  of_two_jobs = finished(workdir)
  assert 2 <= len(of_two_jobs) < 6

  with started(tmp_path, [*given, "--jobs=1"]) as process:
    wait_for(lambda: len(finished(workdir)) > len(of_two_jobs))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) == 75
    assert not alive(tmp_path)
  said = (tmp_path / "said").read_text()
  assert f"cells: 7, of which {len(of_two_jobs)} are finished" in said
  assert said.splitlines()[-1] == "stopped and saved: the same command goes on from here"
  assert "Traceback" not in said
  kept = finished(workdir)
  assert of_two_jobs.items() <= kept.items() and len(kept) < 6

  # One job makes what two made.
  twin, before = next((path, json.loads(path.read_text())) for path in of_two_jobs)
  twin.unlink()
  with started(tmp_path, [*given, "--jobs=1"]) as process:
    assert process.wait(PATIENCE_S) == 1
  after = json.loads(twin.read_text())
  assert {**before, "seconds": 0} == {**after, "seconds": 0}
  everything = finished(workdir)
  assert len(everything) == 6
  assert {p: t for p, t in kept.items() if p != twin}.items() <= everything.items()
  _check_the_failure(workdir, (tmp_path / "said").read_text())
  _check_the_results(workdir, everything)

  # Run again there is nothing to do.
  (tmp_path / "said").unlink()
  out = f"--out={tmp_path / 'out'}"
  again = [*CONFIG, *arguments(small, variants(), workdir, out)]
  [(code, said)] = forked("ablate", [again], tmp_path)
  assert code == 0 and "cells: 6, of which 6 are finished" in said
  assert finished(workdir) == everything and not list(workdir.glob("scratch"))

  # Nor is there in another workdir beside the same results, whatever the variant is called.
  renamed = variants('"l_aux+orthogonal": {', '"fixed": {')
  elsewhere = [*CONFIG, *arguments(small, renamed, tmp_path / "w2", out)]
  [(code, said)] = forked("ablate", [elsewhere], tmp_path)
  assert code == 0 and "cells: 6 are taken from" in said and "of which 6 are finished" in said
  found = json.loads((tmp_path / "out" / TABLE).read_text())["cells"]
  assert sorted(x["variant"] for x in found) == ["fixed"] * 3 + ["l_aux"] * 3
  other = [*elsewhere, "--config.train.learning_rate=0.5", "--report_only"]
  [(code, said)] = forked("ablate", [other], tmp_path)
  assert code == 2 and "6 cells of" in said and "will not be there" in said


def _check_the_failure(workdir, said):
  lines = [line for line in said.splitlines() if "crowded" in line]
  log = workdir / "cells/scratch/crowded/0.log"
  assert len(lines) == 1 and str(log) in lines[0] and "data.classes_per_batch" in lines[0]
  assert "Traceback" not in said and "UserError" in log.read_text()
  assert said.splitlines()[-1].startswith("error: 1 cell failed")


def _check_the_results(workdir, cells):
  found = json.loads((workdir / TABLE).read_text())["cells"]
  wanted = {(path.parent.name, int(path.stem)) for path in cells}
  assert {(x["variant"], x["seed"]) for x in found} == wanted
  generated = workdir / "study/generated"
  tables = (generated / "synthetic_scratch.md").read_text()
  assert "| l_aux+orthogonal | l_aux | 3 |" in tables
  assert "<svg" in (generated / "synthetic_scratch.svg").read_text()


def test_every_misuse_is_one_line(tmp_path, small, variants, forked):
  key = "loss.aligment"
  cases = [
    ((variants(), "--groups=headlin"), "--groups=headlin: it takes headline, bad, all"),
    ((variants(), "--starts=nothing"), "--starts=nothing: it takes scratch, pretrained"),
    ((variants(), "--starts=pretrained"), "no weights here"),
    ((variants(), "--only=("), "--only=(: no regular expression"),
    ((variants(), "--only=nobody"), "--only=nobody: it finds no start/variant"),
    ((variants(), "--seeds=0"), "--seeds=0: it takes 1 or more"),
    ((variants(), "--config.train.tracker=wandb"), "train.tracker=wandb: a study sends nothing"),
    ((variants(), "--jobs=-1"), "--jobs=-1"),
    ((variants(), "--tune", "--report_only"), "--report_only"),
    ((variants(), "--report_only"), "no finished cell in"),
    ((variants(), "--tuned=nowhere.json"), "--tuned=nowhere.json: no such file"),
    ((variants('loss.alignment": "ortho', f'{key}": "ortho'),),
     "variant scratch/l_aux+orthogonal: unknown key loss.aligment; did you mean loss.alignment?"),
    ((variants('"orthogonal"', '"orthogonl"'),),
     "variant scratch/l_aux+orthogonal: --config.loss.alignment=orthogonl: it takes one of"),
    ((variants('{"loss.alignment": "orthogonal"}', '{"train.steps": 9}'),), "train.steps"),
    ((variants('"l_aux+ortho', '"l aux+ortho'),), "variant 'scratch/l aux+ortho"),
    ((variants("def grid(", "def grit("),), "it lacks grid"),
    ((variants("def grid(", "def grid("[:-1]),), "it cannot be read"),
    (("nowhere.py",), "--variants=nowhere.py: no such file"),
  ]  # fmt: skip
  lines = [[*CONFIG, *arguments(small, path, tmp_path / "w", *more)] for (path, *more), _ in cases]
  for (given, wanted), (code, said) in zip(
    cases, forked("ablate", lines, tmp_path, imports=IMPORTS), strict=True
  ):
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and wanted in errors[0], (given, code, said)
    assert "Traceback" not in said and said.splitlines()[-1] == errors[0]
