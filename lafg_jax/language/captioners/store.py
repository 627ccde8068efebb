"""Captions of images, by any captioner; a run that was stopped resumes, image by image.

`<workdir>/captions.partial-<fingerprint>.jsonl` gets a line as captions of an image come: `id`,
`captions` (all so far), `whole`, and `size`, the bytes of its file: another file of that name is
captioned anew. The fingerprint is that of the captioner's settings and of where the images come
from. Images without usable captions are listed in
`<workdir>/captions_failed.jsonl`, and the next run captions them.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from lafg_jax.data.images import UnreadableImage
from lafg_jax.language.captioners import attributes, by_openai, by_transformers
from lafg_jax.language.captioners.record import Captions, Show, Stream, in_batches
from lafg_jax.language.describers import chat, endpoint, openai_api
from lafg_jax.utils import jsonl
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.errors import Incomplete, UserError
from lafg_jax.utils.files import fingerprint
from lafg_jax.utils.progress import Progress

FAILED = "captions_failed.jsonl"
# Unreadable images that are named one by one.
_SHOWN = 20


class Stored(NamedTuple):
  """Captions by image id, and why images could not be read."""

  captions: dict[str, list[str]]
  unreadable: dict[str, str]


def check(config: Any) -> None:
  """Raises UserError where the model or the endpoint of a captioner is not there."""
  section = config.captioner
  if section.kind == "attributes":
    attributes.check(config)
  elif section.kind == "transformers":
    by_transformers.check(section.model)
  elif section.kind == "openai":
    if not section.model:
      raise UserError("captioner.model is empty: pass the name of a model that takes images")
    endpoint.check(by_openai.chat_of(section))


def settings(config: Any) -> list[Any]:
  """What decides the captions of an image, for a captioner that computes them."""
  section = config.captioner
  found = [section.kind, section.number]
  if section.kind == "attributes":
    # Those of a table's columns are of its file.
    path = section.file or config.composed.file
    phrases = Path(path) if path else None
    clip = attributes.model_of(config)
    model = Path(clip) if os.path.isdir(clip) else clip
    return [*found, model, phrases, section.prompt, section.wrong, section.seed]
  request = by_openai.REQUEST if section.prompt == "auto" else section.prompt
  found += [section.model, section.max_tokens, section.temperature, section.top_p, request]
  return [*found, section.beams, section.seed] if section.kind == "transformers" else found


@contextlib.contextmanager
def opened(config: Any) -> Iterator[Stream]:
  """Yields the captioner of a config; raises UserError where it cannot be used."""
  section = config.captioner
  if section.kind == "openai":
    with openai_api.opened(by_openai.chat_of(section)) as ask:
      yield functools.partial(by_openai.stream, section, ask)
  elif section.kind == "transformers":
    yield in_batches(by_transformers.make(section, by_openai.REQUEST), section.batch_size)
  else:
    made = attributes.make(config)
    yield in_batches(made, section.batch_size)


def run(
  config: Any,
  workdir: str | os.PathLike,
  ids: Sequence[str],
  show: Show,
  source: list[Any],
  sizes: Mapping[str, int],
) -> Stored:
  """Captions of all images, of which only those still missing are made, in this order.

  show: id -> image. source: where the images come from, for the fingerprint. sizes: {id: bytes} of
  images that are files.

  Raises:
    UserError: the model or endpoint cannot be used at all.
    Incomplete: some images have no usable caption.
  """
  section = config.captioner
  key = fingerprint(*settings(config), *source)[:12]
  path = Path(workdir) / f"captions.partial-{key}.jsonl"
  path.parent.mkdir(parents=True, exist_ok=True)
  done = _read_partial(path, sizes)
  had = {name: found.texts for name, found in done.items()}
  pending = [name for name in ids if not (name in done and done[name].whole)]
  failed_path = Path(workdir) / FAILED
  failed_path.unlink(missing_ok=True)
  failed: dict[str, str] = {}
  unreadable: dict[str, str] = {}
  if pending:
    who = f"{section.kind} {section.model}".strip()
    logging.info("caption: %s captions %d of %d images", who, len(pending), len(ids))
    with opened(config) as stream, jsonl.appending(path) as file:
      kept = functools.partial(_keep, file, sizes)
      failed, unreadable = _caption_all(stream, pending, show, had, kept, failed_path)
  if failed:
    raise Incomplete(
      f"{len(ids) - len(failed) - len(unreadable)} of {len(ids)} images are captioned; no usable "
      f"captions of {len(failed)} ({shorten(list(failed))}), {chat.because(failed)}; see "
      f"{failed_path}"
    )
  return Stored({name: had[name] for name in ids if name not in unreadable}, unreadable)


def _caption_all(
  stream: Stream, pending: list[str], show: Show, had: dict, kept: Any, failed_path: Path
) -> tuple[dict[str, str], dict[str, str]]:
  """Adds captions to `had`, and by `kept` to the file; returns why images failed or are
  unreadable."""
  failed: dict[str, str] = {}
  unreadable: dict[str, str] = {}
  with Progress("caption", len(pending), "images") as progress:
    for name, found in stream(pending, show, had):
      if isinstance(found, Captions):
        had[name] = found.texts
        kept(name, found)
      elif isinstance(found, UnreadableImage):
        unreadable[name] = str(found)
        if len(unreadable) <= _SHOWN:
          logging.warning("caption: image %s: %s", name, found)
      else:
        if str(found) not in failed.values():
          logging.warning("caption: no usable captions of image %s: %s", name, found)
        failed[name] = str(found)
        with jsonl.appending(failed_path) as file:
          jsonl.append(file, {"id": name, "reason": str(found), "captions": had.get(name, [])})
      progress.add(0 if isinstance(found, Captions) and not found.whole else 1)
  return failed, unreadable


def _keep(file: Any, sizes: Mapping[str, int], name: str, found: Captions) -> None:
  row = {"id": name, "captions": found.texts, "whole": found.whole}
  jsonl.append(file, row | ({"size": sizes[name]} if name in sizes else {}))


def _read_partial(path: Path, sizes: Mapping[str, int]) -> dict[str, Captions]:
  """{id: captions} of an interrupted run, of files of these sizes; a later line counts."""

  def sound(row: dict[str, Any]) -> bool:
    texts = row["captions"]
    strings = isinstance(texts, list) and all(isinstance(x, str) for x in [row["id"], *texts])
    return strings and bool(texts) and isinstance(row["whole"], bool)

  rows = jsonl.sound_rows(path, sound, "its image is captioned again")
  return {
    row["id"]: Captions(row["captions"], row["whole"])
    for row in rows
    if row.get("size") == sizes.get(row["id"])
  }
