"""Tables of the study, read back cell by cell."""

import re

import pytest

from lafg_jax.report import study_tables
from lafg_jax.tasks.class_retrieval import variants


def of(*values, sd=None, t=None):
  return {"values": list(values), "mean": sum(values) / len(values), "sd": sd, "t": t}


def row(variant, first, second=None):
  found = {"variant": variant, "seeds": list(range(len(first["values"]))), "recall@1": first}
  return found | ({} if second is None else {"map@r": second})


DIFFERENCE = {"mean": 0.123, "t": (-0.01, 0.256), "bootstrap": (0.1, 0.146)}
SWEEP = {
  "key": "loss.beta",
  "values": ["0.3", "10"],
  "lines": {
    "default": {"0.3": row("default@loss.beta=0.3", of(0.4, 0.5), of(0.2, 0.25)),
             "10": row("default@loss.beta=10", of(0.6))},
    "l_aux": {"0.3": row("l_aux@loss.beta=0.3", of(0.1), of(0.05))},
  },
}  # fmt: skip
TABLE = {
  "dataset": "synthetic", "start": "scratch", "split": "test", "steps": 5, "num_classes": 4,
  "num_queries": 40, "partial": True, "sweeps": [SWEEP], "measured": "", "clusters": "",
  "titles": {"recall@1": "R@1", "map@r": "MAP@R"},
  "rows": [
    row(
      "default", of(0.5, 0.54, sd=0.0283, t=(0.266, 0.774)), of(0.25, 0.27, sd=0.014, t=(0.1, 0.4))
    ),
    row("untrained", of(0.1)),
  ],
  "differences": [{"variant": "default@classes=10", "against": "l_aux", "seeds": [0, 1],
                   "recall@1": DIFFERENCE}],
}  # fmt: skip
LABELS = {"default": "with words", "@classes": "classes", "l_aux": "alone"}


def cells(text):
  """The rows of the Markdown's tables, without the rules."""
  lines = [x.strip("| ").split(" | ") for x in text.splitlines() if x.startswith("|")]
  return [[cell.strip() for cell in line] for line in lines if line[0] != "---"]


def test_the_tables_have_every_figure():
  found = cells(study_tables.markdown(TABLE, LABELS))
  assert found[1] == [
    *("with words", "`default`", "2", "52.0 (2.8)", "[26.6, 77.4]", "26.0 (1.4)", "[10.0, 40.0]"),
  ]
  assert found[2][:4] == ["untrained", "`untrained`", "1", "10.0"]
  assert found[4][:6] == [
    *("with words, classes = 10", "alone", "2", "+12.3", "[-1.0, +25.6]", "[+10.0, +14.6]"),
  ]
  assert found[5:8] == [
    ["`loss.beta`", "0.3", "10"],
    ["with words", "45.0 / 22.5 (2 seeds)", "60.0 / - (1 seed)"],
    ["alone", "10.0 / 5.0 (1 seed)"],
  ]
  widths = [len(line.split("|")) for line in study_tables.markdown(TABLE, {}).splitlines()]
  assert set(widths) == {1, 9, 11, 5}, "the four tables, each of one width"


def test_each_table_is_folded_and_closed_again():
  text = study_tables.markdown(TABLE, {})
  assert "40 images of 4 classes never seen; 5 steps" in text and "A partial copy" in text
  folds = re.findall(r'<details markdown="1">\n<summary>(.+?)</summary>\n\n(.+?)\n\n</details>\n',
                     text, re.DOTALL)  # fmt: skip
  assert [name for name, _ in folds] == [
    "Means of 2 variants", "Paired differences", "One value at a time", "What the names mean",
  ]  # fmt: skip
  # Markdown needs an empty line before a table and after it.
  assert all("\n\n| " in content and content.endswith("|") for _, content in folds)
  bare = TABLE | {"sweeps": [], "rows": [], "differences": []}
  assert "<details" not in study_tables.markdown(bare, {})


