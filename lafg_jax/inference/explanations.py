"""Why images match: `Retriever.explain`. What is computed is in `lafg_jax/explain/`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lafg_jax.explain import heat as heats
from lafg_jax.explain import occlusion, records
from lafg_jax.explain.names import short_names
from lafg_jax.explain.records import Explanation, Named
from lafg_jax.inference import inputs
from lafg_jax.tasks.class_retrieval import attributes
from lafg_jax.utils.errors import UserError

# Ways of making heat, and the one that is shown where none is asked for: of an image by itself, of
# a text or an attribute, and of what a pair shares. docs/guide/explain.md has the measures.
WAYS = ("rollout", "occlusion", "patches", "matches", "none")
SHOWN = "occlusion"
# Covered pictures are embedded in so many parts, which divides their number.
_CHUNKS = 3
# The cosine of a pair has heat that is not above all its baselines: shown where it is asked for.
_NO_HEAT = (
  "no heat: the images share no attribute that a place of both decides; heat='occlusion' shows "
  "that of their cosine, which was not above its baselines"
)


# Of a vocabulary once, and not for each explanation.
_names = functools.lru_cache(maxsize=4)(short_names)


class Target(NamedTuple):
  """What an image is compared with: scores [n] of embeddings [n, D], and the direction [D] that
  products of patches are taken with."""

  score: Callable[[np.ndarray], np.ndarray]
  direction: np.ndarray


def explain(
  retriever: Any,
  a: Any,
  b: Any = None,
  *,
  text: str | None = None,
  attribute: int | None = None,
  vocabulary: Sequence[str] | None = None,
  heat: str = "auto",
  k: int = 8,
) -> Explanation:
  """As `Retriever.explain` has it."""
  k = inputs.whole(k, "k")
  if heat not in ("auto", *WAYS):
    raise UserError(f"heat is {heat!r}; it takes one of auto, {', '.join(WAYS)}")
  if sum(x is not None for x in (b, text, attribute)) > 1:
    raise UserError("explain takes one of b=, text= and attribute= beside the image")
  pictures = [_one(retriever, x, name) for x, name in ((a, "a"), (b, "b")) if x is not None]
  seen = retriever.see_batch(np.stack(pictures))
  found, floors, names, notes = _attributes(retriever, seen.embedding, vocabulary)
  lists = [records.named(x, floor, names, k) for x, floor in zip(found, floors, strict=True)]
  shared: list[Named] = []
  differ: tuple[list[Named], list[Named]] = ([], [])
  if b is not None:
    shared, differ = records.compared(found, floors, names, k)
  targets = _targets(retriever, seen.embedding, text, attribute)
  first, score = targets[0], None
  if first is not None and attribute is None:
    score = float(first.score(seen.embedding[:1])[0])
  if heat == "auto" and b is not None:
    drawn, way = _of_shared(retriever, pictures, seen, shared, vocabulary)
    notes += [] if way else [_NO_HEAT]
    return Explanation(score, lists, shared, differ, drawn, way, "; ".join(notes))
  way = SHOWN if heat == "auto" else heat
  if way == "rollout" and seen.rollout is None:
    way = "patches"
    notes.append("this network has no attention: heat is of its last map")
  if way == "matches" and b is None:
    raise UserError("heat='matches' compares the patches of two images: pass b")
  # A weak score has no place: measured for words, whose true places on finches are known.
  sure = heat == "auto" and (text is not None or attribute is not None)
  drawn = [
    _heat(retriever, way, i, pictures, target, seen, sure) for i, target in enumerate(targets)
  ]
  if sure and drawn[0] is None:
    way = ""
    notes.append("no place of the image decides this score, so that no heat is shown")
  return Explanation(score, lists, shared, differ, drawn, way, "; ".join(notes))


def _of_shared(
  retriever: Any,
  pictures: list[np.ndarray],
  seen: heats.Seen,
  shared: list[Named],
  vocabulary: Sequence[str] | None,
) -> tuple[list[np.ndarray | None], str]:
  """Heat of the first shared attribute that a place decides in both images, and what it is of."""
  nothing: list[np.ndarray | None] = [None, None]
  if not shared:
    return nothing, ""
  covered = [_of_covered(retriever, picture) for picture in pictures]
  for one in shared:
    if vocabulary is None:
      target = _of_attribute(retriever, one.row)
    else:
      target = _towards(retriever.embed_text(one.name)[0])
    found = [occlusion.falls(target.score, *x) for x in zip(seen.embedding, covered, strict=True)]
    scores = target.score(seen.embedding)
    if all(occlusion.decides(*x) for x in zip(found, scores, strict=True)):
      return [heats.unit_range(np.maximum(x, 0)) for x in found], f"{SHOWN} of {one.name}"
  return nothing, ""


def _one(retriever: Any, given: Any, name: str) -> np.ndarray:
  """The one image that was given, as the model sees it."""
  vectors, images = inputs.vectors(given, retriever.embedding_dim, name)
  if vectors is not None:
    raise UserError(f"{name}: this is an embedding, and explanations are of images; pass the image")
  crops = retriever.crops(images)
  if len(crops) != 1:
    raise UserError(f"{name} holds {len(crops)} images; explain takes one, and as b a second one")
  return crops[0]


def _attributes(
  retriever: Any, vectors: np.ndarray, vocabulary: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
  """Scores [B, N] of the entries, their floors [B, N], their names, and notes."""
  if vocabulary is not None:
    names = inputs.texts(vocabulary)
    found = vectors @ retriever.embed_text(names).T
    # No untrained model is at hand: the floor is what stands out of this very vocabulary.
    floors = found.mean(axis=1, keepdims=True) + found.std(axis=1, keepdims=True)
    return found, np.broadcast_to(floors, found.shape), names, []
  nothing = np.zeros((len(vectors), 0))
  if "loss" not in retriever.config:
    note = "this model has no vocabulary of attributes: pass vocabulary=[texts]"
    return nothing, nothing, [], [note]
  try:
    attributes.check(retriever.config, retriever.readout, retriever.sentences)
  except UserError as error:
    return nothing, nothing, [], [str(error)]
  found = attributes.scores(vectors, retriever.readout)
  floors = np.broadcast_to(retriever.floors, found.shape)
  return found, floors, _names(retriever.sentences), []


def _targets(
  retriever: Any, vectors: np.ndarray, text: str | None, attribute: int | None
) -> list[Target | None]:
  """What each image is compared with; None of an image alone."""
  if len(vectors) == 2:
    return [_towards(vectors[1]), _towards(vectors[0])]
  if text is not None:
    said = inputs.texts(text)
    if len(said) != 1:
      raise UserError(f"text holds {len(said)} texts; explain takes one")
    return [_towards(retriever.embed_text(said)[0])]
  if attribute is None:
    return [None]
  found = retriever.readout
  if not found:
    raise UserError("attribute= is a row of the model's vocabulary, and this model has none")
  if not 0 <= attribute < len(found["entries"]):
    raise UserError(f"attribute is {attribute}; the vocabulary has {len(found['entries'])} rows")
  return [_of_attribute(retriever, attribute)]


def _of_attribute(retriever: Any, row: int) -> Target:
  found = retriever.readout
  direction = found["image"] @ found["entries"][row]
  return Target(lambda x: attributes.scores(x, found)[:, row], direction)


def _towards(other: np.ndarray) -> Target:
  return Target(lambda x: x @ other, other)


def _heat(
  retriever: Any,
  way: str,
  i: int,
  pictures: list[np.ndarray],
  target: Target | None,
  seen: heats.Seen,
  sure: bool,
) -> np.ndarray | None:
  """Heat [h, w] in [0, 1] of image i; None where none is wanted, or no place decides, if `sure`."""
  target = target or _towards(seen.embedding[i])
  if way == "none":
    return None
  if way == "rollout":
    return heats.unit_range(seen.rollout[i])
  if way == "patches":
    return heats.unit_range(heats.similarity(seen.patches[i], target.direction))
  if way == "matches":
    return heats.unit_range(heats.matches(seen.patches[i], seen.patches[1 - i]))
  found = occlusion.falls(target.score, seen.embedding[i], _of_covered(retriever, pictures[i]))
  if sure and not occlusion.decides(found, float(target.score(seen.embedding[i][None])[0])):
    return None
  return heats.unit_range(np.maximum(found, 0))


def _of_covered(retriever: Any, picture: np.ndarray) -> np.ndarray:
  """Embeddings [places * places, D] of a picture with each place covered."""
  parts = np.split(occlusion.covered(picture), _CHUNKS)
  return np.concatenate([retriever.embed_batch(part) for part in parts])
