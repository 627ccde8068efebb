"""The guard against names of classes that are kept from training, in every script."""

import html
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

from lafg_jax.language import descriptions, inflections
from lafg_jax.language.spelling import HARD, NOTHING, RUN, Letters, fold, letters, words
from lafg_jax.utils.errors import UserError

# (class, sentence) -> whether the sentence names a class that is kept from training.
Leaks = Callable[[str, str], bool]

# The model year before or after a name, and the number of a folder.
_YEAR = re.compile(
  r"[\s(_-]+(?:(?:19|20)\d\d|['’]\d\d)\)?\s*$|^\s*\(?(?:19|20)\d\d\)?[\s_-]+(?=\S)"
)
_NUMBER = re.compile(
  r"^(?:\d+\.\s*(?=\D)|(?:0\d*|\d+(?=_))[\s_-]+(?=[^\W\d])|\d+\s*[-:)]\s+(?=[^\W\d])|n\d{8}[\s_-]+)"
)
# 'Alba-\ntross', 'Laysan <b>Albatross</b>'.
_WRAPPED = re.compile(r"(?<=\w)[-‐]\s+(?=\w)")
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,40}>")
_GREY = re.compile(r"\bgrey")
# 'P. major'; the sign, a letter that no language has, tells it from 'p major'.
_INITIAL, _SHORT = re.compile(r"(?<!\w)([a-z])\.\s?(?=[a-z]{3})"), "ʬ"
_CAMEL = re.compile(r"(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")
# Letters that are also written as two.
_AS_TWO = {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"}
_DIGITS = re.compile(r"(?<=\d)(?=\D)|(?<=\D)(?=\d)")
_HANGUL = re.compile("[\uac00-\ud7a3]")


def leak_guard(held_out: Sequence[str]) -> Leaks:
  """(class, sentence) -> whether the sentence holds the full name of a class that is held out.

  Names and sentences are compared as words, whatever their case, accents, punctuation and form
  (`spelling.fold`), in the plural and the possessive too, without the model year of a name. Where
  a name has a space, hyphen or underscore, a sentence may have another of these, or none. Scripts
  without spaces are searched letter by letter. A word that only begins with a name is none, except
  for long names, as German compounds are written. A name that is part of the described class's own
  name does not count.
  """
  find = _finder(held_out)
  return lambda own_name, sentence: bool(found := find(sentence)) and bool(found - find(own_name))


def refuse(sentences: Iterable[str], class_names: Sequence[str], held_out, origin: str) -> None:
  """Raises UserError, with their `origin`, if a sentence names a class that is kept from training.

  Names that are part of the name of any training class do not count.
  """
  find = _finder(held_out)
  allowed: set[int] = set().union(*map(find, class_names)) if held_out else set()
  for sentence in sentences if held_out else ():
    for k in sorted(find(sentence) - allowed):
      raise UserError(
        f"{origin} names the class {held_out[k]!r}, which is kept from training "
        f"({sentence[:80]!r}): run --stage=describe again, and the stages after it"
      )


def refuse_in_file(workdir: str, class_names: Sequence[str], held_out: Sequence[str]) -> None:
  """Raises UserError if a workdir's descriptions.jsonl has a line that describe would drop."""
  found = leak_guard(held_out)
  for row in descriptions.read(workdir, class_names) if held_out else ():
    if found(row["class"], row["description"]):
      raise UserError(
        f"{workdir}/descriptions.jsonl: {row['description'][:80]!r} names a class that is kept "
        "from training: run --stage=describe again"
      )


def _finder(names: Sequence[str]) -> Callable[[str], set[int]]:
  """text -> positions of the `names` that it holds."""
  # Letters of a form -> (position, where the name has a break), for each name of that form.
  known: dict[str, list[tuple[int, frozenset[int]]]] = {}
  for k, name in enumerate(names):
    for form, breaks in dict(_spellings(name)).items():
      known.setdefault(form, []).append((k, breaks))
  declined = _declined(names)
  longest = max(map(len, known), default=0)
  sizes = set(map(len, known))

  def find(text: str) -> set[int]:
    if not known:
      return set()
    read = _read(text)
    begins = [i for i, gap in enumerate(read.before[:-1]) if gap != NOTHING]
    ends = [j for j in _ends(read) if j]
    found: set[int] = set()
    for i in begins:
      for j in ends:
        if i < j <= i + longest and j - i in sizes:
          for k, breaks in known.get(read.text[i:j], ()):
            # Words of the sentence that make one word of the name are no name: 'a black bird'.
            if all(read.before[x] != HARD or x - i in breaks for x in range(i + 1, j)):
              found.add(k)
    for start in _compounds(read):
      found |= {k for k, breaks in known.get(start, ()) if not breaks}
    return found | declined(read)

  return find


def _declined(names: Sequence[str]) -> Callable[[Letters], set[int]]:
  """Letters -> positions of the names all of whose words stand there, each in any case."""
  known: dict[str, list[tuple[int, list[frozenset[str]]]]] = {}
  for k, name in enumerate(names):
    parts = _parts(_read(_bare(name)))
    if parts and all(inflections.is_declined(x) for x in parts):
      if len(parts) > 1 or len(parts[0]) > 4:
        bases = [inflections.base_stems(x) for x in parts]
        for stem in bases[0]:
          known.setdefault(stem, []).append((k, bases))

  def find(read: Letters) -> set[int]:
    found: set[int] = set()
    parts = _parts(read) if known else []
    stems = [inflections.stems(x) if inflections.is_declined(x) else frozenset() for x in parts]
    for i, mine in enumerate(stems):
      for stem in mine & known.keys():
        for k, bases in known[stem]:
          there = stems[i : i + len(bases)]
          if len(there) == len(bases) and all(map(frozenset.intersection, there, bases)):
            found.add(k)
    return found

  return find


def _parts(read: Letters) -> list[str]:
  starts = [i for i, gap in enumerate(read.before[:-1]) if gap != NOTHING]
  return [read.text[i:j] for i, j in itertools.pairwise([*starts, len(read.text)])]


def _bare(name: str) -> str:
  """A class name without its number and its model year."""
  whole = _NUMBER.sub("", unicodedata.normalize("NFC", name))
  bare = _YEAR.sub("", whole)
  if not re.search(r"[^\W\d_]", bare):
    bare = re.sub(r"\s+(19|20)\d\d\s*$", "", whole)
  return _CAMEL.sub(" ", bare)


def _read(text: str) -> Letters:
  """The letters of a sentence, which may hold HTML's signs and tags, or be broken at a hyphen."""
  if "&" in text:
    text = html.unescape(text)
  if "\\u" in text:
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
  if "<" in text:
    text = _TAG.sub("", text)
  text = _GREY.sub("gray", fold(_WRAPPED.sub("-", text)))
  return letters(_INITIAL.sub(rf"\1{_SHORT} ", text))


def _spellings(name: str) -> Iterator[tuple[str, frozenset[int]]]:
  """The ways to write a name, as letters without gaps, and where its words begin among them."""
  lower = _bare(name).lower()
  written = {lower: None}
  if not lower.isascii():
    written["".join(_AS_TWO.get(letter, letter) for letter in lower)] = None
  elif re.search("[aou]e|aa", lower):
    written[re.sub("([aou])e|aa", lambda found: found[1] or "a", lower)] = None
  for parts in (words(_GREY.sub("gray", fold(text))) for text in written):
    if len(parts) > 1 and "a" <= parts[0][0] <= "z":
      short = [parts[0][0] + _SHORT, *parts[1:]]
      yield "".join(short), frozenset(itertools.accumulate(map(len, short[:-1])))
    for form in inflections.of_name(parts) if parts else ():
      text = "".join(form)
      breaks = set(itertools.accumulate(map(len, form[:-1])))
      # 'A4' is also written 'A 4'.
      breaks |= {x.start() for x in _DIGITS.finditer(text)}
      if _HANGUL.search(text):
        # Korean spaces inside of a compound are a matter of taste.
        breaks |= set(range(1, len(text)))
      yield text, frozenset(breaks)


def _ends(read: Letters) -> Iterator[int]:
  """Where a name may end: before a gap, or before what a script adds to a word."""
  size = len(read.text)
  word_end = size
  for j in range(size, 0, -1):
    if read.before[j] not in (NOTHING, RUN):
      word_end = j
      yield j
    elif read.before[j] == NOTHING and inflections.may_follow(read.text, j, word_end):
      yield j


def _compounds(read: Letters) -> Iterator[str]:
  """The first parts of long words in Latin letters, which may be a name ('Kohlmeisenmännchen')."""
  edges = [i for i, gap in enumerate(read.before) if gap != NOTHING]
  for i, j in zip(edges, edges[1:], strict=False):
    word = read.text[i:j]
    if len(word) < 7 or not word.isascii() or not word.isalpha():
      continue
    yield from (
      word[:k] for k in range(inflections.LONG_NAME, len(word) - inflections.LONG_REST + 1)
    )
    yield from (
      word.removesuffix(x) for x in inflections.HEADS if word.endswith(x) and len(word) > len(x) + 3
    )
