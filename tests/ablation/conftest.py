"""A variants file of two variants that train in a blink, and one that cannot; made-up cells."""

import pytest

CLASSES = 4

TEXT = """
REFERENCE, CONTROLS, SEEDS = "l_aux", ("l_aux+orthogonal",), {"bad": 1}
VAL_CLASSES, TUNING_SEEDS, TUNED_GROUP = 4, 1, "headline"


def starts(config):
  return {"scratch": {}, "pretrained": "no weights here"}


def groups():
  return {
    "headline": {
      "l_aux": {"loss.alignment": "none"},
      "l_aux+orthogonal": {"loss.alignment": "orthogonal"},
    },
    "bad": {"crowded": {"loss.alignment": "none", "data.classes_per_batch": 41}},
  }


def grid(config):
  return [{"train.learning_rate": 1e-3}, {"train.learning_rate": 1e-2}]
"""


@pytest.fixture
def variants(tmp_path):
  """`variants(old, new)`: path of the file, with a piece of its text replaced."""

  def write(old: str = "", new: str = "") -> str:
    assert old in TEXT
    path = tmp_path / f"variants_{abs(hash((old, new)))}.py"
    path.write_text(TEXT.replace(old, new) if old else TEXT)
    return str(path)

  return write


@pytest.fixture(scope="session")
def record():
  """`record(variant, seed, recall, ...)`: the content of a cell."""
  return made_up


def made_up(variant, seed, recall, *, dataset="synthetic", start="scratch", steps=5):
  by_class = [recall - 0.03, recall - 0.01, recall + 0.01, recall + 0.03]
  return {
    "dataset": dataset,
    "start": start,
    "variant": variant,
    "seed": seed,
    "split": "test",
    "steps": 0 if variant == "untrained" else steps,
    "recall@1": recall,
    "map@r": recall / 2,
    "num_queries": 40,
    "num_classes": CLASSES,
    "by_class": {
      "num_queries": [10] * CLASSES,
      "recall@1": by_class,
      "map@r": [x / 2 for x in by_class],
    },
  }
