"""A retriever against the embeddings.npz of the evaluation, where images are cut to boxes."""

import dataclasses

import numpy as np
import pytest

import lafg_jax
from configs import aircraft
from lafg_jax import tasks
from lafg_jax.data import datasets
from lafg_jax.data import images as image_files
from lafg_jax.evaluate import results
from lafg_jax.tasks.class_retrieval import default, train
from lafg_jax.utils.errors import UserError

CHANGES = {
  "data.expect_counts": False,
  "model.size": "custom",
  "model.depth": 1,
  "model.patch_size": 8,
  "model.pretrained": "",
  "model.dtype": "float32",
  "loss.alignment": "none",
  "train.steps": 1,
  "evaluate.batch_size": 16,
}


@pytest.fixture(scope="module")
def photos(trees, tmp_path_factory):
  return trees.aircraft(tmp_path_factory.mktemp("aircraft"))


@pytest.fixture(scope="module", params=[False, True], ids=["banner", "box_crop"])
def evaluated(request, photos, small, tmp_path_factory):
  """A workdir, and its config."""
  workdir = tmp_path_factory.mktemp("run")
  config = aircraft.get_config()
  config.update_from_flattened_dict(small | CHANGES)
  config.data.root, config.data.box_crop = str(photos), request.param
  stages = ("train", "evaluate", "report")
  default.validate(config, stages)
  tasks.run(config, str(workdir), stages)
  return workdir, config


def test_it_sees_what_evaluation_sees(evaluated, photos):
  workdir, config = evaluated
  retriever = lafg_jax.load_retriever(str(workdir))
  with np.load(workdir / "embeddings.npz", allow_pickle=False) as npz:
    paths, vectors = [str(photos / "data" / name) for name in npz["paths"]], npz["vectors"]
  test = datasets.load_splits(config.data, ("test",))["test"]
  boxes = test.boxes if config.data.box_crop else None
  np.testing.assert_allclose(retriever.embed(paths, boxes=boxes), vectors, atol=1e-5)
  pixels = [np.asarray(image_files.open_image(path)) for path in paths]
  np.testing.assert_allclose(retriever.embed(pixels, 5, test.boxes), vectors, atol=1e-5)
  whole = retriever.embed(paths, boxes=np.zeros((len(paths), 4)))
  assert np.abs(whole - vectors).max() > 0.01


def test_an_evaluation_by_boxes_says_so(evaluated):
  workdir, config = evaluated
  result = results.read_result(str(workdir))
  assert result.get("box_crop", False) is config.data.box_crop
  for text in (results.table(result), (workdir / "report.html").read_text()):
    assert ("cut to their boxes" in text) is config.data.box_crop


@pytest.mark.parametrize(("key", "says"), [("box_crop", "True|False"), ("resize_size", "16 -> 20")])
def test_images_cut_otherwise_than_in_training_are_refused(evaluated, key, says):
  workdir, config = evaluated
  other = config.copy_and_resolve_references()
  other.data[key] = 20 if key == "resize_size" else not config.data.box_crop
  with pytest.raises(UserError, match=f"another config .data.{key}: .*({says})"):
    tasks.run(other, str(workdir), ("evaluate",))


def test_only_a_box_that_all_share_is_kept(photos):
  config = aircraft.get_config()
  config.data.root, config.data.expect_counts = str(photos), False
  dataset = datasets.load_splits(config.data, ("train",))["train"]
  assert train.shared_box(dataset) == [0, 0, 0, -20]
  boxes = dataset.boxes.copy()
  boxes[-1, 3] = -19
  assert train.shared_box(dataclasses.replace(dataset, boxes=boxes)) is None
  assert train.shared_box(dataclasses.replace(dataset, boxes=None)) is None


def test_boxes_that_cannot_be_are_one_line(evaluated, photos):
  retriever = lafg_jax.load_retriever(str(evaluated[0]))
  path = str(photos / "data" / "images" / "1025794.jpg")
  with pytest.raises(UserError, match=r"boxes are \(4,\)"):
    retriever.embed([path], boxes=[0, 0, 9, 9])
  with pytest.raises(UserError, match="four finite numbers for each of 1 images"):
    retriever.embed([path], boxes=[[0, 0, 9, np.nan]])
  with pytest.raises(UserError, match="outside"):
    retriever.embed([path], boxes=[[90, 90, 99, 99]])
