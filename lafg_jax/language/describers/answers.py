"""How a language model's answer is read: a list of sentences in any of the forms that come."""

import ast
import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from lafg_jax.language.describers import thoughts
from lafg_jax.language.describers.thoughts import Unusable
from lafg_jax.language.descriptions import clean

_REFUSAL = re.compile(
  r"\W*(i['’]?m (very |really |so |terribly )?sorry|i am (very |really |so )?sorry|sorry\b|"
  r"i apologi[sz]e|my apologies|unfortunately,? i\b|as an? (ai|artificial|large|language|llm)\b|"
  r"i (cannot|can['’]?t|can not|won['’]?t|will not|am unable|am not able|do not have|"
  r"don['’]?t have)\b|i['’]?m (unable|not able|an? (ai|language))\b|i am an? (ai|language)\b)",
  re.IGNORECASE,
)
# A number or letter before an item, which a sign must follow, or any sign that is used as a bullet.
_COUNT = (
  r"(?:sentence|description|item|line|nr\.?|no\.?|s|#|第)?\s*"
  r"(?:\(?\d{1,3}\s*\\?[.):、．，）:]+(?=\D)|\d{1,3}\s+[-–—]\s|\d{1,3}\ufe0f?\u20e3|"
  r"\(?[A-Za-z]\s*\\?[.)]\s|\(?[ivxIVX]{1,5}\s*\\?[.)]\s|[（(]\s*\d{1,3}\s*[）)]|"
  r"[\u2460-\u249b\u24ea-\u24ff\u2776-\u2793])"
)
_SIGNS = "*+•·◦‣●○■□▪▫◆◇►▶▸➤➢➔→⇒»›✓✔✅☑★☆❖♦⁃∙・※~>"
_BULLET = re.compile(
  rf"\s*(?:>\s*)?(?:\*\*|__)?(?:{_COUNT}(?:\*\*|__)?"
  rf"|[-–—{re.escape(_SIGNS)}]\ufe0f?(?:\s+\[[ xX]?\])?\s"
  rf"|[•●▪■◦►✓✔✅➤・]\ufe0f?(?=\w))\s*(?P<text>\S.*)",
  re.IGNORECASE,
)
_AGAIN = re.compile(r"^(?=[ \t]*(?:\*\*)?1\s*\\?[.)])", re.MULTILINE)
_LABEL = re.compile(r"(\*\*|__)[^*_]{1,60}?:?\1\s*[:–—-]?\s*(?=\S)")
_FENCE = re.compile(r"^\s*(?:```|~~~)[^\n`]*$|```(?:json[l5]?)?", re.MULTILINE)
# Items of HTML, and what ends them.
_ITEMS = "li|item|sentence|description|feature|point"
_ITEM = re.compile(
  rf"\s*<(?:{_ITEMS})(?:\s[^>]*)?>\s*|\s*</(?:{_ITEMS}|ol|ul)>(?=\s*$)", re.IGNORECASE
)
_COMMENT = re.compile(r"(?<=[,\"'”])[ \t]*(?://|#)[^\"'\n]*$", re.MULTILINE)
_ROW = re.compile(r"^\s*\|(.+)\|\s*$")
# Keys of a JSON object whose values are no sentences.
_NAMES = ("class", "name", "category", "title", "type", "id", "kind", "topic", "index", "number")
_FEWEST_WORDS = 3
# A text with more brackets that begin nothing is no JSON.
_MOST_UNREAD = 100
# A string in a list that no parser reads: between quotes, up to the quote that a comma, a closing
# bracket or the end of the line follows.
_QUOTED = re.compile(
  r"(?:(?<=[\[{,:\n])|^)\s*([\"'“‘«„])(?P<text>.+?)[\"'”’»“](?=\s*(?:,\s*[\"'“‘«„\]}\n]|[\]}\n]|:|$))",
  re.DOTALL,
)
# Spaced scripts count words; others say enough in a few letters.
_UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff]")


