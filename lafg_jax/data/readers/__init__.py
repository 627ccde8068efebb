"""One module for each data set: `read(data) -> (training half, test half)` as `datasets.Dataset`s.

The module is called as `data.name` is. Its `read` raises a UserError of one line where something is
missing or wrong. lafg_jax/config/table/data.py says where each data set is found.
"""

from typing import Any

from lafg_jax.config.table.data import DRAWN, SOURCES


def source(data: Any) -> str:
  """The value that says where the images of `config.data` are; '' where it is not set."""
  if data.name in DRAWN:
    return "in memory"
  return data[SOURCES[data.name][0]] if data.name in SOURCES else data.root
