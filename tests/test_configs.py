"""Shipped configs: valid as they are, and nothing undocumented in the default."""

import re
from pathlib import Path

import pytest

from configs import ablation, aircraft, cars, cub, default, inshop, sop, synthetic
from lafg_jax.config import validation
from lafg_jax.tasks.class_retrieval import stages
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

DEFAULT = Path(default.__file__).read_text()


@pytest.mark.parametrize(
  "config",
  [
    *(module.get_config() for module in (aircraft, cars, cub, inshop, sop, synthetic)),
    *(module.get_config("hyp_vit") for module in (cars, cub, sop)),
    *(cars.get_config(name) for name in ("scratch", "self_supervised")),
    *(synthetic.get_config(name) for name in ("prototypes", "pretrained", "self_supervised")),
  ],
  ids=lambda config: config.data.name,
)
def test_shipped_configs_are_valid_and_have_the_default_keys(config):
  assert config_keys.keys(config) == config_keys.keys(default.get_config())
  assert config.is_locked
  with config.unlocked():
    config.data.root = "somewhere"
    config.language.descriptions = config.language.descriptions or "some.json"
  validation.validate(config, stages.STAGES)


@pytest.mark.parametrize("module", [cars, cub, sop])
def test_an_unknown_variant_is_refused_with_the_known_ones(module):
  with pytest.raises(ValueError, match="and hyp_vit"):
    module.get_config("huge")


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


@pytest.mark.parametrize(
  ("config", "pretrained", "starts"),
  [
    (synthetic.get_config(), "", ["scratch", "pretrained"]),
    (synthetic.get_config("pretrained"), "tiny_clip", ["pretrained"]),
    (synthetic.get_config(), "folder", ["self-supervised"]),
    (cars.get_config("scratch"), "", ["scratch"]),
    (cars.get_config("scratch"), "folder", ["pretrained"]),
  ],
)
def test_a_study_starts_from_what_the_config_has(config, pretrained, starts):
  config.model.pretrained = pretrained
  found = ablation.starts(config)
  assert [name for name, overrides in found.items() if not isinstance(overrides, str)] == starts


def test_hyp_vit_is_its_published_recipe():
  for module, m in ((cub, 9), (cars, 9), (sop, 2)):
    config = module.get_config("hyp_vit")
    assert (config.train.optimizer, config.train.learning_rate) == ("adamw", 3e-5)
    assert (config.train.clip_norm, config.data.crop_scale) == (3.0, (0.2, 1.0))
    assert config.data.images_per_class == m and config.loss.alignment == "none"
    # exp(-D / t) with D = 2 - 2 cos is exp(cos / 0.1) but for a constant factor.
    assert 2 / config.loss.temperature == pytest.approx(1 / 0.1)


def test_boxes_are_refused_where_a_data_set_has_none():
  config = synthetic.get_config("prototypes")
  config.data.box_crop = True
  with pytest.raises(UserError, match="box_crop=True: .* does not read it, only aircraft"):
    validation.validate(config, stages.STAGES)


@pytest.mark.parametrize("key", config_keys.keys(default.get_config()))
def test_every_key_is_commented_in_the_default(key):
  lines = DEFAULT.splitlines()
  at = next(i for i, line in enumerate(lines) if re.match(rf"\s+(config\.)?{key} =", line))
  # Sizes of a custom model share one comment above model.size.
  shared = key in ("model.width", "model.depth", "model.num_heads", "model.mlp_dim", "model.std")
  assert shared or lines[at - 1].lstrip().startswith("#")


@pytest.mark.parametrize("key", sorted(validation._RULES))
def test_every_rule_names_a_key_and_refuses_a_wrong_value(key):
  config = synthetic.get_config("prototypes")
  value = config_keys.get(config, key)
  wrong = {str: "{no such}", int: -1, float: float("nan"), tuple: ("x",), bool: None}[type(value)]
  if key == "data.split_seed":
    wrong = -2
  if key in ("language.encoder", "evaluate.source"):
    wrong = ""
  if validation._RULES[key] is validation._TEXT:
    wrong = None
  if validation._RULES[key] is validation._REGEX:
    wrong = "("
  section, name = ("", key) if "." not in key else key.split(".")
  with config.unlocked(), config.ignore_type():
    (config[section] if section else config)[name] = wrong
  with pytest.raises(UserError, match=re.escape(f"--config.{key}=")):
    validation.validate(config, stages.STAGES)


def test_every_key_has_a_rule():
  assert set(validation._RULES) == set(config_keys.keys(default.get_config()))


def test_a_config_without_a_section_is_one_line():
  config = synthetic.get_config("prototypes")
  with config.unlocked():
    del config["loss"]
  with pytest.raises(UserError, match="lacks loss"):
    validation.validate(config, stages.STAGES)


def test_paths_are_asked_for_only_by_the_stages_that_need_them():
  config = cars.get_config()
  with pytest.raises(UserError, match="data.root=FOLDER"):
    validation.validate(config, stages.STAGES)
  config.data.root = "somewhere"
  # Cars come with descriptions of the project's own.
  validation.validate(config, stages.STAGES)
  config.language.describer = "file"
  with pytest.raises(UserError, match="language.descriptions"):
    validation.validate(config, stages.STAGES)
  for describer in validation.LLM:
    config.language.describer = describer
    with pytest.raises(UserError, match="language.llm=MODEL"):
      validation.validate(config, stages.STAGES)
  validation.validate(config, ["train"])
  config.language.descriptions = "some.json"
  validation.validate(config, stages.STAGES)
  config.evaluate.source = "some.npz"
  config.data.root = ""
  validation.validate(config, ["evaluate"])


@pytest.mark.parametrize(
  ("key", "value"),
  [("api_key_env", "sk-secret"), ("base_url", "https://me:secret@host/v1"), ("base_url", "secret")],
)
def test_what_may_be_a_key_is_refused_and_not_printed(key, value):
  config = synthetic.get_config("prototypes")
  config.language[key] = value
  with pytest.raises(UserError, match=f"--config.language.{key}=") as raised:
    validation.validate(config, stages.STAGES)
  assert "secret" not in str(raised.value)


def test_widths_without_a_custom_size_are_refused():
  config = cars.get_config()
  config.data.root = config.language.descriptions = "somewhere"
  config.model.depth = 3
  with pytest.raises(UserError, match="model.size=custom"):
    validation.validate(config, stages.STAGES)


def test_flat_configs_come_back_nested():
  config = synthetic.get_config("prototypes")
  again = config_keys.nested(config_keys.flatten(config))
  assert again.to_dict() == config.to_dict()
