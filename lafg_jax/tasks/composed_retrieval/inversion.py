"""Textual inversion of images: the pseudo word that, in a sentence, is nearest to the image.

SEARLE's OTI (Baldrati et al., ICCV 2023). Of each image with feature x = f_v(image), for S steps of
AdamW, with one of 24 templates and one phrase about a concept of the image drawn anew in each:

  L = (L_cos + 0.5 L_gpt) / 1.5
  L_cos = 1 - cos(f_t(template with v), x)
  L_gpt = 1 - cos(f_t(phrase with v in place of the concept), f_t(phrase))

v starts at N(0, 0.02^2); an average v' <- 0.99 v' + 0.01 v is kept, from the start of v on. What an
image draws depends on its feature and on the seed, not on its batch.
"""

import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from lafg_jax.language.encoders import clip_texts
from lafg_jax.losses.contrastive import unit
from lafg_jax.runtime import devices, jax_settings
from lafg_jax.tasks.composed_retrieval import concepts as words_of
from lafg_jax.tasks.composed_retrieval import kept, pseudo_words
from lafg_jax.tasks.composed_retrieval.concepts import Concepts
from lafg_jax.utils import padding, random_streams

_START, _DECAY, _WEIGHT_DECAY = 0.02, 0.99, 0.01
OF_PHRASES = 0.5
# Images at once, and steps of one computation: a signal is heard between two.
_BATCH, _STEPS = 64, 50


def invert(
  config: ConfigDict,
  clip: Any,
  params: dict[str, Any],
  reader: Any,
  image_features: np.ndarray,
  concepts: Concepts,
  folder: Path,
  near: np.ndarray | None = None,
) -> np.ndarray:
  """The pseudo words [n, width] float32 of images, by their features [n, D], not normalised.

  Args:
    config: reads seed, mapping.inversion_steps and mapping.inversion_rate.
    concepts: `concepts.of` the config.
    folder: where they are kept, as batches come; a run that was stopped goes on. What is inverted,
      and how, decides its name (`folder_of`).
    near: [n, k] of `near_concepts`, where it is known already.
  """
  images = np.asarray(image_features, np.float32)
  if not len(images):
    return np.zeros((0, clip.text.sizes[0]), np.float32)
  if near is None:
    near = near_concepts(clip, params, reader, images, concepts, words_of.OF_INVERSION)
  near = near[:, : words_of.OF_INVERSION]
  steps, rate = config.mapping.inversion_steps, config.mapping.inversion_rate
  size = padding.few_sizes(len(images), _BATCH)
  text = {"text": params["text"]}
  compute = _function(clip, rate)

  def make(rows: range) -> dict[str, np.ndarray]:
    # The last batch is filled up: one shape is compiled.
    chosen = np.resize(np.asarray(rows), size)
    drawn = _drawn(config.seed, reader, images[chosen], near[chosen], concepts, clip, steps)
    return {"words": compute(text, images[chosen], *drawn)[: len(rows)]}

  return kept.chunks(folder, len(images), size, ("words",), make, "invert images")["words"]


def folder_of(workdir: str, config: ConfigDict, features: np.ndarray, concepts: Concepts) -> Path:
  """Where the inversions of these features are kept in a workdir."""
  mapping = config.mapping
  settings = [config.seed, mapping.inversion_steps, mapping.inversion_rate, config.model.dtype]
  # The features are those of the weights, but for the text tower.
  return kept.folder_of(
    workdir, "inversions", settings, features, concepts, config.model.pretrained
  )


def near_concepts(
  clip: Any, params: Any, reader: Any, images: np.ndarray, concepts: Concepts, number: int
) -> np.ndarray:
  """[n, k] the nearest concepts of images by zero-shot CLIP, over all templates, best first."""
  templates = words_of.TEMPLATES
  ids = reader.ids([of.replace("$", name) for name in concepts.names for of in templates])
  found = text_features(clip, params, reader, ids, "encode concepts")
  found /= np.linalg.norm(found, axis=1, keepdims=True)
  of_names = found.reshape(len(concepts.names), len(templates), -1).mean(axis=1)
  return words_of.nearest(images, of_names, number)


def text_features(
  clip: Any, params: Any, reader: Any, ids: list[list[int]], what: str
) -> np.ndarray:
  """The features [n, D] float32 of token lists, not normalised."""
  return clip_texts.encoded(_plain(clip)({"text": params["text"]}), reader, ids, what)


@functools.lru_cache(maxsize=2)
def _plain(clip: Any) -> Callable[..., Callable[[np.ndarray], np.ndarray]]:
  return devices.spreading(
    lambda params, rows: pseudo_words.plain_features(clip, params, rows[:, :-1], rows[:, -1])
  )


