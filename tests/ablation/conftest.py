"""A variants file of two variants that train in a blink, and one that cannot."""

import pytest

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
