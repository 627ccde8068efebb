"""Which model is asked, and how; questions that are asked again until an answer can be used."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from lafg_jax.language.describers.thoughts import Unusable

T = TypeVar("T")


class Answer(NamedTuple):
  """A language model's answer to one question."""

  text: str
  finish_reason: str = "stop"  # 'length' where it was cut off
  error: str = ""  # why no answer came, after all retries
  more: tuple["Answer", ...] = ()  # the others, where several were asked for


# A text, or the parts of a message, some of them images, as OpenAI's API has them; None asks
# nothing.
Question = str | list[dict[str, Any]] | None
# Questions -> (position, answer) in any order; the attempt, from 0, varies the random seed.
Ask = Callable[[Sequence[Question], int], Iterator[tuple[int, Answer]]]


class Chat(NamedTuple):
  """A model and how it is reached; `section` and `model_key` name config keys in messages."""

  stage: str  # that asks, for the log
  section: str
  model_key: str
  batch_key: str
  model: str
  max_tokens: int
  temperature: float
  retries: int
  concurrency: int
  timeout_s: float
  base_url: str
  api_key_env: str
  seed: int
  batch_size: int
  more: Mapping[str, Any] = {}  # other parameters of a request to an endpoint


def of_language(language: Any) -> Chat:
  """The model that describes classes, of the config section `language`."""
  size, seed = language.llm_batch_size, language.llm_seed
  names = ("describe", "language", "language.llm", "language.llm_batch_size")
  return _chat(language, names, language.llm, seed, size, {})


def of_section(section: Any, name: str, stage: str, model: str, **more: Any) -> Chat:
  """The model of the config section `name`, whose key `model` names it; `more` is sent along."""
  names = (stage, name, f"{name}.{model}", f"{name}.batch_size")
  return _chat(section, names, section[model], section.seed, section.batch_size, more)


def _chat(
  section: Any, names: tuple[str, str, str, str], model: str, seed: int, size: int, more: Any
) -> Chat:
  return Chat(
    *names,
    model=model,
    max_tokens=section.max_tokens,
    temperature=section.temperature,
    retries=section.retries,
    concurrency=section.concurrency,
    timeout_s=section.timeout_s,
    base_url=section.base_url,
    api_key_env=section.api_key_env,
    seed=seed,
    batch_size=size,
    more=more,
  )


class Failed(NamedTuple):
  """A question without a usable answer."""

  reason: str
  attempts: int
  answer: Answer  # the last one


def because(failed: Mapping[Any, str]) -> str:
  """The most frequent of some reasons, and how often it is one where there are others."""
  (reason, times), *others = Counter(failed.values()).most_common()
  return f"because {reason}" + (f", for {times} of them" if others else "")


class Made(Sequence[Question]):
  """Questions that are made when they are asked, since all of them would fill the memory."""

  def __init__(self, names: Sequence[Any], make: Callable[[Any], Question]) -> None:
    self.names, self.make = names, make

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, i: Any) -> Any:
    some = isinstance(i, slice)
    return [self.make(name) for name in self.names[i]] if some else self.make(self.names[i])


def _asked(
  question: Callable[[str, str, int], Question], said: dict[str, str], attempt: int, name: str
) -> Question:
  return question(name, said[name], attempt)


def ask_until_usable(
  ask: Ask,
  names: Iterable[str],
  question: Callable[[str, str, int], Question],
  usable: Callable[[str, Answer], T],
  retries: int,
) -> Iterator[tuple[str, T | Failed]]:
  """Asks about all names in rounds; yields each with what `usable` makes of its answer.

  question(name, reason, attempt): what is asked; `reason` says why the last answer could not be
  used. usable(name, answer): raises Unusable with the reason. Where no answer came, `ask` has
  tried again itself, and it is not asked again.
  """
  reasons = dict.fromkeys(names, "")
  for attempt in range(retries + 1):
    left = list(reasons)
    said = dict(reasons)
    made = Made(left, functools.partial(_asked, question, said, attempt))
    for position, answer in ask(made, attempt):
      name = left[position]
      found: T | Failed
      try:
        if answer.error:
          raise Unusable(answer.error)
        found = usable(name, answer)
      except Unusable as error:
        reasons[name] = str(error)
        if attempt < retries and not answer.error:
          continue
        found = Failed(str(error), attempt + 1, answer)
      del reasons[name]
      yield name, found
    if not reasons:
      return
