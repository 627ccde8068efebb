"""A Ctrl-C that a library swallows still ends the run."""

import subprocess
import sys

PROGRAM = """
import os, signal, sys
from lafg_jax.runtime import interrupts
signal.signal(signal.SIGINT, signal.{before})
interrupts.watch()
class Dropped:
  def __del__(self):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass  # the handler runs in here, where Python only prints what it raises
Dropped()
print("went on")
try:
  interrupts.check()
except KeyboardInterrupt:
  sys.exit(130)
"""


def outcome(before):
  code = PROGRAM.replace("{before}", before)
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  return done.returncode, done.stdout


def test_a_swallowed_interrupt_is_remembered():
  assert outcome("default_int_handler") == (130, "went on\n")


def test_a_process_started_deaf_to_it_stays_so():
  assert outcome("SIG_IGN") == (0, "went on\n")
