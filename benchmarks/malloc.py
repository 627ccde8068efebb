"""Training on the CPU with the memory of a step kept in the process, and without, taking turns.

  python benchmarks/malloc.py --rounds 3

Without: any MALLOC_* variable leaves glibc's malloc as it is (lafg_jax/runtime/malloc.py).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

STAGES = ("describe", "encode", "prototypes")
WITHOUT = {"MALLOC_PERTURB_": "0"}


def main(workdir: str, *more: str, **environment: str) -> tuple[float, float, float]:
  """Seconds of the processor, of them the system's, and the peak in GiB, of one command."""
  command = [sys.executable, "-m", "lafg_jax.main", "--config", "configs/synthetic.py"]
  with open(os.path.join(workdir, "said"), "w") as said:
    actions = [(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)]
    process = os.posix_spawn(
      command[0],
      [*command, f"--workdir={workdir}", *more],
      os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
      file_actions=actions,
    )
    _, status, used = os.wait4(process, 0)
  if status:
    sys.exit(Path(workdir, "said").read_text())
  return used.ru_utime + used.ru_stime, used.ru_stime, used.ru_maxrss / 2**20


def turn(steps: int, environment: dict[str, str]) -> tuple[float, ...]:
  """Images a second in the median of the lines, and what `main` says of the training stage."""
  with tempfile.TemporaryDirectory() as workdir:
    for stage in STAGES:
      main(workdir, f"--stage={stage}")
    flags = (f"--config.train.steps={steps}", "--config.train.log_every=10")
    used = main(workdir, "--stage=train", *flags, **environment)
    lines = [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]
  return statistics.median(x["images_per_second"] for x in lines if "images_per_second" in x), *used


def run() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=80)
  options = parser.parse_args()
  print("| memory | images/s | processor, s | of it the system's, s | peak, GiB |")
  print("|---|---|---|---|---|")
  for _ in range(options.rounds):
    for name, environment in (("given back", WITHOUT), ("kept", {})):
      rate, cpu, system, peak = turn(options.steps, environment)
      print(f"| {name} | {rate:.0f} | {cpu:.1f} | {system:.1f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
  run()
