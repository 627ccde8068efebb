"""Worker processes that die: replaced within a batch, ended by one line, never waited for."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from lafg_jax.data import workers
from lafg_jax.utils.errors import UserError

# Workers cannot import a file of tests: what it has goes to them whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# More than a pipe holds, so that a worker is nearly always in the middle of sending one.
SIZE = 300_000


def numbered(number):
  return np.full(SIZE, number, np.int32)


def alive():
  return [child for child in multiprocessing.active_children() if child.name == workers.NAME]


def segments():
  return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def test_a_killed_worker_is_replaced_and_no_batch_is_lost(caplog):
  before = segments()
  batches = workers.batches(numbered, range(3, 60), workers=2, ahead=1)
  got = [next(batches)[0]]
  (victim, _) = sorted(alive(), key=lambda process: process.pid)
  with caplog.at_level("WARNING", logger="absl"):
    # It stands in the middle of a batch: the pipe is full and nobody reads.
    os.kill(victim.pid, signal.SIGKILL)
    for batch in batches:
      assert (batch == batch[0]).all() and len(batch) == SIZE
      got.append(batch[0])
  assert got == list(range(3, 60))
  assert caplog.text.count("a data worker died (SIGKILL): another one goes on from batch") == 1
  assert not alive() and segments() <= before


def dies_at_five(folder, number):
  if number == 5:
    with open(Path(folder, "deaths"), "a", encoding="utf-8") as file:
      file.write("x")
    os._exit(7)
  return number


def test_a_batch_that_kills_every_worker_ends_in_one_line(tmp_path):
  make = lambda number: dies_at_five(tmp_path, number)  # noqa: E731
  batches = workers.batches(make, range(10), workers=1, ahead=2)
  got = []
  with pytest.raises(UserError, match=r"died 4 times in a row at batch 5 \(exit code 7") as error:
    for number in batches:
      got.append(number)
  assert "\n" not in str(error.value) and "data.num_workers" in str(error.value)
  assert got == [0, 1, 2, 3, 4] and (tmp_path / "deaths").read_text() == "xxxx"
  assert not alive()


def test_an_error_in_a_worker_is_raised_where_the_batch_is_asked_for(caplog):
  def make(number):
    return 1 // (number - 1)

  # There is room for what would come after it: no other worker may be started for that.
  batches = workers.batches(make, range(9), workers=1, ahead=8)
  with caplog.at_level("WARNING", logger="absl"):
    assert next(batches) == -1
    (worker,) = alive()
    worker.join(20)
    time.sleep(0.3)
    with pytest.raises(ZeroDivisionError) as error:
      next(batches)
  assert "in a data worker" in error.value.__notes__[0]
  assert not alive() and not caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_is_not_for_a_worker_that_has_hardly_begun(caplog, number):
  def signal_the_first():
    while not (found := alive()):
      time.sleep(0.001)
    os.kill(found[0].pid, number)

  threading.Thread(target=signal_the_first).start()
  with caplog.at_level("WARNING", logger="absl"):
    assert list(workers.batches(abs, range(3), workers=1, ahead=1)) == [0, 1, 2]
  assert not caplog.text


def test_closing_ends_workers_and_threads_before_they_are_ready():
  batches = workers.batches(numbered, range(1000), workers=1, ahead=1)
  batches.close()
  running = workers.batches(numbered, range(1000), workers=1, ahead=1)
  next(running)
  running.close()
  assert not alive()
  assert not [t for t in threading.enumerate() if t.name.startswith(workers.NAME)]
