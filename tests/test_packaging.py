"""What pip installs: a wheel is built, unpacked into an empty folder, and used from another one."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """A folder with what the wheel installs, and nothing else."""
  folder = tmp_path_factory.mktemp("packaging")
  source = folder / "source"
  source.mkdir()
  for name in ("lafg_jax", "configs"):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("setup.py", "pyproject.toml", "README.md"):
    shutil.copy(ROOT / name, source)
  command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-index"]
  command += ["--no-build-isolation", "--no-deps", "-w", str(folder), str(source)]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  (wheel,) = folder.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder / "site")
  return folder / "site"


@pytest.fixture
def run(installed, tmp_path):
  """Runs the installed command from an empty folder."""

  def command(*args):
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    words = [sys.executable, "-m", "lafg_jax.main", *args]
    return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

  return command


def test_nothing_but_the_package_is_installed(installed):
  top = {path.name for path in installed.iterdir()}
  assert {name for name in top if not name.endswith(".dist-info")} == {"lafg_jax"}
  shipped = installed / "lafg_jax" / "shipped_configs"
  assert sorted(path.stem for path in shipped.glob("[a-z]*.py")) == CONFIGS


def test_the_console_command_is_installed(installed):
  (points,) = installed.glob("*.dist-info/entry_points.txt")
  assert "lafg-jax = lafg_jax.__main__:main" in points.read_text()


def test_every_file_of_the_package_is_in_the_wheel(installed):
  """Descriptions, pages, the tiny CLIP and tuned settings among them: what git tracks."""
  asked = subprocess.run(["git", "ls-files", "lafg_jax"], cwd=ROOT, capture_output=True, text=True)
  if asked.returncode:
    pytest.skip("no git checkout")
  tracked = [name for name in asked.stdout.split() if (ROOT / name).is_file()]
  assert {Path(name).suffix for name in tracked} >= {
    ".py",
    ".typed",
    ".json",
    ".css",
    ".safetensors",
  }
  assert [name for name in tracked if not (installed / name).is_file()] == []


def test_a_shipped_config_is_found_by_its_name_from_anywhere(run):
  for config in ("--config=cars", "--config=cars:scratch"):
    done = run(config)
    assert done.returncode == 2
    assert "this config needs your data: pass --config.data.root=FOLDER" in done.stderr
  done = run("--config=karz")
  assert done.returncode == 2 and "did you mean cars?" in done.stderr
  done = run("--config=cars:huge")
  assert done.returncode == 2 and "the variants are" in done.stderr
  assert done.stderr.count("\n") == 1


def test_a_config_of_earlier_times_says_what_to_write(run, tmp_path):
  config = tmp_path / "mine.py"
  body = "\n\ndef get_config():\n  return default.get_config()\n"
  config.write_text("from configs import default" + body)
  # A folder of that name beside it is no package of ours.
  (tmp_path / "configs").mkdir()
  done = run("--config=mine.py")
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert "write from lafg_jax.tasks.class_retrieval import default" in done.stderr
  config.write_text("from lafg_jax.tasks.class_retrieval import default" + body)
  assert "data.root=FOLDER" in run("--config=mine.py").stderr
