"""The study's own variants: where a config starts from."""

import pytest

from configs import cars, synthetic
from lafg_jax.tasks.class_retrieval import variants


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
  found = variants.starts(config)
  assert [name for name, overrides in found.items() if not isinstance(overrides, str)] == starts
