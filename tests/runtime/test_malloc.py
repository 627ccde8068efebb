"""What a step frees stays in the process: its memory is not asked of the system again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Page faults of blocks that are taken and freed over and over, as XLA's threads do.
COUNT = """
import resource, sys, threading
from lafg_jax.runtime import malloc
if sys.argv[1] == "keep":
  malloc.keep_freed()
found, size = [], 40 << 20
def work():
  for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * size
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(sum(found[1:]))
"""


def faults(what, **environment):
  kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
  done = subprocess.run(
    [sys.executable, "-c", COUNT, what], cwd=ROOT, env=kept | environment,
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept_on_the_cpu_alone():
  plain = faults("leave", JAX_PLATFORMS="cpu")
  if plain < 1000:
    pytest.skip("this malloc keeps what is freed anyway")
  assert faults("keep", JAX_PLATFORMS="cpu") * 100 < plain
  assert faults("keep", JAX_PLATFORMS="cuda") > plain / 2
  assert faults("keep", JAX_PLATFORMS="cpu", MALLOC_PERTURB_="0") > plain / 2
