"""What the study writes: its cells as JSON, and tables and figures that are made of it."""

import json
from types import SimpleNamespace

import pytest

from lafg_jax.ablation import results
from lafg_jax.utils.errors import UserError

FILE = SimpleNamespace(
  REFERENCE="l_aux",
  CONTROLS=("default-shuffled",),
  LABELS={"default": "with words"},
  groups=lambda: {"headline": {"l_aux": {}, "default": {}}},
)


@pytest.fixture(scope="session")
def records(record):
  return [record("l_aux", 0, 0.4), record("l_aux", 1, 0.44), record("default", 0, 0.5)]


def files(folder):
  found = (x for x in folder.rglob("*") if x.is_file())
  return sorted(x.relative_to(folder).as_posix() for x in found)


def test_each_dataset_and_start_has_tables_and_figures(tmp_path, records, record):
  every = [*records, record("default@classes=10", 0, 0.2), record("l_aux", 0, 0.1, dataset="cars")]
  results._write(FILE, every, str(tmp_path))
  cars, finches = "study/generated/cars_scratch", "study/generated/synthetic_scratch"
  assert files(tmp_path) == [
    f"{cars}.json", f"{cars}.md", f"{cars}.svg",
    f"{finches}.json", f"{finches}.md", f"{finches}.svg", f"{finches}_sweeps.svg",
  ]  # fmt: skip
  assert "| with words | `default` | 1 | 50.0 |" in (tmp_path / f"{finches}.md").read_text()
  first = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
  results._write(FILE, every, str(tmp_path))
  assert first == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}, "no date"
  # A figure of cells that are gone does not stay.
  results._write(FILE, records, str(tmp_path))
  assert f"{finches}_sweeps.svg" not in files(tmp_path)


def test_the_figure_of_the_means_shows_the_groups_of_the_variants_file(tmp_path, records, record):
  file = SimpleNamespace(**vars(FILE) | {"FIGURE_GROUPS": ("headline", "more")})
  file.groups = lambda: FILE.groups() | {"more": {"second": {}}, "rest": {"third": {}}}
  every = [*records, record("second", 0, 0.2), record("third", 0, 0.3)]
  picture = tmp_path / "study/generated/synthetic_scratch.svg"
  for variants, shown in ((FILE, (False, False)), (file, (True, False))):
    results._write(variants, every, str(tmp_path))
    assert tuple(f">{name}<" in picture.read_text() for name in ("second", "third")) == shown


def test_other_datasets_and_starts_are_kept_beside_fresh_ones(tmp_path, records, record):
  generated = tmp_path / "study/generated"
  results._write(FILE, [*records, record("l_aux", 0, 0.1, dataset="cars")], str(tmp_path))
  # Of another task, whose tables are not made here.
  other = {"cells": [record("cvsi", 0, 0.1, dataset="composed")]}
  (generated / "composed_seen.json").write_text(json.dumps(other))
  before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
  fresh = [record("l_aux", 0, 0.5), record("l_aux", 0, 0.6, start="pretrained")]
  results._write(FILE, fresh, str(tmp_path))
  changed = {x for x in files(tmp_path) if before.get(x) != (tmp_path / x).read_bytes()}
  assert {x.split("/")[-1].split(".")[0] for x in changed} == {
    "synthetic_scratch", "synthetic_pretrained",
  }  # fmt: skip
  kept = results.read(generated)
  assert [(r["dataset"], r["start"], r["recall@1"]) for r in kept] == [
    ("cars", "scratch", 0.1), ("composed", "scratch", 0.1),
    ("synthetic", "pretrained", 0.6), ("synthetic", "scratch", 0.5),
  ]  # fmt: skip
  assert json.loads(json.dumps(kept)) == kept
  for damaged in ("{", "[]", "{}"):
    (generated / "cars_scratch.json").write_text(damaged)
    with pytest.raises(UserError, match=r"cars_scratch\.json is damaged .* version control"):
      results.read(generated)
