"""Seconds until something happens: import, --help, and a second start of a run until its step 1.

  python benchmarks/startup.py [--rounds 5]

Each is a process of its own, from its start to its end. Programs that XLA compiled are in the cache
from the first, uncounted start on, as they are for a user's second run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import side_by_side

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (sys.executable,)
MAIN = (*PYTHON, "-m", "lafg_jax.main")


def command(*words: str):
  def run() -> None:
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)

  return run


def one_step():
  """The finches, without words, from nothing to the checkpoint of step 1."""

  def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
      keys = ("loss.alignment=none", "loss.image_alignment=none", "data.recoloured_per_batch=0")
      flags = [f"--config.{key}" for key in (*keys, "train.steps=1")]
      words = (*MAIN, "--config=synthetic", "--stage=train", f"--workdir={folder}/run", *flags)
      command(*words)()

  return run


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  machine = side_by_side.machine("jax", "flax")
  print(machine)
  jobs = {
    "python -c pass": command(*PYTHON, "-c", "pass"),
    "import lafg_jax": command(*PYTHON, "-c", "import lafg_jax"),
    "import jax": command(*PYTHON, "-c", "import jax"),
    "--help": command(*MAIN, "--help"),
    "second start to step 1": one_step(),
  }
  seconds = side_by_side.turns(jobs, args.rounds)
  print("\n".join(side_by_side.table(seconds, 0, "s", "import jax")))
  side_by_side.keep("startup", machine, {"seconds": seconds})


if __name__ == "__main__":
  main()
