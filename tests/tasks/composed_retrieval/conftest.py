"""A small CLIP with random weights in transformers and in Flax, and parts of a few images."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest

from lafg_jax.data.composed import Composed, Query


class SmallClip(NamedTuple):
  """The same CLIP in PyTorch and in Flax, and its tokenizer here and there."""

  torch: Any
  clip: Any
  params: Any
  reader: Any
  tokenizer: Any
  folder: str


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory, two_block_clip):
  import transformers

  from lafg_jax.language.encoders import tokens
  from lafg_jax.models import clip as clips

  folder = tmp_path_factory.mktemp("small_clip")
  # Byte-level BPE: single signs, and words of the tests as merges of two pieces.
  signs = [chr(x) for x in range(33, 127)]
  vocab = {x: i for i, x in enumerate([*signs, *(f"{x}</w>" for x in signs)])}
  merges = []
  for word in "a photo of that is red and has no wings very dog beside costs not".split():
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while len(pieces) > 1:
      merges.append((pieces[0], pieces[1]))
      pieces = [pieces[0] + pieces[1], *pieces[2:]]
      vocab.setdefault(pieces[0], len(vocab))
  merges = list(dict.fromkeys(merges))
  start, end = len(vocab), len(vocab) + 1
  vocab |= {"<|startoftext|>": start, "<|endoftext|>": end}
  (folder / "vocab.json").write_text(json.dumps(vocab))
  lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
  (folder / "merges.txt").write_text("\n".join(lines))
  tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
  text = {"vocab_size": len(vocab), "max_position_embeddings": 40}
  model = two_block_clip(text | {"eos_token_id": end, "bos_token_id": start, "pad_token_id": end})
  model.save_pretrained(folder)
  tokenizer.save_pretrained(folder)
  return SmallClip(model, *clips.load(str(folder)), tokens.load(folder), tokenizer, str(folder))


@pytest.fixture
def part_of():
  """part_of(queries, number of images, ...): a Composed whose images are '0', '1', ..."""

  def make(queries, number, protocol="targets", drop=True, name="x", outside=0, **changes):
    made = Composed(
      name=name,
      split="val",
      queries=tuple(queries),
      ids=tuple(str(k) for k in range(number + outside)),
      images=None,
      gallery=np.arange(number, dtype=np.int32),
      about="all",
      drop_reference=drop,
      protocol=protocol,
      content="",
    )
    return made._replace(**changes)

  return make


@pytest.fixture
def query():
  """query(id, reference, targets): numbers in place of names."""

  def make(name, reference, targets=(), members=(), kinds=()):
    return Query(
      str(name),
      str(reference),
      "red",
      tuple(map(str, targets)),
      tuple(map(str, members)),
      tuple(kinds),
    )

  return make
