"""Frozen weights: saved once, named by every checkpoint, and whole wherever a model is read."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import lafg_jax
from lafg_jax import export
from lafg_jax.data import datasets
from lafg_jax.tasks.class_retrieval import train
from lafg_jax.training import checkpoints, frozen_weights, loop

ROOT = Path(__file__).resolve().parents[2]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 20, 28, 3), dtype=np.uint8)
# A backbone of 0.8 MB under a head of 8 kB.
CHANGES = {
  "model__width": 128,
  "model__mlp_dim": 512,
  "loss__alignment": "none",
  "data__num_val_classes": 8,
  "train__frozen_backbone": True,
  "train__steps": 4,
  "train__checkpoint_every": 2,
  "train__validate_every": 4,
  "train__keep_best": True,
  "train__learning_rate": 0.02,
}


def trained(config, workdir, splits):
  assert train.run(config, str(workdir), splits["train"], None, splits["val"]) == (4, False)


@pytest.fixture(scope="module")
def run(tmp_path_factory, config_with):
  """A finished run: (its config, workdir, splits, bytes copied from the device at each save)."""
  workdir, config = tmp_path_factory.mktemp("run"), config_with(**CHANGES)
  splits = datasets.load_splits(config.data, ("train", "val"))
  copied, unreplicate = [], loop.unreplicate

  def counting(tree):
    copied.append(sum(x.nbytes // x.shape[0] for x in jax.tree.leaves(tree)))
    return unreplicate(tree)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "unreplicate", counting)
    trained(config, workdir, splits)
  return config, workdir, splits, copied


def frozen_files(workdir):
  return sorted((workdir / "frozen").iterdir())


def size(folder):
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def equal(arrays, others):
  assert arrays.keys() == others.keys()
  for path, x in arrays.items():
    assert x.dtype == others[path].dtype
    np.testing.assert_array_equal(x, others[path], err_msg=path)


def test_they_are_saved_once_and_the_second_checkpoint_is_small(run):
  config, workdir, _, copied = run
  (file,) = frozen_files(workdir)
  weights = file.stat().st_size
  assert weights > 700_000 and file.stat().st_mode & 0o777 == 0o644
  assert checkpoints.steps(str(workdir)) == [4, 2]
  for folder in ("checkpoints/2", "checkpoints/4", "best/4"):
    assert size(workdir / folder) < weights / 10, folder
  # The first save copies the head and its optimiser alone; only a validation needs the backbone.
  assert copied[0] < weights / 10 and sum(copied) == pytest.approx(2 * copied[0] + weights, rel=0.1)
  for where, step in ((checkpoints.FOLDER, 2), (checkpoints.FOLDER, 4), (checkpoints.BEST, 4)):
    arrays, meta = checkpoints.read(str(workdir), step, where)
    assert meta["frozen"]["file"] == file.stem
    backbone = {path: x for path, x in arrays.items() if path.startswith("state/params/backbone/")}
    assert meta["frozen"]["arrays"].keys() == backbone.keys() == load_file(file).keys()
    assert not meta["arrays"].keys() & backbone.keys()
    equal(backbone, load_file(file))


RESTORE = """
import socket, sys
def cut(*unused, **ignored):
  raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = cut
