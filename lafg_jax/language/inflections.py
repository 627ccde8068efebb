"""Forms in which a word of a class name may stand in a sentence: plurals, cases, prefixes."""

import functools
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
_AMHARIC = ("የ", "ከ", "በ", "ለ", "እንደ", "ስለ")
_ARABIC = ("و", "ف", "ب", "ك", "ل", "س")
# What follows a name in one word, after a letter of each script: particles, cases, plurals.
_FOLLOWING = {
  "가-힣": "(?:들|류|과)?(?:은|는|이|가|을|를|의|에|에서|에게|와|과|도|만|로|으로|보다|처럼|같이|"
  "만큼|까지|부터|라|라는|이라|이라는|이다|다|입니다|하고|이나|나|랑|이랑|마다|조차|밖에|같은|대로|란|"
  "이란|야|이며|며|이고|고|인|에는|에서는|와는|과는|보다는|보다도|처럼은|에도|이지만|지만|와의|과의|로는|"
  "으로는|만의|까지는)?",
  "\u0980-\u09ff": "(?:য?ে?রা?|দের|গুলো|গুলি|গুলোর|গুলির|টি|টির|টা|টার|কে|তে|য?ে)[ইও]?",
  # The first vowel sign takes the place of one that a name ends in.
  "\u0b80-\u0bff": "(?:வ?ி?க?ள்|க்?க?ளை|க்?களின்|க்?களுக்கு|[யவ]?ை|[யவ]?ைப்|[யவ]?ின்|க்கு|ுக்கு|[யவ]?ுடன்|"
  "[யவ]?ும்|[யவ]?ால்|[யவ]?ில்|ைவிட|யைவிட|ு)",
  "\u0c00-\u0c7f": "(?:లు|ల|లను|లకు|లతో|కి|కు|ని|ను|తో|లో|లా|గా|కంటే|లకంటే|వంటి)",
  "\u0c80-\u0cff": "(?:ಗಳು|ಗಳ|ಗಳನ್ನು|ಗಳಿಗಿಂತ|ಯನ್ನು|ವನ್ನು|ನ್ನು|ಯ|ದ|ನ|ಗೆ|ಗಿಂತ|ಕ್ಕಿಂತ|ಯಿಂದ|ದಿಂದ|ಯಂತೆ|ದಂತೆ)",
  "\u0d00-\u0d7f": "(?:കൾ|കളുടെ|കളെ|കളെക്കാൾ|യെ|യെക്കാൾ|യേക്കാൾ|യുടെ|യ്ക്ക്|യിൽ|യെപ്പോലെ|െ|െക്കാൾ|ിന്റെ|ിൽ|യ?ും)",
  "\u0a80-\u0aff": "(?:ો?(?:ઓ)?(?:ની|નો|નું|ના|ને|થી|માં)|ઓ|ો)",
  "\u0a00-\u0a7f": "(?:ਾ?ਂ|ਆਂ|ਿਆਂ)",
  "\u0d80-\u0dff": "(?:න්|ගේ|ට|ගෙන්|න්ගේ|න්ට|ව)",
  # Marathi and Nepali.
  "\u0900-\u097f": "(?:ा?(?:पेक्षा|ंपेक्षा|सारख[ाीे]|ंचा|ंची|ंना)|हरू|लाई|भन्दा|बाट|जस्तो)",
  "\u10d0-\u10ff": "(?:ებ)?(?:ი|ის|ს|მა|ად|ით|ზე|ში|თან|დან|სთან|ისგან|ისთვის|ისა|ივით|სავით|ც|ო)",
  "\u0561-\u0587": "(?:ներ|եր)?(?:ը|ն|ի|ից|ով|ում|ին|ու|ուց|ինը)?",
  "\u1200-\u137f": "(?:ን|ም|ና|ች|ው|ዋ|ዎች|ዎቹ)",
}
_AFTER = {letter: re.compile(rest) for letter, rest in _FOLLOWING.items()}
_SCRIPT = re.compile("|".join(f"([{letters}])" for letters in _FOLLOWING))


def may_follow(text: str, start: int, end: int) -> bool:
  """Whether text[start:end] may follow a name in one word, in a script that writes it so."""
  script = _SCRIPT.match(text, start)
  if script is None:
    return False
  found = list(_AFTER.values())[(script.lastindex or 1) - 1]
  return found.fullmatch(text, start, end) is not None


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
    # '737-800s', 'A380s'.
    counted = [word + "s"] if re.fullmatch(r"(?=.{2})[a-z0-9]*\d", word) else []
    return [word, *counted, *_other_scripts(word)]
  return list(dict.fromkeys([word, *_plurals(word), *_singulars(word)]))


