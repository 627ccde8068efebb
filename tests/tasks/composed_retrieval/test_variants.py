"""The study of composed retrieval, and the shipped configs that it starts from."""

import importlib
import os
import re

import pytest

from lafg_jax.ablation import cells as cells_of
from lafg_jax.ablation import plan
from lafg_jax.tasks.composed_retrieval import default, methods, stages, variants
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

NAMES = ("circo", "cirr", "fashion", "fashioniq", "finches", "listed")
MODULES = {name: importlib.import_module(f"configs.composed.{name}") for name in NAMES}
EVERY = [(name, variant) for name, module in MODULES.items() for variant in module.VARIANTS]
# Where files and trained models would be.
GIVEN = {
  "composed.root": {"circo", "cirr", "fashioniq"},
  "composed.file": {"listed", "fashion"},
  "model.pretrained": {"fashion"},
}


@pytest.mark.parametrize(("name", "variant"), EVERY, ids=":".join)
def test_shipped_configs_are_valid_and_have_the_default_keys(name, variant):
  config = MODULES[name].get_config(variant)
  assert config_keys.keys(config) == config_keys.keys(default.get_config())
  config.update_from_flattened_dict({key: "some" for key, of in GIVEN.items() if name in of})
  default.validate(config, default.default_names(config))
  assert name in MODULES[name].__doc__ and MODULES[name].get_config() is not None
  with pytest.raises(UserError, match=rf"^--config=configs/composed/{name}.py:huge: "):
    MODULES[name].get_config("huge")


def test_published_configs_have_the_weights_of_cvsis_code():
  """Section 1.6 of the method's document."""
  of = {name: MODULES[name].get_config().query for name in ("circo", "cirr", "fashioniq")}
  weights = {name: (x.alpha, x.beta, x.gamma, x.normalize_captions) for name, x in of.items()}
  assert weights == {
    "circo": (0.6, 0.4, 0.2, False),
    "cirr": (0.6, 0.4, 0.2, False),
    "fashioniq": (0.2, 0.6, 0.1, True),
  }
  assert all(MODULES[name].get_config().data.pad == "target" for name in of)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
  config = MODULES["finches"].get_config()
  config.composed.num_queries = 4
  found = plan.cells(variants, config, str(tmp_path_factory.mktemp("study")), {}, 2)
  return {(cell.variant, cell.seed): cell for cell in found}


def test_every_variant_goes_with_the_finches(cells):
  named = {name for of in variants.groups().values() for name in of}
  assert {name for name, _ in cells} == named
  assert {variants.REFERENCE, *variants.CONTROLS, *sum(variants.PAIRS, ())} <= named
  assert set(variants.LABELS) - {"default"} <= named
  assert all(re.fullmatch(r"[\w@.=-]+", name) for name in named)


def test_cells_depend_on_what_their_figures_do(cells):
  """A baseline without Phi is the same for each seed of a training; no cell is another one."""
  image, text = cells["image", 0], cells["text", 0]
  assert cells["cvsi", 0].key != cells["cvsi", 1].key
  assert image.key == cells["image", 1].key and image.key != text.key
  for name in ("cvsi@untrained-phi", "searle_oti"):
    assert cells[name, 0].key != cells[name, 0].with_seed(1).key
  first = [cell.key for (_, seed), cell in cells.items() if seed == 0]
  same = len(first) - len(set(first))
  # The config has all terms; sweeps go through its weights, and the grammar adds no objects.
  assert same <= 5
  config = cells["image", 0].config.copy_and_resolve_references()
  config.train.learning_rate, config.editor.kind = 5.0, "perfect"
  before = variants.decided_by(image.config, True, plan._remembered)
  assert variants.decided_by(config, True, plan._remembered)[0] == before[0]
  assert "training" not in before[0] and "words" not in before[0]
  assert {"training", "words"} <= set(
    variants.decided_by(cells["cvsi", 0].config, True, plan._remembered)[0]
  )
  untrained = cells["cvsi@untrained-phi", 0]
  assert not untrained.trains and untrained.config.evaluate.source == "untrained"
  assert not methods.trains(cells["searle_oti", 0].config)


@pytest.fixture(scope="module")
def quick():
  """Two queries without captions; Phi of two steps."""
  config = MODULES["finches"].get_config()
  config.composed.num_queries = 2
  config.captioner.kind = config.editor.kind = "none"
  config.query.method = "pic2word"
  config.mapping.update(method="pic2word", batch_size=4, num_images=8)
  config.train.update(steps=2, checkpoint_every=2)
  return config


def test_cells_with_the_same_phi_train_it_once_and_have_the_figures_of_those_alone(
  quick, tmp_path, monkeypatch
):
  """The second one goes in the folder of the first, whose training is done."""
  ran = []
  train = stages.train.run
  monkeypatch.setattr(stages.train, "run", lambda *args: ran.append(1) or train(*args))
  other = quick.copy_and_resolve_references()
  other.query.words = "other"
  together = [cells_of.run(x, str(tmp_path), str(tmp_path / "a")) for x in (quick, other)]
  assert len(ran) == 1
  alone = cells_of.run(other, str(tmp_path), str(tmp_path / "b"))
  assert len(ran) == 2
  timed = {"seconds"}
  assert {k: v for k, v in together[1].items() if k not in timed} == {
    k: v for k, v in alone.items() if k not in timed
  }
  assert os.listdir(tmp_path / "a") == os.listdir(tmp_path / "b")


def test_cells_of_other_seeds_or_queries_have_other_folders(quick):
  def key(**changes):
    config = quick.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return stages.followed_by(config)

  same = key()
  assert key(**{"query.alpha": 0.1, "captioner.kind": "attributes"}) == same
  for change in ({"seed": 1}, {"mapping.dropout": 0.3}, {"composed.num_queries": 3},
                 {"query.method": "image"}):  # fmt: skip
    assert key(**change) != same, change
