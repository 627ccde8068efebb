"""Tables of cells, against the same numbers by hand."""

import json
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from lafg_jax.ablation import results
from lafg_jax.report import ablation_page, curves
from lafg_jax.utils.errors import UserError

CLASSES = 4


def record(variant, seed, recall, *, dataset="synthetic", start="scratch", steps=5):
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


RECORDS = [
  *(record("l_aux", seed, x) for seed, x in enumerate((0.40, 0.44, 0.42))),
  *(record("full", seed, x) for seed, x in enumerate((0.50, 0.52, 0.54))),
  record("full-shuffled", 1, 0.30),
  record("untrained", 0, 0.10),
]
FILE = SimpleNamespace(REFERENCE="l_aux", CONTROLS=("l_aux+onehot", "full-shuffled"))


def tables(records=RECORDS):
  return results.summarise(records, FILE.REFERENCE, FILE.CONTROLS)


def test_means_and_deviations_over_seeds():
  rows = {row["variant"]: row for row in tables()[0]["rows"]}
  assert list(rows) == ["full", "l_aux", "full-shuffled", "untrained"], "the best first"
  assert rows["full"]["recall@1"]["mean"] == pytest.approx(0.52)
  assert rows["full"]["recall@1"]["sd"] == pytest.approx(0.02)
  assert rows["full"]["map@r"]["values"] == pytest.approx([0.25, 0.26, 0.27])
  assert rows["untrained"]["recall@1"]["sd"] is None


def test_further_pairs_are_told_where_both_are_there():
  more = [("full-shuffled", "untrained"), ("full", "l_aux"), ("full-shuffled", "full")]
  of = results.summarise(RECORDS, FILE.REFERENCE, FILE.CONTROLS, more + [("full", "nobody")])
  found = [(x["variant"], x["against"]) for x in of[0]["differences"]]
  plain = [(x["variant"], x["against"]) for x in tables()[0]["differences"]]
  # Of the first pair no seed has both; the second is there anyway.
  assert found == [*plain, ("full-shuffled", "full")]
  assert of[0]["differences"][-1]["recall@1"]["mean"] == pytest.approx(0.30 - 0.52)


def test_differences_are_paired_by_seed():
  found = {(x["variant"], x["against"]): x for x in tables()[0]["differences"]}
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


def test_cells_that_trained_otherwise_are_not_compared():
  with pytest.raises(UserError, match=r"differ in steps \(\[5, 6\]\)"):
    tables([*RECORDS, record("l_aux", 3, 0.4, steps=6)])
  # Another start may.
  assert len(tables([*RECORDS, record("l_aux", 3, 0.4, steps=6, start="pretrained")])) == 2


def test_the_markdown_has_every_figure():
  text = ablation_page.markdown(tables(), "l_aux")
  assert "| full | 3 | 52.0 (2.0) | 26.0 (1.0) |" in text
  assert "| full - l_aux | 3 | +10.0 | [+5.0, +15.0] | [+10.0, +10.0] |" in text
  assert "| untrained | 1 | 10.0 | 5.0 |" in text


def test_the_page_stands_alone_and_has_a_dot_a_seed():
  text = ablation_page.document(tables([*RECORDS, record("a<b", 0, 0.2)]), "l_aux")
  assert "http" not in text and "<script" not in text and "a<b" not in text
  # Two panels of nine cells, and the legend.
  assert text.count('class="seed"') == 2 * len([*RECORDS, 1]) + 1
  # Of two plots with a legend each: four differences to a trained one, of which two are of seeds.
  assert text.count('class="reference"') == 2 * (2 + 1)
  assert text.count("full - l_aux: 10.0, t [+5.0, +15.0], bootstrap [+10.0, +10.0]") == 1
  assert text.count("untrained - l_aux") == 1, "in the table, not in the plot"


def test_what_people_wrote_above_the_tables_is_kept(tmp_path):
  results._write(FILE, RECORDS, str(tmp_path))
  path = tmp_path / "ablation.md"
  first = path.read_text()
  assert first.startswith(f"# Ablation\n\n{ablation_page.WRITTEN}\n")
  path.write_text("# What we learned\n\nMuch.\n\n" + first.removeprefix("# Ablation\n\n"))
  results._write(FILE, RECORDS[:2], str(tmp_path))
  second = path.read_text()
  assert second.startswith(f"# What we learned\n\nMuch.\n\n{ablation_page.WRITTEN}\n")
  assert len(second) < len(first) and second.count(ablation_page.WRITTEN) == 1