def first_forms(word: str) -> list[str]:
  """The forms of a name's first word that other words are written before: 'and', 'the', 'to'."""
  if "\u05d0" <= word[0] <= "\u05ea":
    return [prefix + word for prefix in _HEBREW]
  if "\u1200" <= word[0] <= "\u137f":
    return [prefix + word for prefix in _AMHARIC]
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
    # The dual of Arabic, and the ends of Persian and Urdu.
    yield from (stem + end for end in ("تان", "تين"))
    yield from (word + end for end in ("ي", "اي", "ان", "ن"))
    if word[-1] in "اه":
      yield from (word[:-1] + end for end in ("ي", "ون"))
  elif "\u0900" <= first <= "\u097f":
    stem = word[:-1] if word[-1] in "ाीआ" else word
    yield from (stem + end for end in ("े", "ो", "ों", "ें", "ियाँ", "ियों", "ाँ", "ाओं", "ए", "ओं"))
  elif "\u0400" <= first <= "\u04ff" and re.search("[^аеиоуыэюяії][ео](?:[лк]|ць?)$", word):
    # 'скворца', 'дятла', 'орла'.
    bare = word.removesuffix("ь")
    yield bare[:-2] + bare[-1]
  elif "\u0b80" <= first <= "\u0bff" and word.endswith(("ம்", "ு")):
    # 'காகம்' is 'காகத்தை' and 'காகங்கள்'; `may_follow` knows the rest.
    stem = word[:-2] if word[-1] == "்" else word[:-1]
    yield from (stem + end for end in (("த்த", "ங்") if word[-1] == "்" else ("",)))
  elif "\u10d0" <= first <= "\u10ff" and word[-1] in "აეიო" and len(word) >= 4:
    yield word[:-1]
  elif "\u1200" <= first <= "\u137f":
    # The sixth form of the last letter turns into the seventh before the plural's end.
    letter = ord(word[-1]) - 0x1200
    if letter % 8 == 5:
      yield word[:-1] + chr(0x1200 + letter + 1) + "ች"
      yield word[:-1] + chr(0x1200 + letter - 4)
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


# Ends of nouns and adjectives in Latin letters beyond English, as folded: Turkish, Finnish,
# Hungarian, Slavic, Romance, German, Scandinavian.
_ENDS = frozenset(
  """a i e o u es os as em ar an n ta sta ssa lla lle lta ksi na nen sen set ista iksi ien ja jen
  ina den dan tan da te lar ler lari leri larin lerin lardan lerden nin nun nak nek ek ak ok nal ban
  ben bol hoz hez rol vel ej ami ach om owi iem ou am ech ich ymi ho mu aux eaux ais
  oes aos eis ii""".split()
)
# Ends that other English words have too: only after a longer stem.
_RISKY_ENDS = frozenset("t k s en ie nel et".split())
_LEAST_STEM, _LONG_STEM = 4, 6


def is_declined(word: str) -> bool:
  """Whether `stems` can tell another case of a word of a name or a sentence: plain letters."""
  return len(word) >= _LEAST_STEM and word.isascii() and word.isalpha()


@functools.lru_cache(20_000)
def stems(word: str) -> frozenset[str]:
  """A folded word in Latin letters, and what is left of it without an end of many languages.

  A sign says what was left out: '+' any end, '-' one that begins with a vowel, 'y' that letter,
  '~' the end of a Slavic adjective.
  """
  found = {word}
  for size in range(1, min(6, len(word) - _LEAST_STEM) + 1):
    stem, end = word[:-size], word[-size:]
    if end in _ENDS or (end in _RISKY_ENDS and len(stem) >= _LONG_STEM):
      found |= {stem + "+", stem + "-"} if end[0] in "aeiou" else {stem + "+"}
    elif end in ("ego", "eho", "emu", "ym", "ych"):
      found.add(stem + "~")
    elif end == "y":
      # 'silvery', 'willowy' are no Polish plurals.
      long = len(stem) >= _LONG_STEM and stem[-1] not in "rw"
      found |= {stem + "y", stem + "+"} if long else {stem + "y"}
  return frozenset(found)


def base_stems(word: str) -> frozenset[str]:
  """The `stems` of which a sentence has one where it holds this word of a name, in any case."""
  found = {word, word + "+"}
  if len(word) > _LEAST_STEM:
    if word[-1] in "aeiou":
      found.add(word[:-1] + "-")
    if word[-1] == "y":
      found.add(word[:-1] + "~")
    if word[-1] == "a":
      found.add(word[:-1] + "y")
    if re.search("[^aeiouy]e[lkc]$", word):
      # 'wróbla', 'vrabci'.
      found.add(word[:-2] + word[-1] + "-")
    if re.search("(?:kk|pp|tt)[aeiou]$", word):
      # 'harakan' of 'harakka'.
      found.add(word[:-2] + word[-1] + "+")
    if word.endswith("nen"):
      # 'varpusta' of 'varpunen'.
      found |= {word[:-3] + "s+", word[:-3] + "se+"}
  return frozenset(found)
