"""What tpu_pod.sh runs on workers, run here: gcloud's stand-in gives each worker its own home."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("--config", "configs/synthetic.py", "--workdir=gs://b/it's", "--config.x=a $HOME * \n")

# describe: READY. scp and ssh: in the homes of two workers, as gcloud does over the network.
GCLOUD = """#!{python} -IS
import os, shutil, subprocess, sys
words = sys.argv[1:]
def value(name):
  return next((w.split("=", 1)[1] for w in words if w.startswith(name + "=")), None)
if words[3] == "describe":
  print("READY\\tv5litepod-16")
  sys.exit(0)
workers = ["0", "1"] if value("--worker") == "all" else [value("--worker")]
codes = []
for worker in workers:
  home = "{folder}/home-" + worker
  os.makedirs(home, exist_ok=True)
  if words[3] == "scp":
    shutil.copy(words[4], home)
    continue
  environment = os.environ | {{"HOME": home, "SLURM_PROCID": worker}}
  done = subprocess.run(["bash", "-c", value("--command")], cwd=home, env=environment)
  codes.append(done.returncode)
sys.exit(max(codes, default=0))
"""
# `python3.11 -m venv --clear FOLDER` makes an interpreter that notes what pip is asked for.
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv --clear "*)
    mkdir -p "$4/bin"
    cp {folder}/bin/installed "$4/bin/python"
    chmod +x "$4/bin/python" ;;
esac
"""
INSTALLED = """#!/bin/sh
case "$2" in pip) echo "$@" >> "$HOME/pip"; exit $PIP ;; esac
exec {folder}/bin/main "$@"
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
  """A checkout of what the script copies."""
  folder = tmp_path_factory.mktemp("checkout")
  for name in ("launch", "configs"):
    shutil.copytree(ROOT / name, folder / name)
  for name in ("setup.py", "constraints.txt"):
    shutil.copy(ROOT / name, folder)
  git = ("git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x", "-c", "gc.auto=0")
  for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
    subprocess.run([*git, *command], check=True)
  return folder


@pytest.fixture
def pod(stand_ins, fake_python, repository):
  stand_ins.add("gcloud", GCLOUD)
  stand_ins.add("python3.11", PYTHON)
  stand_ins.add("installed", INSTALLED)
  shutil.copy(fake_python, stand_ins.path / "main")
  options = ("--name=pod", "--zone=z", "--poll=0", "--type=v5litepod-16")
  stand_ins.command = (repository / "launch" / "tpu_pod.sh", *options)
  return stand_ins


def home(pod, worker=0):
  return pod.folder / f"home-{worker}"


def test_all_workers_install_once_and_run_main_with_the_words(pod):
  for _ in range(2):
    done = pod.run(*pod.command, *WORDS, PIP="0")
    assert done.returncode == 0, done.stderr
    assert "process 0 speaks\n" in done.stdout and "process 1" not in done.stdout
  for worker in (0, 1):
    assert pod.main(worker)["words"] == ["-m", "lafg_jax.main", *WORDS]
    (line,) = (home(pod, worker) / "pip").read_text().splitlines()
    assert line.endswith("-c constraints.txt -e .[language,data,tpu]")
  # torch comes first, from an index without CUDA, where it is asked for.
  assert pod.run(*pod.command, "--extras=torch,tpu", *WORDS, PIP="0").returncode == 0
  *_, torch, rest = (home(pod) / "pip").read_text().splitlines()
  assert "--no-deps" in torch and "whl/cpu" in torch and rest.endswith("-e .[torch,tpu]")


def test_what_main_ends_with_is_the_exit_code(pod):
  done = pod.run(*pod.command, *WORDS, PIP="0", CODES='{"0": 3}')
  assert done.returncode == 3
  # The end of every worker's log, for the fault may lie with another than the first.
  assert "process 0 speaks" in done.stderr and "process 1 speaks" in done.stderr


def test_an_install_that_fails_is_told_and_is_tried_again(pod):
  assert pod.run(*pod.command, *WORDS, PIP="4").returncode == 4
  assert not (home(pod) / "lafg_jax" / "run" / "code").exists()
  assert pod.run(*pod.command, *WORDS, PIP="0").returncode == 0


def test_the_run_outlives_the_terminal_and_is_stopped_on_request(pod):
  first = pod.begin(*pod.command, *WORDS, PIP="0", WAIT="1")
  pids = [pod.main(worker)["pid"] for worker in (0, 1)]
  pod.until(lambda: (home(pod) / "lafg_jax" / "run" / "log").exists())
  os.killpg(first.pid, signal.SIGKILL)
  first.communicate()
  # Another run is refused, this one is joined.
  other = pod.run(*pod.command, *WORDS[:3], PIP="0", WAIT="1")
  assert other.returncode == 2 and "another run is at work here" in other.stderr
  again = pod.begin(*pod.command, *WORDS, PIP="0", WAIT="1")
  assert "process 0 speaks" in again.stdout.readline()
  stopped = pod.run(*pod.command[:3], "--stop")
  assert stopped.returncode == 0, stopped.stderr
  _, stderr = again.communicate(timeout=60)
  assert again.returncode == 75 and "told to stop, and has saved" in stderr
  for worker in (0, 1):
    after = pod.main(worker)
    assert after["pid"] == pids[worker] and after["terms"] == 1
  # And nothing is left to stop.
  assert pod.run(*pod.command[:3], "--stop").returncode == 0


def test_a_killed_run_is_no_success(pod):
  running = pod.begin(*pod.command, *WORDS, PIP="0", WAIT="1")
  pod.main(1)
  group = home(pod) / "lafg_jax" / "run" / "group"
  # The worker writes it once main runs.
  deadline = time.monotonic() + 30
  while not (group.exists() and group.read_text()) and time.monotonic() < deadline:
    time.sleep(0.05)
  os.killpg(int(group.read_text()), signal.SIGKILL)
  running.communicate(timeout=60)
  assert running.returncode == 137
  assert pod.run(*pod.command[:3], "--stop").returncode == 0
  assert pod.main(1)["terms"] == 1
