"""A CLIP of transformers with random weights, of two blocks a tower, and the same one in Flax."""

from typing import NamedTuple

import numpy as np
import pytest

K, L, VOCABULARY, END = 3, 9, 40, 39


class Both(NamedTuple):
  """The same CLIP in PyTorch and in Flax."""

  torch: object
  clip: object
  params: dict


@pytest.fixture(scope="session")
def both(tmp_path_factory, two_block_clip):
  from lafg_jax.models import clip as clips

  text = {"vocab_size": VOCABULARY, "max_position_embeddings": L + K}
  model = two_block_clip(text | {"eos_token_id": END, "bos_token_id": 1, "pad_token_id": 0})
  folder = tmp_path_factory.mktemp("clip")
  model.save_pretrained(folder)
  return Both(model, *clips.load(str(folder)))


@pytest.fixture(scope="session")
def make_config():
  """`make_config(method, key__name=value)`: a resolved config for that CLIP."""
  from lafg_jax.tasks.image_text_retrieval import default, methods

  def make(method="dcar", **changes):
    config = default.get_config()
    config.data.update(image_size=16, resize_size=16)
    config.prompts.method = method
    config.captions.batch_size = 8
    if method not in ("zero_shot", "clip_adapter", "finetune", "finetune_distill"):
      config.prompts.number = K
    for key, value in changes.items():
      config.update_from_flattened_dict({key.replace("__", "."): value})
    return methods.resolve(config)

  return make


@pytest.fixture(scope="session")
def captioned_rows():
  """ids [8, L], ends [8], words [8, L] and images [8, 16, 16, 3] of captions of several lengths."""
  rng = np.random.default_rng(0)
  ids, ends = np.zeros((8, L), np.int32), np.array([L - 1, 3, 5, 2, L - 1, 4, 6, 7], np.int32)
  words = np.full((8, L), -1, np.int32)
  for row, end in enumerate(ends):
    ids[row, : end + 1] = [1, *rng.integers(2, END, end - 1), END]
    words[row, 1:end] = np.arange(end - 1) // 2
  images = rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
  return ids, ends, words, images
