"""Means, differences and sweeps of cells, against the same numbers by hand."""

import numpy as np
import pytest

from lafg_jax.ablation import summary
from lafg_jax.utils.errors import UserError

CONTROLS = ("l_aux+onehot", "full-shuffled")


@pytest.fixture(scope="session")
def records(record):
  return [
    *(record("l_aux", seed, x) for seed, x in enumerate((0.40, 0.44, 0.42))),
    *(record("full", seed, x) for seed, x in enumerate((0.50, 0.52, 0.54))),
    record("full-shuffled", 1, 0.30),
    record("untrained", 0, 0.10),
  ]


@pytest.fixture(scope="session")
def swept(record):
  return [
    record("full@loss.beta=10", 0, 0.55),
    record("full@loss.beta=0.3", 0, 0.45),
    record("full@loss.beta=0.3", 1, 0.47),
    *(record(f"{v}@classes=10", 0, x) for v, x in (("full", 0.3), ("l_aux", 0.2), ("x", 0.1))),
    record("full@classes=all", 0, 0.5),
  ]


def tables(records, pairs=()):
  return summary.summarise(records, "l_aux", CONTROLS, pairs)


def compared(records, pairs=()):
  return [(x["variant"], x["against"]) for x in tables(records, pairs)[0]["differences"]]


def test_means_and_deviations_over_seeds(records):
  rows = {row["variant"]: row for row in tables(records)[0]["rows"]}
  assert list(rows) == ["full", "l_aux", "full-shuffled", "untrained"], "the best first"
  assert rows["full"]["recall@1"]["mean"] == pytest.approx(0.52)
  assert rows["full"]["recall@1"]["sd"] == pytest.approx(0.02)
  assert rows["full"]["map@r"]["values"] == pytest.approx([0.25, 0.26, 0.27])
  assert rows["untrained"]["recall@1"]["sd"] is None


def test_further_pairs_are_compared_where_both_were_measured(records):
  more = [("full-shuffled", "untrained"), ("full", "l_aux"), ("full-shuffled", "full")]
  more += [("full", "nobody")]
  # Of the first pair no seed has both; the second is there anyway.
  assert compared(records, more) == [*compared(records), ("full-shuffled", "full")]
  last = tables(records, more)[0]["differences"][-1]
  assert last["recall@1"]["mean"] == pytest.approx(0.30 - 0.52)


def test_differences_are_paired_by_seed(records):
  found = {(x["variant"], x["against"]): x for x in tables(records)[0]["differences"]}
  assert set(found) == {
    *((v, "l_aux") for v in ("full", "full-shuffled", "untrained")),
    ("full", "full-shuffled"),
  }
  both = found["full", "l_aux"]
  # 0.10, 0.08 and 0.12: mean 0.10, standard error 0.02 / sqrt 3, t_.975 of two degrees 4.30265.
  assert both["seeds"] == [0, 1, 2]
  assert both["recall@1"]["mean"] == pytest.approx(0.10)
  half = 4.30265 * 0.02 / np.sqrt(3)
  assert both["recall@1"]["t"] == pytest.approx((0.10 - half, 0.10 + half), abs=1e-6)
  # Every class gains the same: whichever are drawn, so does their mean.
  assert both["recall@1"]["bootstrap"] == pytest.approx((0.10, 0.10))
  shuffled = found["full", "full-shuffled"]
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
    ("full@language.tau_k=0.05", ("full", "language.tau_k", "0.05")),
    ("l_aux+onehot@classes=10", ("l_aux+onehot", "classes", "10")),
    ("prototypes@mean@loss.ema_step=1.0", ("prototypes@mean", "loss.ema_step", "1.0")),
    ("full@random", None), ("full", None), ("@a=1", None), ("full@=1", None), ("full@a=", None),
  ],
)  # fmt: skip
def test_a_value_of_a_sweep_is_known_by_its_name(variant, parts):
  assert summary.parse(variant) == parts


def test_sweeps_stand_apart_and_values_in_order(records, swept):
  [found] = tables([*records, *swept])
  rows = [row["variant"] for row in found["rows"]]
  assert rows == ["full", "l_aux", "full-shuffled", "untrained"]
  beta, classes = found["sweeps"]
  assert (beta["key"], beta["values"]) == ("loss.beta", ["0.3", "10"]), "as numbers, not as texts"
  assert (classes["key"], classes["values"]) == ("classes", ["10", "all"])
  assert list(classes["lines"]) == ["full", "l_aux", "x"]
  assert beta["lines"]["full"]["0.3"]["recall@1"]["mean"] == pytest.approx(0.46)
  assert tables(records)[0]["sweeps"] == []


def test_variants_are_compared_with_their_controls_under_the_same_change(records, swept, record):
  more = [record("full@proxy", 0, 0.6), record("full-shuffled@proxy", 0, 0.4)]
  pairs = compared([*records, *swept, *more])
  assert ("full@classes=10", "l_aux@classes=10") in pairs
  assert ("full@proxy", "full-shuffled@proxy") in pairs and ("full@proxy", "l_aux") in pairs
  assert ("x@classes=10", "l_aux@classes=10") not in pairs, "x alone is no variant here"
  more += [record("full-shuffled@classes=10", 0, 0.1), record("untrained@classes=10", 0, 0.1)]
  pairs = compared([*records, *swept, *more])
  assert ("full-shuffled@classes=10", "l_aux@classes=10") in pairs
  # Neither under another change, nor a value of a sweep with the reference as it is.
  assert not {("full@proxy", "l_aux@classes=10"), ("full@classes=10", "l_aux")} & set(pairs)
  assert len(pairs) == len(set(pairs))
