"""Who is named when a process of a run hangs, ends or falls silent, by a store and a clock."""

import threading
from types import SimpleNamespace

import pytest

from lafg_jax.runtime import heartbeat


class Store:
  """What the processes of a run share; `calls` may fail."""

  def __init__(self):
    self.values, self.fails = {}, False

  def key_value_set(self, key, value, allow_overwrite=False):
    if self.fails:
      raise RuntimeError("no coordinator")
    assert allow_overwrite or key not in self.values
    self.values[key] = value

  def key_value_dir_get(self, folder):
    if self.fails:
      raise RuntimeError("no coordinator")
    return [(key, value) for key, value in self.values.items() if key.startswith(folder)]


@pytest.fixture
def run(monkeypatch):
  """Three processes' watches that do nothing by themselves, and what sets their clock."""
  store, now = Store(), [100.0]
  sleep = lambda seconds: now.__setitem__(0, now[0] + seconds)  # noqa: E731
  monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
  monkeypatch.setattr(heartbeat, "socket", SimpleNamespace(gethostname=lambda: "host-a"))
  idle = SimpleNamespace(start=lambda: None)
  threads = SimpleNamespace(Event=threading.Event, Thread=lambda **_: idle)
  monkeypatch.setattr(heartbeat, "threading", threads)
  watches = [heartbeat.Watch(store, index, 3, 30.0) for index in range(3)]

  def pass_(seconds, alive=(0, 1, 2)):
    """So many seconds, in which those that live give signs."""
    for _ in range(int(seconds)):
      now[0] += 1
      for number in (0, 1):
        # Twice: what is said last is read by all.
        for index in alive:
          watches[index].exchange(2 * int(now[0]) + number)

  return watches, store, now, pass_


def test_nobody_is_named_while_all_give_signs_however_long_one_waits(run):
  watches, _, now, pass_ = run
  with watches[1].waiting("stage encode"):
    pass_(500)
    assert all(watch.judge(now[0]) is None for watch in watches)


def test_one_without_signs_is_named_after_the_time_out_and_not_before(run):
  watches, _, now, pass_ = run
  pass_(5)
  pass_(29, alive=(0, 2))
  assert watches[0].judge(now[0]) is None
  pass_(3, alive=(0, 2))
  for watch in (watches[0], watches[2]):
    code, line = watch.judge(now[0])
    assert code == 1 and line.startswith("process 1 of 3 (host-a) gives no sign for 3")
    assert "\n" not in line and "goes on from the last checkpoint" in line


def test_one_that_lives_but_makes_no_step_is_named_as_the_one_behind(run):
  watches, _, now, pass_ = run
  for index, step in ((0, 14), (1, 12), (2, 14)):
    watches[index].beat(step)
  pass_(31)
  for watch in watches:
    code, line = watch.judge(now[0])
    assert code == 1 and line.startswith("process 1 of 3 (host-a) at step 12 hangs: no step has")
  for watch in watches:
    watch.beat(15)
  pass_(29)
  assert all(watch.judge(now[0]) is None for watch in watches)
  pass_(2)
  assert "all 3 processes stand at step 15" in watches[0].judge(now[0])[1]
  # What comes after the last step may take its time.
  watches[0].rest()
  assert watches[0].judge(now[0]) is None


def test_validation_between_two_steps_may_take_its_time(run):
  watches, _, now, pass_ = run
  watches[0].beat(3)
  with watches[0].waiting("validation"):
    pass_(100)
    assert watches[0].judge(now[0]) is None
  pass_(29)
  assert watches[0].judge(now[0]) is None
  pass_(2)
  assert watches[0].judge(now[0]) is not None


def test_a_coordinator_that_does_not_answer_is_process_0(run):
  watches, store, now, pass_ = run
  pass_(2)
  store.fails = True
  now[0] += 31
  code, line = watches[2].judge(now[0])
  assert code == 1 and line.startswith("process 0 of 3 (host-a) does not answer for 31 s")
  watches[2].say_gone(line, code)  # Asks nothing of the coordinator: it would not return.


def test_why_one_ended_is_told_by_the_others_with_its_exit_code(run):
  watches, store, now, pass_ = run
  pass_(2)
  watches[1].say_gone("no image of class 'A'\ncan be read", 2)
  pass_(1)
  assert watches[1].judge(now[0]) is None
  for watch in (watches[0], watches[2]):
    assert watch.judge(now[0]) == (
      2,
      "process 1 of 3 (host-a) ended: no image of class 'A' can be read",
    )
  # What a third says of it does not hide the first reason.
  watches[2].say_gone("process 1 ended", 2)
  pass_(1, alive=(0,))
  assert "no image of class" in watches[0].judge(now[0])[1]


def test_process_0_stays_until_the_others_have_heard_or_a_few_seconds(run):
  watches, store, now, _ = run
  before = now[0]
  watches[0].say_gone("ended", 1)
  assert 1 < now[0] - before < 10
  store.values.clear()
  for index in (1, 2):
    store.key_value_set(f"lafg_jax/heard/{index}", "1")
  before = now[0]
  watches[0].exchange(999)
  watches[0].say_gone("ended", 1)
  assert now[0] - before < 1


def test_a_failed_collective_is_explained_by_the_one_that_fell_silent(run):
  import jax

  watches, _, now, pass_ = run
  pass_(3)
  error = jax.errors.JaxRuntimeError("Gloo: connection closed by peer\nmore")
  assert watches[0].explain(ValueError("else")) is None
  lost = watches[0].explain(error)
  assert str(lost).startswith("process 1 of 3 (host-a) ended without a word (Gloo: connection")
