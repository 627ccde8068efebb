"""How an answer of one line is read, whatever a language model writes around it."""

import itertools
import json
import re
from collections.abc import Sequence

from lafg_jax.language.describers import answers, thoughts
from lafg_jax.language.describers.chat import Answer
from lafg_jax.language.describers.thoughts import Unusable
from lafg_jax.language.descriptions import clean

# Labels before an answer that nobody asked for, such as '**Caption:**'.
_OTHER_LABEL = (
  r"(?:the )?(?:(?:final|new|edited|modified|updated|target|wanted) )?(?:image )?"
  r"(?:description|caption|answer|output|response|result|objects?(?: added)?)"
)


def read(answer: Answer, label: str, section: str, request: Sequence[str] = ()) -> str:
  """The first line of an answer that says anything, without thoughts, echoed labels and quotes.

  label: what the request ends with. request: labels of its other lines: where an answer repeats
  them first they are left out, and where it goes on to another request it ends. One that was cut
  off at `<section>.max_tokens` is usable if its line was whole.

  Raises:
    Unusable: it is cut off, empty, a refusal, or stopped by a content filter.
  """
  cut = answer.finish_reason == "length"
  if cut and thoughts.are_open(answer.text):
    raise Unusable(f"it was cut off at {section}.max_tokens, amid its thoughts")
  if answer.finish_reason == "content_filter":
    raise Unusable("the endpoint's content filter stopped it")
  text = answers.without_fences(thoughts.answer_in(answer.text)).strip("\ufeff \t\r\n")
  lines = [line for line in _from_json(text).split("\n") if line.strip()]
  last = lines[-1] if lines else ""
  for line in _own(lines, label, request):
    found = _unlabelled(line, label)
    if not found or (found.endswith((":", "：")) and line != last):
      # A label alone, or 'Here is the description:', with the answer below it.
      continue
    if answers.is_refusal(found):
      raise Unusable("it is a refusal")
    if cut and line == last:
      raise Unusable(f"it was cut off at {section}.max_tokens")
    return found
  raise Unusable("it is empty")


def _own(lines: list[str], label: str, request: Sequence[str]) -> list[str]:
  """The lines of the first answer in a text, from its label on where it has one."""

  def begins(line: str, name: str) -> bool:
    return re.match(rf"[\W_]*{re.escape(name)}\W*[:：]", line, re.IGNORECASE) is not None

  repeats = lambda line: any(begins(line, name) for name in request)  # noqa: E731
  own = list(itertools.dropwhile(repeats, lines))
  own = list(itertools.takewhile(lambda line: not repeats(line), own))
  labelled = [i for i, line in enumerate(own) if begins(line, label)]
  return own[labelled[0] if labelled else 0 :]


def _unlabelled(line: str, label: str) -> str:
  text = re.sub(r"\*\*|__|`|^\s*#+\s|</?\w+>", "", line).strip()
  text = re.sub(r"^[-*•>]\s+", "", text)
  label = rf"(?:{re.escape(label)}|{_OTHER_LABEL})\s*[:：]\s*"
  return clean(re.sub(rf"^{label}", "", text, count=1, flags=re.IGNORECASE))


def _from_json(text: str) -> str:
  """What stands in an answer that is JSON: its first text, or the texts of a list.

  Raises Unusable where JSON is broken.
  """
  if text[:1] not in ("{", "[", '"'):
    return text
  try:
    value = json.loads(text, strict=False)
  except (ValueError, RecursionError):
    if text[0] == '"':
      return text
    raise Unusable("it is broken JSON") from None
  while isinstance(value, dict) and value:
    value = next(iter(value.values()))
  if isinstance(value, list) and all(isinstance(item, str) for item in value):
    return ", ".join(value)
  return value if isinstance(value, str) else text
