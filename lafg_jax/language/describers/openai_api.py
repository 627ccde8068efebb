"""Asks an OpenAI-compatible endpoint: vLLM, Ollama, llama.cpp, or a hosted one."""

import contextlib
import email.utils
import os
import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from typing import Any

from absl import logging

from lafg_jax.language.describers.answer import Answer, Ask
from lafg_jax.utils.errors import UserError

# Seconds before the first retry; each further one waits twice as long, up to the second number.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
# A server that asks for a longer pause gets this one.
_LONGEST_RETRY_AFTER = 900.0
_RETRIED = (408, 409, 425, 429)
# Before any answer these mean that the endpoint, its key or the model's name is wrong.
_SETUP = (401, 403, 404, 405)
# What the client's HTTP library calls it when no connection can be made.
_UNREACHABLE = ("ConnectError", "ConnectTimeout")


@contextlib.contextmanager
def opened(language: Any) -> Iterator[Ask]:
  """Yields the function that asks `language.llm` at `language.base_url`.

  The key is read from the environment variable `language.api_key_env`; without one a word is sent
  in its place, as local servers want.

  Raises:
    UserError: the client is not installed; while asking: the endpoint cannot be reached, or refuses
      the key or the model, before it has answered anything.
  """
  try:
    import openai
  except ImportError as error:
    raise UserError(f"{error.name} is not installed: pip install 'lafg_jax[language]'") from error
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
  futures: list[Future[Answer]] = [Future() for _ in questions]
  waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
  for i in range(len(questions)):
    waiting.put(i)
  count = min(endpoint.language.concurrency, len(questions))
  # A thread asks on only when an answer has been taken and recorded, not merely received: a kill
  # then loses `concurrency` answers at most.
  free = threading.Semaphore(count)

  def work() -> None:
    with contextlib.suppress(queue.Empty):
      while True:
        free.acquire()
        i = waiting.get_nowait()
        try:
          futures[i].set_result(endpoint.answer(questions[i]))
        except BaseException as error:
          # Whatever it is, it is raised where the answer is waited for.
          futures[i].set_exception(error)

  # Not a ThreadPoolExecutor: after Ctrl-C the interpreter would wait for the requests in flight.
  for _ in range(count):
    threading.Thread(target=work, name="describe", daemon=True).start()
  position = {future: i for i, future in enumerate(futures)}
  try:
    for future in as_completed(futures):
      yield position[future], future.result()
      free.release()
  finally:
    with contextlib.suppress(queue.Empty):
      while True:
        waiting.get_nowait()
    free.release(count)


class _Endpoint:
  """What the threads share: the client, and until when the server wants to be left alone."""

  def __init__(self, client: Any, language: Any, key: str) -> None:
    self.client, self.language, self.key = client, language, key
    self.stopped = threading.Event()
    self.answered = False
    self.quiet_until = 0.0

  def answer(self, question: str) -> Answer:
    """Asks until there is an answer, at most 1 + language.retries times."""
    trouble = ""
    for attempt in range(self.language.retries + 1):
      self._wait(attempt)
      if self.stopped.is_set():
        return Answer("", error="the run was stopped")
      answer, trouble, again = self._once(question, attempt == self.language.retries)
      if answer is not None:
        self.answered = True
        return answer
      if not again:
        return Answer("", error=trouble)
    return Answer("", error=f"{trouble}, {self.language.retries + 1} times")

  def _wait(self, attempt: int) -> None:
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempt - 1)) if attempt else 0.0
    # Jitter, so that what failed together does not come back together.
    delay *= random.uniform(0.5, 1.0)
    begun = time.monotonic()
    # Another thread may hear of a longer pause meanwhile.
    while (until := max(begun + delay, self.quiet_until)) > time.monotonic():
      if self.stopped.wait(until - time.monotonic() + random.uniform(0, 0.1)):
        return

  def _once(self, question: str, last: bool) -> tuple[Answer | None, str, bool]:
    """(answer or None, what went wrong, whether to try again)."""
    import openai

    try:
      completion = self.client.chat.completions.create(
        model=self.language.llm,
        messages=[{"role": "user", "content": question}],
        max_tokens=self.language.max_tokens,
        temperature=self.language.temperature,
      )
      return _read(completion), "", False
    except openai.APIStatusError as error:
      status = error.status_code
      trouble = self._safe(f"HTTP {status}: {error.message}")
      if status in _SETUP:
        self._require_answers(trouble)
      self._keep_quiet(error.response.headers.get("retry-after"))
      return None, trouble, status in _RETRIED or status >= 500
    except (openai.APIConnectionError, openai.APIError, ValueError, TypeError) as error:
      # A body that is no JSON, or JSON of another shape, shows as ValueError or TypeError.
      cause = f": {error.__cause__}" if error.__cause__ else ""
      trouble = self._safe(f"{type(error).__name__}: {error}{cause}")
      if last and type(error.__cause__).__name__ in _UNREACHABLE:
        self._require_answers(trouble)
      return None, trouble, True

  def _keep_quiet(self, retry_after: str | None) -> None:
    seconds = _seconds(retry_after)
    if seconds > 0:
      self.quiet_until = max(self.quiet_until, time.monotonic() + seconds)
      logging.log_every_n_seconds(
        logging.INFO, "describe: the server asks for a pause of %.0f s", 10, seconds
      )

  def _require_answers(self, trouble: str) -> None:
    """After the first answer a trouble is that of one class; before, it is that of the setup."""
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
  """The answer in a completion, which the client has not checked.

  Raises:
    ValueError: it is of another shape.
  """
  choices = getattr(completion, "choices", None)
  first = choices[0] if isinstance(choices, list) and choices else None
  message = getattr(first, "message", None)
  content = getattr(message, "content", None)
  if message is None or not isinstance(content, str | None):
    raise ValueError("the body is no chat completion")
  refusal = getattr(message, "refusal", None)
  text = content or (f"I'm sorry: {refusal}" if isinstance(refusal, str) and refusal else "")
  return Answer(text, str(getattr(first, "finish_reason", None) or "stop"))


def _seconds(retry_after: str | None) -> float:
  """The seconds of a Retry-After header, a number or a date; 0 for none."""
  if not retry_after:
    return 0.0
  try:
    seconds = float(retry_after)
  except ValueError:
    try:
      seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
      return 0.0
  return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if seconds == seconds else 0.0
