"""Each key alone: a wrong value is one line that names it, and says what it takes."""

import re

import pytest

from configs import synthetic
from lafg_jax.config import keys, record, validation
from lafg_jax.config.table import ROWS
from lafg_jax.tasks.class_retrieval import default, stages
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError


@pytest.mark.parametrize("key", sorted(ROWS))
def test_every_rule_names_a_key_and_refuses_a_wrong_value(key):
  section, name = ("", key) if "." not in key else key.split(".")
  ours = (section or name) in default.SECTIONS
  config = synthetic.get_config("prototypes") if ours else keys.defaults([section])
  value = config_keys.get(config, key)
  wrong = {str: "{no such}", int: -1, float: float("nan"), tuple: ("x",), bool: None}[type(value)]
  if key in ("data.split_seed", "data.last_train_label", "model.embedding_dim"):
    wrong = -2
  if key in ("composed.columns", "composed.agree", "evaluate.compare"):
    wrong = ("",)
  if ROWS[key].rule is record.NAMED or key in ("language.encoder", "evaluate.source"):
    wrong = ""
  if ROWS[key].rule is record.TEXT:
    wrong = 0
  if ROWS[key].rule is record.REGEX:
    wrong = "("
  with config.unlocked(), config.ignore_type():
    (config[section] if section else config)[name] = wrong
  with pytest.raises(UserError, match=re.escape(f"--config.{key}=")):
    if ours:
      default.validate(config, stages.STAGES)
    validation.validate_values(config, [section])


def test_a_config_without_a_section_is_one_line():
  config = synthetic.get_config("prototypes")
  with config.unlocked():
    del config["loss"]
  with pytest.raises(UserError, match="lacks loss"):
    default.validate(config, stages.STAGES)


@pytest.mark.parametrize(
  ("key", "value"),
  [("api_key_env", "sk-secret"), ("base_url", "https://me:secret@host/v1"), ("base_url", "secret")],
)
def test_what_may_be_a_key_is_refused_and_not_printed(key, value):
  config = synthetic.get_config("prototypes")
  config.language[key] = value
  with pytest.raises(UserError, match=f"--config.language.{key}=") as raised:
    default.validate(config, stages.STAGES)
  assert "secret" not in str(raised.value)


def test_boxes_are_refused_where_a_data_set_has_none():
  config = synthetic.get_config("prototypes")
  config.data.box_crop = True
  with pytest.raises(UserError, match="box_crop=True: .* does not read it, only aircraft"):
    default.validate(config, stages.STAGES)
