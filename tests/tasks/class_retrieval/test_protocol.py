"""What training does to retrieval, and an embeddings file that cannot be evaluated."""

import re

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data import datasets
from lafg_jax.evaluate import results
from lafg_jax.tasks.class_retrieval import protocol
from lafg_jax.training import loop, metrics_log, resume
from lafg_jax.utils.errors import UserError

# Some seconds of training that show.
LEARNS = {
  "train__steps": 300,
  "train__log_every": 50,
  "train__checkpoint_every": 300,
  "train__learning_rate": 4e-3,
  "data__classes_per_batch": 20,
  "data__images_per_class": 4,
  "model__width": 32,
  "model__embedding_dim": 32,
  "loss__alignment": "onehot",
}


def test_training_finds_more_of_unseen_classes_than_the_model_did_before(
  config_with, dataset, tmp_path, monkeypatch
):
  told = []
  monkeypatch.setattr(metrics_log.logging, "info", lambda _, *args: told.extend(map(str, args)))
  config = config_with(**LEARNS)
  loop.run(config, str(tmp_path), dataset, None)
  result = protocol.run(config, str(tmp_path))
  for name in ("recall@1", "map@r"):
    assert result[name] > 2 * result["untrained"][name], (name, result)
  progress = [text for text in told if text.startswith("step 300/300 (100%)")]
  assert len(progress) == 1 and re.search(r"  [1-9]\d* img/s  ETA 0m00s$", progress[0])


def folders(root, **seeds):
  """root/CLASS/*.png of random images; equal seeds are equal files."""
  for name, numbers in seeds.items():
    (root / name).mkdir(parents=True)
    for k in numbers:
      pixels = np.random.default_rng(k).integers(0, 255, (8, 8, 3), np.uint8)
      Image.fromarray(pixels).save(root / name / f"{k}.bmp")
  return root


@pytest.fixture
def trained(tmp_path, config_with):
  """(meta of a checkpoint that was trained on classes 0 and 1 of a folder, evaluate(root, ...))."""
  root = folders(tmp_path / "a", **{"0": (1, 2), "1": (3, 4), "2": (5, 6), "3": (7, 8)})
  changes = {"data__name": "folder", "loss__alignment": "none", "data__num_val_classes": 0}
  config = config_with(data__root=str(root), **changes)
  meta = resume.meta(config, datasets.load_splits(config.data, ("train",))["train"], None)

  def evaluate(where, **other):
    new = config_with(**changes | {"data__root": str(where)} | other)
    protocol._check_checkpoint(new, meta, "ckpt")

  return root, evaluate


def test_an_equal_generic_name_in_another_folder_is_another_class(trained, tmp_path):
  root, evaluate = trained
  evaluate(root)
  with pytest.raises(
    UserError, match=r"on 1 of the 3 classes of evaluate.split=test \('class 1'\)"
  ):
    evaluate(root, data__train_fraction=0.25)
  # 'class 0' and 'class 1' of another folder, which hold other images.
  other = folders(tmp_path / "b", **{"a": (9,), "b": (10,), "0": (11, 12), "1": (13, 14)})
  (tmp_path / "test").write_text("0\n1\n")
  evaluate(other, data__test_classes=str(tmp_path / "test"))


@pytest.mark.parametrize("name", ["folder", "manifest"])
def test_training_images_under_another_generic_name_are_found(trained, tmp_path, name):
  _, evaluate = trained
  other = folders(tmp_path / "b", **{"5": (9,), "6": (10,), "7": (3, 4), "8": (5, 15)})
  rows = [f"{p.relative_to(other)},{p.parent.name}" for p in sorted(other.rglob("*.bmp"))]
  (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows]) + "\n")
  changes = {"data__manifest": str(tmp_path / "m.csv")} if name == "manifest" else {}
  with pytest.raises(UserError, match=r"was trained on 1 of the 2 .*\('class 7'\)") as error:
    evaluate(other, data__name=name, **changes)
  assert "\n" not in str(error.value)


def test_without_the_training_images_names_are_compared_with_a_warning(trained, tmp_path, caplog):
  root, evaluate = trained
  root.rename(tmp_path / "moved")
  evaluate(tmp_path / "moved")
  assert "Names alone were compared" in caplog.text
  with pytest.raises(UserError, match="was trained on 1 of the 3"):
    evaluate(tmp_path / "moved", data__train_fraction=0.25)


@pytest.mark.parametrize("value", [True, False])
def test_queries_without_a_gallery_are_one_line(tmp_path, value):
  path = tmp_path / "some.npz"
  arrays = {"vectors": np.eye(4, dtype=np.float32), "labels": np.array([0, 0, 1, 1])}
  np.savez(path, **arrays, is_query=np.full(4, value))
  with pytest.raises(UserError, match=rf"source=.*some.npz: is_query is {value} for all 4 rows"):
    results.evaluate_file(str(path), (1,))
  np.savez(path, **arrays, is_query=np.array([True, False, True, False]))
  assert results.evaluate_file(str(path), (1,))["num_queries"] == 2
