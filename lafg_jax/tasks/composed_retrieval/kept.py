"""What a run computes once of its training texts and images, kept chunk by chunk.

`<workdir>/mapping/<what>-<key>/NNNNN.npz` has arrays of the rows of a chunk. The key hashes what
they are made of. A run that was stopped goes on at the first chunk that is missing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from lafg_jax.runtime import distributed
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint, read_npz, write_npz
from lafg_jax.utils.progress import Progress

FOLDER = "mapping"
Arrays = dict[str, np.ndarray]


def chunks(
  folder: Path,
  count: int,
  size: int,
  names: Sequence[str],
  make: Callable[[range], Arrays],
  what: str,
) -> Arrays:
  """{name: [count, ...]} of `make`, which gives the arrays `names` of a range of rows.

  Chunks of `size` rows that the folder has are read; a damaged one is made again. Among several
  processes all make a chunk, and process 0 writes it.
  """
  ranges = [range(first, min(first + size, count)) for first in range(0, count, size)]
  path_of = lambda number: folder / f"{number:05}.npz"  # noqa: E731

  def there(number: int) -> Arrays | None:
    try:
      found = read_npz(path_of(number), names, stage=None)
    except UserError:
      return None
    return found if all(len(x) == len(ranges[number]) for x in found.values()) else None

  made: dict[int, Arrays] = {}

  def missing() -> list[int]:
    found = {number: there(number) for number in range(len(ranges))}
    made.update({number: x for number, x in found.items() if x is not None})
    return [number for number in found if number not in made]

  wanted = distributed.agree(f"what is kept of {what}", missing)
  if not wanted:
    logging.info("%s: kept from before", what)
  else:
    with Progress(what, sum(len(ranges[number]) for number in wanted), "rows") as progress:
      for number in wanted:
        made[number] = make(ranges[number])
        if distributed.process_index() == 0:
          write_npz(path_of(number), **made[number])
        progress.add(len(ranges[number]))
  every = [
    made[number] if number in made else read_npz(path_of(number), names, stage=None)
    for number in range(len(ranges))
  ]
  return {name: np.concatenate([of[name] for of in every]) for name in names}


def folder_of(workdir: str, what: str, *made_of: object) -> Path:
  """The folder of what is made of these, `fingerprint`'s parts."""
  return Path(workdir, FOLDER, f"{what}-{fingerprint(*made_of)[:16]}")
