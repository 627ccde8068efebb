"""How OpenAI-compatible endpoints differ: parameters they refuse, shapes of their answers."""

import contextlib
import difflib
import email.utils
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lafg_jax.language.describers.chat import Answer

# The longest pause that a server gets, whatever it asks for.
_LONGEST_RETRY_AFTER = 900.0
# What these statuses say has nothing to do with parameters.
_NOT_ABOUT_PARAMETERS = (401, 402, 403, 404, 408, 409, 425, 429)
_REFUSES = re.compile(
  r"support|unknown|unrecogni[sz]ed|unexpected|invalid|permitted|allowed|deprecated|extra|instead|"
  r"must|should|only|cannot|has to|too (?:large|big|high)|exceed|greater|less|larger|"
  r"at (?:most|least)|maximum|between|range|[<>]|超|不支持|无效|范围",
  re.IGNORECASE,
)
_LIMITS = ("max_tokens", "max_completion_tokens")
# That a limit of tokens is too large, not that it has another name.
_TOO_LARGE = re.compile(
  r"too (?:large|big|high|many)|exceed|at most|less than|greater than|larger than|maximum|between|"
  r"range|[<>≤]|\brequested\b|超|范围",
  re.IGNORECASE,
)
_OTHER_NAME = re.compile(
  r"unsupported|unknown|unrecogni[sz]ed|instead|deprecated|not supported", re.I
)
_FEWEST_TOKENS = 64
# How vendors name the reasons that OpenAI calls 'length' and 'content_filter'.
_CUT = re.compile(
  r"length|(?:max|model|stop)_?(?:output_)?(?:tokens|length)|token_limit", re.IGNORECASE
)
_FILTERED = re.compile(
  r"(?:content_?filter(?:ed)?|safety|prohibited_content|blocklist|spii|recitation|sensitive|refusal)",
  re.IGNORECASE,
)
# Where an error's text stands in its body.
_TEXTS = (
  *("message", "msg", "detail", "error", "errors", "error_description", "description"),
  *("title", "status_msg", "base_resp", "error_msg"),
)
_ENDS = re.compile(
  r"(?:/chat/completions|/completions|/models|/messages|/responses|/embeddings|"
  r"/api/(?:chat|generate|tags))?/*$"
)
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


def other_url(url: str, first: str) -> str:
  """Where to ask when nothing is at `url`, for which `first` was given; '' for nowhere.

  A base URL may lack its '/v1', and Ollama's own API stands at '/api', beside '/v1'.
  """
  if not _VERSIONED.search(re.sub(r"^\w+://[^/]*", "", url)):
    return f"{url}/v1"
  return f"{first.removesuffix('/api')}/v1" if first + "/v1" == url and first[-4:] == "/api" else ""


def problem_of(status: int, message: str, body: Any, headers: Mapping[str, str]) -> Problem:
  """The problem in an HTTP error, whose body is JSON of any shape, or text."""
  told, parameter = _told(body)
  if told:
    message = told
  elif isinstance(body, dict | list) and body:
    message = f"{message} {json.dumps(body, ensure_ascii=False)}"
  pause = seconds(headers.get("retry-after"))
  with contextlib.suppress(ValueError):
    pause = pause or seconds(str(float(headers.get("retry-after-ms") or 0) / 1000))
  return Problem(status, message, parameter, pause)


def _told(body: Any) -> tuple[str, str]:
  """(the first text, the parameter) that an error of any shape names; '' for none."""
  if isinstance(body, str):
    return body.strip(), ""
  if isinstance(body, list):
    return next((told for item in body if (told := _told(item))[0]), ("", ""))
  if not isinstance(body, dict):
    return "", ""
  text, parameter = next((told for x in _TEXTS if (told := _told(body.get(x)))[0]), ("", ""))
  if isinstance(body.get("param"), str):
    parameter = body["param"]
  # pydantic names the place of what it does not take.
  elif isinstance(place := body.get("loc"), list) and place:
    parameter, text = str(place[-1]), f"{place[-1]}: {text}"
  return text, parameter


def problem_in(completion: Any) -> Problem | None:
  """The problem in the body of an answer with status 200, if there is one."""
  if isinstance(completion, str) and _PAGE.match(completion):
    return Problem(404, f"{plain(completion)} came, no JSON")
  if isinstance(completion, str) and completion.lstrip().startswith(("data:", "event:")):
    return Problem(400, "It only supports stream mode: a stream came unasked")
  choices = getattr(completion, "choices", None)
  error = getattr(completion, "error", None)
  if isinstance(choices, list) and choices:
    # Of an answer that broke off, whose part came too.
    error = getattr(choices[0], "error", None)
    if not error and getattr(choices[0], "finish_reason", None) == "error":
      error = "the answer ended with finish_reason 'error'"
    if not error:
      return None
  if not error:
    extra = getattr(completion, "model_extra", None) or {}
    text = _told(extra)[0] if not choices else ""
    return Problem(0, f"the body is no chat completion: {text}") if text else None
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
  limit = next((x for x in sent if x in _LIMITS), "")
  # 'You requested 1536 tokens (512 in the messages, 1024 in the completion).'
  if limit and re.search(r"max_new_tokens|in the completion\b", problem.message):
    return limit
  # 'n', the number of answers, is no line break.
  places = {x: re.search(rf"(?<![\w\\]){x}(?!\w)", problem.message) for x in sent}
  found = [(place.start(), x) for x, place in places.items() if place]
  if found:
    return min(found)[1]
  # 'This model only supports stream mode.'
  wants_stream = re.search(r"\bstream", problem.message, re.IGNORECASE) and "stream" not in sent
  return "stream" if wants_stream else ""


