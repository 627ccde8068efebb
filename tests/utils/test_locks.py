"""One lock for workdirs, studies and packs: who waits, who is refused, and what a kill leaves."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lafg_jax.utils import locks
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from lafg_jax.utils import locks
with locks.locked(sys.argv[1]):
  print("held", flush=True)
  time.sleep(1000)
"""


def test_a_held_lock_names_its_holder_and_a_kill_releases_it(tmp_path, monkeypatch):
  path, said = tmp_path / ".lock", []
  monkeypatch.setattr(locks.logging, "info", lambda text, *args: said.append(text % args))
  other = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(path)],
    stdout=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  try:
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    refusal = rf"another run is at work in runs/{{}} \(process {other.pid} on \S+\): pass another"
    with pytest.raises(UserError, match=refusal):
      with locks.locked(path, "runs/{}"):
        raise AssertionError("held twice")
    entered = threading.Event()

    def wait():
      with locks.locked(path):
        entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.3)
  finally:
    other.kill()
    other.wait()
  waiting.join(20)
  assert entered.is_set() and said[0].startswith(f"waiting for process {other.pid} on ")
  with locks.locked(path, "runs"):
    # The name of the killed process is gone.
    assert path.read_text().startswith(f"process {os.getpid()} on ")


def test_a_full_disk_does_not_refuse_the_lock(tmp_path):
  with locks.locked("/dev/full"):
    pass
