"""Which described name is which class, where they are not spelled alike."""

import re
from collections.abc import Callable, Iterable, Sequence

from lafg_jax.language.spelling import squeezed

# '001.Black_footed_Albatross', '17 - Tern'; only a dot or an underscore may touch a letter.
_ID = re.compile(r"^\s*\(?\d+\)?(?:[._]+\s*|\s*[-:)]\s*|\s+)(?=[^\W\d_])")
_YEAR = re.compile(r"[\s(_-]+(?:19|20)\d\d\)?\s*$")

# From the nearest spelling to the farthest.
_SPELLINGS: tuple[Callable[[str], str], ...] = (
  squeezed,
  lambda name: squeezed(_ID.sub("", name)),
  lambda name: squeezed(_YEAR.sub("", _ID.sub("", name))),
)


def match(
  described: Iterable[str], class_names: Sequence[str], held_out: Sequence[str] = ()
) -> dict[str, str]:
  """{described name: class} for all names that mean one class and no other.

  A name spelled alike is its class. Others match where only case, accents, spaces, hyphens or
  underscores differ, else without a number before them, else without a year after them. Where two
  names or two classes, held-out ones among them, would match one another, none does.
  """
  left = dict.fromkeys(described)
  classes = dict.fromkeys((*class_names, *held_out))
  found = {name: name for name in left if name in classes}
  for spelling in _SPELLINGS:
    names, kinds = (
      _by(spelling, (x for x in side if x not in done))
      for side, done in ((left, found), (classes, set(found.values())))
    )
    for key, group in names.items():
      if key and len(group) == 1 and len(kinds.get(key, ())) == 1:
        found[group[0]] = kinds[key][0]
  return {name: kind for name, kind in found.items() if kind in set(class_names)}


def _by(spelling: Callable[[str], str], names: Iterable[str]) -> dict[str, list[str]]:
  found: dict[str, list[str]] = {}
  for name in names:
    found.setdefault(spelling(name), []).append(name)
  return found
