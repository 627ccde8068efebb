"""Names of tensors without what training code puts before them, such as 'student.backbone.'.

A tower is found by two of its tensors, which must stand behind one prefix. Tensors outside of that
prefix are other parts of the program that trained it: heads, a tower of texts, the state of a loss.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from lafg_jax.models.weights.family import Family, place
from lafg_jax.utils.errors import UserError

# Parts of names that torch adds at any depth: DataParallel and AveragedModel, compile, FSDP, and
# recomputed activations.
_OF_TORCH = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What stands beside a tower that has no prefix. Other names may be parts of another architecture.
_HEADS = re.compile(
  r"(heads?|classifiers?|fc\d*|arcface|margin|metric_fc|projectors?|projection_head|proj_head|"
  r"predictor|decoder|criterion|loss(_fn)?|logit_scale|logit_bias|n_averaged)(\.|$)"
)


class Names(NamedTuple):
  """The tensors of a source under the names of its family.

  of: {name as the family's files have it: name in the file}. beside: those of `of` that are outside
  of the tower.
  """

  of: dict[str, str]
  beside: frozenset[str]


def towers(family: Family, names: Iterable[str]) -> list[str]:
  """The prefixes behind which `names` hold a tower of the family; [''] for one without any."""
  return _prefixes(family, set(_without_torch(names)))


def unwrapped(source: str, family: Family, names: Iterable[str]) -> Names:
  """The names of `source` without prefixes of training code and the family's own.

  Raises:
    UserError: there are several towers.
  """
  clean = _without_torch(names)
  found = _prefixes(family, set(clean))
  if len(found) > 1:
    shown = ", ".join(repr(prefix) for prefix in found)
    raise UserError(
      f"--config.model.pretrained={source}: it holds {len(found)} towers, behind {shown}; save the "
      "tensors of one of them alone"
    )
  prefix = found[0] if found else ""
  # The family's own prefix stands between another one and the tower; its heads are outside of it.
  outer = prefix.removesuffix(family.prefix)
  of, beside = {}, set()
  for name, theirs in clean.items():
    ours = name.removeprefix(outer).removeprefix(family.prefix)
    if prefix and name.startswith(prefix):
      ours = name.removeprefix(prefix)
    if not name.startswith(prefix) or (not prefix and _HEADS.match(name)):
      beside.add(ours)
    # What is outside never takes the place of the tower's.
    if name.startswith(prefix) or ours not in of:
      of[ours] = theirs
  return Names(of, frozenset(beside))


def _prefixes(family: Family, names: set[str]) -> list[str]:
  anchors = ("patch_embedding/patch/kernel", "stem/conv/kernel")
  places = [place(family, path) for path in anchors] if family.names else []
  anchor = next((where.name for where in places if where), "")
  if not anchor:
    return []
  starts = [name.removesuffix(anchor) for name in names if name.endswith(anchor)]
  whole = [start for start in starts if not start or start.endswith(".")]
  return sorted(start for start in whole if start + family.marker in names)


def _without_torch(names: Iterable[str]) -> dict[str, str]:
  """{name without the parts of torch: name}; the names as they are where two would be one."""
  names = list(names)
  clean = {".".join(x for x in name.split(".") if x not in _OF_TORCH): name for name in names}
  return clean if len(clean) == len(names) else dict(zip(names, names, strict=True))
