"""How OpenAI-compatible endpoints differ: parameters they refuse, shapes of their answers."""

import contextlib
import difflib
import email.utils
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lafg_jax.language.describers.prompt import Answer

# The longest pause that a server gets, whatever it asks for.
_LONGEST_RETRY_AFTER = 900.0
# What these statuses say has nothing to do with parameters.
_NOT_ABOUT_PARAMETERS = (401, 402, 403, 404, 408, 409, 425, 429)
_REFUSES = re.compile(
  r"support|unknown|unrecogni[sz]ed|unexpected|invalid|permitted|allowed|deprecated|extra|instead|"
  r"must|should|only|cannot|too large|exceed|greater|less",
  re.IGNORECASE,
)
_ENDS = re.compile(r"(?:/chat/completions|/completions|/models)?/*$")
_VERSIONED = re.compile(r"/v\d+\w*(?:/|$)|/openai(?:/|$)")
_PAGE = re.compile(r"\s*<(?:!doctype|html|head|body|center|h1)\b", re.IGNORECASE)
_TITLE = re.compile(r"<(title|h1)[^>]*>\s*([^<]+?)\s*</\1", re.IGNORECASE)


class Problem(NamedTuple):
  """What an endpoint says in place of an answer."""

  status: int  # of HTTP; 0 where nothing came that can be understood
  message: str
  parameter: str = ""  # that it names apart from the message
  pause: float = 0.0  # seconds that it wants to be left alone
  unreachable: bool = False  # no connection can be made


def base_url(url: str) -> str:
  """The URL of an API, from one that may go on to one of its methods."""
  return _ENDS.sub("", url.strip()) if url else ""


def lacks_version(url: str) -> bool:
  """Whether a base URL may lack its '/v1'."""
  return not _VERSIONED.search(re.sub(r"^\w+://[^/]*", "", url))


def problem_of(status: int, message: str, body: Any, headers: Mapping[str, str]) -> Problem:
  """The problem in an HTTP error, whose body is JSON of any shape, or text."""
  inner = body.get("error", body) if isinstance(body, dict) else body
  parameter = inner.get("param") if isinstance(inner, dict) else None
  if isinstance(inner, dict) and isinstance(inner.get("message"), str):
    message = inner["message"]
  elif isinstance(inner, str) and inner.strip():
    message = inner
  # pydantic names the place of what it does not take.
  details = body.get("detail") if isinstance(body, dict) else None
  for detail in details if isinstance(details, list) else ():
    if isinstance(detail, dict) and isinstance(detail.get("loc"), list) and detail["loc"]:
      parameter = parameter or str(detail["loc"][-1])
  pause = seconds(headers.get("retry-after"))
  with contextlib.suppress(ValueError):
    pause = pause or seconds(str(float(headers.get("retry-after-ms") or 0) / 1000))
  return Problem(status, message, parameter if isinstance(parameter, str) else "", pause)


def problem_in(completion: Any) -> Problem | None:
  """The problem in the body of an answer with status 200, if there is one."""
  if isinstance(completion, str) and _PAGE.match(completion):
    return Problem(404, f"{plain(completion)} came, no JSON")
  error = getattr(completion, "error", None)
  if not error or getattr(completion, "choices", None):
    return None
  found = error if isinstance(error, dict) else {"message": str(error)}
  code = str(found.get("code") or found.get("status") or "")
  status = int(code) if re.fullmatch(r"[45]\d\d", code) else 500
  return problem_of(status, str(found.get("message") or error), {"error": found}, {})


def refused(problem: Problem, sent: Iterable[str]) -> str:
  """Which of the parameters that were sent an endpoint does not take; '' where it names none."""
  if not problem.status or problem.status in _NOT_ABOUT_PARAMETERS:
    return ""
  sent = list(sent)
  if problem.parameter in sent:
    return problem.parameter
  if not _REFUSES.search(problem.message):
    return ""
  places = {x: re.search(rf"(?<!\w){x}(?!\w)", problem.message) for x in sent}
  found = [(place.start(), x) for x, place in places.items() if place]
  if found:
    return min(found)[1]
  # 'This model only supports stream mode.'
  wants_stream = re.search(r"\bstream", problem.message, re.IGNORECASE) and "stream" not in sent
  return "stream" if wants_stream else ""


