"""Classes without names of their own: items under super-classes, told apart by their images."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from PIL import Image

from lafg_jax import tasks
from lafg_jax.data import datasets
from lafg_jax.data.images import UnreadableImage
from lafg_jax.finches import classes
from lafg_jax.language import prototypes
from lafg_jax.language.describers import describe
from lafg_jax.language.encoders import images as image_features
from lafg_jax.language.encoders import texts
from lafg_jax.report import language_page
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ITEMS, EACH = 4, 3
HEADER = "image_id class_id super_class_id path"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  """Six finches as items 1-4 (training) and 11319-11320, under two super-classes."""
  root = tmp_path_factory.mktemp("shop")
  names = classes.class_names("seen")
  lists = {"train": [HEADER], "test": [HEADER]}
  for k in range(ITEMS + 2):
    item = k + 1 if k < ITEMS else 11319 + k - ITEMS
    folder = root / ("lamp_final" if k % 2 else "coffee_maker_final")
    folder.mkdir(exist_ok=True)
    for i in range(EACH):
      Image.fromarray(classes.image(names[k], i)).save(folder / f"{item}_{i}.PNG")
      split = "train" if k < ITEMS else "test"
      lists[split].append(f"{len(lists[split])} {item} 1 {folder.name}/{item}_{i}.PNG")
  for split, lines in lists.items():
    (root / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")
  words = {
    "lamp": [f"A {c} bird with {t} wings." for c in ("red", "blue") for t in ("plain", "barred")],
    "coffee maker": [f"A {c} bird with a {t} bill." for c in ("green", "grey") for t in ("long",)],
  }
  (root / "words.json").write_text(json.dumps(words))
  return root


@pytest.fixture
def config(shop, tmp_path):
  config = default.get_config()
  config.data.name, config.data.root, config.data.expect_counts = "sop", str(shop), False
  config.language.descriptions = str(shop / "words.json")
  config.language.encoder, config.language.query = "tiny_clip", "image"
  config.language.num_attributes, config.language.top_k, config.language.batch_size = 5, 2, 4
  config.language.cache = str(tmp_path / "cache")
  return config


def run(config, workdir):
  train = datasets.load_splits(config.data, ("train",))["train"]
  describe.run(config.language, workdir, list(dict.fromkeys(train.super_classes)))
  path = texts.run(config.language, workdir, train.class_names, train.super_classes, train)
  with np.load(path, allow_pickle=False) as found:
    return train, dict(found)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_queries_are_the_super_class_prompt_and_the_mean_image(config, tmp_path):
  train, found = run(config, tmp_path)
  assert found["described"].tolist() == ["coffee maker", "lamp"]
  assert found["class_described"].tolist() == [0, 1, 0, 1]
  assert found["sentence_described"].tolist() == [0] * 2 + [1] * 4
  images = image_features.encode_images(list(train.images), "tiny_clip", 64)
  by_hand = unit(np.stack([images[train.labels == c].mean(axis=0) for c in range(ITEMS)]))
  np.testing.assert_allclose(found["image_means"], by_hand, atol=1e-6)
  asked = ["a photo of coffee maker", "a photo of lamp"]
  prompts = texts.encode_texts(asked, "tiny_clip", 2)
  np.testing.assert_allclose(found["queries"], prompts[[0, 1, 0, 1]], atol=1e-6)
  # In another order of classes, as a workdir may have it after a change of the split.
  names = train.class_names[::-1]
  path = prototypes.run(config.language, tmp_path, names)
  with np.load(path, allow_pickle=False) as made:
    queries = unit(prompts[[1, 0, 1, 0]] + by_hand[::-1])
    np.testing.assert_allclose(made["queries"], queries, atol=1e-6)
    features, owners = found["sentence_features"], found["sentence_described"]
    means = [features[owners == k].mean(axis=0) for k in (1, 0)]
    np.testing.assert_allclose(made["description_means"], np.stack(means * 2), atol=1e-6)
    nearest = np.argsort(-(queries @ made["vocabulary"].T), axis=1)[:, :2]
    np.testing.assert_array_equal(made["topk_indices"], nearest)
    # Items of one super-class have the same words, and differ by what is seen.
    assert np.abs(made["prototypes"][0] - made["prototypes"][2]).max() > 1e-2


def test_unreadable_images_are_named_and_left_out(config, shop, tmp_path, monkeypatch):
  told = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: told.append(text % args))
  train, found = run(config, tmp_path / "whole")
  broken, gone, last = (Path(train.images[row]) for row in np.flatnonzero(train.labels == 1))
  kept = broken.read_bytes(), gone.read_bytes()
  try:
    broken.write_bytes(kept[0][:60])
    os.remove(gone)
    listed = datasets.load_splits(config.data, ("train",))["train"]
    assert len(listed) == len(train) - 1  # A file that is gone is left out by the reader.
    features = image_features.class_image_means(train, "tiny_clip", 4)
    for path in (broken, gone):
      assert sum(f"cannot read lamp_final/{path.name}" in line for line in told) == 1
    assert any(f"2 of {len(train)} images left out" in line for line in told)
    rest = image_features.encode_images([str(last)], "tiny_clip", 1)
    np.testing.assert_allclose(features[1], rest[0], atol=1e-6)
    others = [0, 2, 3]
    np.testing.assert_allclose(features[others], found["image_means"][others], atol=1e-6)
    last.rename(shop / "away")
    with pytest.raises(UserError, match=r"no image of 1 class can be read \('lamp 2'\)"):
      image_features.class_image_means(train, "tiny_clip", 4)
  finally:
    broken.write_bytes(kept[0])
    gone.write_bytes(kept[1])
    if (shop / "away").exists():
      (shop / "away").rename(last)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_of_unreadable_images_alone_leaves_the_cache_whole(tmp_path, batch_size):
  good = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
  for name, image in zip("abc", good, strict=True):
    image.save(tmp_path / f"{name}.png")
  (tmp_path / "x.png").write_bytes(b"no image")
  alone = image_features.encode_images(np.stack([np.asarray(i) for i in good]), "tiny_clip", 3)
  cache, nowhere = tmp_path / "cache", tmp_path / "nowhere.png"
  paths = [tmp_path / "x.png", nowhere, *(tmp_path / f"{name}.png" for name in "abc")]
  for _ in range(3):
    found = image_features.encode_images(
      paths, "tiny_clip", batch_size, cache, skip_unreadable=True
    )
    assert np.isnan(found[:2]).all()
    np.testing.assert_allclose(found[2:], alone, atol=1e-6)
    # A file holds some seconds of work: on a slow machine there are several.
    kept = []
    for file in cache.rglob("*.npz"):
      with np.load(file, allow_pickle=False) as part:
        kept.append(part["features"])
    assert np.concatenate(kept).shape == alone.shape
  with pytest.raises(UserError, match="none of 2 images can be read"):
    image_features.encode_images(paths[:2], "tiny_clip", 1, tmp_path / "c", skip_unreadable=True)
  assert not list((tmp_path / "c").rglob("*.npz"))


def test_a_damaged_row_group_is_left_out_like_a_damaged_file(trees, tmp_path):
  import pyarrow.parquet

  trees.cars_parquet(tmp_path)
  config = default.get_config()
  config.data.name, config.data.root = "cars", str(tmp_path)
  config.data.expect_counts = False
  path = tmp_path / "data" / "train-00000-of-00002.parquet"
  with pyarrow.parquet.ParquetFile(path) as file:
    first = file.metadata.row_group(0).column(0).data_page_offset
  spoiled = bytearray(path.read_bytes())
  spoiled[first : first + 40] = b"\xff" * 40
  path.write_bytes(bytes(spoiled))
  train = datasets.load_splits(config.data, ("train",))["train"]
  found = image_features.encode_images(
    train.images, "tiny_clip", 4, tmp_path / "cache", skip_unreadable=True
  )
  read = []
  for row in range(len(train)):
    try:
      read.append(train.images[row])
    except UnreadableImage:
      read.append(None)
  assert 0 < read.count(None) < len(read)
  np.testing.assert_array_equal(np.isnan(found[:, 0]), [image is None for image in read])
  with pytest.raises(UserError, match="row group 0 of .* cannot be read.*take it out of the data"):
    image_features.encode_images(train.images, "tiny_clip", 4)


def test_a_box_is_all_that_is_seen_and_part_of_the_cache_key(tmp_path):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "x.png")
  paths, boxes = [str(tmp_path / "x.png")] * 2, np.array([[5, 10, 45, 40], [-9, -9, 99, 99]])
  cache = tmp_path / "cache"
  for _ in range(2):
    found = image_features.encode_images(paths, "tiny_clip", 2, cache, boxes=boxes)
    by_hand = image_features.encode_images([pixels[10:40, 5:45]], "tiny_clip", 1)
    whole = image_features.encode_images([(tmp_path / "x.png").read_bytes()], "tiny_clip", 1)
    np.testing.assert_allclose(found, np.concatenate([by_hand, whole]), atol=1e-6)


def command(config, workdir, *more):
  flags = [
    f"--config.{key}={config[key.split('.')[0]][key.split('.')[1]]}"
    for key in (
      *("data.name", "data.root", "data.expect_counts", "language.descriptions"),
      *("language.encoder", "language.query", "language.num_attributes", "language.top_k"),
      "language.cache",
    )
  ]
  return subprocess.run(
    [
      *(sys.executable, "-m", "lafg_jax.main", "--config", "configs/cars.py"),
      *(f"--workdir={workdir}", "--config.data.classes_per_batch=2", *flags, *more),
    ],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )


def test_inspecting_needs_images_too(config, tmp_path):
  config.language.query = "name"
  with pytest.raises(UserError, match="pass --config.language.query=image"):
    tasks.run(config, str(tmp_path / "run"), ("inspect",))
  assert not (tmp_path / "run").exists()


def test_the_command_describes_super_classes_and_needs_images(config, tmp_path):
  wrong = command(config, tmp_path, "--stage=describe", "--config.language.query=name")
  assert wrong.returncode == 2 and "pass --config.language.query=image" in wrong.stderr
  done = command(config, tmp_path, "--stage=inspect")
  assert done.returncode == 0, done.stderr
  rows = [json.loads(line) for line in (tmp_path / "descriptions.jsonl").read_text().splitlines()]
  assert {row["class"] for row in rows} == {"lamp", "coffee maker"}
  with np.load(tmp_path / "prototypes.npz", allow_pickle=False) as made:
    assert made["class_names"].tolist() == ["coffee maker 1", "lamp 2", "coffee maker 3", "lamp 4"]
  text = (tmp_path / language_page.FILE).read_text()
  page = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
  told = {c["name"]: page["words"][c["words"]]["name"] for c in page["classes"]}
  assert told == {f"{k} {i}": k for i, k in enumerate(["coffee maker", "lamp"] * 2, 1)}
  assert [len(words["descriptions"]) for words in page["words"]] == [2, 4]
  before = files.file_hash(tmp_path / "prototypes.npz")
  assert command(config, tmp_path, "--stage=encode").stderr.count("skipped (up to date)") == 1
  assert files.file_hash(tmp_path / "prototypes.npz") == before
