"""Rules between the keys of class retrieval, and paths that a config lacks: one line each."""

import pytest

from configs import cars, synthetic
from lafg_jax.config.table.language import LLM
from lafg_jax.tasks.class_retrieval import default, stages
from lafg_jax.utils.errors import UserError


def test_paths_are_asked_for_only_by_the_stages_that_need_them():
  config = cars.get_config()
  with pytest.raises(UserError, match="data.root=FOLDER"):
    default.validate(config, stages.STAGES)
  config.data.root = "somewhere"
  # Cars come with descriptions of the project's own.
  default.validate(config, stages.STAGES)
  config.language.describer = "file"
  with pytest.raises(UserError, match="language.descriptions"):
    default.validate(config, stages.STAGES)
  for describer in LLM:
    config.language.describer = describer
    with pytest.raises(UserError, match="language.llm=MODEL"):
      default.validate(config, stages.STAGES)
  default.validate(config, ["train"])
  config.language.descriptions = "some.json"
  default.validate(config, stages.STAGES)
  config.evaluate.source = "some.npz"
  config.data.root = ""
  default.validate(config, ["evaluate"])


def test_widths_without_a_custom_size_are_refused():
  config = cars.get_config()
  config.data.root = config.language.descriptions = "somewhere"
  config.model.depth = 3
  with pytest.raises(UserError, match="model.size=custom"):
    default.validate(config, stages.STAGES)


def test_teacher_features_are_shuffled_only_where_they_are_read():
  config = synthetic.get_config("prototypes")
  for value in ("", "all", "prototypes"):
    config.language.shuffle = value
    default.validate(config, stages.STAGES)
  config.language.shuffle = "teacher"
  with pytest.raises(UserError, match="shuffle=teacher: .*--config.loss.image_alignment"):
    default.validate(config, stages.STAGES)
  config.loss.image_alignment = "vocabulary"
  default.validate(config, stages.STAGES)
