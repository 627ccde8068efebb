"""Weights of words in evaluation, beside the headline, whose captions have a = 1.

How the paper's method reads captions at test is open: a caption's weights depend on an image, and
with those of its own image it would have seen its answer. Two ways that do not (both ours):

- `mean`: a token weighs what it weighed on average in training, whatever image is asked for.
- `rerank`: the `TOP` nearest by a = 1 are ranked anew, each pair of query and candidate with the
  weights of its own image; a wrong candidate gets weights as the right one does.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data import captions
from lafg_jax.data.captions import Captioned
from lafg_jax.evaluate import knn
from lafg_jax.language.encoders import clip_texts
from lafg_jax.runtime import devices
from lafg_jax.tasks.image_text_retrieval import embed, features, recalls, reweighting, texts
from lafg_jax.tasks.image_text_retrieval.recalls import Embedded
from lafg_jax.utils.progress import Progress

# Candidates of a query that are ranked anew.
TOP = 50
_BLOCK = 256
_SAMPLE = 2048
_PROTOCOL = "merged"


def measured(
  config: ConfigDict,
  model: Any,
  params: Any,
  train: Captioned | None,
  captioned: Captioned,
  embedded: Embedded,
) -> dict[str, dict[str, float]]:
  """{direction: {'recall@<k>'}} under `merged`, by reweighting.at_test; `train` for 'mean'."""
  ks = tuple(config.evaluate.ks)
  if config.reweighting.at_test == "mean":
    assert train is not None
    table = mean_weights(config, model, params, train)
    found = _with_table(config, model, params, captioned.captions, table)
    measured = recalls.measure(embedded._replace(texts=found), ks, (_PROTOCOL,))
    return {
      way: {name: float(x.mean()) for name, x in of[_PROTOCOL].items()}
      for way, of in measured.items()
    }
  return reranked(config, model, params, captioned, embedded, ks)


def mean_weights(config: ConfigDict, model: Any, params: Any, train: Captioned) -> np.ndarray:
  """[vocabulary] float32: the mean a of each token in training captions, by their own images.

  At most `_SAMPLE` captions are read, evenly spaced; a token that is in none of them has 1.
  """
  rows, images = embed.sampled(config, model, params, train, _SAMPLE)
  reader = texts.with_room(config, model.reader)
  words = texts.tokenised(reader, [train.captions[row] for row in rows])
  constants = texts.of_tokens(config, model, words.ids)
  w = embed.weights(config, model, params, words, images, constants)
  options = config.reweighting
  a = np.asarray(reweighting.scaled(w, words.words, options.gamma, options.raw))
  content, size = words.words >= 0, model.clip.text.vocabulary
  ids = words.ids[content]
  count = np.bincount(ids, minlength=size)
  total = np.bincount(ids, a[content], size)
  return np.where(count > 0, total / np.maximum(count, 1), 1.0).astype(np.float32)


def _with_table(
  config: ConfigDict, model: Any, params: Any, said: Sequence[str], table: np.ndarray
) -> np.ndarray:
  """[n, d] of captions whose tokens weigh what the table says."""
  reader = texts.with_room(config, model.reader)
  spread = devices.spreading(functools.partial(_of_rows, config, model.clip))
  ids = reader.ids(said)
  return clip_texts.encoded(
    spread({"model": params, "table": table}), reader, ids, "embed captions"
  )


def _of_rows(config: ConfigDict, clip: Any, given: Any, rows: jax.Array) -> jax.Array:
  ids, ends = rows[:, :-1], rows[:, -1]
  return features.of_texts(config, clip, given["model"], ids, ends, given["table"][ids])


def reranked(
  config: ConfigDict,
  model: Any,
  params: Any,
  captioned: Captioned,
  embedded: Embedded,
  ks: Sequence[int],
) -> dict[str, dict[str, float]]:
  """Recall under `merged` where the `TOP` nearest of each query are ranked anew.

  A query whose match is not among them misses. Ties stand before the match.
  """
  strings, distinct = captions.equal_captions(captioned.captions)
  items = embedded.texts[np.unique(strings, return_index=True)[1]]
  owners = np.zeros((len(embedded.images), len(items)), bool)
  owners[embedded.owner, strings] = True
  reader = texts.with_room(config, model.reader)
  words = texts.tokenised(reader, distinct)
  score = _scorer(config, model, params, words)
  found = {}
  for way, queries, gallery in (
    ("image_to_text", embedded.images, items),
    ("text_to_image", items, embedded.images),
  ):
    near = knn.search(queries, gallery, min(TOP, len(gallery)))[1]
    query = np.repeat(np.arange(len(queries)), near.shape[1])
    image, text = (query, near.ravel()) if way == "image_to_text" else (near.ravel(), query)
    scores = score(embedded.images, image, text).reshape(near.shape)
    right = owners[image, text].reshape(near.shape)
    best = np.where(right, scores, -np.inf).max(axis=1)
    before = ((scores >= best[:, None]) & ~right).sum(axis=1)
    hits = {f"recall@{k}": right.any(axis=1) & (before < k) for k in ks}
    found[way] = {name: float(x.mean()) for name, x in hits.items()}
  return found


def _scorer(config: ConfigDict, model: Any, params: Any, words: texts.Tokens) -> Any:
  """`score(images [n, d], image [P], text [P]) -> [P]` cosines, weighed by each pair's image."""
  options = config.reweighting
  constants = texts.of_tokens(config, model, words.ids)
  white = reweighting.blank_image(options.blank, config.data.image_size)
  blank = embed.image_function(config, model)(params)(white)[0]

  @jax.jit
  def pairs(params, ids, ends, numbers, images, blank, constants):
    w = features.changes(config, model.clip, params, ids, ends, numbers, images, blank, constants)
    a = reweighting.scaled(w, numbers, options.gamma, options.raw)
    found = features.of_texts(config, model.clip, params, ids, ends, a)
    return jnp.einsum("bd,bd->b", found, images)

  def score(images: np.ndarray, image: np.ndarray, text: np.ndarray) -> np.ndarray:
    found = []
    with Progress("weigh pairs", len(image), "pairs") as progress:
      for first in range(0, len(image), _BLOCK):
        rows = np.arange(first, first + _BLOCK).clip(max=len(image) - 1)
        of_text = (x[text[rows]] for x in words)
        scores = pairs(params, *of_text, images[image[rows]], blank, constants)
        found.append(np.asarray(scores)[: len(image) - first])
        progress.add(len(found[-1]))
    return np.concatenate(found)

  return score