def _drawn(
  seed: int,
  reader: Any,
  images: np.ndarray,
  near: np.ndarray,
  concepts: Concepts,
  clip: Any,
  steps: int,
) -> tuple[Any, ...]:
  """Starts [B, width], and of each step and image the tokens of a template and of a phrase."""
  count, width = len(images), clip.text.sizes[0]
  starts = np.zeros((count, width), np.float32)
  templates = np.zeros((steps, count), np.int32)
  drawn = []
  for k, image in enumerate(images):
    rng = random_streams.inversion(seed, zlib.crc32(np.ascontiguousarray(image).tobytes()))
    starts[k] = _START * rng.standard_normal(width)
    templates[:, k] = rng.integers(len(words_of.TEMPLATES), size=steps)
    drawn.append(words_of.draw(concepts, np.broadcast_to(near[k], (steps, near.shape[1])), rng))
  phrases = list(dict.fromkeys(phrase for of in drawn for phrase in of))
  row_of = {phrase: row for row, phrase in enumerate(phrases)}
  rows = np.array([[row_of[phrase] for phrase in of] for of in drawn], np.int32).T
  said = tokens_of(reader, phrases)
  around = _rows(pseudo_words.masked(reader, [x.split("$") for x in words_of.TEMPLATES]), templates)
  return starts, *_alike(reader, around, *(_rows(of, rows) for of in said))


def tokens_of(
  reader: Any, phrases: list[tuple[str, tuple[str, str]]]
) -> tuple[pseudo_words.Phrases, pseudo_words.Phrases]:
  """Tokens of phrases with a pseudo word in place of their concept, and as they are."""
  changed = pseudo_words.masked(reader, [around for _, around in phrases])
  plain = reader.ids([before + name + after for name, (before, after) in phrases])
  ids, ends = pseudo_words.padded(reader, plain)
  return changed, pseudo_words.Phrases(ids, ends, np.zeros(ids.shape, bool))


def _rows(of: pseudo_words.Phrases, rows: np.ndarray) -> pseudo_words.Phrases:
  return pseudo_words.Phrases(*(x[rows] for x in of))


def _alike(reader: Any, *given: pseudo_words.Phrases) -> list[pseudo_words.Phrases]:
  """The same texts [S, B, L], all of one length L."""
  length = max(of.ids.shape[-1] for of in given)
  return [pseudo_words.widened(of, length, reader.pad) for of in given]


@functools.lru_cache(maxsize=4)
def _function(clip: Any, rate: float) -> Callable[..., np.ndarray]:
  """`invert(params, images, starts, templates, phrases, plain) -> [B, width]`, compiled.

  It computes `_STEPS` steps at once.
  """
  local = np.array(jax.local_devices())
  mesh = Mesh(local, ("rows",))
  begin = jax.jit(functools.partial(begun, rate))
  mapped = jax.jit(functools.partial(continued, clip, rate))

  @jax_settings.ours()
  def compute(params, images, starts, *given):
    spread = len(images) % len(local) == 0

    def put(x: np.ndarray, axis: int) -> jax.Array:
      spec = PartitionSpec(*[None] * axis, "rows") if spread else PartitionSpec()
      return jax.device_put(x, NamedSharding(mesh, spec))

    whole = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    images, state = put(images, 0), begin(put(starts, 0))
    count = len(jax.tree.leaves(given)[0])
    for first in range(0, count, _STEPS):
      steps = jax.tree.map(lambda x, first=first: put(x[first : first + _STEPS], 1), given)
      state = jax.block_until_ready(mapped(whole, state, images, *steps))
    return np.asarray(state[1])

  return compute


def begun(rate: float, starts: jax.Array) -> tuple[Any, ...]:
  """The state before the first step: words, their averages v' [B, width], and the optimiser's."""
  return starts, starts, _optimizer(rate).init(starts)


def _optimizer(rate: float) -> optax.GradientTransformation:
  return optax.adamw(rate, weight_decay=_WEIGHT_DECAY)


def continued(
  clip: Any,
  rate: float,
  params: Any,
  state: tuple[Any, ...],
  images: jax.Array,
  templates: Any,
  phrases: Any,
  plain: Any,
) -> tuple[Any, ...]:
  """The state after S more steps; a pure function.

  images: [B, D]. templates, phrases: `Phrases` of [S, B, ...], with places; plain: without.
  """
  optimizer = _optimizer(rate)

  def loss(words, template, phrase, wanted):
    # Of all images, not their mean: none depends on the size of its batch.
    return of_images(clip, params, words, images, template, phrase, wanted).sum()

  def step(state, given):
    words, average, optimiser = state
    template, phrase, said = given
    wanted = pseudo_words.plain_features(clip, params, said.ids, said.ends)
    gradient = jax.grad(loss)(words, template, phrase, wanted)
    updates, optimiser = optimizer.update(gradient, optimiser, words)
    words = optax.apply_updates(words, updates)
    return (words, _DECAY * average + (1 - _DECAY) * words, optimiser), None

  return jax.lax.scan(step, state, (templates, phrases, plain))[0]


def of_images(
  clip: Any, params: Any, words: Any, images: Any, template: Any, phrase: Any, wanted: Any
) -> jax.Array:
  """L [B] of each image; `wanted` [B, D] are the features of the phrases as they are."""
  count = len(words)
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), template, phrase)
  found = unit(pseudo_words.features(clip, params, both, jnp.concatenate([words, words])))
  l_cos = 1 - (found[:count] * unit(images)).sum(axis=-1)
  l_gpt = 1 - (found[count:] * unit(wanted)).sum(axis=-1)
  return (l_cos + OF_PHRASES * l_gpt) / (1 + OF_PHRASES)
