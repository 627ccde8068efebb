"""Packs against the files they are made of, and after every kind of interruption."""

import dataclasses
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import cars, synthetic
from lafg_jax import stages
from lafg_jax.data import images, pack, pipeline
from lafg_jax.data.datasets import Dataset
from lafg_jax.tasks.class_retrieval import default, train
from lafg_jax.tasks.class_retrieval import stages as class_retrieval
from lafg_jax.tasks.class_retrieval.batches import plan
from lafg_jax.training import resume
from lafg_jax.utils.errors import UserError

REPOSITORY = Path(__file__).parents[2]


def section(folder, **changes):
  values = {
    "image_size": 32,
    "resize_size": 40,
    "train_crop": "resize_crop",
    "crop_scale": (0.2, 1.0),
    "crop_ratio": (0.75, 4 / 3),
    "flip": True,
    "color_jitter": 0.0,
    "recoloured_per_batch": 0,
    "recolourings": 1,
    "instances": False,
    "classes_per_batch": 3,
    "images_per_class": 2,
    "scaled_decoding": False,
    "pack": str(folder),
    "num_workers": 0,
    "prefetch": 2,
  }
  return ConfigDict(values | changes)


@pytest.fixture
def dataset(tmp_path):
  (tmp_path / "files").mkdir()
  paths = [tmp_path / "files" / f"{k:02d}.jpg" for k in range(18)]
  for k, path in enumerate(paths):
    rng = np.random.default_rng(k)
    coarse = Image.fromarray(rng.integers(0, 255, (8, 9, 3), np.uint8))
    size = (90 + 3 * k, 70) if k % 2 else (64, 90 + k)
    # One is smaller than a pack's: it stays as it is.
    size = (36, 30) if k == 7 else size
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
  labels = np.arange(18, dtype=np.int32) % 3
  names = np.array([str(path) for path in paths])
  return Dataset("cars", "train", names, labels, ("a", "b", "c"), tuple(p.name for p in paths))


def batches(dataset, data, steps=6):
  return list(
    pipeline.train_batches(
      dataset, data, plan(dataset, data, 3), seed=3, start_step=0, num_steps=steps
    )
  )


def content(folder):
  (found,) = [path for path in Path(folder).iterdir() if path.is_dir()]
  return {path.name: path.read_bytes() for path in found.iterdir()}


def test_packed_resize_crops_are_those_of_the_files(dataset, tmp_path):
  for got, want in zip(
    batches(dataset, section(tmp_path / "p")), batches(dataset, section("")), strict=True
  ):
    for key in ("label", "index", "unreadable"):
      np.testing.assert_array_equal(got[key], want[key])
    difference = np.abs(got["image"].astype(int) - want["image"])
    # Pillow rounds between its two passes, and orders them by the size of the output.
    assert difference.max() <= 2
  assert content(tmp_path / "p").keys() == {"pixels", "index"}


def test_packed_random_resized_crops_show_nearly_the_same(dataset, tmp_path):
  data = section(tmp_path / "p", train_crop="random_resized", crop_scale=(0.5, 1.0))
  assert pack.side(data) == 50
  files = section("", train_crop="random_resized", crop_scale=(0.5, 1.0))
  differences = [
    np.abs(got["image"].astype(int) - want["image"])
    for got, want in zip(batches(dataset, data), batches(dataset, files), strict=True)
  ]
  # The same crops, drawn from an image that was resized twice.
  assert 0 < np.mean(differences) < 1 and np.max(differences) < 60


def test_unreadable_images_are_recorded_and_stood_in_for(dataset, tmp_path):
  Path(dataset.images[4]).write_bytes(b"no image")
  Path(dataset.images[9]).write_bytes(Path(dataset.images[9]).read_bytes()[:200])
  made = batches(dataset, section(tmp_path / "p"))
  wanted = batches(dataset, section(""))
  for got, want in zip(made, wanted, strict=True):
    for key in ("label", "index", "unreadable"):
      np.testing.assert_array_equal(got[key], want[key])
  assert any((batch["unreadable"] >= 0).any() for batch in made)
  packed = pack.packed(dataset, section(tmp_path / "p"))
  with pytest.raises(images.UnreadableImage, match="image 4 could not be read"):
    packed.images[4]


def test_boxes_bytes_and_pickles(dataset, tmp_path):
  boxes = np.tile([3.0, 2.0, 33.0, 27.0], (18, 1))
  files = [Path(path).read_bytes() for path in dataset.images]
  boxed = dataclasses.replace(dataset, images=files, boxes=boxes)
  packed = pickle.loads(pickle.dumps(pack.packed(boxed, section(tmp_path / "p"))))
  assert packed.boxes is None and len(packed.images) == 18
  for row in (0, 7, 17):
    got, *before = packed.images[row]
    assert before == [30, 25]
    np.testing.assert_array_equal(got, np.asarray(images.of_dataset(boxed, row)))
    assert got.shape == (25, 30, 3) and not got.flags.writeable


