"""Shipped configs: valid as they are, and nothing undocumented in the default."""

import re
from pathlib import Path

import pytest

from configs import cars, default, synthetic
from lafg_jax import config as config_keys
from lafg_jax import main, validation
from lafg_jax.errors import UserError

DEFAULT = Path(default.__file__).read_text()


@pytest.mark.parametrize(
  "config", [synthetic.get_config(), cars.get_config(), cars.get_config("scratch")]
)
def test_shipped_configs_are_valid_and_have_the_default_keys(config):
  assert config_keys.keys(config) == config_keys.keys(default.get_config())
  assert config.is_locked
  with config.unlocked():
    config.data.root = "somewhere"
    config.language.descriptions = config.language.descriptions or "some.json"
  validation.validate(config, main.STAGES)


def test_cars_refuses_an_unknown_variant():
  with pytest.raises(ValueError, match="pretrained and scratch"):
    cars.get_config("huge")


@pytest.mark.parametrize("key", config_keys.keys(default.get_config()))
def test_every_key_is_commented_in_the_default(key):
  lines = DEFAULT.splitlines()
  at = next(i for i, line in enumerate(lines) if re.match(rf"\s+(config\.)?{key} =", line))
  # Sizes of a custom model share one comment above model.size.
  shared = key in ("model.width", "model.depth", "model.num_heads", "model.mlp_dim", "model.std")
  assert shared or lines[at - 1].lstrip().startswith("#")


@pytest.mark.parametrize("key", sorted(validation._RULES))
def test_every_rule_names_a_key_and_refuses_a_wrong_value(key):
  config = synthetic.get_config()
  value = config_keys.get(config, key)
  wrong = {str: "{no such}", int: -1, float: float("nan"), tuple: ("x",), bool: None}[type(value)]
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
    validation.validate(config, main.STAGES)


def test_every_key_has_a_rule():
  assert set(validation._RULES) == set(config_keys.keys(default.get_config()))


def test_a_config_without_a_section_is_one_line():
  config = synthetic.get_config()
  with config.unlocked():
    del config["loss"]
  with pytest.raises(UserError, match="lacks loss"):
    validation.validate(config, main.STAGES)


def test_paths_are_asked_for_only_by_the_stages_that_need_them():
  config = cars.get_config()
  with pytest.raises(UserError, match="data.root=FOLDER"):
    validation.validate(config, main.STAGES)
  config.data.root = "somewhere"
  # Cars come with descriptions of the project's own.
  validation.validate(config, main.STAGES)
  config.language.describer = "file"
  with pytest.raises(UserError, match="language.descriptions"):
    validation.validate(config, main.STAGES)
  for describer in validation.LLM:
    config.language.describer = describer
    with pytest.raises(UserError, match="language.llm=MODEL"):
      validation.validate(config, main.STAGES)
  validation.validate(config, ["train"])
  config.language.descriptions = "some.json"
  validation.validate(config, main.STAGES)
  config.evaluate.source = "some.npz"
  config.data.root = ""
  validation.validate(config, ["evaluate"])


@pytest.mark.parametrize(
  ("key", "value"),
  [("api_key_env", "sk-secret"), ("base_url", "https://me:secret@host/v1"), ("base_url", "secret")],
)
def test_what_may_be_a_key_is_refused_and_not_printed(key, value):
  config = synthetic.get_config()
  config.language[key] = value
  with pytest.raises(UserError, match=f"--config.language.{key}=") as raised:
    validation.validate(config, main.STAGES)
  assert "secret" not in str(raised.value)


def test_widths_without_a_custom_size_are_refused():
  config = cars.get_config()
  config.data.root = config.language.descriptions = "somewhere"
  config.model.depth = 3
  with pytest.raises(UserError, match="model.size=custom"):
    validation.validate(config, main.STAGES)


def test_flat_configs_come_back_nested():
  config = synthetic.get_config()
  again = config_keys.nested(config_keys.flatten(config))
  assert again.to_dict() == config.to_dict()