def without(parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
  """The parameters in place of those of which an endpoint refuses `name`."""
  if name == "stream" and name not in parameters:
    return {**parameters, "stream": True}
  rest = {key: value for key, value in parameters.items() if key != name}
  return rest | ({"max_completion_tokens": parameters[name]} if name == "max_tokens" else {})


def other_models(model: str, known: Iterable[str]) -> str:
  """'; it has a, b, ...' for a message, the nearest names first; '' where none is known."""
  names = sorted(set(known))
  near = difflib.get_close_matches(model, names, n=3, cutoff=0.4)
  shown = list(dict.fromkeys([*near, *names]))[:8]
  more = ", ..." if len(names) > len(shown) else ""
  return f"; it has {', '.join(map(repr, shown))}{more}" if shown else ""


def plain(text: str) -> str:
  """A message in one short line; a page of a proxy is named by its title."""
  if _PAGE.match(text):
    title = _TITLE.search(text)
    text = f"an HTML page{f' ({title[2]})' if title else ''}"
  return " ".join(text.split())[:500]


def read(completion: Any) -> Answer:
  """The answer in a completion, whose shape the client has not checked; else ValueError."""
  try:
    choice = completion.choices[0]
    message = getattr(choice, "message", None)
    content = choice.text if message is None else getattr(message, "content", None)
    text = _text(content)
  except (AttributeError, TypeError, LookupError):
    raise ValueError("the body is no chat completion") from None
  thought = next((t for x in ("reasoning_content", "reasoning") if (t := _thought(message, x))), "")
  refusal = getattr(message, "refusal", None) or _refusal(content)
  if not text.strip() and isinstance(refusal, str) and refusal:
    text = f"I'm sorry: {refusal}"
  elif not text.strip() and thought:
    # It ended before it answered; the thoughts are kept for people to read.
    text = f"<think>{thought}"
  return Answer(text, str(getattr(choice, "finish_reason", None) or "stop"))


def read_stream(chunks: Iterable[Any]) -> Answer:
  """The answer in a stream of chunks."""
  text, thought, reason = "", "", ""
  for chunk in chunks:
    for choice in (getattr(chunk, "choices", None) or ())[:1]:
      delta = getattr(choice, "delta", None)
      text += _text(getattr(delta, "content", None))
      thought += _thought(delta, "reasoning_content") or _thought(delta, "reasoning")
      reason = getattr(choice, "finish_reason", None) or reason
  return Answer(text or (f"<think>{thought}" if thought else ""), reason or "stop")


def _text(content: Any) -> str:
  """The text of a message's content, which may come in parts; parts of thoughts are left out."""
  if content is None or isinstance(content, str):
    return content or ""
  if isinstance(content, dict):
    content = [content]
  if not isinstance(content, list):
    raise TypeError
  parts = []
  for part in content:
    if isinstance(part, str):
      parts.append(part)
    elif isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
      text = part.get("text")
      # Some give the text as an object again.
      parts.append(str(text.get("value") or "") if isinstance(text, dict) else str(text or ""))
    elif not isinstance(part, dict):
      raise TypeError
  return "".join(parts)


def _thought(message: Any, key: str) -> str:
  found = getattr(message, key, None)
  return found if isinstance(found, str) else ""


def _refusal(content: Any) -> str:
  parts = content if isinstance(content, list) else []
  return next((str(p["refusal"]) for p in parts if isinstance(p, dict) and p.get("refusal")), "")


def seconds(retry_after: str | None) -> float:
  """The seconds of a Retry-After header, a number or a date; 0 for none."""
  try:
    found = float(retry_after or 0)
  except ValueError:
    try:
      found = email.utils.parsedate_to_datetime(retry_after or "").timestamp() - time.time()
    except ValueError:
      return 0.0
  return min(max(found, 0.0), _LONGEST_RETRY_AFTER) if found == found else 0.0
