"""Records of edits: what is asked about, and what was said."""

from typing import Any, NamedTuple


class Edit(NamedTuple):
  """What an edited image shows, and what came into it ('' for nothing, or where nobody said)."""

  edited: tuple[str, ...]
  added: str = ""


class Asked(NamedTuple):
  """One query for an editor."""

  part: str  # name of the part, in which ids are unique
  id: str
  captions: tuple[str, ...]  # of the reference image
  text: str  # the modification


class Said(NamedTuple):
  """What an editor made of a query.

  raw: its answers as they came, {'edited': [...], 'added': ...}. fallback: which of 'edited' and
  'added' had no usable answer, so that the captions, or nothing, stand in.
  """

  edit: Edit
  raw: dict[str, Any]
  fallback: tuple[str, ...] = ()
