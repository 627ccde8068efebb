"""What is the same by two names is measured once, and lost by neither."""

import json
from pathlib import Path

import pytest

from lafg_jax.ablation import cells as runs
from lafg_jax.ablation import plan, pool, results

ONE = '"l_aux+orthogonal": {"loss.alignment": "orthogonal"},'
TWO = ONE + '"twin": {"loss.alignment": "orthogonal"},'


@pytest.fixture
def cells(tmp_path, config_with, variants):
  """`cells(workdir)`: {variant: its cell of seed 0}."""
  file = plan.read_variants(variants(ONE, TWO))

  def make(workdir: str) -> dict[str, plan.Cell]:
    found = plan.cells(file, config_with(), str(tmp_path / workdir), {}, 1)
    return {cell.variant: cell for cell in found}

  return make


def kept(folder: Path, every: dict[str, plan.Cell], *names: str) -> str:
  """`folder` with the table of those cells."""
  generated = folder / results.GENERATED
  generated.mkdir(parents=True)
  records = [
    {"dataset": every[n].dataset, "start": "scratch", "variant": n, "seed": 0}
    | {"config_hash": every[n].key, "recall@1": 0.5}
    for n in names
  ]
  (generated / "table.json").write_text(json.dumps({"cells": records}))
  return str(folder)


def test_both_names_come_back_though_neither_is_wanted(tmp_path, cells):
  every = cells("w")
  assert every["twin"].key == every["l_aux+orthogonal"].key != every["l_aux"].key
  out = kept(tmp_path / "out", every, "twin", "l_aux", "l_aux+orthogonal")
  results.restore(list(every.values()), [], out)
  for name in ("twin", "l_aux", "l_aux+orthogonal"):
    assert every[name].finished()["variant"] == name


def test_a_name_that_is_not_there_is_given_what_is_wanted_alone(tmp_path, cells):
  every = cells("w")
  out = kept(tmp_path / "out", every, "l_aux+orthogonal")
  results.restore(list(every.values()), [], out)
  assert every["twin"].finished() is None
  results.restore(list(every.values()), [every["twin"]], out)
  assert every["twin"].finished()["variant"] == "twin"


def test_a_finished_cell_of_the_workdir_serves_its_twin(cells):
  every = cells("w")
  results.keep(every["l_aux+orthogonal"], {"seed": 0, "recall@1": 0.25})
  results.share(list(every.values()), [every["l_aux"], every["twin"]])
  assert every["l_aux"].finished() is None
  assert every["twin"].finished()["recall@1"] == 0.25
  assert every["twin"].finished()["variant"] == "twin"


def test_twins_train_once(tmp_path, cells, monkeypatch):
  every, driven = cells("w"), []
  monkeypatch.setattr(runs, "prepare", lambda *args: None)
  monkeypatch.setattr(pool, "_drive", lambda alike, *rest: driven.append(alike) or 0)
  named = [every[n] for n in ("l_aux", "l_aux+orthogonal", "twin")]
  pool.run(named, str(tmp_path / "w"), 1)
  [alike] = driven
  assert list(alike.values()) == [named[:1], named[1:]]
  assert pool._keep(named[1:], {"seed": 0, "map@r": 0.5, "seconds": 1.0}, "1/2", 0.0)
  assert [cell.finished() is not None for cell in named] == [False, True, True]
