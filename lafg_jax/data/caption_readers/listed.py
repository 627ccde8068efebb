"""What a reader of captions finds: a row for each caption."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lafg_jax.finches.text import Span


class Listed(NamedTuple):
  """n rows, each a caption of an image; rows with the same `paths` entry are of one image."""

  where: str  # the file or files, for messages
  paths: Sequence[str]  # [n] the image: its path below the root, or its name where it is no file
  captions: Sequence[str]  # [n]
  classes: Sequence[str] | None  # [n] names of the rows' classes
  splits: Sequence[str] | None = None  # [n] 'train', 'val' or 'test', where the source has them
  negatives: Sequence[Sequence[str]] | None = None  # [n] wrong captions that come with the rows
  spans: Sequence[Sequence[Span]] | None = None  # [n] where a caption tells what, where it is known
  ids: Sequence[str] | None = None  # [n] names of the rows; None names them by their images
  # Images that are no files: `images[k]` as in `Dataset.images`, k = rows[i] of row i.
  images: Any = None
  rows: Sequence[int] | None = None
  # Changes when the images do, where each image is not a file.
  version: str = ""