def parse(text: str, finish_reason: str, name: str, count: int) -> list[str]:
  """The distinct sentences of an answer about the class `name`, at most `count`.

  Thoughts are left out (`thoughts.answer_in`). Reads JSON in any nesting, JSON lines, a list in
  Python's form, in a code fence or amid prose, a bulleted or numbered list, a Markdown table, and
  one sentence a line. Where there are several lists, the last that is long enough counts.
  `finish_reason` is 'length' where the answer was cut off at the limit of tokens.

  Raises:
    Unusable: the answer is cut off, empty, a refusal or of another form, or has less than half of
      the sentences.
  """
  if finish_reason == "length":
    open_end = thoughts.are_open(text)
    raise Unusable(f"it was cut off at language.max_tokens{', amid its thoughts' * open_end}")
  if finish_reason == "content_filter":
    raise Unusable("the endpoint's content filter stopped it")
  text = _FENCE.sub("", thoughts.answer_in(text)).strip("\ufeff \t\r\n")
  if not text:
    raise Unusable("it is empty")
  if text[:2] in ('"[', '"{'):
    # JSON within a string of JSON.
    with contextlib.suppress(ValueError):
      text = str(json.loads(text))
  groups = list(_groups(_ITEM.sub("\n- ", text), count))
  # Below a draft stands what the model settled on.
  best: list[str] = []
  for candidates in groups:
    sentences = _distinct(candidates, name)
    if sentences and (len(sentences) >= min(count, max(len(best), 1))):
      best = sentences
  if not best:
    refused = _REFUSAL.match(text) or any(_REFUSAL.match(c) for group in groups for c in group)
    raise Unusable("it is a refusal" if refused else "it holds no list of sentences")
  if 2 * len(best) < count:
    raise Unusable(f"it holds {len(best)} of {count} sentences")
  return best[:count]


def is_refusal(text: str) -> bool:
  """Whether a text begins as a refusal does."""
  return _REFUSAL.match(text) is not None


def without_fences(text: str) -> str:
  """A text without the marks of code blocks."""
  return _FENCE.sub("", text)


def _groups(text: str, count: int) -> Iterator[list[str]]:
  """Each list of a text, as strings: those of JSON, and where there are none those of plain text.

  Raises Unusable if the whole text is meant as JSON, and is broken.
  """
  found = [group for group in _from_json(text, count) if group]
  if found:
    yield from found
  elif not _REFUSAL.match(text):
    # Two whole lists, each numbered from 1, are a draft and the answer.
    lists = [_from_bullets(part) for part in _AGAIN.split(text)]
    if sum(len(items) >= count for items in lists) > 1:
      yield from lists
    else:
      yield _from_bullets(text) or _from_lines(text)


def _from_json(text: str, count: int) -> Iterator[list[str]]:
  """The strings of each JSON list or object; of those that follow each other, all together, where
  they are not each the greater part of `count`."""
  group: list[str] = []
  start = end = unread = 0
  while (match := re.compile(r"[\[{]").search(text, start)) is not None:
    at = match.start()
    if group and text[end:at].strip(" \t\r\n,;"):
      yield group
      group = []
    value, start = _value(text, at)
    if start == at:
      if at == 0:
        raise Unusable("it is broken JSON")
      start, unread = at + 1, unread + 1
      if unread > _MOST_UNREAD:
        break
      continue
    strings = list(_strings(value))
    if 2 * min(len(group), len(strings)) > max(count, 2) and isinstance(value, list):
      yield group
      group = []
    # A marker such as [1] stands in prose; it ends no list.
    group += strings
    end = start if strings else end
  yield group


