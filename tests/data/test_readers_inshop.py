"""In-Shop Clothes Retrieval: its lists, and queries that search the gallery alone."""

import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict

from lafg_jax.data import datasets, images
from lafg_jax.data.readers import inshop
from lafg_jax.data.readers.common import Published
from lafg_jax.evaluate import results
from lafg_jax.utils.errors import UserError


def section(root, **changes):
  plain = {
    "name": "inshop",
    "root": str(root),
    "expect_counts": False,
    "num_val_classes": 0,
    "max_train_classes": 0,
  }
  return ConfigDict(plain | {"box_crop": False} | changes)


@pytest.mark.parametrize("folder", ["Img", "."])
def test_the_lists_as_published(trees, tmp_path, folder):
  root = trees.inshop(tmp_path, images=folder)
  splits = datasets.load_splits(section(root))
  train, test = splits["train"], splits["test"]
  assert train.class_names == (
    *("women dresses 00000002", "women tees tanks 00000004", "men denim 00000080"),
    *("men jackets vests 00000105", "women rompers jumpsuits 00000227"),
  )
  assert train.super_classes[:2] == ("women dresses", "women tees tanks")
  assert train.is_query is None and train.labels.tolist() == sorted([*range(5)] * 3)
  assert test.class_names == (
    *("women tees tanks 00000001", "men denim 00000089", "women skirts 00007982"),
  )
  # Query rows first; the list has them in between.
  assert test.is_query.tolist() == [True] * 3 + [False] * 6
  assert test.labels.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2]
  prefix = "Img/" if folder == "Img" else ""
  assert test.ids[0] == f"{prefix}img/WOMEN/Tees_Tanks/id_00000001/01_2_side.jpg"
  for dataset in (train, test):
    for row, label in enumerate(dataset.labels):
      red, size = trees.look(images.of_dataset(dataset, row))
      assert abs(red - trees.shade(int(dataset.class_names[label][-8:]))) <= 2
      assert size == trees.SIZE


def test_published_counts_hold_for_queries_and_gallery_alike(trees, tmp_path, monkeypatch):
  assert inshop.PUBLISHED == ((3997, 25882), (3985, 14218 + 12612)) and inshop.QUERIES == 14218
  root = trees.inshop(tmp_path)
  data = section(root, expect_counts=True)
  said = (
    r"15 images of 5 classes for training and 9 images of 3 classes \(3 of them queries\) .* "
    r"25,882 of 3,997 and 26,830 of 3,985 \(14,218 of them queries\)"
  )
  with pytest.raises(UserError, match=said):
    datasets.load_splits(data)
  monkeypatch.setattr(inshop, "PUBLISHED", (Published(5, 15), Published(3, 9)))
  with pytest.raises(UserError, match=r"\(3 of them queries\) .* \(14,218 of them queries\)"):
    datasets.load_splits(data)
  assert datasets.load_splits(section(root))["test"].partial
  monkeypatch.setattr(inshop, "QUERIES", 3)
  assert not datasets.load_splits(data)["test"].partial


def test_validation_items_query_each_other(trees, tmp_path):
  splits = datasets.load_splits(section(trees.inshop(tmp_path), num_val_classes=2))
  val = splits["val"]
  assert val.is_query is None and len(val) == 6 and len(splits["train"]) == 9
  assert val.super_classes == tuple(name.rsplit(" ", 1)[0] for name in val.class_names)
  assert splits["test"].is_query.sum() == 3


LIST, BOXES = "Eval/list_eval_partition.txt", "Anno/list_bbox_inshop.txt"
FIRST = "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"


