"""Key phrases of a text, and the text with a pseudo word in their places (LinCIR's training).

A key phrase is a longest run of determiners, adjectives, nouns and names. LinCIR finds them with
spaCy's tagger (en_core_web_sm). `by_rules` needs no tagger: it ends a run at each word of a closed
list (prepositions, conjunctions, pronouns, auxiliaries, numbers, adverbs, common verbs) and at
words that look like verbs or adverbs, and takes all others for nouns and adjectives. Determiners
alone are no key phrase. The lists are for English captions; of other sentences it takes rare verbs
for nouns.
"""

import functools
import re
from collections.abc import Callable, Sequence

import numpy as np

from lafg_jax.utils.errors import UserError

Spans = list[tuple[int, int]]
# A text -> where its key phrases begin and end.
Finder = Callable[[str], Spans]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
DETERMINERS = frozenset(
  "a an the this that these those some any no each every either neither all both another".split()
)
# Words that end a run.
_CLOSED = frozenset(
  """
  about above across after against along alongside amid among around as at atop because before
  behind below beneath beside besides between beyond by despite down during except for from in
  inside into like near next of off on onto opposite out outside over past per since than through
  throughout to toward towards under underneath until up upon versus via while with within without
  and or but nor so yet if when where why how whether though although unless who whom whose which
  what i me my mine you your yours he him his she her hers it its we us our ours they them their
  theirs myself himself herself itself themselves someone something anyone anything nobody nothing
  everyone everything there here one two three four five six seven eight nine ten eleven twelve am
  is are was were be been being do does did doing done have has had having can could will would
  shall should may might must cannot don't isn't aren't doesn't not n't very too also just only
  even still again ever never always often sometimes together apart away back quite rather almost
  already once twice more most less least much instead then now else maybe perhaps sit sits sat
  stand stands stood hold holds held wear wears wore show shows shown look looks looked ride rides
  rode play plays played run runs ran walk walks walked eat eats ate drink drinks drank lie lies
  lay lays make makes made take takes took taken give gives gave given go goes went gone come
  comes came see sees saw seen get gets got put puts use uses used feature features featured
  contain contains contained include includes included appear appears appeared seem seems seemed
  become becomes became fly flies flew swim swims swam carry carries carried cover covers covered
  pose poses posed posing set sets hang hangs hung face faces faced lean leans leaned rest rests
  rested depict depicts depicted surround surrounds surrounded tell tells told say says said let
  lets know knows knew
  """.split()  # fmt: skip
)
# Nouns and adjectives that end as verbs and adverbs do.
_NO_VERBS = frozenset(
  """
  building ceiling clothing evening king morning painting ring string thing wing wings wedding
  spring sibling railing awning swing earring drawing outing lightning duckling wingspan bed red
  shed seed weed reed sled breed hundred kindred
  """.split()  # fmt: skip
)
_NO_ADVERBS = frozenset(
  """
  family fly butterfly dragonfly lily jelly belly curly ugly woolly friendly lovely lonely lively
  silly holy early daily jolly chilly hilly bubbly wrinkly elderly deadly costly doily bully ally
  rally italy july supply ply assembly monopoly anomaly homily sly
  """.split()  # fmt: skip
)


def finder(kind: str) -> Finder:
  """The function of mapping.phrases: 'rules', or 'spacy'; UserError where spaCy is not there."""
  return by_rules if kind == "rules" else _spacy()


def by_rules(text: str) -> Spans:
  """Where the key phrases of a text are, by lists of words and their endings."""
  words = list(_WORD.finditer(text))
  runs: list[list[re.Match[str]]] = [[]]
  for number, word in enumerate(words):
    run = runs[-1]
    apart = run and text[run[-1].end() : word.start()].strip() != ""
    if apart:
      run = []
      runs.append(run)
    following = words[number + 1] if number + 1 < len(words) else None
    joined = following is not None and text[word.end() : following.start()].isspace()
    if _is_open(word[0].lower(), run, following[0].lower() if following and joined else ""):
      run.append(word)
    elif run:
      runs.append([])
  spans = [(run[0].start(), run[-1].end(), run) for run in runs if run]
  return [(a, b) for a, b, run in spans if any(x[0].lower() not in DETERMINERS for x in run)]


def _is_open(word: str, run: Sequence[re.Match[str]], following: str) -> bool:
  """Whether a word belongs to a run: a determiner, or neither in a list nor like a verb."""
  if word in DETERMINERS:
    # "a dog that runs": such a word begins a run, or follows determiners.
    return not run or all(before[0].lower() in DETERMINERS for before in run)
  if word in _CLOSED or word[0].isdigit():
    return False
  if word.endswith("ly") and len(word) > 3 and word not in _NO_ADVERBS:
    return False
  after_noun = any(before[0].lower() not in DETERMINERS for before in run)
  if word.endswith("ing") and len(word) > 4 and word not in _NO_VERBS:
    # "a man riding a horse", against "a smiling man".
    return not after_noun and following != "" and following not in _CLOSED | DETERMINERS
  if word.endswith("ed") and len(word) > 4 and word not in _NO_VERBS:
    # "a man dressed in black", against "a red striped shirt".
    return following != "" and following not in _CLOSED | DETERMINERS
  return True


@functools.cache
def _spacy() -> Finder:
  wanted = {"NOUN", "PROPN", "ADJ", "DET"}
  key = "--config.mapping.phrases=spacy"
  try:
    import spacy
  except ImportError as error:
    how = "pip install spacy && python -m spacy download en_core_web_sm"
    raise UserError(f"{key}: spaCy is not installed; {how}, or pass rules") from error
  try:
    tagger = spacy.load("en_core_web_sm", disable=["parser", "ner", "lemmatizer"])
  except OSError as error:
    how = "python -m spacy download en_core_web_sm"
    raise UserError(f"{key}: its model en_core_web_sm is missing; {how}, or pass rules") from error

  def spans(text: str) -> Spans:
    found: Spans = []
    inside = False
    for token in tagger(text):
      is_part = token.pos_ in wanted
      end = token.idx + len(token.text)
      if is_part and inside:
        found[-1] = (found[-1][0], end)
      elif is_part:
        found.append((token.idx, end))
      inside = is_part
    return found

  return spans


def cleaned(text: str) -> str:
  """A caption as LinCIR trains on it: lower case, "<PERSON>" as "person", without `$`."""
  text = text.replace("<PERSON>", "person").lower().replace("$", "")
  return " ".join(text.split())


def parts(text: str, spans: Spans, rng: Callable[[], np.random.Generator]) -> list[str]:
  """The text around the places of a pseudo word: each occurrence of each of its key phrases.

  Without key phrases that is one random word of the text, of `rng()`. A text without words has one
  part, and no place.
  """
  found = sorted({text[a:b] for a, b in spans}, key=lambda x: (-len(x), x))
  if not found:
    words = _WORD.findall(text)
    if not words:
      return [text]
    found = [words[int(rng().integers(len(words)))]]
  every = "|".join(map(re.escape, found))
  return re.split(rf"(?<!\w)(?:{every})(?!\w)", text)
