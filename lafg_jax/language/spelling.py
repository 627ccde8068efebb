"""One spelling for what people write in several ways, in any script."""

import functools
import re
import unicodedata
from typing import NamedTuple

# What stands before a letter of `Letters`: NOTHING inside of a word, SOFT where a word may end
# though the text is written on (a hyphen, an apostrophe, scripts without spaces), HARD between
# words, and RUN inside of a run of katakana, where a word may begin but not end.
NOTHING, SOFT, HARD, RUN = range(4)

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛`´′＇ʼʻʽˈ՚׳״", "'"))
# Letters with several forms that Unicode does not decompose.
_SAME = str.maketrans(
  {"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h"}
  | {"ة": "ه", "ى": "ي", "ی": "ي", "ک": "ك", "ہ": "ه", "ے": "ي", "ں": "ن"}
  | dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz", strict=True))
  | {"ך": "כ", "ם": "מ", "ן": "נ", "ף": "פ", "ץ": "צ"}
)
# The tatweel, which only widens an Arabic word, and the dots below letters of Indian scripts.
_LEFT_OUT = frozenset("ـ\u093c\u09bc\u0a3c\u0b3c\u034f")
# A mark on a letter below this is an accent, which may be left out: Latin to Arabic.
_ACCENTED = 0x700
_SOFT = frozenset("'−·・‧־་")
# A nasal before a consonant of an Indian word, which a dot may stand for.
_NASAL = re.compile("[\u0919\u091e\u0923]\u094d(?=[\u0915-\u0939])")
_POSSESSIVE = re.compile(r"(?<=[^\W\d_])'s(?!\w)")
# Ends of Russian and Ukrainian nouns and adjectives in all cases, the longest first, as folded.
_CYRILLIC = re.compile(
  "(?<=[а-яієґјљњћђџ]{3})ь?(?:ами|ями|ого|его|ому|ему|ыми|ими|ою|ею|ои|еи|ии|ыи|ая|яя|ое|ее|ые|ие|ів|ов|ев|"
  "ам|ям|ах|ях|ом|ем|ым|им|ых|их|ую|юю|а|я|ы|и|у|ю|е|о|і|ь)$"
)
# The article of Arabic, maybe after 'and', 'with', 'like' or 'for'.
_ARTICLE = re.compile(r"^(?:[وف]?[بك]?ال|[وف]?لل)(?=\w\w)")
# Han, kana, Thai, Lao, Tibetan, Burmese, Khmer, Balinese, Javanese: no space parts their words.
_UNSPACED = re.compile(
  "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1b00-\u1b7f\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"
  "\u3400-\u9fff\ua980-\ua9df\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff]"
)


class Letters(NamedTuple):
  """The letters and digits of a text, without anything between them."""

  text: str
  before: tuple[int, ...]  # what stands before each letter, one more than letters


def fold(text: str) -> str:
  """A text in lower case without accents, invisible signs and possessive 's'.

  Vowel signs that are not accents (of Hindi or Thai, say) stay. Forms of one letter are one: full
  width, ligatures, final letters, 'ß' and 'ss', the Turkish i's.
  """
  if text.isascii():
    return _POSSESSIVE.sub("", text.lower().replace("`", "'"))
  text = text.translate(_APOSTROPHES)
  text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
  kept, base = [], ""
  for sign in text.translate(_SAME):
    kind = unicodedata.category(sign)
    if kind == "Cf" or sign in _LEFT_OUT or "\ufe00" <= sign <= "\ufe0f":
      continue
    # A mark without a letter is one too.
    if kind == "Mn" and ord(base or " ") < _ACCENTED:
      continue
    base = base if kind[0] == "M" else sign
    kept.append(sign)
  text = unicodedata.normalize("NFC", _NASAL.sub("\u0902", "".join(kept)))
  return _POSSESSIVE.sub("", text)


def words(text: str) -> list[str]:
  """The words of a folded text, as `letters` parts them at hard boundaries."""
  found = letters(text)
  starts = [i for i in range(len(found.text)) if i == 0 or found.before[i] in (HARD, SOFT)]
  return [found.text[i:j] for i, j in zip(starts, [*starts[1:], len(found.text)], strict=True)]


def squeezed(text: str) -> str:
  """The letters and digits of any text, folded: equal where only the writing differs."""
  return letters(fold(text)).text


@functools.lru_cache(4096)
def letters(folded: str) -> Letters:
  """Letters, marks and digits of a folded text, and what stands between them.

  Hiragana stands for katakana, and words of Cyrillic and Arabic without the ends and articles that
  only grammar asks for.
  """
  if folded.isascii():
    return _ascii_letters(folded)
  kept: list[str] = []
  before: list[int] = []
  word: list[str] = []
  gap = HARD

  def close() -> None:
    stem = _ARTICLE.sub("", _CYRILLIC.sub("", "".join(word)))
    before.extend([first] + [NOTHING] * (len(stem) - 1) if stem else [])
    kept.extend(stem)
    word.clear()

  first, last = HARD, ""
  for sign in folded:
    kind = unicodedata.category(sign)
    if kind[0] not in "LMN":
      if word:
        close()
      soft = sign in _SOFT or kind == "Pd"
      gap = max(gap, SOFT) if soft else HARD
      last = ""
      continue
    unspaced = _UNSPACED.match(sign) is not None
    if unspaced or (last and _UNSPACED.match(last)):
      if word:
        close()
      if kind[0] == "M":
        step = NOTHING
      elif gap:
        step = gap
      else:
        step = RUN if _katakana(last) and _katakana(sign) else SOFT
      if unspaced:
        kept.append(_hiragana(sign))
        before.append(step)
      else:
        word, first = [sign], step
    elif word:
      word.append(sign)
    else:
      word, first = [sign], gap or SOFT
    gap, last = NOTHING, sign
  if word:
    close()
  return Letters("".join(kept), (*before, HARD))


def _ascii_letters(folded: str) -> Letters:
  before, end = [], -1
  for found in re.finditer("[a-z0-9]+", folded):
    gap = folded[max(end, 0) : found.start()]
    before.append(HARD if end < 0 or gap.strip("'-") else SOFT)
    before += [NOTHING] * (len(found[0]) - 1)
    end = found.end()
  return Letters("".join(re.findall("[a-z0-9]+", folded)), (*before, HARD))


def _katakana(sign: str) -> bool:
  return bool(sign) and "\u30a0" <= sign <= "\u30ff"


def _hiragana(sign: str) -> str:
  return chr(ord(sign) - 0x60) if "\u30a1" <= sign <= "\u30f6" else sign
