"""Descriptions by a language model; a run that was stopped resumes, class by class.

`<workdir>/descriptions.partial-<fingerprint>.jsonl` gets a line as each class is done; the
fingerprint is that of the settings and of the prompt. Classes without a usable answer are listed,
with the raw answer, in `<workdir>/descriptions_failed.jsonl`, and the next run asks about them.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.config import keys
from lafg_jax.language.describers import answers, chat, local_llm, neighbours, openai_api, prompt
from lafg_jax.language.describers.chat import Answer
from lafg_jax.language.describers.thoughts import Unusable
from lafg_jax.language.descriptions import Record, record
from lafg_jax.utils import jsonl
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.errors import Incomplete
from lafg_jax.utils.files import fingerprint
from lafg_jax.utils.progress import Progress

# The attempt, from 0, from which the question is the plain one.
_PLAIN_FROM = 2

FAILED = "descriptions_failed.jsonl"


def settings(language: Any) -> dict[str, Any]:
  """The config values that the model's descriptions depend on; the prompt's text is not in them."""
  found = keys.deciding({"language": language}, "words")
  # Where it is set, no model is asked.
  del found["language.descriptions"]
  by_encoder = language.num_neighbours and not language.neighbours
  found["language.neighbours"] = Path(language.neighbours) if language.neighbours else None
  return found | {"encoder": language.encoder if by_encoder else None}


def run(
  language: Any,
  workdir: str | os.PathLike,
  class_names: Sequence[str],
  leaks: Callable[[str, str], bool],
  variants: bool = False,
) -> list[Record]:
  """Descriptions of all classes by `language.llm`, which is asked only about those still missing.

  No name but the `class_names` enters a prompt. Where each sentence of an answer `leaks`, its class
  is asked about again. With `variants` the names are those of super-classes (see
  `prompt.about_variants`).

  Raises:
    UserError: the model or endpoint cannot be used at all.
    Incomplete: some classes have no usable answer.
  """
  parts = [prompt.PROMPT_VERSION, settings(language)] + ["variants"] * variants
  key = fingerprint(*parts)[:12]
  path = Path(workdir) / f"descriptions.partial-{key}.jsonl"
  path.parent.mkdir(parents=True, exist_ok=True)
  done = _read_partial(path)
  # Another run may have held out other classes.
  done = {c: said for c, said in done.items() if not all(leaks(c, text) for text in said)}
  pending = [name for name in class_names if name not in done]
  failed_path = Path(workdir) / FAILED
  failed_path.unlink(missing_ok=True)
  if pending:
    logging.info(
      "describe: %s asks %s about %d of %d classes, prompt version %s",
      *(language.describer, language.llm, len(pending), len(class_names), prompt.PROMPT_VERSION),
    )
    count = language.sentences_per_class
    if variants:
      question = lambda name, reason: prompt.about_variants(name, count, reason)  # noqa: E731
    else:
      near = neighbours.find(language, class_names, pending)
      # A neighbour whose name holds that of a held-out class would bring it into the answer.
      near = {c: tuple(x for x in others if not leaks(c, x)) for c, others in near.items()}
      question = lambda name, reason: prompt.question(name, near[name], count, reason)  # noqa: E731
    backend = openai_api if language.describer == "openai" else local_llm
    opened = backend.opened(chat.of_language(language))
    with opened as ask, jsonl.appending(path) as kept:
      failed = _ask_all(language, ask, pending, question, leaks, kept, done, failed_path)
    if failed:
      raise Incomplete(
        f"{len(class_names) - len(failed)} of {len(class_names)} classes are described; no usable "
        f"answer for {len(failed)} ({shorten(list(failed))}), {chat.because(failed)}; see "
        f"{failed_path}"
      )
  source = f"{language.describer}:{language.llm} prompt {prompt.PROMPT_VERSION}"
  return [record(name, text, source) for name in class_names for text in done[name]]


def _ask_all(language, ask, pending, question, leaks, kept, done, failed_path) -> dict[str, str]:
  """Asks about `pending` in rounds; adds to `done` and to the file `kept`; returns who failed, and
  why."""
  failed: dict[str, str] = {}
  count = language.sentences_per_class

  def asked(name: str, reason: str, attempt: int) -> str:
    plain = attempt >= _PLAIN_FROM
    return prompt.plain_question(name, count) if plain else question(name, reason)

  usable = lambda name, answer: _usable(answer, name, count, leaks)  # noqa: E731
  found = chat.ask_until_usable(ask, pending, asked, usable, language.retries)
  with Progress("describe", len(pending), "classes") as progress:
    for name, said in found:
      if isinstance(said, chat.Failed):
        if said.reason not in failed.values():
          logging.warning("describe: no usable answer for %r: %s", name, said.reason)
        failed[name] = said.reason
        row = {"class": name, "reason": said.reason, "attempts": said.attempts}
        # Opened for each row, as most runs have none.
        with jsonl.appending(failed_path) as file:
          answer = said.answer
          jsonl.append(file, row | {"finish_reason": answer.finish_reason, "raw": answer.text})
      else:
        done[name] = said
        jsonl.append(kept, {"class": name, "sentences": said})
      progress.add(1)
  return failed


def _usable(answer: Answer, name: str, count: int, leaks) -> list[str]:
  sentences = answers.parse(answer.text, answer.finish_reason, name, count)
  if all(leaks(name, text) for text in sentences):
    raise Unusable("every sentence names another kind")
  return sentences


def _read_partial(path: Path) -> dict[str, list[str]]:
  """{class: sentences} of an interrupted run; cuts off a last line that was half written."""

  def sound(row: dict[str, Any]) -> bool:
    texts = row["sentences"]
    strings = isinstance(texts, list) and all(isinstance(t, str) for t in [row["class"], *texts])
    return strings and bool(texts)

  rows = jsonl.sound_rows(path, sound, "its class is asked about again")
  return {row["class"]: row["sentences"] for row in rows}
