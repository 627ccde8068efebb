"""The stage `caption`: images of composed queries and galleries -> `captions.jsonl`, a line each.

A line has `id`, `captions` and `captioner`. References come first. No backbone is involved.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data import datasets, images
from lafg_jax.data.composed import Composed
from lafg_jax.language import exchanged
from lafg_jax.language.captioners import from_file, store
from lafg_jax.utils import jsonl
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

FILE = "captions.jsonl"


def run(config: Any, workdir: str | os.PathLike, parts: Sequence[Composed]) -> Path:
  """Writes captions of all reference images, then of the gallery (captioner.gallery); the path.

  Raises:
    UserError: images cannot be read or have no captions, unless composed.missing=partial; the
      captioner cannot be used.
    Incomplete: some images have no usable caption; the same command captions them alone.
  """
  section, path = config.captioner, Path(workdir) / FILE
  where = wanted(parts, section.gallery) if section.kind != "none" else {}
  if section.kind in ("none", "file"):
    found = _from_file(config, list(where), _references(parts)) if where else {}
  else:
    found = _computed(config, workdir, where)
  who = Path(section.file).name if section.kind == "file" else section.model
  rows = [
    {"id": name, "captions": found[name], "captioner": f"{section.kind}:{who}".rstrip(":")}
    for name in where
    if name in found
  ]
  jsonl.write(path, rows)
  return path


def read(workdir: str | os.PathLike, kind: str = "none") -> dict[str, list[str]]:
  """{image id: captions} of a workdir; nothing where no captioner ran.

  kind: `captioner.kind`; with any but 'none' a missing file is a UserError, as is a damaged one.
  """
  path = Path(workdir) / FILE
  if not path.exists():
    if kind != "none":
      raise UserError(f"{path} does not exist: run --stage=caption first")
    return {}
  of = lambda row: (row["id"], [str(text) for text in row["captions"]])  # noqa: E731
  return dict(jsonl.read(path, of, "caption"))


def check(config: Any) -> None:
  """Raises UserError for a file, a model or an endpoint that is not there; nothing is loaded."""
  if config.captioner.kind == "file":
    from_file.read(config.captioner.file)
  store.check(config)


def inputs(config: Any) -> list[Any]:
  """What decides the captions beside the images, for a stage's fingerprint."""
  section = config.captioner
  found = [section.kind, section.gallery, config.composed.missing]
  if section.kind == "file":
    return [*found, Path(section.file)]
  return found if section.kind == "none" else [*found, *store.settings(config)]


def wanted(parts: Sequence[Composed], gallery: bool) -> dict[str, tuple[Composed, int]]:
  """{image id: (part, row)} of the images to caption, references first, each once."""
  rows = [(part, {name: row for row, name in enumerate(part.ids)}) for part in parts]
  found: dict[str, tuple[Composed, int]] = {}
  for part, row_of in rows:
    # A reference that is listed and not there is in part.missing.
    names = (query.reference for query in part.queries)
    found |= {n: (part, row_of[n]) for n in names if n in row_of and n not in found}
  for part, _ in rows if gallery else ():
    found |= {part.ids[r]: (part, int(r)) for r in part.gallery if part.ids[r] not in found}
  return found


def _references(parts: Sequence[Composed]) -> set[str]:
  return {query.reference for part in parts for query in part.queries}


def _from_file(config: Any, ids: list[str], references: set[str]) -> dict[str, list[str]]:
  given = from_file.read(config.captioner.file)
  found = {n: given[key] for n in ids if (key := exchanged.plain_id(n)) in given}
  lacking = [name for name in ids if name not in found]
  bare = [name for name in lacking if name in references]
  if bare or (lacking and config.composed.missing == "refuse"):
    what = "reference image" if bare else "gallery image"
    names = bare or lacking
    hint = "complete it" if bare else "complete it, or pass --config.captioner.gallery=False"
    raise UserError(
      f"--config.captioner.file={config.captioner.file} has no captions of "
      f"{counted(len(names), what)} of {len(ids)} images ({shorten(names)}): {hint}"
    )
  if lacking:
    logging.warning("caption: %d of %d gallery images have no captions", len(lacking), len(ids))
  return found


def _computed(
  config: Any, workdir: Any, where: dict[str, tuple[Composed, int]]
) -> dict[str, list[str]]:
  def show(name: str) -> np.ndarray:
    part, row = where[name]
    return np.asarray(images.open_any(part.images[row], colour=part.ground))

  files = {name: part.images[row] for name, (part, row) in where.items()}
  sizes = {name: datasets.size_of(x) for name, x in files.items() if isinstance(x, str)}
  found = store.run(config, workdir, list(where), show, [config.composed.source], sizes)
  if found.unreadable:
    names = list(found.unreadable)
    told = f"{counted(len(names), 'image')} of {len(where)} cannot be read ({shorten(names)}; "
    told += f"the first: {found.unreadable[names[0]]})"
    if config.composed.missing != "partial":
      raise UserError(
        f"caption: {told}: mend or replace them, or pass --config.composed.missing=partial; "
        "what is captioned is kept"
      )
    logging.warning("caption: %s: they have no captions", told)
  return found.captions
