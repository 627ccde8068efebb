"""Edits without a language model: by a grammar, by the truth, and wrong ones as a control."""

from collections.abc import Callable, Iterator, Sequence

from lafg_jax.language.editors.record import Asked, Edit, Said
from lafg_jax.utils import random_streams
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError


def by_grammar(
  edit: Callable[[str, str], str | None], form: str, queries: Sequence[Asked]
) -> Iterator[tuple[Asked, Said]]:
  """What edit(caption, text) makes of each query's captions; None is a text it cannot read.

  form 'joined': the first caption it can edit; 'per_caption': each that it can. Where there is
  none the captions themselves stand in.
  """
  for asked in queries:
    found = [text for caption in asked.captions if (text := edit(caption, asked.text))]
    edited = tuple(found[:1] if form == "joined" else found)
    raw = {"edited": list(edited)}
    yield asked, Said(Edit(edited or asked.captions), raw, () if edited else ("edited",))


def by_truth(queries: Sequence[Asked], truths: Sequence[str]) -> Iterator[tuple[Asked, Said]]:
  """The true description of each query's right answer; raises UserError where one is unknown."""
  unknown = [asked.id for asked, truth in zip(queries, truths, strict=True) if not truth]
  if unknown:
    raise UserError(
      f"--config.editor.kind=perfect: of {counted(len(unknown), 'query')} of {len(queries)} the "
      f"true description is unknown ({shorten(unknown)}): pass another editor"
    )
  for asked, truth in zip(queries, truths, strict=True):
    yield asked, Said(Edit((truth,)), {"edited": [truth]})


def wrong_of(parts: Sequence[str], share: float, seed: int) -> dict[int, int]:
  """{row: the row of another query whose edit it gets}, for this share of all rows.

  parts: of each row; the other query is of the same part. Both are drawn by `seed`. A part with
  one query has no other.
  """
  rng = random_streams.of_seed(seed)
  rows = {part: [i for i, name in enumerate(parts) if name == part] for part in parts}
  able = [i for i, part in enumerate(parts) if len(rows[part]) > 1]
  chosen = rng.permutation(able)[: round(share * len(parts))]
  found = {}
  for i in sorted(int(i) for i in chosen):
    others = [j for j in rows[parts[i]] if j != i]
    found[i] = others[int(rng.integers(len(others)))]
  return found
