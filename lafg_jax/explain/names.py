"""Short names of vocabulary entries, from the sentences nearest to them, without a language model.

A phrase is up to three words that tell something, in a row, of one clause, with what stands between
them ("ring around the eye"). A word w is worth s^2 log(s / b): s is the share of the entry's
sentences that have it, b the mean share over all entries. The name is the phrase whose words are
worth most, less a price for each word: of what its sentences agree on, that which others lack.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

# Words that name nothing by themselves: a phrase neither begins nor ends with one.
_EMPTY = frozenset(
  (
    "a about above all also an and another any are around as at be been being below between both "
    "but by can characterized could different do does each either especially few for from had has "
    "have how if in into is it its known least like likely look looks made main mainly many may "
    "more most mostly much no not of off often on one only or other our over part shows some such "
    "than that the their them these they this those though through to typically under up upon "
    "usually very was well were what when where which while who whose will with within without "
    "would you your"
  ).split()
)
_WORDS, _TOKENS = 3, 6
_WORD = re.compile(r"[^\W_][\w'’/-]*")
_CLAUSE = re.compile(
  r"[^\w'’/\s-]+|\b(?:among|and|are|but|by|can|feature|features|has|have|is|it|look|or|show|shows|"
  r"that|told|unlike|which|while|who|whose|with)\b"
)
# A word that few of the sentences have, or most entries, makes a name longer and no clearer.
_PRICE = 0.15
# "flight feathers" rather than "flight": a phrase that ends where a clause or a preposition does.
_WHOLE = 0.3
# A second phrase tells entries of the same name apart, where so many of the sentences have it.
_SECOND = 0.35

# As it is written, its telling words in the singular, and whether no telling word follows it.
Phrase = tuple[str, frozenset[str], bool]


def short_names(sentences: Sequence[Sequence[str]]) -> list[str]:
  """A name of a few words for each entry, such as 'crimson crown'.

  Entries of the same name are told apart by a second phrase that many of their sentences have
  ('crimson crown, forked tail'). Without one they keep the same name. Phrases of the same words are
  the same name ('wings of blue', 'blue wing').

  Args:
    sentences: [N] the descriptions nearest to each entry, nearest first; empty ones are skipped.

  Returns:
    [N] names in lower case; 'attribute 12' for row 12 where it has no words.
  """
  phrases = [[list(_phrases(text)) for text in entry if text.strip()] for entry in sentences]
  shares = [_shares(entry) for entry in phrases]
  mean: dict[str, float] = defaultdict(float)
  for entry in shares:
    for word, share in entry.items():
      mean[word] += share / len(shares)
  ranked = [_ranked(*entry, mean) for entry in zip(phrases, shares, strict=True)]
  # "wings of blue" and "blue wings" are one name, as it is written first.
  written: dict[frozenset[str], str] = {}
  for found in ranked:
    if found:
      written.setdefault(found[0][1], found[0][0])
  first = [written[x[0][1]] if x else f"attribute {row}" for row, x in enumerate(ranked)]
  names, times = list(first), Counter(first)
  for row, found in enumerate(ranked):
    if times[first[row]] > 1 and (second := _second(found, shares[row])):
      names[row] = f"{first[row]}, {second}"
  return names


def _shares(entry: list[list[Phrase]]) -> dict[str, float]:
  """{word: the share of an entry's sentences that have it}, near ones counting a little more."""
  weights = np.linspace(1.0, 0.8, len(entry))
  found: dict[str, float] = defaultdict(float)
  for weight, said in zip(weights / weights.sum(), entry, strict=True):
    for word in frozenset().union(*(words for _, words, _ in said)):
      found[word] += float(weight)
  return found


def _phrases(text: str) -> Iterator[Phrase]:
  """The phrases of a sentence."""
  for clause in _CLAUSE.split(text.lower()):
    words = _WORD.findall(clause)
    for start, word in enumerate(words):
      telling: set[str] = set()
      for stop in range(start, min(start + _TOKENS, len(words)) if word not in _EMPTY else start):
        if words[stop] not in _EMPTY:
          telling.add(_singular(words[stop]))
          if len(telling) > _WORDS:
            break
          whole = stop + 1 == len(words) or words[stop + 1] in _EMPTY
          yield " ".join(words[start : stop + 1]), frozenset(telling), whole


def _singular(word: str) -> str:
  return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _ranked(
  entry: list[list[Phrase]], shares: dict[str, float], mean: dict[str, float]
) -> list[Phrase]:
  """The phrases of an entry, best first; equal ones in the order of their sentences."""

  def worth(phrase: Phrase) -> float:
    told = sum(shares[x] ** 2 * math.log(shares[x] / mean[x]) - _PRICE for x in phrase[1])
    return told + _WHOLE * phrase[2]

  each = dict.fromkeys(phrase for said in entry for phrase in said)
  return sorted(each, key=worth, reverse=True)


def _second(phrases: list[Phrase], shares: dict[str, float]) -> str:
  """The best phrase that shares no word with the first, and is said often; '' without one."""
  for text, words, whole in phrases[1:]:
    often = len(words) > 1 and min(shares[x] for x in words) >= _SECOND
    if whole and often and not words & phrases[0][1]:
      return text
  return ""
