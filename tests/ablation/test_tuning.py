"""Settings are chosen by MAP@R of held-out training classes, as many for every variant."""

import json
import re

import pytest

from lafg_jax.ablation import plan, tuning
from lafg_jax.data import datasets
from lafg_jax.tasks.class_retrieval import variants as shipped
from lafg_jax.utils.errors import UserError

EVERY = re.compile("")


@pytest.fixture
def trials(tmp_path, config_with, variants):
  def make(old="", new="", starts=None, **changes):
    file = plan.read_variants(variants(old, new))
    return tuning.cells(file, config_with(**changes), str(tmp_path), starts, EVERY)

  return make


def finish(trial, map_at_r, recall=0.5):
  trial.path.parent.mkdir(parents=True, exist_ok=True)
  record = {"config_hash": trial.key, "dataset": trial.dataset, "start": trial.start}
  record |= {"variant": trial.variant, "seed": trial.seed, "split": "val", "steps": trial.steps}
  record |= {"recall@1": recall, "map@r": map_at_r}
  trial.path.write_text(json.dumps(record))


def test_trials_see_no_test_class_and_are_as_many_for_every_variant(trials):
  found = trials()
  rates = [(t.variant, t.tried["train.learning_rate"]) for t in found]
  assert rates == [(v, rate) for v in ("l_aux", "l_aux+orthogonal") for rate in (1e-3, 1e-2)]
  assert len({t.key for t in found}) == len({t.path for t in found}) == 4
  assert str(found[3]) == "scratch/l_aux+orthogonal seed 0 (train.learning_rate=0.01)"
  unseen = set(datasets.class_splits(found[0].config.data)["test"])
  for trial in found:
    assert trial.config.train.learning_rate == trial.tried["train.learning_rate"]
    assert trial.config.evaluate.split == "val" and trial.config.data.num_val_classes == 4
    splits = datasets.class_splits(trial.config.data)
    assert len(splits["train"]) == 36 and not set(splits["train"]) & set(splits["val"])
    assert not unseen & {*splits["train"], *splits["val"]}


def test_a_batch_of_all_classes_becomes_one_of_those_left(trials):
  assert {t.config.data.classes_per_batch for t in trials(data__classes_per_batch=40)} == {36}


def test_grids_of_different_sizes_are_an_error(trials):
  unfair = 'return [{"loss.beta": 2.0}] * (1 + (config.loss.alignment == "none")) or [{"tra'
  with pytest.raises(UserError, match="different sizes: l_aux has 2; l_aux.orthogonal has 1"):
    trials('return [{"tra', unfair)
  with pytest.raises(UserError, match="scratch/l_aux: unknown key train.learning_rat"):
    trials('"train.learning_rate": 1e-3', '"train.learning_rat": 1e-3')


def test_the_highest_mean_of_map_at_r_is_chosen(trials, tmp_path):
  found = trials("VAL_CLASSES, TUNING_SEEDS, TUNED_GROUP = 4, 1,",
                 "VAL_CLASSES, TUNING_SEEDS, TUNED_GROUP = 4, 2,")  # fmt: skip
  assert len(found) == 8
  scores = {("l_aux", 1e-3): (0.3, 0.3), ("l_aux", 1e-2): (0.5, 0.2)}
  scores |= {("l_aux+orthogonal", 1e-3): (0.4, 0.4), ("l_aux+orthogonal", 1e-2): (0.1, 0.6)}
  for t in found:
    score = scores[t.variant, t.tried["train.learning_rate"]][t.seed]
    # R@1 says the opposite.
    finish(t, score, recall=1 - score)
  out = tmp_path / "out"
  out.mkdir()
  kept = {"cars": {"scratch": {"default": {"loss.beta": 2.0}}}}
  kept["synthetic"] = {"scratch": {"l_aux": {"loss.beta": 5.0}, "default": {"loss.beta": 3.0}}}
  (out / tuning.CHOSEN).write_text(json.dumps({"chosen": kept}))
  tuning.choose(found, str(tmp_path), str(out), shipped.TUNED_BY)
  # Means .3 and .35; .4 and .35.
  chosen = {v: {"train.learning_rate": x} for v, x in (("l_aux", 1e-2), ("l_aux+orthogonal", 1e-3))}
  written = json.loads((tmp_path / tuning.FILE).read_text())
  assert written["chosen"] == {"synthetic": {"scratch": chosen}}
  assert len(written["cells"]) == 8 and {c["split"] for c in written["cells"]} == {"val"}
  merged = tuning.read(str(out / tuning.CHOSEN))
  assert merged["cars"] == kept["cars"]
  assert merged["synthetic"] == {"scratch": {"default": {"loss.beta": 3.0}} | chosen}


def test_a_variant_with_an_unfinished_trial_is_not_chosen_for(trials, tmp_path):
  found = trials()
  for t in found[:3]:
    finish(t, 0.5)
  tuning.choose(found, str(tmp_path), "", shipped.TUNED_BY)
  chosen = json.loads((tmp_path / tuning.FILE).read_text())["chosen"]
  # Of equals the first.
  assert chosen == {"synthetic": {"scratch": {"l_aux": {"train.learning_rate": 1e-3}}}}


@pytest.mark.parametrize("text", ["", "[]", '{"chosen": {"a": 1}}', '{"chosen": {"a": {"b": []}}}'])
def test_a_damaged_file_is_one_line(tmp_path, text):
  path = tmp_path / "tuned.json"
  path.write_text(text)
  with pytest.raises(UserError, match="is damaged"):
    tuning.read(str(path))
  assert tuning.read("") == {}


def test_the_shipped_variants_are_tuned_alike(config_with, tmp_path):
  file = shipped
  found = tuning.cells(file, config_with(), str(tmp_path), ["scratch"], EVERY)
  count = {v: sum(t.variant == v for t in found) for v in {t.variant for t in found}}
  trained = set(file.groups()["headline"]) - {"untrained"}
  assert set(count) == trained and set(count.values()) == {4}