@pytest.mark.parametrize(
  ("variant", "words"),
  [
    ("default", "with words"),
    ("default-shuffled", "default-shuffled"),
    ("default@classes=10", "with words, classes = 10"),
    ("default@a@b", "with words, a, b"),
    ("default@whole", "all of it"),
    ("default@a@loss.beta=1.0", "with words, a, loss.beta = 1.0"),
  ],
)
def test_a_variant_has_words_of_its_own_or_of_its_parts(variant, words):
  assert study_tables.label(variant, LABELS | {"default@whole": "all of it"}) == words


def single(variant, value):
  return row(variant, of(value), of(value / 2))


@pytest.mark.parametrize("by_class", [True, False])
def test_one_seed_has_no_empty_column(by_class):
  interval = (0.05, 0.15) if by_class else None
  difference = {"mean": 0.1, "t": None, "bootstrap": interval}
  table = TABLE | {
    "rows": [single("b", 0.5), single("a", 0.4), row("c", of(0.3))],
    "sweeps": [],
    "differences": [
      {"variant": "b", "against": "a", "seeds": [0], "recall@1": difference, "map@r": difference}
    ],
  }
  text = study_tables.markdown(table, {})
  found = cells(text)
  assert found[0] == ["variant", "name", "seeds", "R@1", "MAP@R"]
  assert found[1] == ["b", "`b`", "1", "50.0", "25.0"]
  heads = ["A - B", *["95% bootstrap"] * by_class]
  assert found[4] == ["A", "B", "seeds", *(f"{x}: {y}" for x in ("R@1", "MAP@R") for y in heads)]
  for column in range(3, len(found[4])):
    assert found[5][column], found[4][column]
  assert "t-interval" not in text and "One seed each" in text
  assert ("bootstrap interval" in text) == by_class


def test_the_legend_says_what_every_name_of_the_tables_is():
  about = {"default": "what the config says", "@whole": "the whole"}
  changes = {"untrained": None, "default": {}, "l_aux": {"loss.alignment": "none", "loss.beta": 1}}
  found = cells(study_tables.markdown(TABLE, LABELS, about, changes))
  at = found.index(["name", "what it is", "changes"])
  assert found[at + 1 :] == [
    ["`default`", "what the config says", "nothing"],
    ["`untrained`", "untrained", "nothing is trained"],
    ["`default@classes=10`", "what the config says; classes = 10", "-"],
    ["`l_aux`", "alone", "`loss.alignment=none`, `loss.beta=1`"],
    ["`default@loss.beta=0.3`", "what the config says; loss.beta = 0.3", "-"],
    ["`default@loss.beta=10`", "what the config says; loss.beta = 10", "-"],
    ["`l_aux@loss.beta=0.3`", "alone; loss.beta = 0.3", "-"],
  ]


def test_every_shipped_variant_of_the_headline_is_described():
  groups = variants.groups()
  named = {name for group in variants.FIGURE_GROUPS for name in groups[group]}
  assert named == set(variants.ABOUT), "and nothing that is no variant"


def test_a_task_may_have_other_metrics_and_other_queries():
  mean = {"values": [0.25], "mean": 0.25, "sd": None, "t": None}
  difference = {"mean": 0.05, "t": None, "bootstrap": (0.01, 0.09)}
  table = {"dataset": "birds", "start": "pretrained", "split": "test", "steps": 3, "partial": False}
  table |= {"num_classes": 4, "num_queries": 9, "titles": {"map@10": "mAP@10"}, "sweeps": []}
  table |= {"measured": "9 queries of 4 reference images", "clusters": "reference images"}
  table["rows"] = [{"variant": "a", "seeds": [0], "map@10": mean, "recall@1": mean}]
  table["differences"] = [{"variant": "a", "against": "b", "seeds": [0], "map@10": difference}]
  text = study_tables.markdown(table, {})
  assert "9 queries of 4 reference images; 3 steps" in text
  assert "In %, highest mAP@10 first." in text and "R@1 |" not in text
  assert "is over reference images, for these seeds" in text and "[+1.0, +9.0]" in text
