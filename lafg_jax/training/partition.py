"""Parameters in two parts, those that are trained and those that are frozen; needs no optax."""

from collections.abc import Callable
from typing import Any

from flax import traverse_util


def split(
  params: dict[str, Any], is_frozen: Callable[[str], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The parameters that are trained and those that are frozen, each nested as in `params`."""
  parts: dict[bool, dict[tuple[str, ...], Any]] = {False: {}, True: {}}
  for path, x in traverse_util.flatten_dict(params).items():
    parts[is_frozen("/".join(path))][path] = x
  return traverse_util.unflatten_dict(parts[False]), traverse_util.unflatten_dict(parts[True])


def join(trained: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
  """The whole tree of two parts that `split` made."""
  flat = traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(fixed)
  return traverse_util.unflatten_dict(flat)