@pytest.mark.parametrize(
  ("broken", "said"),
  [
    ((LIST, "24\n", ""), "does not begin with a count and 'image_name item_id evaluation"),
    ((LIST, "24\n", "25\n"), "has 24 lines, not 25"),
    ((LIST, "gallery", "galery"), "is in 'galery', not in train, query or gallery"),
    ((LIST, "item_id", "item"), "does not begin with a count and 'image_name item_id"),
    ((LIST, "02_2_side.jpg", "02_1_front.jpg"), "02_1_front.jpg is listed twice"),
    ((LIST, "id_00007982     gallery", "id_00000002     gallery"), "1 items are in train and"),
    ((LIST, FIRST, FIRST[4:]), "is not img/.../ITEM/FILE"),
    ((LIST, "Dresses/id_00000002/02_1", "Dresses/id_00000002/09_1"), "is listed but missing"),
    ((BOXES, FIRST, "img/a/b/c.jpg"), "no box for 1 image,"),
    ((BOXES, "008", "x"), "not four numbers"),
    ((BOXES,), "list_bbox_inshop.txt is missing"),
    (
      (LIST,),
      "list_eval_partition.txt is missing: pass .* with Eval/list_eval_partition.txt and Img/img/",
    ),
  ],
)
def test_damage_is_one_line(trees, tmp_path, broken, said):
  root = trees.inshop(tmp_path)
  trees.damage(root / broken[0], *broken[1:])
  with pytest.raises(UserError, match=said) as error:
    datasets.load_splits(section(root, box_crop=True, expect_counts="missing" in said))
  assert "\n" not in str(error.value)


def by_hand(similarity, queries, gallery, ks):
  """Recall@K, MAP@R and R-precision of one similarity [Q, G] without ties."""
  order = np.argsort(-similarity, axis=1)
  hits = gallery[order] == queries[:, None]
  found = {f"recall@{k}": hits[:, :k].any(1).mean() for k in ks}
  precision, average = [], []
  for row in hits:
    top = row[: row.sum()]
    precision.append(top.mean())
    average.append((np.cumsum(top) / np.arange(1, len(top) + 1) * top).mean())
  return found | {"map@r": np.mean(average), "r_precision": np.mean(precision)}


def test_queries_search_the_gallery_alone(trees, tmp_path):
  dataset = datasets.load_splits(section(trees.inshop(tmp_path / "data")))["test"]
  vectors = np.random.default_rng(3).normal(size=(9, 4))
  # Each query has a twin among the other queries, of another class: it must not be found.
  vectors[1], vectors[2] = vectors[0] + 1e-3, vectors[0] - 1e-3
  vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
  path = str(tmp_path / "embeddings.npz")
  results.write_embeddings(path, vectors, dataset.labels, np.arange(9), dataset)
  found = results.evaluate_file(path, (1, 2, 4))
  similarity = vectors[:3].astype(float) @ vectors[3:].T
  wanted = by_hand(similarity, dataset.labels[:3], dataset.labels[3:], (1, 2, 4))
  assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)
  assert (found["num_queries"], found["num_gallery"], found["num_classes"]) == (3, 6, 3)


def test_known_vectors_have_known_recalls(trees, tmp_path):
  dataset = datasets.load_splits(section(trees.inshop(tmp_path / "data")))["test"]
  axis = np.eye(4, dtype=np.float32)
  path = str(tmp_path / "embeddings.npz")
  # Gallery: items 0, 0, 1, 1, 2, 2. Query 0 finds itself in the gallery, exactly: no self to leave
  # out. Query 1 finds item 0 twice, then its own. Query 2 is orthogonal to all but item 1.
  gallery = [axis[0], axis[0], axis[1], -axis[3], axis[2], axis[2]]
  queries = [axis[0], 0.9 * axis[0] + 0.1 * axis[1], axis[1]]
  results.write_embeddings(
    path, np.stack([*queries, *gallery]), dataset.labels, np.arange(9), dataset
  )
  found = results.evaluate_file(path, (1, 2, 3, 6))
  recalls = [found[f"recall@{k}"] for k in (1, 2, 3, 6)]
  assert recalls == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])
  assert all(a <= b for a, b in itertools.pairwise(recalls))
