"""A tower that this package trained and exported, as the start of another training."""

import json
import shutil

import jax
import numpy as np
import pytest

from lafg_jax import export
from lafg_jax.models import embedder
from lafg_jax.models.weights import from_lafg_jax, resolve
from lafg_jax.tasks.class_retrieval import checks, train
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import UserError

# More columns than there are classes.
SELF_SUPERVISED = {"data__instances": True, "loss__alignment": "none", "model__conv_stem": True,
                   "data__classes_per_batch": 45, "data__images_per_class": 2}  # fmt: skip


@pytest.fixture(scope="module")
def self_supervised(config_with, dataset, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("self_supervised")
  config = config_with(train__steps=1, **SELF_SUPERVISED)
  checks.batch(config)
  assert len(dataset.class_names) < 45
  train.run(config, str(workdir), dataset, None)
  return workdir


@pytest.fixture(scope="module")
def exported(self_supervised, tmp_path_factory):
  out = tmp_path_factory.mktemp("exported")
  export.export(str(self_supervised), str(out), ["safetensors"])
  assert "on the images, without labels, of 40 classes" in (out / "README.md").read_text()
  return out


@pytest.fixture
def copied(exported, tmp_path):
  return shutil.copytree(exported, tmp_path / "copied")


AUTO = {
  "model__size": "auto",
  "model__width": 768,
  "model__depth": 12,
  "model__num_heads": 12,
  "model__mlp_dim": 3072,
  "model__patch_size": 0,
  "model__pool": "auto",
  "model__options": "auto",
  "model__conv_stem": False,
  "model__mean": (),
  "model__std": (),
}


@pytest.mark.parametrize(
  "changes", [AUTO, {"model__conv_stem": True}], ids=["auto", "as it was trained"]
)
def test_it_brings_its_architecture_and_its_weights_to_the_bit(
  exported, self_supervised, config_with, changes
):
  config = resolve.resolve(config_with(model__pretrained=str(exported), **changes))
  before = config_with(model__conv_stem=True).model
  names = ("width", "depth", "num_heads", "mlp_dim", "patch_size", "pool", "conv_stem", "mean")
  assert {k: config.model[k] for k in names} == {k: before[k] for k in names}
  assert config.model.conv_stem
  _, params = embedder.init_model(config)
  arrays, _ = checkpoints.require(str(self_supervised))
  trained = checkpoints.subtree(arrays, "state/params/backbone")
  jax.tree.map(np.testing.assert_array_equal, params["backbone"], trained)
  assert jax.tree.structure(params["backbone"]) == jax.tree.structure(trained)
  # The head is new.
  head = checkpoints.subtree(arrays, "state/params/embedding")
  assert (np.asarray(params["embedding"]["kernel"]) != head["kernel"]).any()


def test_images_of_another_size_get_positions_of_another_grid(exported, config_with):
  sides = {"data__image_size": 64, "data__resize_size": 64}
  config = resolve.resolve(config_with(model__pretrained=str(exported), **sides))
  _, params = embedder.init_model(config)
  assert params["backbone"]["position_embedding"].shape[1] == (64 // config.model.patch_size) ** 2


def test_a_resnet_of_ours_keeps_its_pooling_mean_and_std():
  found = from_lafg_jax.settings(
    {"size": "resnet50", "pool": "gem", "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
  )
  assert (found.size, found.pool, found.mean) == ("resnet50", "gem", (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"model__size": "custom", "model__depth": 3}, "have depth .*, not 3"),
    ({"model__patch_size": 16}, "patch_size=16: .*patches of"),
    ({"model__pool": "map"}, "pool=map: .*no head that pools"),
  ],
)
def test_a_config_that_it_does_not_fit_is_one_line(exported, config_with, changes, says):
  with pytest.raises(UserError, match=says):
    resolve.resolve(config_with(model__pretrained=str(exported), **changes))


def test_a_stem_over_weights_that_have_none_is_one_line(config_with):
  source = {"model__pretrained": "tiny_clip", "data__image_size": 48, "data__resize_size": 48}
  config = config_with(**AUTO | source | {"model__conv_stem": True})
  with pytest.raises(UserError, match="conv_stem=True: the weights .*a patch embedding; .*False"):
    resolve.resolve(config)


@pytest.mark.parametrize("what", [{"config": 3}, {"config": {"model.width": 8}}, {"config": {}}])
def test_a_damaged_description_is_one_line(copied, config_with, what):
  path = copied / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | what))
  with pytest.raises(UserError, match="describes no lafg_jax"):
    resolve.resolve(config_with(model__pretrained=str(copied)))


def test_weights_of_another_tower_are_one_line(copied, config_with):
  path = copied / "config.json"
  found = json.loads(path.read_text())
  found["config"]["model.depth"] += 1
  path.write_text(json.dumps(found))
  config = resolve.resolve(config_with(**AUTO | {"model__pretrained": str(copied)}))
  with pytest.raises(UserError, match="does not fit the model, .*missing block_"):
    embedder.init_model(config)
