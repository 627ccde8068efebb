"""What a captioner is, and what it gives."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lafg_jax.data.images import UnreadableImage
from lafg_jax.language.describers.thoughts import Unusable

# Images of a batch, uint8 [H, W, 3] each -> the captions of each.
Captioner = Callable[[list[np.ndarray]], list[list[str]]]
# id -> image; raises UnreadableImage.
Show = Callable[[str], np.ndarray]


class Captions(NamedTuple):
  """Captions of an image; `whole` is False while more are to come."""

  texts: list[str]
  whole: bool = True


# (ids, their images, captions that they have already) -> what was found of each, in any order, as
# soon as it is; several times for an image until it is whole.
Stream = Callable[
  [Sequence[str], Show, dict[str, list[str]]],
  Iterator[tuple[str, Captions | Unusable | UnreadableImage]],
]


def in_batches(captioner: Captioner, size: int) -> Stream:
  """A captioner of batches as a stream of images."""

  def stream(
    ids: Sequence[str], show: Show, had: dict[str, list[str]]
  ) -> Iterator[tuple[str, Captions | Unusable | UnreadableImage]]:
    del had
    for start in range(0, len(ids), size):
      shown: dict[str, np.ndarray] = {}
      for name in ids[start : start + size]:
        try:
          shown[name] = show(name)
        except UnreadableImage as error:
          yield name, error
      found = captioner(list(shown.values())) if shown else []
      for name, texts in zip(shown, found, strict=True):
        yield name, Captions(texts) if texts else Unusable("every caption is empty")

  return stream