def test_tables_that_nothing_tells_from_prose_are_not_overwritten(tmp_path):
  (tmp_path / "ablation.md").write_text("# What we learned, and the marker is gone\n")
  with pytest.raises(UserError, match="lacks the line"):
    results._write(FILE, RECORDS, str(tmp_path))
  assert [x.name for x in tmp_path.iterdir()] == ["ablation.md"]


def test_each_table_has_a_picture_that_is_an_svg_of_its_own(tmp_path):
  long = "a<b" + "x" * 60
  results._write(FILE, [*RECORDS, record(long, 0, 0.2)], str(tmp_path))
  name = "ablation_synthetic_scratch.svg"
  assert f"]({name})" in (tmp_path / "ablation.md").read_text()
  root = ElementTree.parse(tmp_path / name).getroot()
  assert root.tag == "{http://www.w3.org/2000/svg}svg"
  seeds = [x for x in root.iter() if x.get("class") == "seed"]
  assert len(seeds) == 2 * len([*RECORDS, 1])
  # Names end there, and have room.
  [end] = [float(x.get("x")) for x in root.iter() if x.text == long]
  assert end > 6.5 * len(long)


def test_axes_end_where_no_value_can_be(tmp_path):
  far = [record(name, seed, x) for name in ("l_aux", "full") for seed, x in enumerate((0.1, 0.9))]
  far[-1] = record("full", 1, 0.0)
  results._write(FILE, far, str(tmp_path))
  root = ElementTree.parse(tmp_path / "ablation_synthetic_scratch.svg").getroot()
  ticks = [float(x.text or "") for x in root.iter() if x.get("class") == "tick"]
  assert min(ticks) == 0 and max(ticks) == 100, "the t-interval of 0.1 and 0.9 is [-4.6, 5.6]"
  assert "[-458.2, +558.2]" in (tmp_path / "ablation.html").read_text(), "as a figure it is whole"


def test_other_datasets_and_starts_are_kept_beside_fresh_ones(tmp_path):
  results._write(FILE, [*RECORDS, record("l_aux", 0, 0.1, dataset="cars")], str(tmp_path))
  old = results._read(tmp_path / "ablation.json")
  assert len(old) == len(RECORDS) + 1
  kept = results.beside(old, [record("l_aux", 0, 0.5), record("l_aux", 0, 0.6, start="pretrained")])
  assert [(r["dataset"], r["start"], r["recall@1"]) for r in kept] == [
    ("cars", "scratch", 0.1), ("synthetic", "scratch", 0.5), ("synthetic", "pretrained", 0.6),
  ]  # fmt: skip
  (tmp_path / "ablation.json").write_text("{")
  with pytest.raises(UserError, match="damaged"):
    results._read(tmp_path / "ablation.json")
  assert json.loads(json.dumps(old)) == old


# Sweeps stand apart from the other variants.
SWEPT = [
  record("full@loss.beta=10", 0, 0.55),
  record("full@loss.beta=0.3", 0, 0.45),
  record("full@loss.beta=0.3", 1, 0.47),
  *(record(f"{v}@classes=10", 0, x) for v, x in (("full", 0.3), ("l_aux", 0.2), ("x", 0.1))),
  record("full@classes=all", 0, 0.5),
]


def table(records=(*RECORDS, *SWEPT)):
  return tables(records)[0]


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
  assert curves.parse(variant) == parts


def test_sweeps_stand_apart_and_values_in_order():
  found = table()
  assert [row["variant"] for row in found["rows"]] == [
    "full",
    "l_aux",
    "full-shuffled",
    "untrained",
  ]
  beta, classes = found["sweeps"]
  assert (beta["key"], beta["values"]) == ("loss.beta", ["0.3", "10"]), "as numbers, not as texts"
  assert (classes["key"], classes["values"]) == ("classes", ["10", "all"])
  assert list(classes["lines"]) == ["full", "l_aux", "x"]
  assert beta["lines"]["full"]["0.3"]["recall@1"]["mean"] == pytest.approx(0.46)
  assert table(RECORDS)["sweeps"] == []


