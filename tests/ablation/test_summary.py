"""Means, differences and sweeps of cells, against the same numbers by hand."""

import numpy as np
import pytest

from lafg_jax.ablation import summary
from lafg_jax.utils.errors import UserError

CONTROLS = ("l_aux+onehot", "default-shuffled")


@pytest.fixture(scope="session")
def records(record):
  return [
    *(record("l_aux", seed, x) for seed, x in enumerate((0.40, 0.44, 0.42))),
    *(record("default", seed, x) for seed, x in enumerate((0.50, 0.52, 0.54))),
    record("default-shuffled", 1, 0.30),
    record("untrained", 0, 0.10),
  ]


@pytest.fixture(scope="session")
def swept(record):
  return [
    record("default@loss.beta=10", 0, 0.55),
    record("default@loss.beta=0.3", 0, 0.45),
    record("default@loss.beta=0.3", 1, 0.47),
    *(record(f"{v}@classes=10", 0, x) for v, x in (("default", 0.3), ("l_aux", 0.2), ("x", 0.1))),
    record("default@classes=all", 0, 0.5),
  ]


def tables(records, pairs=()):
  return summary.summarise(records, "l_aux", CONTROLS, pairs)


def compared(records, pairs=()):
  return [(x["variant"], x["against"]) for x in tables(records, pairs)[0]["differences"]]


def test_means_and_deviations_over_seeds(records):
  rows = {row["variant"]: row for row in tables(records)[0]["rows"]}
  assert list(rows) == ["default", "l_aux", "default-shuffled", "untrained"], "the best first"
  assert rows["default"]["recall@1"]["mean"] == pytest.approx(0.52)
  assert rows["default"]["recall@1"]["sd"] == pytest.approx(0.02)
  assert rows["default"]["map@r"]["values"] == pytest.approx([0.25, 0.26, 0.27])
  assert rows["untrained"]["recall@1"]["sd"] is None


def test_a_model_before_training_that_one_seed_measured_stands_beside_every_seed(records):
  last = tables(records, [("default", "untrained")])[0]["differences"][-1]
  assert last["against"] == "untrained" and last["seeds"] == [0, 1, 2]
  # By hand: 0.42 and the quantile 4.303 of t at 2, times 0.02 / sqrt(3).
  assert last["recall@1"]["mean"] == pytest.approx(0.42)
  assert last["recall@1"]["t"] == pytest.approx((0.42 - 0.0497, 0.42 + 0.0497), abs=1e-4)


def test_further_pairs_are_compared_where_both_were_measured(records, record):
  more = [("default-shuffled", "onehot"), ("default", "l_aux"), ("default-shuffled", "default")]
  more += [("default", "nobody")]
  # Of the first pair no seed has both; the second is there anyway.
  records = [*records, record("onehot", 0, 0.2)]
  assert compared(records, more) == [*compared(records), ("default-shuffled", "default")]
  last = tables(records, more)[0]["differences"][-1]
  assert last["recall@1"]["mean"] == pytest.approx(0.30 - 0.52)


def test_differences_are_paired_by_seed(records):
  found = {(x["variant"], x["against"]): x for x in tables(records)[0]["differences"]}
  assert set(found) == {
    *((v, "l_aux") for v in ("default", "default-shuffled", "untrained")),
    ("default", "default-shuffled"),
  }
  both = found["default", "l_aux"]
  # 0.10, 0.08 and 0.12: mean 0.10, standard error 0.02 / sqrt 3, t_.975 of two degrees 4.30265.
  assert both["seeds"] == [0, 1, 2]
  assert both["recall@1"]["mean"] == pytest.approx(0.10)
  half = 4.30265 * 0.02 / np.sqrt(3)
  assert both["recall@1"]["t"] == pytest.approx((0.10 - half, 0.10 + half), abs=1e-6)
  # Every class gains the same: whichever are drawn, so does their mean.
  assert both["recall@1"]["bootstrap"] == pytest.approx((0.10, 0.10))
  shuffled = found["default", "default-shuffled"]
  assert shuffled["seeds"] == [1] and shuffled["recall@1"]["mean"] == pytest.approx(0.22)
  assert shuffled["recall@1"]["t"] is None and shuffled["map@r"]["bootstrap"] is not None


def test_cells_that_trained_otherwise_are_not_compared(records, record):
  with pytest.raises(UserError, match=r"differ in steps \(\[5, 6\]\)"):
    tables([*records, record("l_aux", 3, 0.4, steps=6)])
  # Another start may.
  assert len(tables([*records, record("l_aux", 3, 0.4, steps=6, start="pretrained")])) == 2


@pytest.mark.parametrize(
  ("variant", "parts"),
  [
    ("default@language.tau_k=0.05", ("default", "language.tau_k", "0.05")),
    ("l_aux+onehot@classes=10", ("l_aux+onehot", "classes", "10")),
    ("prototypes@mean@loss.ema_step=1.0", ("prototypes@mean", "loss.ema_step", "1.0")),
    ("default@random", None), ("default", None), ("@a=1", None), ("default@=1", None),
    ("default@a=", None),
  ],
)  # fmt: skip
def test_a_value_of_a_sweep_is_known_by_its_name(variant, parts):
  assert summary.parse(variant) == parts


def test_sweeps_stand_apart_and_values_in_order(records, swept):
  [found] = tables([*records, *swept])
  rows = [row["variant"] for row in found["rows"]]
  assert rows == ["default", "l_aux", "default-shuffled", "untrained"]
  beta, classes = found["sweeps"]
  assert (beta["key"], beta["values"]) == ("loss.beta", ["0.3", "10"]), "as numbers, not as texts"
  assert (classes["key"], classes["values"]) == ("classes", ["10", "all"])
  assert list(classes["lines"]) == ["default", "l_aux", "x"]
  assert beta["lines"]["default"]["0.3"]["recall@1"]["mean"] == pytest.approx(0.46)
  assert tables(records)[0]["sweeps"] == []


def test_variants_are_compared_with_their_controls_under_the_same_change(records, swept, record):
  more = [record("default@proxy", 0, 0.6), record("default-shuffled@proxy", 0, 0.4)]
  pairs = compared([*records, *swept, *more])
  assert ("default@classes=10", "l_aux@classes=10") in pairs
  assert ("default@proxy", "default-shuffled@proxy") in pairs and (
    "default@proxy",
    "l_aux",
  ) in pairs
  assert ("x@classes=10", "l_aux@classes=10") not in pairs, "x alone is no variant here"
  more += [record("default-shuffled@classes=10", 0, 0.1), record("untrained@classes=10", 0, 0.1)]
  pairs = compared([*records, *swept, *more])
  assert ("default-shuffled@classes=10", "l_aux@classes=10") in pairs
  # Neither under another change, nor a value of a sweep with the reference as it is.
  assert not {("default@proxy", "l_aux@classes=10"), ("default@classes=10", "l_aux")} & set(pairs)
  assert len(pairs) == len(set(pairs))
