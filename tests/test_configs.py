"""Shipped configs: valid as they are, with the keys of the default, from whatever weights."""

import importlib
import json

import pytest

from configs import aircraft, cars, cub, folder, inshop, sop
from lafg_jax.config import shipped
from lafg_jax.config.table.data import OWN, SOURCES
from lafg_jax.models.weights import resolve
from lafg_jax.tasks.class_retrieval import default, stages
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

MODULES = {name: importlib.import_module(f"configs.{name}") for name in shipped.names()}
EVERY = [(name, variant) for name, module in MODULES.items() for variant in module.VARIANTS]
every_config = pytest.mark.parametrize(("name", "variant"), EVERY, ids=":".join)


def with_data(name, variant):
  """The config, with some place where its images and words would be."""
  config = MODULES[name].get_config(variant)
  config.data[SOURCES[name][0] if name in SOURCES else "root"] = "somewhere"
  if name in ("aircraft", "inshop"):
    config.language.descriptions = "some.json"
  return config


@every_config
def test_shipped_configs_are_valid_and_have_the_default_keys(name, variant):
  config = with_data(name, variant)
  assert config_keys.keys(config) == config_keys.keys(default.get_config())
  assert config.is_locked and config.data.name == name
  default.validate(config, default.default_names(config))
  assert MODULES[name].get_config() == MODULES[name].get_config(MODULES[name].VARIANTS[0])


@pytest.mark.parametrize("name", MODULES)
def test_an_unknown_variant_is_one_line_that_lists_the_known_ones(name):
  with pytest.raises(UserError, match=rf"^--config=configs/{name}.py:huge: the(re is one)? v") as e:
    MODULES[name].get_config("huge")
  assert all(variant in str(e.value) for variant in MODULES[name].VARIANTS)


# config.json of a source -> what `model` must become; a file of the library, written by hand.
TOWERS = {
  "vit": (
    {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 200}
    | {"patch_size": 8, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "image_size": 32},
    {"width": 96, "depth": 3, "num_heads": 6, "mlp_dim": 200, "patch_size": 8, "pool": "token"}
    | {"layer_norm_eps": 1e-5, "size": "custom"},
  ),
  "resnet": (
    {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "embedding_size": 64}
    | {"layer_type": "bottleneck", "hidden_act": "relu", "downsample_in_first_stage": False},
    {"size": "resnet50", "pool": "mean"},
  ),
}
STD = (0.2, 0.3, 0.4)


@pytest.mark.parametrize("tower", TOWERS)
@every_config
def test_weights_bring_their_architecture_to_every_config(name, variant, tower, tmp_path):
  said, wanted = TOWERS[tower]
  (tmp_path / "config.json").write_text(json.dumps(said | {"model_type": tower}))
  colours = {"image_mean": [0.1, 0.2, 0.3], "image_std": STD, "do_normalize": True}
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(colours))
  config = with_data(name, variant)
  config.model.pretrained = str(tmp_path)
  if name == "features":
    with pytest.raises(UserError, match="data.name=features, the features are given"):
      default.validate(config, default.default_names(config))
    return
  default.validate(config, default.default_names(config))
  model = resolve.resolve(config).model
  wanted = wanted | {"std": STD, "conv_stem": False}
  assert {key: model[key] for key in wanted} == wanted


def test_a_key_of_the_model_that_is_set_is_not_the_weights(tmp_path):
  config = cars.get_config("scratch")
  config.model.pretrained, config.model.pool = "somewhere", "gem"
  assert (config.model.size, config.model.pool) == ("auto", "gem")
  config.model.pretrained = ""
  assert (config.model.size, config.model.width, config.model.pool) == ("custom", 128, "gem")
  copied = config.copy_and_resolve_references()
  copied.model.pretrained = "somewhere"
  assert copied.model.width == 128


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
  ("changes", "alignment"),
  [
    ({}, "orthogonal"),
    ({"language.descriptions": "words.json"}, "prototype"),
    ({"language.describer": "openai"}, "prototype"),
    ({"language.describer": "shipped"}, "prototype"),
    ({"language.descriptions": "words.json", "loss.alignment": "onehot"}, "onehot"),
    ({"loss.alignment": "prototype"}, "prototype"),
  ],
)
def test_class_targets_of_ones_own_images_follow_the_words(name, changes, alignment):
  for order in (changes, dict(reversed(changes.items()))):
    config = MODULES[name].get_config()
    for key, value in order.items():
      config.update_from_flattened_dict({key: value})
    assert config.loss.alignment == alignment
    words = alignment == "prototype"
    assert default.default_names(config) == list(stages.STAGES[0 if words else 3 :])


