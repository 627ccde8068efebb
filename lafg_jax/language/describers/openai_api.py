"""Asks an OpenAI-compatible endpoint: vLLM, Ollama, llama.cpp, or a hosted one."""

import contextlib
import os
import queue
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from lafg_jax.language.describers import openai_dialects as dialects
from lafg_jax.language.describers.chat import Answer, Ask, Chat, Question
from lafg_jax.utils import packages
from lafg_jax.utils.errors import UserError

# Seconds before the first retry; each further one waits twice as long, up to the second number.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_RETRIED = (408, 409, 425, 429)
# Before the first answer these mean that the endpoint, its key or the model's name is wrong.
_SETUP = (401, 402, 403, 404, 405)
# The errors of the client's HTTP library when no connection can be made.
_UNREACHABLE = ("ConnectError", "ConnectTimeout")


@contextlib.contextmanager
def opened(chat: Chat) -> Iterator[Ask]:
  """Yields the function that asks a model at its `base_url`.

  The key is read from the environment variable `api_key_env`; without it 'none' is sent,
  since local servers want any key.

  Raises:
    UserError: the client is not installed; while asking: the endpoint cannot be reached, or refuses
      the key or the model, before it has answered anything.
  """
  packages.require("language", "openai")
  import openai

  key = os.environ.get(chat.api_key_env, "") or "none"
  url = dialects.base_url(chat.base_url or os.environ.get("OPENAI_BASE_URL", ""))
  with openai.OpenAI(
    api_key=key, base_url=url or None, timeout=chat.timeout_s, max_retries=0
  ) as client:
    endpoint = _Endpoint(client, chat, key)
    try:
      yield lambda questions, attempt: _ask(endpoint, questions)
    finally:
      endpoint.stopped.set()


def _ask(endpoint: "_Endpoint", questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
  waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
  for i in range(len(questions)):
    waiting.put(i)
  found: queue.SimpleQueue[tuple[int, Answer | BaseException]] = queue.SimpleQueue()
  count = min(endpoint.chat.concurrency, len(questions))
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
    threading.Thread(target=work, name=endpoint.chat.stage, daemon=True).start()
  try:
    for _ in range(len(questions)):
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
  """What the threads share: the client, what it takes, and how long it wants to be left alone."""

  def __init__(self, client: Any, chat: Chat, key: str) -> None:
    self.client, self.chat, self.key = client, chat, key
    self.first_url = str(client.base_url).rstrip("/")
    self.parameters = {"max_tokens": chat.max_tokens, "temperature": chat.temperature}
    self.parameters |= chat.more
    self.stopped, self.lock = threading.Event(), threading.Lock()
    self.answered = False
    self.quiet_until = 0.0

  def answer(self, question: Question) -> Answer:
    """Asks until there is an answer, at most 1 + `retries` times."""
    if question is None:
      return Answer("", error="there was nothing to ask")
    trouble, attempt = "", 0
    while attempt <= self.chat.retries:
      self._wait(attempt)
      if self.stopped.is_set():
        return Answer("", error="the run was stopped")
      client, sent = self.client, self.parameters
      found = self._ask_once(client, sent, question)
      if isinstance(found, Answer):
        self.answered = True
        return found
      if self._adapt(found, client, sent):
        continue
      attempt += 1
      status, message = found.status, self._safe(found.message)
      trouble = f"HTTP {status}: {message}" if status else message
      out_of_money = "insufficient_quota" in found.message
      if status in _SETUP or out_of_money or (found.unreachable and attempt > self.chat.retries):
        self._require_answers(trouble, found)
      if found.pause > 0:
        self.quiet_until = max(self.quiet_until, time.monotonic() + found.pause)
        pause = "%s: the server asks for a pause of %.0f s"
        logging.log_every_n_seconds(logging.INFO, pause, 10, self.chat.stage, found.pause)
      if status and (out_of_money or (status not in _RETRIED and status < 500)):
        return Answer("", error=trouble)
    return Answer("", error=f"{trouble}, {self.chat.retries + 1} times")

  def _ask_once(self, client: Any, sent: dict[str, Any], question: Question) -> Any:
    """An Answer, or the Problem that came in its place."""
    import openai

    try:
      messages: Any = [{"role": "user", "content": question}]
      completion = client.chat.completions.create(model=self.chat.model, messages=messages, **sent)
      if sent.get("stream"):
        return dialects.read_stream(completion)
      return dialects.problem_in(completion) or dialects.read(completion)
    except openai.APIStatusError as error:
      return dialects.problem_of(
        error.status_code, error.message, error.body, error.response.headers
      )
    except (openai.APIError, ValueError, TypeError) as error:
      # A body that is no JSON, or JSON of another shape, shows as ValueError or TypeError.
      cause = f": {error.__cause__}" if error.__cause__ else ""
      unreachable = type(error.__cause__).__name__ in _UNREACHABLE
      return dialects.Problem(0, f"{type(error).__name__}: {error}{cause}", unreachable=unreachable)

  def _adapt(self, problem: dialects.Problem, client: Any, sent: dict[str, Any]) -> bool:
    """Whether to ask again at once, as what was sent differs from what the endpoint takes."""
    with self.lock:
      if sent is not self.parameters or client is not self.client:
        # Another thread has found out.
        return True
      name = dialects.refused(problem, sent)
      if name:
        self.parameters = dialects.without(sent, name, problem.message)
        new = [f"{x}={y}" for x, y in self.parameters.items() if sent.get(x) != y]
        logging.warning(
          "%s: %s does not take %s as sent (%s): it is asked %s from here on",
          *(self.chat.stage, self.chat.model, name, self._safe(problem.message)),
          f"with {new[0]}" if new else "without it",
        )
        return True
      url = str(client.base_url).rstrip("/")
      other = dialects.other_url(url, self.first_url)
      if problem.status in (404, 405) and not self.answered and other:
        # An address that names a model is right.
        if not re.search(r"\bmodel\b", problem.message, re.IGNORECASE):
          stage, section = self.chat.stage, self.chat.section
          logging.warning("%s: %s.base_url lacks /v1: asking at %s", stage, section, other)
          self.client = client.copy(base_url=other)
          return True
    return False

  def _wait(self, attempt: int) -> None:
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempt - 1)) if attempt else 0.0
    # Jitter, so that requests that failed together are not sent again together.
    delay *= random.uniform(0.5, 1.0)
    begun = time.monotonic()
    # Meanwhile another thread may be told of a longer pause.
    while (until := max(begun + delay, self.quiet_until)) > time.monotonic():
      if self.stopped.wait(until - time.monotonic() + random.uniform(0, 0.1)):
        return

  def _require_answers(self, trouble: str, problem: dialects.Problem) -> None:
    """Stops the run before the first answer, when the setup is to blame, not one class."""
    if self.answered:
      return
    known: list[str] = []
    if problem.status == 404:
      with contextlib.suppress(Exception):
        known = [str(model.id) for model in self.client.models.list(timeout=10).data]
    chat = self.chat
    raise UserError(
      f"the endpoint of {chat.section}.base_url ({self.client.base_url.host}) does not answer for "
      f"{chat.model_key}={chat.model} ({trouble}){dialects.other_models(chat.model, known)}: check "
      f"both, and the key in the environment variable {chat.api_key_env}"
    )

  def _safe(self, text: str) -> str:
    # A server may send the key back in its message.
    return dialects.plain(text if self.key == "none" else text.replace(self.key, "***"))