def without(parameters: Mapping[str, Any], name: str, message: str = "") -> dict[str, Any]:
  """The parameters in place of those of which an endpoint refuses `name`, saying `message`.

  A limit of tokens that is too large is lowered to a number that the message names, or halved.
  """
  if name == "stream" and name not in parameters:
    return {**parameters, "stream": True}
  if name in _LIMITS and _TOO_LARGE.search(message) and not _OTHER_NAME.search(message):
    limit = parameters[name]
    named = [int(x) for x in re.findall(r"(?<![\w.])\d{2,7}(?![\w])", message)]
    lower = max((x for x in named if _FEWEST_TOKENS <= x < limit), default=limit // 2)
    if lower >= _FEWEST_TOKENS:
      return {**parameters, name: lower}
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
  return " ".join("".join(x if x.isprintable() else " " for x in text).split())[:500]


def read(completion: Any) -> Answer:
  """The answers in a completion, whose shape the client has not checked; else ValueError."""
  try:
    first, *others = [_read_choice(choice) for choice in completion.choices]
  except (AttributeError, TypeError, ValueError):
    raise ValueError("the body is no chat completion") from None
  return first._replace(more=tuple(others))


def _read_choice(choice: Any) -> Answer:
  try:
    message = getattr(choice, "message", None)
    content = choice.text if message is None else getattr(message, "content", None)
    text = _text(content) or _arguments(message)
  except (AttributeError, TypeError, LookupError):
    raise ValueError("the body is no chat completion") from None
  thought = next((t for x in ("reasoning_content", "reasoning") if (t := _thought(message, x))), "")
  refusal = getattr(message, "refusal", None) or _refusal(content)
  if not text.strip() and isinstance(refusal, str) and refusal:
    text = f"I'm sorry: {refusal}"
  elif not text.strip() and thought:
    # It ended before it answered; the thoughts are kept for people to read.
    text = f"<think>{thought}"
  return Answer(text, _reason(choice) or "stop")


def _reason(choice: Any) -> str:
  """Why an answer ended, in OpenAI's words; '' where nothing is said."""
  said = [str(getattr(choice, x, None) or "") for x in ("finish_reason", "native_finish_reason")]
  if any(map(_CUT.fullmatch, said)):
    return "length"
  return "content_filter" if any(map(_FILTERED.fullmatch, said)) else said[0] and "stop"


def _arguments(message: Any) -> str:
  """What a model said by a call of a function that nobody offered."""
  calls = [getattr(call, "function", None) for call in getattr(message, "tool_calls", None) or ()]
  found = [getattr(x, "arguments", None) for x in (*calls, getattr(message, "function_call", None))]
  return next((x for x in found if isinstance(x, str) and x.strip()), "")


def read_stream(chunks: Iterable[Any]) -> Answer:
  """The answer in a stream of chunks."""
  text, thought, reason = "", "", ""
  for chunk in chunks:
    for choice in (getattr(chunk, "choices", None) or ())[:1]:
      delta = getattr(choice, "delta", None)
      text += _text(getattr(delta, "content", None))
      thought += _thought(delta, "reasoning_content") or _thought(delta, "reasoning")
      reason = _reason(choice) or reason
  if not reason and not re.search(r"[\]}.!?。।`>\"]\s*$", text):
    raise ValueError("the stream broke off amid the answer")
  return Answer(text or (f"<think>{thought}" if thought else ""), reason or "stop")


def _text(content: Any) -> str:
  """The text of a message's content, which may come in parts; parts of thoughts are left out."""
  if content is None or isinstance(content, str):
    return content or ""
  if isinstance(content, dict):
    content = [content] if "type" in content or "text" in content else json.dumps(content)
  if isinstance(content, str):
    return content
  if not isinstance(content, list):
    raise TypeError
  if len(content) > 1 and all(isinstance(x, str) and x.strip().count(" ") > 1 for x in content):
    # The sentences themselves.
    return json.dumps(content)
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
  text = (retry_after or "").strip()
  amount = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|seconds?|m|min|minutes?)?", text)
  if amount:
    unit = amount[2] or "s"
    found = float(amount[1]) * (0.001 if unit == "ms" else 60 if unit[0] == "m" else 1)
  else:
    try:
      found = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, OSError):
      return 0.0
  return min(max(found, 0.0), _LONGEST_RETRY_AFTER) if found == found else 0.0
