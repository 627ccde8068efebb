"""With what `pip install lafg_jax` brings alone, a model is restored; training names its extra."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lafg_jax
from lafg_jax.utils import packages
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RESTORE = """
import sys
import numpy as np
import lafg_jax
retriever = lafg_jax.load_retriever(sys.argv[1])
images = np.load(sys.argv[2])
vectors = retriever.embed(images)
np.save(sys.argv[3], vectors)
assert retriever.search(images[:1], vectors, k=1)[1].tolist() == [[0]]
assert len(retriever.attributes(images, k=2)) == len(images)
print({name.split(".")[0] for name in sys.modules} & set(sys.argv[4].split(",")))
"""


def base_requirements():
  for node in ast.parse((ROOT / "setup.py").read_text()).body:
    if isinstance(node, ast.Assign) and node.targets[0].id == "BASE":
      return ast.literal_eval(node.value)
  raise AssertionError("setup.py has no BASE")


@pytest.fixture(scope="module")
def python(site_of):
  """Runs this Python with the packages of a base install alone."""
  site = site_of(*base_requirements())

  def run(*args, cwd=ROOT):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    # -S: without what is installed beside.
    command = [sys.executable, "-S", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

  return run


def test_a_base_install_restores_embeds_searches_and_reads(python, trained_run, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
  np.save(tmp_path / "images.npy", pixels)
  training = "grain,optax,tensorboardX,imagehash,torch,transformers,sklearn,tensorflow,datasets"
  done = python(
    "-c", RESTORE, trained_run, tmp_path / "images.npy", tmp_path / "v.npy", training, cwd=tmp_path
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "set()"
  ours = lafg_jax.load_retriever(trained_run).embed(pixels)
  np.testing.assert_allclose(np.load(tmp_path / "v.npy"), ours, atol=1e-6)


@pytest.mark.parametrize(
  ("command", "missing", "extra"),
  [
    ("main", "bokeh, grain, imagehash, tensorboardX", "train"),
    ("ablate", "bokeh, grain, imagehash, tensorboardX, matplotlib", "study"),
  ],
)
def test_a_command_names_its_extra(python, tmp_path, command, missing, extra):
  config = ("--config", "configs/synthetic.py", f"--workdir={tmp_path / 'w'}")
  done = python("-m", f"lafg_jax.{command}", *config)
  assert done.returncode == 2
  assert done.stderr == f"error: {missing} are not installed: pip install 'lafg_jax[{extra}]'\n"
  assert not (tmp_path / "w").exists()


def test_only_what_is_missing_is_named():
  packages.require("train", "numpy", "jax")
  with pytest.raises(UserError, match="^no_such_package is not installed: pip install 'lafg_jax.x"):
    packages.require("x", "numpy", "no_such_package")


def test_a_folder_of_its_name_is_no_package(tmp_path, monkeypatch):
  (tmp_path / "no_such_package" / "run").mkdir(parents=True)
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(UserError, match="no_such_package is not installed"):
    packages.require("x", "no_such_package")
