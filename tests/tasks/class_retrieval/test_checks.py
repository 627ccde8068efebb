"""What cannot be evaluated or validated is refused before a step is taken, by each reader."""

import numpy as np
import pytest
from PIL import Image

from configs import folder, manifest
from lafg_jax.tasks.class_retrieval import checks, stages
from lafg_jax.utils.errors import UserError


@pytest.fixture
def made(tmp_path):
  """made({'train/a': number of images}, key=value): a config of these folders, or of a manifest."""

  def make(folders, **changes):
    rows = ["path,class,split"]
    for at, count in folders.items():
      (tmp_path / at).mkdir(parents=True)
      split, name = at.split("/")
      for k in range(count):
        pixels = np.random.default_rng([len(rows)]).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / at / f"{k}.png")
        rows.append(f"{at}/{k}.png,{name},{split}")
    config = folder.get_config()
    config.data.root = str(tmp_path)
    if changes.pop("listed", False):
      (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
      config = manifest.get_config()
      config.data.manifest = str(tmp_path / "m.csv")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config

  return make


TRAIN = {"train/m": 2, "train/n": 2, "train/o": 2}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
  ("folders", "said"),
  [
    (
      {"test/x": 1, "test/y": 1},
      "the test has 2 images of 2 classes, and no class has two.*--stage",
    ),
    ({"test/x": 4}, "the test has one class to find.*--stage=train to only train"),
    ({"query/x": 2, "gallery/y": 2}, "2 queries and a gallery of 2 images, and no query has"),
    ({"query/x": 2, "gallery/x": 2}, "the test has one class to find"),
  ],
)
def test_a_test_that_measures_nothing_is_refused(made, tmp_path, listed, folders, said):
  config = made(TRAIN | folders, listed=listed, data__classes_per_batch=2)
  with pytest.raises(UserError, match=f"evaluate.split=test: .*{said}") as error:
    stages.plan(config, str(tmp_path), ("train", "evaluate"))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("val", "said"), [({"val/v": 1, "val/w": 1}, "no class has two"), ({"val/v": 3}, "one class")]
)
def test_validation_that_measures_nothing_is_refused(made, tmp_path, val, said):
  folders = TRAIN | val | {"test/x": 2, "test/y": 2}
  config = made(folders, data__num_val_classes=len(val), data__classes_per_batch=2)
  checks.validated(config)
  checks.evaluated(config, True)
  config.train.validate_every = 1
  with pytest.raises(UserError, match=f"train.validate_every=1: the validation .*{said}"):
    stages.plan(config, str(tmp_path), ("train",))
  config.evaluate.split = "val"
  with pytest.raises(UserError, match=f"evaluate.split=val: the validation .*{said}"):
    checks.evaluated(config, True)


def test_more_validation_classes_are_the_remedy_where_they_are_taken_from_training(made):
  config = made(TRAIN | {"test/x": 2, "test/y": 2}, data__num_val_classes=1)
  config.train.validate_every = 1
  with pytest.raises(UserError, match="pass more of --config.data.num_val_classes"):
    checks.validated(config)


def test_one_class_may_be_evaluated_alone(made):
  checks.evaluated(made(TRAIN | {"test/x": 4}), False)


def test_images_that_cannot_be_read_are_no_matches(made, tmp_path):
  config = made(TRAIN | {"test/x": 2, "test/y": 2})
  for name in ("x/0", "y/1"):
    (tmp_path / "test" / f"{name}.png").write_bytes(b"<html>")
  with pytest.raises(UserError, match="no two images of a class can be read, such as test/x/0.png"):
    checks.evaluated(config, True)


def test_what_is_left_out_and_large_cutoffs_are_said(made, caplog):
  config = made(TRAIN | {"test/x": 2, "test/y": 1}, evaluate__ks=(1, 2, 8))
  with caplog.at_level("WARNING", logger="absl"):
    checks.evaluated(config, True)
  assert (
    "1 of 3 queries left out, having no other image to be found by (classes 'y')" in caplog.text
  )
  assert "recall@2 is 100 whatever the model" in caplog.text
