"""SIGINT and SIGTERM end whatever runs, also where a library swallows them; the second at once."""

import signal
import subprocess
import sys
import threading

import pytest

from lafg_jax.runtime import interrupts
from lafg_jax.runtime.preemption import StopRequest

PROGRAM = """
import os, signal, sys, time
from lafg_jax.runtime import interrupts
from lafg_jax.utils.errors import Stopped, exit_code
signal.signal(signal.SIGINT, signal.{before})
interrupts.watch()
class Dropped:
  def __del__(self):
    os.kill(os.getpid(), {number})
    for _ in range(1000): pass  # the handler runs in here, where Python only prints what it raises
Dropped()
print("went on", flush=True)
if {again}:
  os.kill(os.getpid(), {again})
try:
  for _ in range({naps}):
    time.sleep(0.01)
  interrupts.check()
except Stopped as error:
  sys.exit(exit_code(error))
"""


def outcome(number, before="default_int_handler", again=0, naps=0, last="interrupts.check()"):
  code = PROGRAM.replace("interrupts.check()", last)
  values = {"before": before, "number": int(number), "again": int(again), "naps": naps}
  for name, value in values.items():
    code = code.replace(f"{{{name}}}", str(value))
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  return done.returncode, done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_signal_is_remembered(number):
  assert outcome(number) == (75, "went on\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_signal_is_raised_again_within_a_stage(number):
  assert outcome(number, naps=500, last="sys.exit(3)") == (75, "went on\n")


def test_training_leaves_where_a_signal_before_it_was_swallowed(monkeypatch):
  monkeypatch.setattr(interrupts, "_asked", ["SIGTERM"])
  monkeypatch.setattr(interrupts, "_taken_over", threading.Event())
  handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
  with StopRequest() as stop:
    assert stop.agreed and interrupts._taken_over.is_set()
    # The second one ends the process.
    assert [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)] == handlers
  monkeypatch.setattr(interrupts, "_asked", [])
  with StopRequest() as stop:
    assert not stop.agreed


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_has_its_usual_effect_whichever_came_first(first):
  assert outcome(first, again=signal.SIGTERM) == (-signal.SIGTERM, "went on\n")
  assert outcome(first, again=signal.SIGINT) == (-signal.SIGINT, "went on\n")


def test_a_process_started_deaf_to_it_stays_so():
  assert outcome(signal.SIGINT, before="SIG_IGN") == (0, "went on\n")
