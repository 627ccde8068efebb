"""What a cell's key depends on, which variants are left out, and which are errors."""

import re
from pathlib import Path

import pytest

from configs import synthetic
from configs.image_text import finches
from lafg_jax import tasks
from lafg_jax.ablation import plan, results, tuning
from lafg_jax.tasks.class_retrieval import fine_tuning_variants
from lafg_jax.tasks.class_retrieval import variants as shipped
from lafg_jax.utils.errors import UserError


@pytest.fixture
def keys(tmp_path, config_with):
  """{dotted key: value} over the small config -> key of its cell."""

  def make(changes, *, trains=True, seed=0):
    config = plan.prepared(config_with(), [changes], "scratch/x")
    return plan.cell(config, ("scratch", "x", seed, "g"), trains, tmp_path / "0.json").key

  return make


DOCS = Path("docs", results.GENERATED)
ORTHOGONAL = {"loss.alignment": "orthogonal"}
# What changes figures, in words or without.
DECIDES = (
  *({"train.steps": 3}, {"train.learning_rate": 0.5}, {"loss.beta": 9.0}, {"model.width": 32}),
  *({"data.max_train_classes": 9}, {"data.num_val_classes": 3}, {"data.flip": False}),
  {"data.color_jitter": 0.5},
  {"data.num_val_classes": 3, "evaluate.split": "val"},
)
# How it is computed, and where from.
DECIDES_NOT = (
  *({"data.num_workers": 2}, {"data.prefetch": 9}, {"train.log_every": 7}),
  *({"train.checkpoint_every": 1}, {"evaluate.batch_size": 3}, {"data.root": "/elsewhere"}),
)
OF_WORDS = (
  *({"language.tau_k": 0.3}, {"language.centre": False}, {"language.wrong_sentences": 0.5}),
  *({"language.shuffle": "all"}, {"language.query": "name"}, {"language.prototype": "query"}),
)


@pytest.mark.parametrize("base", [ORTHOGONAL, {}], ids=["wordless", "words"])
def test_the_key_changes_with_what_decides(keys, base):
  found = [keys(base), keys(base, seed=1), keys(base, trains=False)]
  found += [keys(base | changes) for changes in DECIDES]
  assert len(set(found)) == len(found)
  assert {keys(base | changes) for changes in DECIDES_NOT} == {keys(base)}
  # Words matter to those that read them.
  words = [keys(base | changes) for changes in OF_WORDS]
  assert len({keys(base), *words}) == (1 if base else 1 + len(OF_WORDS))


def test_the_key_of_words_follows_the_sentences(keys, tmp_path):
  path = tmp_path / "said.json"
  file = {"language.descriptions": str(path)}
  path.write_text('{"a": ["red"]}')
  before, wordless = keys(file), keys(file | ORTHOGONAL)
  path.write_text('{"a": ["blue"]}')
  plan._memory.clear()
  assert keys(file) != before and keys(file | ORTHOGONAL) == wordless


def test_before_training_only_the_model_and_images_matter(keys):
  before = keys({}, trains=False)
  assert keys({"train.steps": 3, "loss.beta": 2.0, "language.tau_k": 1.0}, trains=False) == before
  recoloured = {"data.recoloured_per_batch": 3, "loss.image_alignment": "vocabulary"}
  assert keys(recoloured, trains=False) == before
  assert keys({"model.width": 32}, trains=False) != before
  assert keys({}, trains=False, seed=1) != before


def test_cells_stand_seed_by_seed_with_what_was_tuned(tmp_path, config_with, variants):
  file = plan.read_variants(variants())
  tuned = {"synthetic": {"scratch": {"l_aux": {"train.learning_rate": 0.5}}}}
  found = plan.cells(file, config_with(), str(tmp_path), tuned, 2)
  named = [(c.variant, c.seed, c.config.train.learning_rate == 0.5) for c in found]
  assert named == [
    ("l_aux", 0, True), ("l_aux+orthogonal", 0, False), ("crowded", 0, False),
    ("l_aux", 1, True), ("l_aux+orthogonal", 1, False),
  ]  # fmt: skip
  assert [c.config.seed for c in found] == [0, 0, 0, 1, 1]
  assert found[0].path == Path(tmp_path, "cells/scratch/l_aux/0.json")
  chosen = plan.select(found, ["headline"], None, re.compile("orthogonal$"))
  assert [(c.variant, c.seed) for c in chosen] == [("l_aux+orthogonal", k) for k in range(2)]


@pytest.mark.parametrize(("tuned", "rate"), [({}, 0.3), ({"train.learning_rate": 0.5}, 0.5)])
def test_what_was_tuned_for_a_variant_is_above_its_own_value(
  tmp_path, config_with, variants, tuned, rate
):
  alone = '"loss.alignment": "orthogonal"'
  file = plan.read_variants(variants(alone, alone + ', "train.learning_rate": 0.3'))
  tuned = {"synthetic": {"scratch": {"l_aux+orthogonal": tuned}}}
  found = plan.cells(file, config_with(), str(tmp_path), tuned, 1)
  rates = {c.variant: c.config.train.learning_rate for c in found}
  assert rates["l_aux+orthogonal"] == rate and rates["l_aux"] not in (0.3, 0.5)


