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
  results._write(FILE, every, every, str(tmp_path))
  cars, finches = "study/generated/cars_scratch", "study/generated/synthetic_scratch"
  assert files(tmp_path) == [
    "ablation.json", f"{cars}.md", f"{cars}.svg", f"{finches}.md", f"{finches}.svg",
    f"{finches}_sweeps.svg",
  ]  # fmt: skip
  assert "| with words | `default` | 1 | 50.0 |" in (tmp_path / f"{finches}.md").read_text()
  first = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
  results._write(FILE, every, every, str(tmp_path))
  assert first == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}, "no date"
  # A figure of cells that are gone does not stay.
  results._write(FILE, records, records, str(tmp_path))
  assert f"{finches}_sweeps.svg" not in files(tmp_path)


def test_the_figure_of_the_means_shows_the_groups_of_the_variants_file(tmp_path, records, record):
  file = SimpleNamespace(**vars(FILE) | {"FIGURE_GROUPS": ("headline", "more")})
  file.groups = lambda: FILE.groups() | {"more": {"second": {}}, "rest": {"third": {}}}
  every = [*records, record("second", 0, 0.2), record("third", 0, 0.3)]
  picture = tmp_path / "study/generated/synthetic_scratch.svg"
  for variants, shown in ((FILE, (False, False)), (file, (True, False))):
    results._write(variants, every, every, str(tmp_path))
    assert tuple(f">{name}<" in picture.read_text() for name in ("second", "third")) == shown


def test_other_datasets_and_starts_are_kept_beside_fresh_ones(tmp_path, records, record):
  every = [*records, record("l_aux", 0, 0.1, dataset="cars")]
  # Of another task, whose tables are not made here.
  other = record("cvsi", 0, 0.1, dataset="composed")
  results._write(FILE, every, [*every, other], str(tmp_path))
  old = results._read(tmp_path / "ablation.json")
  assert len(old) == len(records) + 2
  assert not [*tmp_path.rglob("composed_*")] and [*tmp_path.rglob("cars_*")]
  kept = results.beside(old, [record("l_aux", 0, 0.5), record("l_aux", 0, 0.6, start="pretrained")])
  assert [(r["dataset"], r["start"], r["recall@1"]) for r in kept] == [
    ("cars", "scratch", 0.1), ("composed", "scratch", 0.1),
    ("synthetic", "scratch", 0.5), ("synthetic", "pretrained", 0.6),
  ]  # fmt: skip
  (tmp_path / "ablation.json").write_text("{")
  with pytest.raises(UserError, match="damaged"):
    results._read(tmp_path / "ablation.json")
  assert json.loads(json.dumps(old)) == old