def _value(text: str, at: int) -> tuple[Any, int]:
  """The list or object at a bracket, and where it ends; (None, at) where it cannot be read."""
  try:
    return json.JSONDecoder(strict=False).raw_decode(text, at)
  except (ValueError, RecursionError):
    pass
  end = _closing(text, at)
  if end is None:
    return None, at
  whole = _COMMENT.sub("", text[at : end + 1])
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
      # Python's lists have single quotes, and a comma may follow the last item. A line that ends
      # without a comma would be joined with the next.
      if not re.search(r"[\"']\s*\n\s*[\"']", whole):
        return ast.literal_eval(whole), end + 1
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
      pass
  strings = [found for found in _QUOTED.finditer(whole) if not _is_key(whole, found.end())]
  return [found["text"].replace("\\'", "'").replace('\\"', '"') for found in strings], end + 1


def _is_key(text: str, end: int) -> bool:
  return text[end:].lstrip()[:1] == ":"


def _closing(text: str, at: int) -> int | None:
  """Where the bracket at `at` is closed, strings left out as far as their quotes tell; or None."""
  depth, quote = 0, ""
  pairs = {'"': '"', "“": "”", "'": "'", "‘": "’"}
  for i in range(at, min(len(text), at + 100_000)):
    sign = text[i]
    if quote:
      # An apostrophe stands between letters: "it's".
      ends = sign == quote and text[i - 1] != "\\"
      if ends and (quote not in "'’" or not text[i + 1 : i + 2].isalnum()):
        quote = ""
    elif sign in pairs and not text[i - 1].isalnum():
      quote = pairs[sign]
    elif sign in "[{":
      depth += 1
    elif sign in "]}":
      depth -= 1
      if not depth:
        return i
  return None


def _strings(value: Any, named: bool = False) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, list | tuple):
    for item in value:
      yield from _strings(item)
  elif isinstance(value, dict):
    for key, item in value.items():
      if str(key).strip().lower() not in _NAMES and not thoughts.is_key(str(key)):
        yield from _strings(item)


def _from_bullets(text: str) -> list[str]:
  """The items of a list in plain text or Markdown; indented lines continue their item."""
  items: list[str] = []
  inside = False
  for line in text.split("\n"):
    match = _BULLET.match(line)
    row = _ROW.match(line)
    if match:
      items.append(match["text"])
    elif row and not re.fullmatch(r"[\s|:-]*", row[1]):
      # The longest cell of a table's row is its sentence.
      items.append(max(row[1].split("|"), key=len).strip())
    elif inside and line.strip() and line[0] in " \t":
      items[-1] += " " + line.strip()
    inside = bool(line.strip()) and (match is not None or (inside and line[0] in " \t"))
  # A heading such as 'Differences:' above a list is no sentence.
  return [item for item in items if not item.rstrip("*_ ").endswith((":", "："))]


def _from_lines(text: str) -> list[str]:
  """Lines that are a sentence, or a quoted string, each; none where a text is a single line."""
  found = []
  for line in text.split("\n"):
    line = line.strip().rstrip(",")
    quoted = re.fullmatch(r"[\"'“‘«](.+)[\"'”’»]", line)
    inner = quoted[1] if quoted else line
    # A paragraph of several sentences is no item of a list.
    single = re.search(r"[.。।]$", inner) and not re.search(r"[.!?]\s+[A-Z]|。.", inner)
    if quoted or (single and not line.startswith("#")):
      found.append(inner)
  return found if len(found) > 1 else []


def _distinct(candidates: Sequence[str], name: str) -> list[str]:
  found: dict[str, str] = {}
  for text in candidates:
    bullet = _BULLET.fullmatch(text.strip())
    text = bullet["text"] if bullet else text.strip()
    if text[:1] in "*_":
      text = _LABEL.sub("", text, count=1)
    text = clean(re.sub(rf"\*\*|__|`|^#+\s|</?(?:{_ITEMS}|ol|ul|p|b|i|em|strong)>", "", text))
    key = text.casefold().rstrip(".")
    long_enough = len(text.split()) >= _FEWEST_WORDS or len(_UNSPACED.findall(text)) >= 5
    if long_enough and key != name.casefold() and not _REFUSAL.match(text):
      found.setdefault(key, text)
  return list(found.values())
