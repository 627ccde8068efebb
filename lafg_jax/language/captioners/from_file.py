"""Captions out of a file: JSONL of id and captions (such as captions.jsonl), or LDRE's JSON."""

from absl import logging

from lafg_jax.language import exchanged
from lafg_jax.utils.errors import UserError

KEY = "captioner.file"
_WANTED = 'JSONL of {"id": ..., "captions": [...]}, or LDRE\'s JSON'
# LDRE's rows are queries: the image is their reference.
_CAPTIONS_OF_QUERY = ("multi_caption_opt", "blip2_caption")
_REFERENCE = ("reference_img_id", "reference", "candidate")
_CAPTIONS, _ID = ("captions", "caption"), ("id", "image_id", "image")


def read(path: str) -> dict[str, list[str]]:
  """{image id, in the form of `exchanged.plain_id`: its captions}.

  Where an image comes with several lists, the first is taken, and how often is logged. Raises
  UserError where the file is missing or a row has another form.
  """
  found: dict[str, list[str]] = {}
  others = 0
  for number, row in enumerate(exchanged.rows(path, KEY, _WANTED), 1):
    of_query = exchanged.first(row, _CAPTIONS_OF_QUERY)
    given = exchanged.first(row, _CAPTIONS) if of_query is None else of_query
    name = exchanged.first(row, _ID if of_query is None else _REFERENCE)
    captions = exchanged.texts(given)
    if name is None or not captions:
      raise UserError(f"{path}: row {number} has no id, or no caption: it takes {_WANTED}")
    before = found.setdefault(exchanged.plain_id(name), captions)
    others += before != captions
  if others:
    text = "caption: %d images of %s come with other captions again: the first ones are taken"
    logging.warning(text, others, path)
  return found
