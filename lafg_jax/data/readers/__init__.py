"""One module a data set: `read(data) -> (training half, test half)` as `datasets.Dataset`s.

The module of a data set has the name that `data.name` has. Where each is found is said in
lafg_jax/config/table/data.py.
"""

from typing import Any

from lafg_jax.config.table.data import DRAWN, SOURCES


def source(data: Any) -> str:
  """What says where the images of `config.data` are; '' where nothing does."""
  if data.name in DRAWN:
    return "in memory"
  return data[SOURCES[data.name][0]] if data.name in SOURCES else data.root