import numpy as np
import lafg_jax
pixels = np.load(sys.argv[1])
np.save(sys.argv[2], lafg_jax.load_retriever(sys.argv[3], "best").embed(pixels))
"""


def test_a_moved_workdir_restores_without_network_to_the_bit(run, tmp_path):
  _, workdir, _, _ = run
  expected = lafg_jax.load_retriever(str(workdir)).embed(PIXELS)
  moved = shutil.copytree(workdir, tmp_path / "else" / "where")
  with tarfile.open(tmp_path / "run.tar", "w") as tar:
    tar.add(moved, "home/run")
  export.export(str(moved), str(tmp_path / "exported"), ("safetensors",))
  for source in (moved, tmp_path / "run.tar", tmp_path / "exported"):
    np.testing.assert_array_equal(lafg_jax.load_retriever(str(source)).embed(PIXELS), expected)
  np.save(tmp_path / "pixels.npy", PIXELS)
  places = [str(tmp_path / name) for name in ("pixels.npy", "got.npy", "else/where")]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  environment.pop("HF_HUB_OFFLINE", None)
  done = subprocess.run(
    [sys.executable, "-c", RESTORE, *places], env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  # Step 4 is the newest and the best.
  np.testing.assert_array_equal(np.load(tmp_path / "got.npy"), expected)


def test_a_run_that_goes_on_neither_hashes_nor_writes_them_again(run, tmp_path, monkeypatch):
  config, workdir, splits, _ = run
  again = shutil.copytree(workdir, tmp_path / "again")
  shutil.rmtree(again / "checkpoints/4")
  shutil.rmtree(again / "best/4")
  before = frozen_files(again)[0].stat()
  # What hashes and replaces files.
  monkeypatch.setattr(frozen_weights, "files", None)
  trained(config, again, splits)
  (file,) = frozen_files(again)
  assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
  equal(checkpoints.read(str(again), 4)[0], checkpoints.read(str(workdir), 4)[0])


KILLED = """
import os, signal, sys
from flax import traverse_util
from safetensors.numpy import load_file
from lafg_jax.training import frozen_weights
flat = {name.removeprefix("state/params/"): x for name, x in load_file(sys.argv[2]).items()}
os.replace = lambda *unused: os.kill(os.getpid(), signal.SIGKILL)
frozen_weights.keep(sys.argv[1], traverse_util.unflatten_dict(flat, sep="/"))
"""


def test_killed_while_they_are_written_the_same_command_ends_in_the_same_bits(run, tmp_path):
  config, workdir, splits, _ = run
  (whole,) = frozen_files(workdir)
  done = subprocess.run(
    [sys.executable, "-c", KILLED, str(tmp_path), str(whole)],
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == -9, done.stderr
  (left,) = frozen_files(tmp_path)
  assert left.name.startswith(".") and left.stat().st_size == whole.stat().st_size
  # And what safetensors itself leaves, some bytes earlier.
  (tmp_path / "frozen" / ".tmpA1b2C3").write_bytes(whole.read_bytes()[:1000])
  shutil.copytree(workdir / "features", tmp_path / "features")
  trained(config, tmp_path, splits)
  assert [path.name for path in frozen_files(tmp_path)] == [whole.name]
  equal(checkpoints.read(str(tmp_path), 4)[0], checkpoints.read(str(workdir), 4)[0])


def fixed(seed):
  rng = np.random.default_rng(seed)
  return {"tower": {"kernel": rng.standard_normal((6, 5)).astype(np.float32)}}


def saved(workdir, step, frozen, keep=1, where=checkpoints.FOLDER):
  with checkpoints.manager(workdir, keep, where) as mngr:
    checkpoints.save(mngr, step, {"state/step": np.asarray(step)}, {"config": {}}, frozen)


def test_a_file_stays_as_long_as_any_checkpoint_names_it(tmp_path):
  workdir, names = str(tmp_path), lambda: {path.stem for path in frozen_files(tmp_path)}
  with frozen_weights.tidied(workdir):
    one = frozen_weights.keep(workdir, fixed(1))
    saved(workdir, 1, one)
    saved(workdir, 1, one, where=checkpoints.BEST)
  (tmp_path / "frozen" / "notes.txt").write_text("not ours")
  with frozen_weights.tidied(workdir):
    other = frozen_weights.keep(workdir, fixed(2), one)
    assert other == one, "the checkpoint's are those that the run goes on with"
    more = fixed(2) | {"head": np.zeros(3, np.float32)}
    other = frozen_weights.keep(workdir, more, one)
    saved(workdir, 2, other)
  assert checkpoints.steps(workdir) == [2] and names() == {one.file, other.file, "notes"}
  checkpoints.rename(workdir, [1], "before", checkpoints.BEST)
  with frozen_weights.tidied(workdir):
    pass
  # Whoever renames it back has it whole.
  os.rename(tmp_path / "best/before-1-0", tmp_path / "best/1")
  np.testing.assert_array_equal(
    checkpoints.read(workdir, 1, checkpoints.BEST)[0]["state/params/tower/kernel"],
    fixed(1)["tower"]["kernel"],
  )
  with frozen_weights.tidied(workdir):
    saved(workdir, 3, other, where=checkpoints.BEST)
    assert one.file in names(), "not before the managers are closed"
  assert names() == {other.file, "notes"}
  assert checkpoints.latest(workdir, where=checkpoints.BEST)[1]["step"] == 3


def test_the_name_is_of_names_shapes_dtypes_and_bytes(tmp_path):
  x = np.arange(6, dtype=np.float32)
  trees = [{"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x.view(np.int32)}, {"a": x + 1}]
  trees += [{"a": np.float32(1)}, {"a": np.ones(1, np.float32)}, {"a": x[::-1]}]
  found = [frozen_weights.keep(str(tmp_path), tree) for tree in trees]
  assert len({one.file for one in found}) == len(trees)
  for tree, one in zip(trees, found, strict=True):
    flat = {f"state/params/{path}": np.asarray(x) for path, x in tree.items()}
    equal(flat, frozen_weights.read(str(tmp_path), one))
    assert frozen_weights.keep(str(tmp_path), tree) == one and one.has(*tree)
  assert frozen_weights.keep(str(tmp_path), {}) == frozen_weights.NONE
