"""Shipped configs: valid as they are, and nothing undocumented in the default."""

import re
from pathlib import Path

import pytest

from configs import cars, default, synthetic
from lafg_jax import command_line, validation
from lafg_jax.errors import UserError

DEFAULT = Path(default.__file__).read_text()


@pytest.mark.parametrize(
  "config", [synthetic.get_config(), cars.get_config(), cars.get_config("scratch")]
)
def test_shipped_configs_are_valid_and_have_the_default_keys(config):
  assert command_line.keys(config) == command_line.keys(default.get_config())
  assert config.is_locked
  with config.unlocked():
    config.data.root = "somewhere"
    config.language.descriptions = config.language.descriptions or "some.json"
  validation.validate(config)


def test_cars_refuses_an_unknown_variant():
  with pytest.raises(ValueError, match="pretrained and scratch"):
    cars.get_config("huge")


@pytest.mark.parametrize("key", command_line.keys(default.get_config()))
def test_every_key_is_commented_in_the_default(key):
  lines = DEFAULT.splitlines()
  at = next(i for i, line in enumerate(lines) if re.match(rf"\s+(config\.)?{key} =", line))
  # Sizes of a custom model share one comment above model.size.
  shared = key in ("model.width", "model.depth", "model.num_heads", "model.mlp_dim", "model.std")
  assert shared or lines[at - 1].lstrip().startswith("#")


@pytest.mark.parametrize("key", sorted(validation._RULES))
def test_every_rule_names_a_key_and_refuses_a_wrong_value(key):
  config = synthetic.get_config()
  value = command_line.get(config, key)
  wrong = {str: "{no such}", int: -1, float: float("nan"), tuple: ("x",)}[type(value)]
  if key in ("language.encoder", "evaluate.source"):
    wrong = ""
  config.update_from_flattened_dict({key: wrong})
  with pytest.raises(UserError, match=re.escape(f"--config.{key}=")):
    validation.validate(config)
