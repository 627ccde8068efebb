"""All launchers: shellcheck and help; and the Dockerfiles, as far as can be told without Docker."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lafg_jax import tasks
from lafg_jax.config import shipped

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(
  path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch") and path.is_file()
)
COMMANDS = ("local.sh", "tpu_pod.sh", "slurm.sbatch", "docker/check_install.sh")
IMAGES = ("cpu", "cuda")


def test_shellcheck_has_nothing_to_say():
  assert len(SCRIPTS) == 8
  checker = Path(sys.executable).with_name("shellcheck")
  done = subprocess.run([checker, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_executed_stops_at_the_first_error():
  for path in SCRIPTS:
    lines = path.read_text().splitlines()
    sourced = lines[0] == "# shellcheck shell=bash"
    assert sourced or (lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines), path


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(stand_ins, name):
  done = stand_ins.run("bash", LAUNCH / name, "--help", cwd=Path("/"))
  assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("usage: ")
  read = set(re.findall(r"^ +(--[a-z-]+)[=)]", (LAUNCH / name).read_text(), re.MULTILINE))
  assert read >= {"--dry-run"}
  for option in read - {"--help"}:
    assert option in done.stdout


def instructions(image):
  text = (LAUNCH / "docker" / f"Dockerfile.{image}").read_text()
  lines = [line for line in text.splitlines() if line and not line.startswith("#")]
  return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


@pytest.mark.parametrize("image", IMAGES)
def test_a_dockerfile_copies_what_is_there_and_installs_the_lock(image):
  found = instructions(image)
  assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", dict(found)["FROM"])
  ignored = (LAUNCH / "docker" / f"Dockerfile.{image}.dockerignore").read_text().splitlines()
  copied = [word for name, rest in found if name == "COPY" for word in rest.split()[:-1]]
  assert {"setup.py", "constraints.txt", "README.md", "configs", "lafg_jax"} <= set(copied)
  for source in copied:
    assert (ROOT / source).exists()
    assert f"!{source.split('/')[0]}" in ignored
  runs = [rest for name, rest in found if name == "RUN"]
  assert len(runs) == 1 and "-c constraints.txt" in runs[0]
  extras = re.search(r"'\.\[(.+)\]'", runs[-1])[1].split(",")
  assert ("cuda12" in extras) == (image == "cuda")
  setup = (ROOT / "setup.py").read_text()
  assert all(f'"{extra}":' in setup for extra in extras)
  # With nothing that the install reads copied after it.
  order = [name for name, _ in found]
  assert order.index("RUN") > order.index("COPY")


@pytest.mark.parametrize("image", IMAGES)
def test_the_install_check_runs_the_lines_of_the_dockerfile(stand_ins, commands, image):
  script = LAUNCH / "docker" / "check_install.sh"
  printed = commands(stand_ins.run(script, f"--image={image}", "--dry-run", "--keep=/k d"))
  run = [words[-1] for words in printed if words[-2] == "-euc"]
  assert run == [rest for name, rest in instructions(image) if name == "RUN"]
  first, *_ = printed
  assert first == ["python3.11", "-m", "venv", "/k d/venv"]
  copied = [words[3] for words in printed if words[:3] == ["cp", "-r", "--parents"]]
  assert copied == [
    word for name, rest in instructions(image) if name == "COPY" for word in rest.split()[:-1]
  ]


@pytest.mark.parametrize("words", [[], ["--image=gpu"], ["--image=cpu", "--x"]])
def test_a_misuse_of_the_install_check_is_one_line(stand_ins, is_one_line, words):
  is_one_line(
    stand_ins.run(LAUNCH / "docker" / "check_install.sh", *words), (words or ["--image"])[-1]
  )


@pytest.mark.parametrize("launcher", ["local.sh", "slurm.sbatch"])
@pytest.mark.parametrize("config", ["image_text/finches.py", "composed/finches.py"])
def test_a_dry_run_starts_any_task_as_it_is_asked(stand_ins, commands, launcher, config):
  options = ("--processes=2",) if launcher == "local.sh" else ()
  asked = ["--config", f"configs/{config}", "--workdir=runs/a b", "--config.train.steps=2"]
  printed = commands(stand_ins.run("bash", LAUNCH / launcher, "--dry-run", *options, *asked))
  started = [words for words in printed if "lafg_jax.main" in words]
  assert len(started) == (2 if launcher == "local.sh" else 1)
  for words in started:
    at = words.index("lafg_jax.main")
    assert words[at - 1 : at + 1 + len(asked)] == ["-m", "lafg_jax.main", *asked]
  # What is started has a config whose stages pass all rules.
  ready = shipped.get_config(f"configs/{config}")
  task = tasks.find(ready, "default")
  assert "evaluate" in task.default_names(ready)
  task.validate(ready, task.default_names(ready))
