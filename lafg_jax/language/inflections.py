"""Forms in which a word of a class name may stand in a sentence: plurals, cases, prefixes."""

import itertools
import re
from collections.abc import Iterator

# (end of the singular, end of the plural, fewest letters of a word that it is tried on).
_IRREGULAR = (
  *(("mouse", "mice", 5), ("louse", "lice", 5), ("goose", "geese", 5), ("foot", "feet", 4)),
  *(("tooth", "teeth", 5), ("man", "men", 3), ("child", "children", 5), ("ox", "oxen", 2)),
  *(("person", "people", 6), ("us", "i", 5), ("us", "era", 5), ("a", "ae", 5), ("is", "es", 5)),
  *(("um", "a", 5), ("ex", "ices", 5), ("ix", "ices", 5), ("eau", "eaux", 4), ("al", "aux", 5)),
  *(("o", "i", 5), ("a", "e", 5), ("y", "ies", 3), ("f", "ves", 3), ("fe", "ves", 4)),
  *(("z", "zzes", 4), ("ie", "ies", 4), ("ao", "oes", 4)),
)
_HISSES = re.compile("(?:s|x|z|ch|sh|o)$")
# Plurals that mean another thing than their singular.
_PLURAL_ALONE = frozenset(("glasses", "goods", "news", "scales", "shorts", "sports"))
_HEBREW = ("ו", "ה", "ב", "ל", "מ", "ש", "כ", "וה", "שה", "מה", "כש", "של", "ול", "וב")
_ARABIC = ("و", "ف", "ب", "ك", "ل", "س")
# What follows a name in one word: Korean particles, 'kinds of' and the plural before them.
KOREAN = re.compile(
  "(?:들|류|과)?(?:은|는|이|가|을|를|의|에|에서|에게|와|과|도|만|로|으로|보다|처럼|같이|만큼|까지|부터|라|라는|"
  "이라|이라는|이다|다|입니다|하고|이나|나|랑|이랑|마다|조차|밖에|같은|대로|란|이란|야|이며|며|이고|고|인|"
  "에는|에서는|와는|과는|보다는|보다도|처럼은|에도|이지만|지만|와의|과의|로는|으로는|만의|까지는)?"
)
# Heads of German and Scandinavian compounds whose first part is the animal.
HEADS = (
  *("mannchen", "weibchen", "hahn", "henne", "kuken", "nest", "feder", "federn", "flugel", "kopf"),
  *("schnabel", "schwanz", "arten", "gefieder", "vogel", "junge", "jungvogel", "paar", "schwarm"),
  *("hane", "hona", "hun", "hann", "unge", "fugl", "fagel", "vinge", "bluten", "blute"),
)
# The shortest name that is looked for at the start of any longer word, and the rest it leaves.
LONG_NAME, LONG_REST = 8, 4


def forms(word: str) -> list[str]:
  """The folded word itself, its plurals, and its singulars where it is a plural."""
  if not re.fullmatch("[a-z]+", word):
    return [word, *_other_scripts(word)]
  return list(dict.fromkeys([word, *_plurals(word), *_singulars(word)]))


def first_forms(word: str) -> list[str]:
  """The forms of a name's first word that other words are written before: 'and', 'the', 'to'."""
  if "\u05d0" <= word[0] <= "\u05ea":
    return [prefix + word for prefix in _HEBREW]
  return [prefix + word for prefix in _ARABIC] if "\u0621" <= word[0] <= "\u064a" else []


def _plurals(word: str) -> Iterator[str]:
  if len(word) > 2:
    # 'TTS' is no plural of 'TT'.
    yield word + "s"
  if _HISSES.search(word):
    yield word + "es"
  for single, plural, least in _IRREGULAR:
    if len(word) >= least and word.endswith(single):
      yield word[: -len(single)] + plural
  # German, Dutch and Scandinavian; short words would become other English ones ('wood', 'wooden').
  if len(word) >= 4 and word[-1] in "elr":
    yield word + "n"
  if len(word) >= 5:
    yield from (word + end for end in ("en", "e"))
  if len(word) >= 6:
    yield from (word + end for end in ("ar", "et"))


def _singulars(word: str) -> Iterator[str]:
  if word in _PLURAL_ALONE:
    return
  for single, plural, least in _IRREGULAR:
    # One letter is too little to tell a plural by.
    if len(plural) > 1 and len(word) >= least + 1 and word.endswith(plural):
      yield word[: -len(plural)] + single
  if len(word) >= 4 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
    yield word[:-1]
    if len(word) >= 5 and word.endswith("es") and _HISSES.search(word[:-2]):
      yield word[:-2]


def _other_scripts(word: str) -> Iterator[str]:
  first = word[0]
  if "\u05d0" <= first <= "\u05ea":
    stem = word[:-1] if word[-1] in "הת" else word
    yield from (stem + end for end in ("ימ", "ות"))
  elif "\u0621" <= first <= "\u06d3":
    stem = word[:-1] if word[-1] == "ه" else word
    yield from [stem + end for end in ("ات", "ين", "ون")] + [word + end for end in ("ها", "هاي")]
  elif "\u0900" <= first <= "\u097f":
    stem = word[:-1] if word[-1] in "ाीआ" else word
    yield from (stem + end for end in ("े", "ों", "ें", "ियाँ", "ियों", "ाँ", "ाओं", "ए", "ओं"))
  elif "\u0370" <= first <= "\u03ff" and len(word) >= 4:
    stem = re.sub("(?:οσ|ησ|ασ|ι|α|η|ο)$", "", word)
    ends = ("οι", "ου", "ουσ", "ων", "ο", "α", "ια", "ιου", "ιων", "εσ", "ησ", "ασ")
    yield from (stem + end for end in ends)


def of_name(parts: list[str]) -> Iterator[list[str]]:
  """The forms of a name of several folded words: one word or the last one inflected, or both."""
  *others, last = parts
  lasts = forms(last)
  yield from ([*others, form] for form in lasts)
  for i, word in enumerate(others):
    for form, end in itertools.product(forms(word)[1:], lasts[:2]):
      yield [*others[:i], form, *others[i + 1 :], end]
  for form in forms(parts[0]):
    yield from ([prefixed, *parts[1:]] for prefixed in first_forms(form))
  if len(parts) > 1 and "\u05d0" <= parts[0][0] <= "\u05ea":
    yield ["ה" + word for word in parts]
