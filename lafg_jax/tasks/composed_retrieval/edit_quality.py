"""How good edited descriptions are where the truth is known, and what wrong ones would cost.

On finches a description is exact where it states all that the truth states, and the same of it. On
a table, where it states the type of the right answers and their value in each column that queries
change, and no other value. On other sources, where it is the truth, letter case and spaces aside.
"""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from lafg_jax.data.composed import Composed
from lafg_jax.data.composed_readers import attributes as tables
from lafg_jax.finches import composed as finch_queries
from lafg_jax.finches import grammar
from lafg_jax.finches import text as finch_text
from lafg_jax.language.editors import by_rules
from lafg_jax.utils import random_streams

# Part of the queries that get another one's edit in the row of a noisy editor.
NOISE = 0.5


def measured(config: ConfigDict, part: Composed, edits: Mapping) -> dict[str, float]:
  """The exact-match rates that can be known of a part, as fractions of its queries.

  'edits': of the descriptions as they are, of what the captioner read. 'editor': of the editor
  alone, told a true caption of the reference (finches and their grammar).
  """
  truth = [query.edited for query in part.queries]
  table = config.composed.source == "attributes"
  if not edits or not (table or all(truth)):
    return {}
  said = [edits.get((part.name, query.id)) for query in part.queries]
  first = [one.edited[0] if one is not None and one.edited else "" for one in said]
  if table:
    return {"edits": _exact_of_table(config, part, first)}
  found = {"edits": _exact(config, first, truth)}
  if (alone := of_true_captions(config, part)) is not None:
    found["editor"] = _exact(config, alone, truth)
  return found


def of_true_captions(config: ConfigDict, part: Composed) -> list[str] | None:
  """What the editor makes of a true caption of each reference; None where that is not known.

  A sentence that the grammar does not understand leaves the caption as it is.
  """
  if config.composed.source != "finches" or config.editor.kind != "grammar":
    return None
  birds, found = finch_queries.birds(part.split), []
  for query in part.queries:
    number = int(query.reference.rpartition("/")[2])
    rng = random_streams.captions_of_image(config.editor.seed, number)
    caption = finch_text.full_sentence(birds[number], rng)
    found.append(grammar.edit(caption, query.text) or caption)
  return found


def noisy(edited: np.ndarray, seed: int) -> np.ndarray:
  """q_m [Q, D] of which a part has that of another query; no query of that part keeps its own."""
  rng = random_streams.of_seed(seed)
  chosen = rng.permutation(len(edited))[: round(NOISE * len(edited))]
  found = edited.copy()
  found[chosen] = edited[np.roll(chosen, 1)]
  return found


def _exact(config: ConfigDict, said: list[str], truth: list[str]) -> float:
  if config.composed.source == "finches":
    same = [grammar.same(one, of) for one, of in zip(said, truth, strict=True)]
  else:
    same = [_plain(one) == _plain(of) for one, of in zip(said, truth, strict=True)]
  return float(np.mean(same))


def _exact_of_table(config: ConfigDict, part: Composed, said: list[str]) -> float:
  names, cells = tables.looks(config)
  phrases = tables.spoken(config)
  read, same = by_rules.stated(phrases), []
  for query, one in zip(part.queries, said, strict=True):
    of = dict(zip(names, cells[query.targets[0]], strict=True))
    wanted = {(name, of[name]) for name in phrases}
    same.append(read(one) == wanted or _plain(one) == _plain(query.edited))
  return float(np.mean(same))


def _plain(text: str) -> str:
  return " ".join(text.casefold().split()).rstrip(".")