@pytest.mark.parametrize(
  ("module", "images", "ks"),
  [
    (cub, 5_864, (1, 2, 4, 8)),
    (cars, 8_054, (1, 2, 4, 8)),
    (sop, 59_551, (1, 10, 100, 1000)),
    (inshop, 25_882, (1, 10, 20, 30)),
    (aircraft, 5_000, (1, 2, 4, 8)),
  ],
)
def test_configs_train_200_epochs_and_have_the_ks_of_the_field(module, images, ks):
  config = module.get_config()
  n, m = config.data.classes_per_batch, config.data.images_per_class
  assert config.train.steps == 200 * (images // (n * m)) and tuple(config.evaluate.ks) == ks
  assert (config.train.optimizer, config.train.learning_rate) == ("sgd", 1e-5)
  assert (config.data.resize_size, config.data.image_size) == (256, 224)


@pytest.mark.parametrize("module", [cub, cars, aircraft])
def test_a_batch_has_every_class_that_is_not_held_out(module):
  config = module.get_config()
  every = config.data.classes_per_batch
  config.data.num_val_classes = 10
  assert config.copy_and_resolve_references().data.classes_per_batch == every - 10
  config.data.classes_per_batch = 30
  assert config.copy_and_resolve_references().data.classes_per_batch == 30


@pytest.mark.parametrize("module", [cub, cars])
def test_the_default_stays_near_its_start_and_the_papers_form_is_one_override_away(module):
  near, paper = module.get_config(), module.get_config("lafg")
  assert (near.model.embedding_dim, near.loss.beta, near.train.interpolate) == (0, 0.1, 0.75)
  assert (paper.model.embedding_dim, paper.loss.beta, paper.train.interpolate) == (512, 1, 1)
  for name in ("model.embedding_dim", "loss.beta", "train.interpolate"):
    near.update_from_flattened_dict({name: config_keys.get(paper, name)})
  assert config_keys.flatten(near) == config_keys.flatten(paper)


def test_what_keeps_a_training_near_its_start_is_set_where_there_is_a_start():
  config = folder.get_config()
  assert (config.model.embedding_dim, config.loss.beta, config.train.interpolate) == (0, 0.1, 0.75)
  config.train.keep_best = True
  assert (config.model.embedding_dim, config.train.interpolate) == (0, 1)
  config.train.update(keep_best=False, frozen_backbone=True)
  assert (config.model.embedding_dim, config.loss.beta, config.train.interpolate) == (384, 1, 1)
  config.train.frozen_backbone = False
  config.model.pretrained = ""
  assert (config.model.embedding_dim, config.loss.beta, config.train.interpolate) == (384, 1, 1)
  config.train.interpolate = 0.5
  assert config.train.interpolate == 0.5


def test_hyp_vit_is_its_published_recipe():
  for module, m in ((cub, 9), (cars, 9), (sop, 2)):
    config = module.get_config("hyp_vit")
    assert (config.train.optimizer, config.train.learning_rate) == ("adamw", 3e-5)
    assert (config.train.clip_norm, config.data.crop_scale) == (3.0, (0.2, 1.0))
    assert config.data.images_per_class == m and config.loss.alignment == "none"
    # exp(-D / t) with D = 2 - 2 cos is exp(cos / 0.1) but for a constant factor.
    assert 2 / config.loss.temperature == pytest.approx(1 / 0.1)
