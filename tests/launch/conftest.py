"""Stand-ins for the commands of a cloud and of a cluster, and for main; each records its calls."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Records its words; says what answers.json has for the longest beginning of them: a list is used up
# one by one, and its last answer stays.
STAND_IN = """#!{python} -IS
import json, os, sys
words = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
with open("{folder}/calls.jsonl", "a") as file:
  file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
with open("{folder}/answers.json") as file:
  answers = json.load(file)
fitting = [key for key in answers if all(part in words for part in key.split(" + "))]
match = max(fitting, key=len, default=None)
if match is not None:
  queue = answers[match]
  code, out, err = queue.pop(0) if len(queue) > 1 else queue[0]
  with open("{folder}/answers.json", "w") as file:
    json.dump(answers, file)
  sys.stdout.write(out)
  sys.stderr.write(err)
  sys.exit(code)
"""

# In place of the interpreter: `-m lafg_jax.main WORDS`. Leaves with code $CODE at once, or with
# $WAIT waits for SIGTERM and then takes a while to save.
MAIN = """#!{python} -IS
import json, os, signal, sys, time
terms = []
signal.signal(signal.SIGTERM, lambda number, frame: terms.append(number))
process = os.environ.get("SLURM_PROCID") or sys.argv[-1].rsplit("=", 1)[-1]
def record(**more):
  names = ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS", "JAX_PLATFORMS")
  with open("{folder}/main-" + process + ".json.partial", "w") as file:
    variables = {{n: os.environ[n] for n in names if n in os.environ}}
    json.dump({{"words": sys.argv[1:], "env": variables, "pid": os.getpid(), **more}}, file)
  os.rename(file.name, file.name.removesuffix(".partial"))
record()
print("process", process, "speaks", flush=True)
codes = json.loads(os.environ.get("CODES", "{{}}"))
if process not in codes and os.environ.get("WAIT"):
  while not terms:
    time.sleep(0.02)
  time.sleep(0.4)
  record(terms=len(terms))
# As main does: 75 is stopped and saved.
sys.exit(codes.get(process, 75 if terms else 0))
"""


class StandIns:
  """Commands in a folder of their own, put before $PATH."""

  def __init__(self, folder: Path) -> None:
    self.folder = folder
    self.path = folder / "bin"
    self.path.mkdir()
    self.answer({})

  def add(self, name: str, text: str = STAND_IN) -> Path:
    """An executable of the given text, with {python} and {folder} filled in."""
    file = self.path / name
    file.write_text(text.format(python=sys.executable, folder=self.folder))
    file.chmod(0o755)
    return file

  def answer(self, answers: dict) -> None:
    """What commands say: {"words + that + occur": [(code, stdout, stderr), ...]}."""
    (self.folder / "answers.json").write_text(json.dumps(answers))

  def calls(self) -> list[list[str]]:
    file = self.folder / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

  def environment(self, **more: str) -> dict[str, str]:
    path = f"{self.path}{os.pathsep}{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return kept | {"PATH": path} | more

  def main(self, process: int = 0) -> dict:
    """What process I of main was called with; waits until it has begun."""
    file = self.folder / f"main-{process}.json"
    self.until(file.exists)
    return json.loads(file.read_text())

  def until(self, true, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
      assert time.monotonic() < deadline, "nothing happened"
      time.sleep(0.02)

  def run(self, *command: object, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
      [str(word) for word in command],
      cwd=cwd,
      env=self.environment(**more),
      capture_output=True,
      text=True,
      timeout=120,
    )

  def begin(self, *command: object, cwd: Path = ROOT, **more: str) -> subprocess.Popen:
    """Like run, but does not wait. SIGINT has its usual effect, as in a terminal."""
    return subprocess.Popen(
      [str(word) for word in command],
      cwd=cwd,
      env=self.environment(**more),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture
def stand_ins(tmp_path):
  return StandIns(tmp_path)


@pytest.fixture
def fake_python(stand_ins):
  """The path of the stand-in for the interpreter, for --python."""
  return stand_ins.add("fake_python", MAIN)


@pytest.fixture
def is_one_line():
  """Asserts that a launcher ended with exit code 2 and one line that has these words."""

  def check(done: subprocess.CompletedProcess, *words: str) -> None:
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), done
    for word in words:
      assert word in lines[0]

  return check


@pytest.fixture
def commands():
  """The commands of a dry run, as lists of words, as bash reads them."""

  def read(done: subprocess.CompletedProcess) -> list[list[str]]:
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    script = "".join(f"printf '%s\\0' {line}; printf '\\1'\n" for line in lines)
    words = subprocess.run(
      ["bash", "-c", script], capture_output=True, text=True, check=True
    ).stdout
    return [command.split("\0")[:-1] for command in words.split("\1")[:-1]]

  return read
