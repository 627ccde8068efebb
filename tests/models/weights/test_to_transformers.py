"""Whole CLIPs written as transformers keeps them, against the models that they were read from."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lafg_jax.models import clip as clips
from lafg_jax.models import clip_record
from lafg_jax.models.weights import to_transformers

SPECIAL = {"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}
IDS = np.array([[1, 9, 30, 6, 3, *[0] * 7], [1, 5, 3, *[0] * 9]])


def written(clip, params, folder):
  save_file(to_transformers.tensors(clip, params), folder / "model.safetensors", {"format": "pt"})
  (folder / "config.json").write_text(json.dumps(to_transformers.config(clip, SPECIAL)))
  return folder


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
  ("name", "side"), [("clip", 0), ("clip_gelu", 48), ("siglip", 0), ("siglip2", 0)]
)
def test_transformers_computes_the_same_from_what_is_written(loaded, whole, name, side, tmp_path):
  import torch
  import transformers

  clip, params = loaded(name, side)
  folder = written(clip, params, tmp_path)
  if not side and name != "siglip2":
    theirs = load_file(whole(name)[1] / "model.safetensors")
    ours = load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor, x in theirs.items():
      np.testing.assert_array_equal(ours[tensor], x)
  model = getattr(transformers, "CLIPModel" if "clip" in name else "SiglipModel")
  model, loading = model.from_pretrained(folder, output_loading_info=True)
  assert not loading["missing_keys"] and not loading["unexpected_keys"]
  shape = (2, clip.image_size, clip.image_size, 3)
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  pixels = (images / 255 - np.asarray(clip.mean)) / np.asarray(clip.std)
  with torch.no_grad():
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
    of_images = unit(model.get_image_features(pixel_values=x).pooler_output.numpy())
    of_texts = unit(model.get_text_features(input_ids=torch.from_numpy(IDS)).pooler_output.numpy())
  np.testing.assert_allclose(clips.embed_images(clip, params, images), of_images, atol=1e-5)
  tokens, ends = clips.token_embeddings(clip, params, IDS), np.array([4, 2])
  np.testing.assert_allclose(clips.embed_texts(clip, params, tokens, ends), of_texts, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_a_record_builds_the_same_clip(loaded, name):
  clip = loaded(name)[0]
  record = json.loads(json.dumps(clip_record.of(clip)))
  found = clip_record.build(record)
  assert found._replace(tokens=clip.tokens) == clip
  assert found.tokens.context == clip.tokens.context == 12


def test_what_transformers_lacks_is_told(loaded):
  clip = loaded("clip")[0]
  options = clip.image.options._replace(layer_scale=True)
  assert to_transformers.kind(clip) == "clip"
  assert not to_transformers.kind(clip._replace(image=clip.image.clone(options=options)))
  assert not to_transformers.kind(clip._replace(text=clip.text.clone(causal=False)))
