"""loss.projector_init=pretrained: the space that images and words of one model share."""

import numpy as np
import pytest

from lafg_jax.models import embedder
from lafg_jax.models.weights import load, resolve
from lafg_jax.tasks.class_retrieval import default, objective, projectors
from lafg_jax.utils.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def config_on(config_with):
  """`config_on(source, **changes)`: the resolved config that starts from a model's image tower."""

  def make(source, **changes):
    config = config_with()
    config.update_from_flattened_dict(default.TINY_CLIP)
    config.update_from_flattened_dict({"data.image_size": 32, "data.resize_size": 32})
    config.model.pretrained = str(source)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    default.validate(config, ["describe", "train"])
    return resolve.resolve(config)

  return make


def test_embeddings_through_p_v_are_clips_own_image_features(tmp_path, save_model, config_on):
  import torch
  from transformers import CLIPModel

  save_model("clip", tmp_path)
  model = CLIPModel.from_pretrained(tmp_path).eval()
  config = config_on(tmp_path, loss__projector_width=512)
  network, params = embedder.build(config.model), objective.init_params(config, 4, 512)
  v = network.apply({"params": params}, PIXELS)
  normalised = (PIXELS / 255.0 - np.array(config.model.mean)) / np.array(config.model.std)
  with torch.no_grad():
    pixels = torch.from_numpy(normalised.transpose(0, 3, 1, 2).astype(np.float32))
    wanted = model.get_image_features(pixels)
  wanted = getattr(wanted, "pooler_output", wanted).numpy()
  got = v @ params["projectors"]["image"]
  assert np.abs(wanted).std() > 0.1
  np.testing.assert_allclose(got, wanted, atol=2e-4 * np.abs(wanted).max())
  np.testing.assert_array_equal(params["projectors"]["text"], np.eye(512))


def test_the_shipped_tower_reads_finches_as_the_shipped_encoder_does(config_on, dataset):
  from lafg_jax.language.encoders import images as image_features

  size = {"data__image_size": 48, "data__resize_size": 48}
  config = config_on("tiny_clip", **size)
  network, params = embedder.build(config.model), objective.init_params(config, 4, 64)
  images = np.asarray(dataset.images[:5])
  seen = network.apply({"params": params}, images) @ params["projectors"]["image"]
  seen /= np.linalg.norm(seen, axis=1, keepdims=True)
  wanted = image_features.encode_images(images, "tiny_clip", 8)
  np.testing.assert_allclose(seen, wanted, atol=1e-4)


def test_controls_without_words_start_in_the_same_space(config_on):
  sizes = {"data__image_size": 48, "data__resize_size": 48}
  words = objective.init_params(config_on("tiny_clip", **sizes), 4, 64)
  config = config_on("tiny_clip", loss__alignment="onehot", **sizes)
  params = objective.init_params(config, 4, None)
  assert params["projectors"].keys() == {"image"}
  np.testing.assert_array_equal(params["projectors"]["image"], words["projectors"]["image"])
  assert params["class_vectors"].shape == (4, 64)


def test_siglips_towers_meet_without_a_projection(tmp_path, save_model):
  save_model("siglip", tmp_path)
  np.testing.assert_array_equal(load.image_projection(str(tmp_path), 32), np.eye(32))


def test_what_cannot_be_is_one_line(tmp_path, save_model, config_on):
  save_model("vit", tmp_path)
  with pytest.raises(UserError, match=r"projector_init=pretrained.*has none; pass random"):
    load.image_projection(str(tmp_path), 32)
  with pytest.raises(UserError, match="pass --config.loss.projector_width=64"):
    projectors.pretrained_projectors("tiny_clip", 96, 64, 128)
  with pytest.raises(UserError, match=r"prototypes have 384 numbers.*check language.encoder"):
    projectors.pretrained_projectors("tiny_clip", 96, 384, 64)
  with pytest.raises(UserError, match="model.embedding_dim=0"):
    config_on("tiny_clip", model__embedding_dim=16)
  with pytest.raises(UserError, match="model.embedding_dim=0"):
    config_on("", model__size="tiny")
  size = {"data__image_size": 48, "data__resize_size": 48, "loss__projector_width": 63}
  with pytest.raises(UserError, match="pass --config.loss.projector_width=64"):
    objective.check_paths(config_on("tiny_clip", **size))


@pytest.mark.parametrize(
  "changes",
  [
    {"loss__alignment": "vocabulary"},
    {"loss__projector_init": "pretrained", "model__pretrained": "tiny_clip"},
  ],
)
def test_profiles_meet_no_features_of_texts(config_with, changes):
  config = config_with(language__prototype="profile", **changes)
  config.model.embedding_dim = 0
  key = [name for name in changes if name.startswith("loss")][0].replace("__", ".")
  with pytest.raises(UserError, match=f"--config.{key}=.*language.prototype=attention"):
    default.check_profile(config)
  # Unread, it stands in nobody's way.
  control = {"loss__alignment": "orthogonal", "loss__projector_init": "pretrained"}
  default.check_profile(config_with(language__prototype="profile", **control))