def test_what_does_not_go_together_is_left_out_in_one_line(
  tmp_path, config_with, variants, monkeypatch
):
  said = []
  monkeypatch.setattr(plan.logging, "warning", lambda text, *x: said.append(text % x))
  clash = '"loss.alignment": "orthogonal", "data.image_size": 99'
  file = plan.read_variants(variants('"loss.alignment": "orthogonal"', clash))
  found = plan.cells(file, config_with(), str(tmp_path), {}, 1)
  assert {c.variant for c in found} == {"l_aux", "crowded"}
  assert said[0].startswith("left out: scratch/l_aux+orthogonal (--config.data.resize_size=16")
  assert said[1:] == ["left out: pretrained (no weights here)"]
  with pytest.raises(UserError, match="finds no start/variant .* headline"):
    plan.select(found, ["headline"], None, re.compile("orthogonal"))


def test_where_nothing_goes_each_reason_is_said_once(tmp_path, config_with, variants, monkeypatch):
  said = []
  monkeypatch.setattr(plan.logging, "warning", lambda text, *x: said.append(text % x))
  file = plan.read_variants(variants('"scratch": {}', '"scratch": {"data.image_size": 99}'))
  with pytest.raises(UserError, match="no variant goes with this config: .*; no weights") as raised:
    plan.cells(file, config_with(), str(tmp_path), {}, 1)
  assert str(raised.value).count("resize_size") == 1 and not said


@pytest.mark.parametrize(
  ("old", "new", "says"),
  [
    ("loss.alignment", "loss.aligment", "scratch/l_aux: unknown key loss.aligment; did you mean"),
    ('"data.classes_per_batch": 41', '"data.classes_per_batch": "x"', "crowded: data.classes_per"),
    ('"data.classes_per_batch": 41', '"data.classes_per_batch": -1', "crowded: --config.data.cl"),
    ('"scratch": {}', '"scratch": {"model.siez": 1}', "scratch/l_aux: unknown key model.siez"),
    ('"crowded"', '"../up"', r"'scratch/\.\./up': names take"),
    ('{"loss.alignment": "orthogonal"}', '{"train.steps": 3}', "of a start takes as many"),
  ],
)
def test_a_slip_in_the_variants_is_an_error(tmp_path, config_with, variants, old, new, says):
  file = plan.read_variants(variants(old, new))
  with pytest.raises(UserError, match=says):
    plan.cells(file, config_with(), str(tmp_path), {}, 1)


def test_starts_may_train_for_different_numbers_of_steps(tmp_path, config_with, variants):
  file = plan.read_variants(variants('"no weights here"', '{"train.steps": 3}'))
  found = plan.cells(file, config_with(), str(tmp_path), {}, 1)
  assert {(c.start, c.steps) for c in found} == {("scratch", 8), ("pretrained", 3)}


def test_a_cell_of_other_settings_is_not_finished(tmp_path, config_with, variants):
  one = plan.cells(plan.read_variants(variants()), config_with(), str(tmp_path), {}, 1)[0]
  one.path.parent.mkdir(parents=True)
  for text in ("", "{", "[]", '{"config_hash": "of others"}'):
    one.path.write_text(text)
    assert one.finished() is None
  one.path.write_text(f'{{"config_hash": "{one.key}"}}')
  assert one.finished() == {"config_hash": one.key} and one.with_seed(1).finished() is None


@pytest.mark.parametrize(
  ("variant", "file", "starts"),
  [
    ("default", shipped, {"scratch", "pretrained"}),
    ("pretrained", fine_tuning_variants, {"fine_tuning"}),
  ],
)
def test_finished_cells_of_the_docs_are_of_the_shipped_variants(tmp_path, variant, file, starts):
  """Or else the command that the docs give would measure them again, and lose these."""
  tuned = tuning.read(str(file.TUNED))
  found = plan.cells(file, synthetic.get_config(variant), str(tmp_path), tuned, 1)
  keys = {(one.start, one.variant): one.key for one in found}
  records = [r for r in results.read(DOCS) if r["dataset"] == "synthetic"]
  # A tower that is not shipped is part of the key of what starts from it.
  mine = [r for r in records if r["seed"] == 0 and r["start"] in starts]
  first = {(r["start"], r["variant"]): r["config_hash"] for r in mine}
  assert starts == {start for start, _ in first}
  assert first == {name: keys.get(name) for name in first}


@pytest.mark.parametrize(
  ("variant", "start", "wanted"),
  [
    ("unseen", "own_split", {"zero_shot", "maple", "default", "default@no-weights"}),
    ("seen", "images_split", {"zero_shot", "maple", "default", "finetune"}),
  ],
)
def test_finished_cells_of_image_text_retrieval_are_of_the_shipped_variants(
  tmp_path, variant, start, wanted
):
  config = finches.get_config(variant)
  file = tasks.find(config, "variants")
  found = plan.cells(file, config, str(tmp_path), tuning.read(str(file.TUNED)), 1)
  keys = {one.variant: one.key for one in found}
  records = [r for r in results.read(DOCS) if r["dataset"] == "finches"]
  mine = [r for r in records if r["seed"] == 0 and r["start"] == start]
  kept = {r["variant"]: r["config_hash"] for r in mine}
  assert wanted <= set(kept)
  assert kept == {name: keys.get(name) for name in kept}
