"""Shipped configs: valid as they are, with the keys of the default."""

import pytest

from configs import aircraft, cars, cub, inshop, sop, synthetic
from lafg_jax.tasks.class_retrieval import default, stages
from lafg_jax.utils import config_keys


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
  default.validate(config, stages.STAGES)


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


def test_hyp_vit_is_its_published_recipe():
  for module, m in ((cub, 9), (cars, 9), (sop, 2)):
    config = module.get_config("hyp_vit")
    assert (config.train.optimizer, config.train.learning_rate) == ("adamw", 3e-5)
    assert (config.train.clip_norm, config.data.crop_scale) == (3.0, (0.2, 1.0))
    assert config.data.images_per_class == m and config.loss.alignment == "none"
    # exp(-D / t) with D = 2 - 2 cos is exp(cos / 0.1) but for a constant factor.
    assert 2 / config.loss.temperature == pytest.approx(1 / 0.1)
