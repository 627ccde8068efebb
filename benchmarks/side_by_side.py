"""What the scripts beside this share: jobs take turns, and a table says how they compare."""

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# timm names torchvision's classes when it is imported, and there is no CPU build of it to match.
STAND_IN = Path(__file__).resolve().parents[1] / "tests" / "timm_oracle"
RESULTS = Path(__file__).resolve().parent / "results"


def machine(*packages: str) -> str:
  """One line: processor, cores, load, versions."""
  cpu = next(
    (x.split(":")[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")),
    platform.processor(),
  )
  versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
  cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
  return f"{cores} cores of {cpu}, load {load:.1f}, Python {platform.python_version()}, {versions}"


def _lines(path: str) -> list[str]:
  return Path(path).read_text().splitlines() if Path(path).exists() else []


def keep(name: str, machine: str, values: dict[str, Any]) -> None:
  """Writes what was measured into results/NAME.json beside this, in place of what was there.

  `plots.py` draws from these files.
  """
  RESULTS.mkdir(exist_ok=True)
  content = {"machine": machine, "date": time.strftime("%Y-%m-%d"), **values}
  path = RESULTS / f"{name}.json"
  path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
  print(f"kept in {os.path.relpath(path)}")


def restart_without(*variables: str) -> None:
  """Starts this script anew without these variables, which libraries read when they are loaded."""
  if any(name in os.environ for name in variables):
    rest = {name: value for name, value in os.environ.items() if name not in variables}
    os.execve(sys.executable, [sys.executable, *sys.argv], rest)


def timm():
  """The module timm, whether torchvision is there or not."""
  try:
    import torchvision  # noqa: F401
  except ImportError:
    sys.path.insert(0, str(STAND_IN))
  import timm

  return timm


def vit_config(size: str, dtype: str) -> Any:
  """The default config with a plain ViT of 16 px patches and random weights."""
  from lafg_jax.tasks.class_retrieval import default

  config = default.get_config()
  config.model.update(size=size, patch_size=16, pool="token", options="", pretrained="")
  config.model.update(mean=(0.5,) * 3, std=(0.5,) * 3, layer_norm_eps=1e-6, dtype=dtype)
  return config


def beside_timm(doc: str, ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
  """The command of a script that compares a ViT with timm's; prints images/s.

  ours(size, batch, dtype, images) and theirs(..., compiled) return jobs, of uint8 images [batch,
  224, 224, 3].
  """
  import numpy as np

  from lafg_jax.models.options import SIZES
  from lafg_jax.runtime import malloc

  # As a run trains; on both sides, which share the process.
  malloc.keep_freed()
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  parser.add_argument("--size", default="small", choices=SIZES)
  parser.add_argument("--batch", type=int, default=32)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  args = parser.parse_args()
  images = np.random.default_rng(0).integers(0, 256, (args.batch, 224, 224, 3), np.uint8)
  where = machine("jax", "torch", "timm")
  print(where)
  print(f"ViT of size {args.size}, batches of {args.batch}, {args.dtype}")
  common = args.size, args.batch, args.dtype, images
  jobs = {"timm, eager": theirs(*common, False), "lafg_jax": ours(*common)}
  if shutil.which("c++") or shutil.which("g++"):
    jobs["timm, torch.compile"] = theirs(*common, True)
  else:
    print("torch.compile is left out: no C++ compiler here")
  seconds = turns(jobs, args.rounds)
  print("\n".join(table(seconds, args.batch, "images/s", "timm, eager")))
  print(f"peak memory of the process: {peak_mib():.0f} MiB")
  backend = sys.modules["jax"].default_backend()
  kept = {"batch": args.batch, "seconds": seconds}
  keep(f"{Path(sys.argv[0]).stem}-{args.size}-{args.dtype}-{backend}", where, kept)


def turns(
  jobs: dict[str, Callable[[], object]], rounds: int, pause: float = 0.0
) -> dict[str, list[float]]:
  """Seconds of each job in each round; each is called once before that is not counted.

  Jobs of milliseconds need a `pause` before each, in seconds: a library's threads keep a core busy
  for a while after their work.
  """
  for job in jobs.values():
    job()
  seconds: dict[str, list[float]] = {name: [] for name in jobs}
  for _ in range(rounds):
    for name, job in jobs.items():
      time.sleep(pause)
      start = time.perf_counter()
      job()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def seconds_of(job: Callable[[], object], rounds: int) -> list[float]:
  """Seconds of each of `rounds` calls, without a first one that is not counted."""
  return turns({"": job}, rounds)[""]


def table(seconds: dict[str, list[float]], per: float, unit: str, base: str) -> Iterable[str]:
  """Lines of a Markdown table: `per` / seconds by median and range, and ratios round by round.

  `per` of 0 shows the seconds themselves, and the ratio of times: below 1 is faster than `base`.
  """
  yield f"| | {unit} | x {base} |"
  yield "|---|---|---|"
  for name, values in seconds.items():
    shown = [per / x for x in values] if per else values
    ratios = [a / b for a, b in zip(values, seconds[base], strict=True)]
    ratios = [1 / x for x in ratios] if per else ratios
    yield f"| {name} | {_spread(shown)} | {_spread(ratios, 2)} |"


def _spread(values: list[float], digits: int | None = None) -> str:
  form = (lambda x: f"{x:.{digits}f}") if digits is not None else (lambda x: f"{x:.4g}")
  return f"{form(statistics.median(values))} ({form(min(values))} to {form(max(values))})"


def peak_mib() -> float:
  """The most memory that this process has held so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def blas_kernel() -> str:
  """The kernel that NumPy's OpenBLAS chose, or ''."""
  import numpy as np

  for path in Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"):
    library = ctypes.CDLL(str(path))
    for name in ("scipy_openblas_get_config64_", "openblas_get_config"):
      if hasattr(library, name):
        get = getattr(library, name)
        get.restype = ctypes.c_char_p
        return get().decode()
  return ""
