"""The encode stage: text features that never change, computed once for a data set and a CLIP.

`<workdir>/caption_features.npz` has, by CLIP's own text tower and without prompts:

  features [n, d] float16, of all strings of the training set: its captions, and the wrong captions
    with the name of a near class (`negatives.Table`).
  near [C, m] int32, the classes with the nearest names.
  token_ids [t] int32 and token_features [t, d] float16, of each token in a caption by itself.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data.captions import Captioned
from lafg_jax.language.encoders import clip_texts
from lafg_jax.tasks.image_text_retrieval import methods, negatives
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import read_npz, write_npz

FILE = "caption_features.npz"
_NAMES = ("features", "near", "token_ids", "token_features")


class Stored(NamedTuple):
  """What `FILE` holds, and the table of strings that `features` are of."""

  table: negatives.Table
  features: np.ndarray
  token_ids: np.ndarray
  token_features: np.ndarray


def run(config: ConfigDict, workdir: str, captioned: Captioned, clip: Any, params: Any) -> None:
  """Writes `FILE`; `clip` and `params` are CLIP's own."""
  reader, dim = clip_texts.tokenizer(clip), (0, clip.dim)
  near = np.zeros((max(1, len(captioned.class_names)), 0), np.int32)
  features = token_features = np.zeros(dim, np.float16)
  ids = np.zeros(0, np.int32)
  if methods.has_categories(config):
    if config.captions.negatives in ("views", "category") and len(captioned.class_names) > 1:
      of_names = clip_texts.plain_features(clip, params, reader, captioned.class_names)
      near = negatives.nearest(of_names, config.captions.nearest_classes)
    strings = table(config, captioned, near).strings
    features = clip_texts.plain_features(clip, params, reader, strings).astype(np.float16)
  if methods.reads_tokens(config):
    pieces = reader.pieces(list(dict.fromkeys(captioned.captions)))
    ids = np.unique(np.concatenate([np.asarray(x, np.int32) for x in pieces]))
    token_features = clip_texts.token_features(clip, params, reader, ids.tolist()).astype(
      np.float16
    )
  arrays = (features, near, ids, token_features)
  write_npz(Path(workdir, FILE), **dict(zip(_NAMES, arrays, strict=True)))


def table(
  config: ConfigDict, captioned: Captioned, near: np.ndarray | None = None
) -> negatives.Table:
  """All strings of a training set, and which are wrong captions of which row."""
  return negatives.build(captioned, near, given=config.captions.negatives == "given")


def load(config: ConfigDict, workdir: str, captioned: Captioned) -> Stored:
  """What `run` wrote; empty arrays where the config reads nothing of it.

  Raises UserError where it is missing, damaged or of other captions.
  """
  if not methods.reads_stored(config):
    nothing = np.zeros((0, 1), np.float16)
    return Stored(table(config, captioned), nothing, np.zeros(0, np.int32), nothing)
  path = Path(workdir, FILE)
  found = read_npz(path, _NAMES, stage="encode")
  features, near, ids, of_tokens = (found[name] for name in _NAMES)
  strings = table(config, captioned, near)
  if methods.has_categories(config) and len(features) != len(strings.strings):
    raise UserError(f"{path} is of other captions: run --stage=encode again")
  return Stored(strings, features, ids, of_tokens)


def constants(config: ConfigDict, stored: Stored, vocabulary: int) -> dict[str, np.ndarray]:
  """What of it the objective holds on the devices (`objective.build`)."""
  found = {}
  if methods.has_categories(config):
    found["features"] = stored.features
  if methods.reads_tokens(config):
    # Of tokens in no caption, such as special ones: their weights are 1 anyway.
    rows = np.zeros(vocabulary, np.int32)
    rows[stored.token_ids] = np.arange(len(stored.token_ids), dtype=np.int32)
    found |= {"token_features": stored.token_features, "token_rows": rows}
  return found
