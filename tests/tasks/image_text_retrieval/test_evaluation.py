"""A checkpoint is not evaluated on what it was trained on."""

import pytest

from configs.image_text import finches
from lafg_jax.data import captions
from lafg_jax.tasks.image_text_retrieval import evaluation
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError


@pytest.fixture
def checked():
  """checked(**changes): as if a checkpoint of the finches were evaluated under a changed config."""
  config = finches.get_config()
  config.captions.update(images_per_class=2, split="classes")
  config.data.num_val_classes = 4
  of_train = captions.load_splits(config, ("train",))["train"]
  meta = {
    "config": config_keys.flatten(config),
    "dataset": {"class_names": list(of_train.class_names)},
  }

  def check(**changes):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({k.replace("__", "."): x for k, x in changes.items()})
    split = changed.evaluate.split
    captioned = captions.load_splits(changed, (split,))[split]
    evaluation._check_checkpoint(changed, meta, "w/checkpoints", captioned)

  return check


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_split_it_was_trained_with_is_evaluated(checked, split):
  checked(evaluate__split=split)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"data__split_seed": 1}, r"data.split_seed: -1 -> 1"),
    ({"data__num_val_classes": 6, "evaluate__split": "val"}, r"data.num_val_classes: 4 -> 6"),
    ({"data__train_fraction": 0.75}, r"data.train_fraction: 0.5 -> 0.75"),
    ({"data__max_train_classes": 3}, r"data.max_train_classes: 0 -> 3"),
    ({"captions__split": "own"}, r"captions.split: classes -> own"),
  ],
)
def test_another_split_is_refused(checked, changes, says):
  with pytest.raises(UserError, match=says):
    checked(**changes)


def test_classes_that_trained_are_refused_whatever_file_names_them(checked, tmp_path):
  config = finches.get_config()
  config.captions.update(images_per_class=2, split="classes")
  trained = captions.load_splits(config, ("train",))["train"].class_names
  path = tmp_path / "test.txt"
  path.write_text("\n".join(sorted(trained)[:3]) + "\n")
  with pytest.raises(UserError, match=r"was trained on \d of the 3 classes of evaluate.split=test"):
    checked(data__test_classes=str(path))