def test_another_size_or_dataset_is_another_pack(dataset, tmp_path):
  first = pack.packed(dataset, section(tmp_path / "p")).images.folder
  again = pack.packed(dataset, section(tmp_path / "p", flip=False, num_workers=1)).images.folder
  bigger = pack.packed(dataset, section(tmp_path / "p", resize_size=44)).images.folder
  Path(dataset.images[0]).write_bytes(Path(dataset.images[1]).read_bytes())
  changed = pack.packed(dataset, section(tmp_path / "p")).images.folder
  assert first == again and len({first, bigger, changed}) == 3


@pytest.mark.parametrize(
  ("index_bytes", "pixel_bytes"), [(0, 0), (24 * 5 + 7, 10**9), (24 * 9, 40_000), (24 * 3, 0)]
)
def test_an_interrupted_pack_goes_on(dataset, tmp_path, monkeypatch, index_bytes, pixel_bytes):
  data = section(tmp_path / "p")
  folder = Path(pack.packed(dataset, data).images.folder)
  whole = content(tmp_path / "p")
  shutil.rmtree(folder)
  pack._opened.cache_clear()
  partial = folder.with_name(folder.name + ".partial")
  partial.mkdir()
  (partial / "index").write_bytes(whole["index"][:index_bytes])
  (partial / "pixels").write_bytes(whole["pixels"][:pixel_bytes])
  made = []
  resized = pack._resized
  monkeypatch.setattr(pack, "_resized", lambda *args: made.append(args[-1]) or resized(*args))
  pack.packed(dataset, data)
  assert content(tmp_path / "p") == whole
  named = whole["index"][: index_bytes // 24 * 24]
  ends = [a + 3 * h * w for a, h, w, _, _ in struct.iter_unpack("<qiiii", named)]
  kept = sum(end <= pixel_bytes for end in ends)
  assert sorted(made) == list(range(kept, 18))


BUILD = """
import pickle, sys, time
from lafg_jax.data import images, pack
dataset, data = pickle.load(open(sys.argv[1], "rb"))
resize, done = images.resize_shorter, []
def stuck(*args):
  done.append(args)
  # It never ends by itself, however late it is killed.
  time.sleep(0.02 if len(done) < 12 else 10_000)
  return resize(*args)
images.resize_shorter = stuck
pack._CHUNK = 2
pack.packed(dataset, data)
"""


def test_a_killed_build_goes_on(dataset, tmp_path):
  data = section(tmp_path / "p", num_workers=1)
  (tmp_path / "build.py").write_text(BUILD)
  (tmp_path / "job").write_bytes(pickle.dumps((dataset, data)))
  process = subprocess.Popen(
    [sys.executable, str(tmp_path / "build.py"), str(tmp_path / "job")],
    env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
  )
  deadline = time.time() + 1000
  index = []
  while time.time() < deadline and not (index and index[0].stat().st_size >= 48):
    index = list((tmp_path / "p").glob("*.partial/index"))
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert 0 < index[0].stat().st_size < 18 * 24
  pack.packed(dataset, data)
  unbroken = section(tmp_path / "unbroken")
  pack.packed(dataset, unbroken)
  assert content(tmp_path / "p") == content(tmp_path / "unbroken")


def test_a_damaged_pack_is_one_line(dataset, tmp_path):
  folder = pack.packed(dataset, section(tmp_path / "p")).images.folder
  pack._opened.cache_clear()
  os.truncate(os.path.join(folder, "pixels"), 1000)
  with pytest.raises(UserError, match=f"damaged: delete {re.escape(folder)}") as error:
    pack.packed(dataset, section(tmp_path / "p"))
  assert "\n" not in str(error.value)


def test_finches_are_not_packed():
  config = synthetic.get_config("prototypes")
  config.data.pack = "packs"
  with pytest.raises(UserError, match=r"data\.pack=packs"):
    default.validate(config, ["train"])
  config = cars.get_config()
  config.data.pack, config.data.root = "packs", "somewhere"
  default.validate(config, ["train"])


def test_a_run_goes_on_with_a_pack_wherever_it_lies_but_not_without(dataset):
  config = cars.get_config()
  config.data.pack = "here"
  before = train.meta(config, dataset, None)
  assert before["made_of"]["data.pack"] == "with 256 px"
  config.data.pack = "there"
  resume.check_same(config, before, train.meta(config, dataset, None), "runs")
  config.data.pack = ""
  without = train.meta(config, dataset, None)
  with pytest.raises(UserError, match=r"\(data\.pack: with 256 px -> without\)"):
    resume.check_same(config, before, without, "runs")
  with pytest.raises(UserError, match=r"\(data\.pack: without -> with 256 px\)"):
    resume.check_same(config, without, before, "runs")


def test_a_finished_run_is_not_up_to_date_without_its_pack(monkeypatch, tmp_path):
  keys = []

  def is_done(workdir, stage, key, outputs):
    keys.append(key)
    return True

  monkeypatch.setattr(stages, "is_done", is_done)
  config = synthetic.get_config("prototypes")
  config.loss.alignment = "none"
  (train_stage,) = (stage for stage in class_retrieval._STAGES if stage.name == "train")
  for folder in ("", "here", "there"):
    config.data.pack = folder
    stages.run_all([train_stage], config, str(tmp_path))
  assert keys[0] != keys[1] == keys[2]
