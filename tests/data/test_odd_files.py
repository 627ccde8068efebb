"""One reader, one verdict: every way that reads images, over files as people have them.

The pixels are compared with the array that was written, not with another decoder.
"""

import json
import os
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax import export
from lafg_jax.config import keys
from lafg_jax.data import check, datasets, decoders, images, listing, pack, pipeline
from lafg_jax.data.datasets import Dataset
from lafg_jax.inference.retriever import Retriever
from lafg_jax.language.encoders import images as teacher
from lafg_jax.report import pictures
from lafg_jax.tasks.class_retrieval import batches
from lafg_jax.utils import ground
from lafg_jax.utils.errors import UserError
from tests.data import odd_formats, odd_metadata, odd_pixels
from tests.data.odd_files import CASES, GROUND

# Each adds its own.
KINDS = (odd_formats, odd_metadata, odd_pixels)
NAMES = tuple(CASES)
SIZE = 16


def section(**changes):
  data = keys.defaults(("data",)).data.to_dict()
  data |= {"image_size": SIZE, "resize_size": SIZE + 4, "prefetch": 2, "flip": False}
  data |= {"classes_per_batch": 2, "images_per_class": len(NAMES) // 2 + 1}
  return ConfigDict(data | changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("odd")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name, (write, _, _) in CASES.items():
      write(folder / name)
  return folder


@pytest.fixture(scope="module")
def dataset(root):
  """All of them, in two classes; the last image of each can be read, and stands in."""
  Image.new("RGB", (24, 24), (9, 99, 199)).save(root / "stand_in.png")
  half = len(NAMES) // 2
  names = (*NAMES[:half], "stand_in.png", *NAMES[half:], "stand_in.png")
  labels = np.array([0] * (half + 1) + [1] * (len(names) - half - 1), np.int32)
  paths = np.array([str(root / name) for name in names])
  return Dataset("folder", "train", paths, labels, ("a", "b"), names)


@pytest.fixture(scope="module")
def seen(dataset):
  """[n] what open_image shows: uint8 [H, W, 3], or None. Its own test compares it with `CASES`."""

  def read(path):
    try:
      return images.read_image(path)
    except images.UnreadableImage as error:
      assert str(path) in str(error) and "\n" not in str(error)
      return None

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return [read(path) for path in dataset.images]


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def refused(seen):
  return [row for row, pixels in enumerate(seen) if pixels is None]


def test_there_are_many_of_each_kind(dataset, seen):
  assert len(NAMES) > 250
  wanted = [CASES[name][1] for name in NAMES]
  assert sum(shown is None for shown in wanted) >= 25
  assert sum(shown is ... for shown in wanted) < 6


def test_pixels_are_those_that_were_written(dataset, seen):
  wrong = {}
  for name, got in zip(dataset.ids, seen, strict=True):
    _, shown, tolerance = CASES.get(name, (None, ..., 0))
    if shown is ...:
      continue
    if (got is None) != (shown is None):
      wrong[name] = "refused" if got is None else "read"
    elif got is not None and got.shape != shown.shape:
      wrong[name] = got.shape
    elif got is not None and np.abs(got.astype(int) - shown).max() > tolerance:
      wrong[name] = np.abs(got.astype(int) - shown).max()
  assert not wrong


def test_bytes_paths_and_scaled_decoders_agree(dataset, seen):
  open_ = decoders.opener(scaled=True)

  def whole(source):
    return np.asarray(source.decode() if isinstance(source, decoders.Jpeg) else source)

  reads = {
    "path": lambda path: whole(open_(path, dataset.ground)),
    "Path": lambda path: np.asarray(images.open_any(Path(path))),
    "bytes": lambda path: images.read_image(Path(path).read_bytes()),
    "scaled bytes": lambda path: whole(open_(Path(path).read_bytes(), dataset.ground)),
  }
  wrong = []
  for path, name, wanted in zip(dataset.images, dataset.ids, seen, strict=True):
    for way, read in reads.items():
      if way not in ("path", "Path") and not os.path.isfile(path):
        continue
      try:
        got = read(path)
      except images.UnreadableImage:
        got = None
      if not np.array_equal(got, wanted) if wanted is not None else got is not None:
        wrong.append((way, name))
  assert not wrong


def test_the_data_stage_agrees(dataset, seen, monkeypatch):
  monkeypatch.setattr(datasets, "load_splits", lambda data: {"train": dataset})
  monkeypatch.setattr(check, "LISTED", 10**6)
  findings, _ = check.run(section(num_workers=2))
  told = {item["image"] for item in findings["unreadable"]["images"]}
  assert told == {dataset.ids[row] for row in refused(seen)}
  assert all("cannot read image" in item["why"] for item in findings["unreadable"]["images"])
  dark = {
    name
    for name, pixels in zip(dataset.ids, seen, strict=True)
    if pixels is not None and pixels.max() < 32
  }
  assert set(findings["black"]["images"]) == dark and "floats_black.tif" in dark
  json.dumps(findings)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_and_evaluation_agree_in_threads_and_workers(dataset, seen, workers):
  data = section(num_workers=workers)
  (evaluated,) = pipeline.eval_batches(dataset, data, len(dataset))
  assert sorted(evaluated["unreadable"][evaluated["unreadable"] >= 0]) == refused(seen)
  for row, pixels in enumerate(seen):
    if pixels is not None:
      wanted = images.resize_centre_crop(pixels, data.resize_size, data.image_size)
      np.testing.assert_array_equal(evaluated["image"][row], wanted, dataset.ids[row])
  made = pipeline.train_batches(
    dataset, data, batches.plan(dataset, data, 0), seed=0, start_step=0, num_steps=1
  )
  trained = next(made)
  made.close()
  assert set(trained["unreadable"][trained["unreadable"] >= 0]) == set(refused(seen))
  assert set(trained["index"]) == {row for row, pixels in enumerate(seen) if pixels is not None}


def test_a_pack_agrees(dataset, seen, tmp_path):
  packed = pack.packed(dataset, section(pack=str(tmp_path / "pack"), num_workers=2))
  for row, pixels in enumerate(seen):
    if pixels is None:
      with pytest.raises(images.UnreadableImage):
        packed.images[row]
    else:
      wanted = images.resize_shorter(pixels, SIZE + 4)
      np.testing.assert_array_equal(packed.images[row].pixels, wanted, dataset.ids[row])


@pytest.fixture
def retriever():
  """Embeds an image as its pixels."""

  def make(**changes):
    def flat(pixels):
      return pixels.reshape(len(pixels), -1).astype(np.float32)

    config = ConfigDict({"data": section(**changes), "model": {"size": "custom"}})
    return Retriever(config, 1, "newest", 3 * SIZE * SIZE, (), {}, flat)

  return make


def test_embed_and_an_exported_index_agree(dataset, seen, retriever, root):
  model = retriever()
  for path, pixels in zip(dataset.images, seen, strict=True):
    if pixels is None:
      # A folder has a line of its own there.
      with pytest.raises(UserError, match="cannot read image|is a folder"):
        model.embed([str(path)])
    else:
      wanted = images.resize_centre_crop(pixels, SIZE + 4, SIZE)
      np.testing.assert_array_equal(model.embed([str(path)])[0], wanted.ravel())
  paths, _ = export._embedded(model, str(root))
  shown = {x for x, pixels in zip(dataset.ids, seen, strict=True) if pixels is not None}
  # Files are told by their endings there.
  assert set(paths) == shown & set(listing.images_below(root)[0]) and len(paths) > 100


def test_teacher_features_and_pictures_agree(dataset, seen, monkeypatch):
  def image_encoder(encoder, folder, shown):
    def encode(rows):
      pictures = {at: picture for at in rows if (picture := shown(at)) is not None}
      corners = [np.asarray(x, np.float32)[0, 0] + 1 for x in pictures.values()]
      return list(pictures), np.array(corners).reshape(-1, 3)

    return encode

  way = types.SimpleNamespace(image_encoder=image_encoder)
  monkeypatch.setattr(teacher.load, "resolve", lambda encoder: ("", "x"))
  monkeypatch.setattr(teacher.runtimes, "of", lambda *_, **__: way)
  features, readable = teacher._of_dataset(dataset, "x", 64, "", "auto")
  assert np.flatnonzero(~readable).tolist() == refused(seen)
  for row, pixels in enumerate(seen):
    tile = pictures.tile(dataset, row, SIZE)
    if pixels is None:
      assert (tile == 128).all()
    else:
      np.testing.assert_array_equal(tile, images.resize_centre_crop(pixels, SIZE, SIZE))
      wanted = pixels[0, 0].astype(float) + 1
      np.testing.assert_allclose(features[row, 0], wanted / np.linalg.norm(wanted), atol=1e-5)


@pytest.mark.parametrize(
  ("said", "colour"),
  [("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ("#fff", (255,) * 3), ("7", (7,) * 3)],
)
def test_the_ground_is_the_keys_everywhere(root, retriever, monkeypatch, said, colour):
  path = str(root / "cut_out_dark.png")
  dataset = Dataset(
    *("folder", "train", np.array([path] * 4), np.repeat([0, 1], 2).astype(np.int32), ("a", "b")),
    ("1", "2", "3", "4"),
  )
  reader = type("reader", (), {"read": staticmethod(lambda data: (dataset, dataset))})
  monkeypatch.setattr(datasets.importlib, "import_module", lambda name: reader)
  data = section(name="folder", ground=said, images_per_class=2)
  found = datasets.load_splits(data, ("train",))["train"]
  assert found.ground == colour
  shown = np.asarray(images.of_dataset(found, 0))
  assert (shown[0, 0] == colour).all() and (shown[0, -1] == 10).all()
  (batch,) = pipeline.eval_batches(found, data, 4)
  assert (batch["image"][0, 0, 0] == colour).all()
  np.testing.assert_array_equal(
    retriever(ground=said).embed([path])[0].reshape(SIZE, SIZE, 3), batch["image"][0]
  )
  assert datasets.content_of(found) != datasets.content_of(dataset)


def test_dark_white_and_middle_grey_things_stand_out_from_the_default_ground(root):
  assert ground.rgb(ground.DEFAULT) == images.GROUND == (GROUND,) * 3
  for name in ("dark", "white", "middle"):
    seen = images.read_image(root / f"cut_out_{name}.png").astype(int)
    assert seen.max() - seen.min() >= 60, name


@pytest.mark.parametrize("bad", ["", "whit", "256", "-1", "#12345", "#11223344", "1.5"])
def test_a_ground_that_is_no_colour_is_refused(bad):
  with pytest.raises(ValueError):
    keys.ROWS["data.ground"].rule.accepts(bad)
