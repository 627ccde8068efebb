"""SIGINT and SIGTERM end whatever runs, also where a library swallows them; the second at once."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
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
  interrupts.check()
except Stopped as error:
  sys.exit(exit_code(error))
"""


def outcome(number, before="default_int_handler", again=0):
  code = PROGRAM
  for name, value in (("before", before), ("number", int(number)), ("again", int(again))):
    code = code.replace(f"{{{name}}}", str(value))
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  return done.returncode, done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_signal_is_remembered(number):
  assert outcome(number) == (75, "went on\n")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_has_its_usual_effect_whichever_came_first(first):
  assert outcome(first, again=signal.SIGTERM) == (-signal.SIGTERM, "went on\n")
  assert outcome(first, again=signal.SIGINT) == (-signal.SIGINT, "went on\n")


def test_a_process_started_deaf_to_it_stays_so():
  assert outcome(signal.SIGINT, before="SIG_IGN") == (0, "went on\n")
