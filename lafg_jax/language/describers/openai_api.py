"""Asks an OpenAI-compatible endpoint: vLLM, Ollama, llama.cpp, or a hosted one."""

import contextlib
import email.utils
import os
import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from lafg_jax.language.describers.prompt import Answer, Ask
from lafg_jax.utils import packages
from lafg_jax.utils.errors import UserError

# Seconds before the first retry; each further one waits twice as long, up to the second number.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
# The longest pause that a server gets, whatever it asks for.
_LONGEST_RETRY_AFTER = 900.0
_RETRIED = (408, 409, 425, 429)
# Before the first answer these mean that the endpoint, its key or the model's name is wrong.
_SETUP = (401, 403, 404, 405)
# The errors of the client's HTTP library when no connection can be made.
_UNREACHABLE = ("ConnectError", "ConnectTimeout")


@contextlib.contextmanager
def opened(language: Any) -> Iterator[Ask]:
  """Yields the function that asks `language.llm` at `language.base_url`.

  The key is read from the environment variable `language.api_key_env`; without it 'none' is sent,
  since local servers want any key.

  Raises:
    UserError: the client is not installed; while asking: the endpoint cannot be reached, or refuses
      the key or the model, before it has answered anything.
  """
  packages.require("language", "openai")
  import openai

  key = os.environ.get(language.api_key_env, "") or "none"
  with openai.OpenAI(
    api_key=key, base_url=language.base_url or None, timeout=language.timeout_s, max_retries=0
  ) as client:
    endpoint = _Endpoint(client, language, key)
    try:
      yield lambda questions, attempt: _ask(endpoint, questions)
    finally:
      endpoint.stopped.set()


def _ask(endpoint: "_Endpoint", questions: Sequence[str]) -> Iterator[tuple[int, Answer]]:
  waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
  for i in range(len(questions)):
    waiting.put(i)
  found: queue.SimpleQueue[tuple[int, Answer | BaseException]] = queue.SimpleQueue()
  count = min(endpoint.language.concurrency, len(questions))
  # A thread goes on only when an answer has been recorded, not merely received: a kill then loses
  # `concurrency` answers at most.
  free = threading.Semaphore(count)

  def work() -> None:
    with contextlib.suppress(queue.Empty):
      while True:
        free.acquire()
        i = waiting.get_nowait()
        try:
          found.put((i, endpoint.answer(questions[i])))
        except BaseException as error:
          # It is raised where the answer is waited for.
          found.put((i, error))

  # Not a ThreadPoolExecutor: after Ctrl-C the interpreter would wait for the requests in flight.
  for _ in range(count):
    threading.Thread(target=work, name="describe", daemon=True).start()
  try:
    for _ in questions:
      i, answer = found.get()
      if isinstance(answer, BaseException):
        raise answer
      yield i, answer
      free.release()
  finally:
    with contextlib.suppress(queue.Empty):
      while True:
        waiting.get_nowait()
    free.release(count)


class _Endpoint:
  """What the threads share: the client, and how long the server wants to be left alone."""

  def __init__(self, client: Any, language: Any, key: str) -> None:
    self.client, self.language, self.key = client, language, key
    self.stopped = threading.Event()
    self.answered = False
    self.quiet_until = 0.0

  def answer(self, question: str) -> Answer:
    """Asks until there is an answer, at most 1 + language.retries times."""
    import openai

    language, trouble = self.language, ""
    for attempt in range(language.retries + 1):
      self._wait(attempt)
      if self.stopped.is_set():
        return Answer("", error="the run was stopped")
      try:
        completion = self.client.chat.completions.create(
          model=language.llm,
          messages=[{"role": "user", "content": question}],
          max_tokens=language.max_tokens,
          temperature=language.temperature,
        )
        found = _read(completion)
        self.answered = True
        return found
      except openai.APIStatusError as error:
        status = error.status_code
        trouble = self._safe(f"HTTP {status}: {error.message}")
        if status in _SETUP:
          self._require_answers(trouble)
        seconds = _seconds(error.response.headers.get("retry-after"))
        if seconds > 0:
          self.quiet_until = max(self.quiet_until, time.monotonic() + seconds)
          pause = "describe: the server asks for a pause of %.0f s"
          logging.log_every_n_seconds(logging.INFO, pause, 10, seconds)
        if status not in _RETRIED and status < 500:
          return Answer("", error=trouble)
      except (openai.APIError, ValueError, TypeError) as error:
        # A body that is no JSON, or JSON of another shape, shows as ValueError or TypeError.
        cause = f": {error.__cause__}" if error.__cause__ else ""
        trouble = self._safe(f"{type(error).__name__}: {error}{cause}")
        if attempt == language.retries and type(error.__cause__).__name__ in _UNREACHABLE:
          self._require_answers(trouble)
    return Answer("", error=f"{trouble}, {language.retries + 1} times")

  def _wait(self, attempt: int) -> None:
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempt - 1)) if attempt else 0.0
    # Jitter, so that requests that failed together are not sent again together.
    delay *= random.uniform(0.5, 1.0)
    begun = time.monotonic()
    # Meanwhile another thread may be told of a longer pause.
    while (until := max(begun + delay, self.quiet_until)) > time.monotonic():
      if self.stopped.wait(until - time.monotonic() + random.uniform(0, 0.1)):
        return

  def _require_answers(self, trouble: str) -> None:
    """Stops the run before the first answer, when the setup is to blame, not one class."""
    if not self.answered:
      raise UserError(
        f"the endpoint of language.base_url ({self.client.base_url.host}) does not answer for "
        f"language.llm={self.language.llm} ({trouble}): check both, and the key in the environment "
        f"variable {self.language.api_key_env}"
      )

  def _safe(self, text: str) -> str:
    # A server may send the key back in its message.
    text = text if self.key == "none" else text.replace(self.key, "***")
    return " ".join(text.split())[:500]


def _read(completion: Any) -> Answer:
  """The answer in a completion, whose shape the client has not checked; else ValueError."""
  try:
    choice = completion.choices[0]
    content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
    if not isinstance(content, str | None):
      raise TypeError
  except (AttributeError, TypeError, LookupError):
    raise ValueError("the body is no chat completion") from None
  text = content or (f"I'm sorry: {refusal}" if isinstance(refusal, str) and refusal else "")
  return Answer(text, str(getattr(choice, "finish_reason", None) or "stop"))


def _seconds(retry_after: str | None) -> float:
  """The seconds of a Retry-After header, a number or a date; 0 for none."""
  try:
    seconds = float(retry_after or 0)
  except ValueError:
    try:
      seconds = email.utils.parsedate_to_datetime(retry_after or "").timestamp() - time.time()
    except ValueError:
      return 0.0
  return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if seconds == seconds else 0.0