def test_variants_are_told_from_their_controls_under_the_same_change():
  more = [record("full@proxy", 0, 0.6), record("full-shuffled@proxy", 0, 0.4)]
  pairs = [(x["variant"], x["against"]) for x in table([*RECORDS, *SWEPT, *more])["differences"]]
  assert ("full@classes=10", "l_aux@classes=10") in pairs
  assert ("full@proxy", "full-shuffled@proxy") in pairs and ("full@proxy", "l_aux") in pairs
  assert ("x@classes=10", "l_aux@classes=10") not in pairs, "x alone is no variant here"
  more += [record("full-shuffled@classes=10", 0, 0.1), record("untrained@classes=10", 0, 0.1)]
  pairs = [(x["variant"], x["against"]) for x in table([*RECORDS, *SWEPT, *more])["differences"]]
  assert ("full-shuffled@classes=10", "l_aux@classes=10") in pairs
  # Neither under another change, nor a value of a sweep with the reference as it is.
  assert not {("full@proxy", "l_aux@classes=10"), ("full@classes=10", "l_aux")} & set(pairs)
  assert len(pairs) == len(set(pairs))


def test_tables_have_a_line_a_name_and_a_column_a_value():
  text = ablation_page.markdown([table()], "l_aux")
  assert "| loss.beta | 0.3 | 10 |" in text
  assert "| full, R@1 / MAP@R | 46.0 / 23.0 (2 seeds) | 55.0 / 27.5 (1 seed) |" in text
  assert "| l_aux, R@1 / MAP@R | 20.0 / 10.0 |  |" in text
  assert "](ablation_synthetic_scratch_sweeps.svg)" in text
  assert "sweeps" not in ablation_page.markdown([table(RECORDS)], "l_aux")


def test_a_table_may_have_sweeps_alone(tmp_path):
  results._write(FILE, SWEPT, str(tmp_path))
  text = (tmp_path / "ablation.md").read_text()
  assert "_sweeps.svg)" in text and "Means over seeds" not in text
  assert "46.0 / 23.0 (2 seeds)" in text and "55.0 / 27.5 (1 seed)" in text
  # And what is gone leaves no picture behind.
  results._write(FILE, RECORDS, str(tmp_path))
  assert [x.name for x in tmp_path.glob("*.svg")] == ["ablation_synthetic_scratch.svg"]


def test_the_picture_has_a_dot_where_each_seed_is(tmp_path):
  results._write(FILE, [*RECORDS, *SWEPT], str(tmp_path))
  root = ElementTree.parse(tmp_path / "ablation_synthetic_scratch_sweeps.svg").getroot()
  dots = [x for x in root.iter() if (x.get("class") or "").startswith("dot ")]
  assert len(dots) == 2 * len(SWEPT)
  titles = {x[0].text: x for x in dots}
  # R@1 runs from 10 to 55, its axis to 60: ten points are a fifth of 130 pixels.
  low, high = (float(titles[name].get("cy")) for name in ("l_aux, 10: 20.0", "full, all: 50.0"))
  assert low - high == pytest.approx(130 * 30 / 50, abs=0.2)
  assert [x.get("class") for x in dots][:1] == ["dot line-0"]


def test_the_names_of_a_picture_lie_within_it(tmp_path):
  names = [f"variant-{k}-" + "x" * 20 for k in range(7)]
  results._write(FILE, [record(f"{name}@classes=10", 0, 0.2) for name in names], str(tmp_path))
  root = ElementTree.parse(tmp_path / "ablation_synthetic_scratch_sweeps.svg").getroot()
  at = {x.text: (float(x.get("x")), float(x.get("y"))) for x in root.iter() if x.text in names}
  assert len(set(at.values())) == 7
  assert all(x + 6.5 * len(name) < float(root.get("width")) for name, (x, _) in at.items())
  [title] = [float(x.get("y")) for x in root.iter() if x.text == "classes"]
  assert all(y < title for _, y in at.values())
  # Each has a colour of its own, which the style knows.
  lines = {x.get("class") for x in root.iter() if (x.get("class") or "").startswith("line-")}
  assert len(lines) == 7 and all(f".{line} {{" in ablation_page.STYLE.read_text() for line in lines)


def test_names_are_escaped_in_page_and_picture(tmp_path):
  results._write(FILE, [*RECORDS, record("a<b@c&d=<", 0, 0.2)], str(tmp_path))
  assert "a<b" not in (tmp_path / "ablation.html").read_text()
  ElementTree.parse(tmp_path / "ablation_synthetic_scratch_sweeps.svg")
