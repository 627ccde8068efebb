"""Kills a training run over and over, and compares what it ends with to an unbroken run.

  python tests/faults/kill.py --kills=50 [--seed=0] [--workdir=DIR]

A small run of configs/synthetic.py with two data workers is killed by SIGKILL at random moments of
its life (while it starts, compiles, trains, saves), each time run again by the same command, and at
last left to end. Nothing is repaired in between. After every kill all processes that the run
started must be gone, and nothing may be left in shared memory. Prints a row for the table of
docs/reliability.md; exits with 1 if anything differs.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
# Every process of a run inherits it, orphans too.
MARK = "LAFG_JAX_KILLED_RUN"
STEPS_A_KILL, LOG_EVERY, WORKERS = 100, 5, 2
KEYS = {
  "data.image_size": 16, "data.resize_size": 16, "data.classes_per_batch": 5,
  "data.images_per_class": 2, "data.num_workers": WORKERS, "model.width": 16, "model.depth": 1,
  "model.num_heads": 2, "model.mlp_dim": 32, "model.embedding_dim": 16, "loss.projector_width": 48,
  "loss.alignment": "orthogonal", "train.log_every": LOG_EVERY,
  "train.checkpoint_every": 3, "train.freeze": "backbone/block_0/attention",
}  # fmt: skip

# Most of so short a life would be compilation: every run after the first finds it done.
COMPILING = {
  "JAX_COMPILATION_CACHE_DIR": os.path.join(tempfile.gettempdir(), "lafg_jax_kill_compiled"),
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


def started(workdir: Path, mark: str, steps: int) -> subprocess.Popen:
  """One run of the command; its output goes to <workdir>.log."""
  command = [sys.executable, "-m", "lafg_jax.main", "--config", "configs/synthetic.py:prototypes"]
  command += [f"--workdir={workdir}", "--stage=train"]
  command += [f"--config.{key}={value}" for key, value in (KEYS | {"train.steps": steps}).items()]
  environment = COMPILING | os.environ
  environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), MARK: mark}
  with open(f"{workdir}.log", "a", encoding="utf-8") as log:
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def marked(mark: str) -> list[int]:
  """Processes, zombies aside, that were started by the run `mark`."""
  found = []
  for folder in Path("/proc").glob("[0-9]*"):
    try:
      if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
        state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        found += [int(folder.name)] if state != "Z" else []
    except OSError:
      continue
  return found


def gone(mark: str, seconds: float = 20.0) -> float | None:
  """Seconds until no process of the run is left; None where one stays."""
  begun = time.monotonic()
  while marked(mark):
    if time.monotonic() - begun > seconds:
      return None
    time.sleep(0.02)
  return time.monotonic() - begun


def segments() -> set[str]:
  """What lies in shared memory."""
  return {path.name for path in Path("/dev/shm").rglob("*") if path.is_file()}


def in_use(name: str) -> bool:
  """Whether a process maps this segment: then it is another program's."""
  for maps in Path("/proc").glob("[0-9]*/maps"):
    try:
      if f"/dev/shm/{name}" in maps.read_text():
        return True
    except OSError:
      continue
  return False


def newest(workdir: Path) -> int:
  names = [p.name for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
  return max(map(int, names), default=0)


def killed(
  workdir: Path, mark: str, rng: random.Random, steps: int, late: bool
) -> tuple[str, float | None]:
  """Starts the run, kills it at a random moment; where that was, and how long its workers took."""
  before = newest(workdir)
  process = started(workdir, mark, steps)
  if rng.random() < 0.25 and not late:
    # At any point of starting and compiling.
    time.sleep(rng.uniform(0, 6))
  else:
    # Once it has saved something itself: at any point of the loop or of a save.
    while newest(workdir) <= before and process.poll() is None:
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.6))
  process.kill()
  if process.wait() != -9:
    return "after its end", gone(mark)
  if list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")):
    return "in a save", gone(mark)
  return "in training" if newest(workdir) > before else "while starting", gone(mark)


def compare(unbroken: Path, broken: Path, steps: int) -> list[str]:
  """What differs between the two runs' last checkpoints and logs."""
  from lafg_jax.training import checkpoints, metrics_log

  whole, resumed = (checkpoints.read(str(folder), steps)[0] for folder in (unbroken, broken))
  problems = [f"arrays {set(whole) ^ set(resumed)}"] if set(whole) != set(resumed) else []
  problems += [
    f"{path} differs"
    for path, x in whole.items()
    if path in resumed and not np.array_equal(x, resumed[path], equal_nan=True)
  ]
  lines = [line["step"] for line in metrics_log.read(str(broken / metrics_log.FILE))]
  wanted = list(range(LOG_EVERY, steps + 1, LOG_EVERY))
  if lines != wanted:
    lacks, twice = sorted({*wanted} - {*lines}), len(lines) - len({*lines})
    problems.append(f"metrics.jsonl lacks the steps {lacks} and has {twice} twice")
  return problems


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--steps", type=int, default=None, help=f"default: {STEPS_A_KILL} a kill")
  parser.add_argument("--seed", type=int, default=int(time.time()))
  parser.add_argument("--workdir", default=None)
  options = parser.parse_args()
  steps = options.steps or STEPS_A_KILL * options.kills
  print(f"seed {options.seed}", flush=True)
  folder = Path(options.workdir or tempfile.mkdtemp(prefix="lafg_jax_kill_"))
  folder.mkdir(parents=True, exist_ok=True)
  rng, before = random.Random(options.seed), segments()
  where: dict[str, int] = {}
  problems: list[str] = []
  slowest = 0.0
  for kill in range(options.kills):
    moment, seconds = killed(
      # The first has something to lose.
      *(folder / "broken", f"{os.getpid()}.{kill}", rng, steps, kill == 0)
    )
    where[moment] = where.get(moment, 0) + 1
    if seconds is None:
      problems.append(f"kill {kill}: processes {marked(f'{os.getpid()}.{kill}')} stay")
    slowest = max(slowest, seconds or 0.0)
    print(f"kill {kill + 1}: {moment}, saved up to {newest(folder / 'broken')}", flush=True)
  for name in ("broken", "unbroken"):
    code = started(folder / name, f"{os.getpid()}.{name}", steps).wait()
    if code:
      problems.append(f"the run {name} ended with {code}, see {folder / name}.log")
  if not problems:
    problems = compare(folder / "unbroken", folder / "broken", steps)
  if left := {name for name in segments() - before if not in_use(name)}:
    problems.append(f"left in shared memory: {sorted(left)}")
  moments = ", ".join(f"{count} {moment}" for moment, count in sorted(where.items()))
  print(
    f"| {options.kills} SIGKILLs, {WORKERS} data workers, {steps} steps | {moments}; "
    f"processes gone within {slowest:.1f} s; {'; '.join(problems) or 'bit-identical'} | "
    f"`python tests/faults/kill.py --kills={options.kills} --seed={options.seed} --steps={steps}` |"
  )
  return 1 if problems else 0


if __name__ == "__main__":
  sys.exit(main())
