"""lafg-jax and python -m lafg_jax: thin over the modules; output whose reader leaves; the API."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import lafg_jax
from lafg_jax import __main__ as console
from lafg_jax.utils import output

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def run(*words, **more):
  command = [sys.executable, "-m", "lafg_jax", *words]
  return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, **more)


def test_help_lists_the_commands_within_two_seconds_of_the_processor():
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  done = run("--help")
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
  assert done.returncode == 0
  assert all(f"\n  {name} " in done.stdout for name in console.COMMANDS)


@pytest.mark.parametrize("name", console.COMMANDS)
def test_a_command_is_its_module_with_the_same_words(monkeypatch, name):
  module, stage, _ = console.COMMANDS[name]
  called = []
  monkeypatch.setattr(
    console.runpy, "run_module", lambda *args, **how: called.append((args, how, sys.argv[1:]))
  )
  monkeypatch.setattr(sys, "argv", ["lafg-jax", name, "--workdir=a b", "--config=x"])
  console.main()
  words = ["--workdir=a b", "--config=x", *([f"--stage={stage}"] if stage else [])]
  assert called == [((module,), {"run_name": "__main__", "alter_sys": True}, words)]


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (["trian"], "did you mean train?"),
    (["data", "--stage=train"], "leave --stage out"),
    (["--workdir=x"], "unknown command --workdir=x"),
  ],
)
def test_a_misuse_is_one_line(monkeypatch, capsys, words, said):
  monkeypatch.setattr(sys, "argv", ["lafg-jax", *words])
  with pytest.raises(SystemExit) as left:
    console.main()
  stderr = capsys.readouterr().err
  assert left.value.code == 2 and stderr.count("\n") == 1 and said in stderr


def test_the_commands_own_errors_come_through():
  done = run("data", "--config=cars")
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert "--config.data.root=FOLDER" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("module", ["lafg_jax", "lafg_jax.main", "lafg_jax.config.reference"])
def test_a_reader_that_leaves_gets_no_traceback(module, unbuffered):
  words = ["--help"] if module != "lafg_jax.config.reference" else []
  process = subprocess.Popen(
    [sys.executable, "-m", module, *words],
    env=ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  # Before anything is written.
  process.stdout.close()
  assert process.stderr.read() == b"" and process.wait() == 0


def test_a_broken_socket_is_no_reader_that_left():
  with pytest.raises(BrokenPipeError), output.quiet():
    raise BrokenPipeError(32, "Broken pipe")


def test_dir_is_the_public_api():
  assert dir(lafg_jax) == sorted(lafg_jax.__all__)
  for name in lafg_jax.__all__:
    assert getattr(lafg_jax, name) is not None
  assert {"load_retriever", "Retriever", "UserError"} <= set(dir(lafg_jax))
  page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
  assert all(name in page for name in lafg_jax.__all__)
  assert (ROOT / "lafg_jax" / "py.typed").is_file()
