"""Edits by a language model; a run that was stopped resumes, answer by answer.

`<workdir>/edits.partial-<fingerprint>.jsonl` gets a line as each answer comes: `asked` (a hash of
the question), `part`, `id`, `call` ('edited' or 'added'), `answer` ('' where none could be used)
and `raw`. The fingerprint is that of the model and its settings. A question with the same words is
not asked again, whichever query it belongs to. What the endpoint did not answer is listed in
`<workdir>/edits_failed.jsonl`, and the next run asks it.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from lafg_jax.language.describers import chat, local_llm, openai_api
from lafg_jax.language.editors import prompt
from lafg_jax.language.editors.record import Asked, Edit, Said
from lafg_jax.utils import jsonl
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import Incomplete
from lafg_jax.utils.files import fingerprint
from lafg_jax.utils.progress import Progress

FAILED = "edits_failed.jsonl"


class Call(NamedTuple):
  """One request about a query. caption: the only one it shows; None shows all."""

  asked: Asked
  name: str  # 'edited' or 'added'
  caption: str | None = None

  def question(self, kind: str, reason: str = "") -> str:
    captions = self.asked.captions if self.caption is None else (self.caption,)
    if self.name == "added":
      return prompt.added_question(captions, self.asked.text, reason)
    return prompt.edit_question(kind, captions, self.asked.text, reason)

  def key(self, kind: str) -> str:
    """The hash of the question, 24 hex digits."""
    return hashlib.sha256(self.question(kind).encode("utf-8", "replace")).hexdigest()[:24]


def chat_of(editor: Any) -> chat.Chat:
  """The model of the config section `editor`."""
  return chat.of_section(editor, "editor", "edit", "llm")


def settings(editor: Any) -> list[Any]:
  """What decides the answer to a question."""
  sampled = editor.temperature > 0 and editor.kind == "transformers"
  return [editor.kind, editor.llm, editor.max_tokens, editor.temperature, sampled and editor.seed]


def calls(editor: Any, asked: Asked) -> list[Call]:
  """The requests about a query: its edit, or one of each caption, and what is added."""
  if editor.form == "joined":
    edits = [Call(asked, "edited")]
  else:
    edits = [Call(asked, "edited", caption) for caption in asked.captions]
  return [*edits, *([Call(asked, "added")] if editor.added else [])]


def run(
  editor: Any, workdir: str | os.PathLike, kind: str, queries: Sequence[Asked]
) -> Iterator[tuple[Asked, Said]]:
  """What `editor.llm` says of each query, in their order; it is asked only what is still missing.

  kind: the prompt, as `prompt.edit_question` takes it.

  Raises:
    UserError: the model or endpoint cannot be used at all.
    Incomplete: the endpoint did not answer some questions.
  """
  path = Path(workdir) / f"edits.partial-{fingerprint(*settings(editor))[:12]}.jsonl"
  path.parent.mkdir(parents=True, exist_ok=True)
  done = _read_partial(path)
  pending: dict[str, Call] = {}
  for asked in queries:
    pending |= {key: c for c in calls(editor, asked) if (key := c.key(kind)) not in done}
  failed_path = Path(workdir) / FAILED
  failed_path.unlink(missing_ok=True)
  if pending:
    logging.info(
      "edit: %s asks %s %s about %s, prompt %s version %s",
      *(editor.kind, editor.llm, counted(len(pending), "question")),
      *(counted(len(queries), "query"), kind, prompt.PROMPT_VERSION),
    )
    backend = openai_api if editor.kind == "openai" else local_llm
    with backend.opened(chat_of(editor)) as ask, jsonl.appending(path) as kept:
      failed = _ask_all(editor, kind, ask, pending, kept, done, failed_path)
    if failed:
      names = list(dict.fromkeys(pending[key].asked.id for key in failed))
      raise Incomplete(
        f"{len(pending) - len(failed)} of {len(pending)} questions about composed queries are "
        f"answered; no answer about {counted(len(names), 'query')} ({shorten(names)}), "
        f"{chat.because(failed)}; see {failed_path}"
      )
  for asked in queries:
    yield asked, _said(editor, kind, asked, done)


def _ask_all(editor, kind, ask, pending, kept, done, failed_path) -> dict[str, str]:
  """Asks all of `pending`; adds to `done` and to the file `kept`; returns what got no answer, and
  why."""
  failed: dict[str, str] = {}

  def usable(key: str, answer: chat.Answer) -> tuple[str, str]:
    read = prompt.added if pending[key].name == "added" else prompt.edited
    return read(answer), answer.text

  question = lambda key, reason, attempt: pending[key].question(kind, reason)  # noqa: E731
  found = chat.ask_until_usable(ask, list(pending), question, usable, editor.retries)
  with Progress("edit", len(pending), "questions") as progress:
    for key, said in found:
      call = pending[key]
      row = {"asked": key, "part": call.asked.part, "id": call.asked.id, "call": call.name}
      if not isinstance(said, chat.Failed):
        row |= {"answer": said[0], "raw": said[1]}
      elif not said.answer.error:
        # It would answer so again: what stands in for an answer is decided by `_said`.
        row |= {"answer": None, "raw": said.answer.text, "reason": said.reason}
      else:
        if said.reason not in failed.values():
          logging.warning("edit: no answer about query %s: %s", call.asked.id, said.reason)
        failed[key] = said.reason
        with jsonl.appending(failed_path) as file:
          jsonl.append(file, row | {"reason": said.reason})
        progress.add(1)
        continue
      done[key] = row
      jsonl.append(kept, row)
      progress.add(1)
  return failed


def _read_partial(path: Path) -> dict[str, dict[str, Any]]:
  """{hash of the question: line}."""

  def sound(row: dict[str, Any]) -> bool:
    return isinstance(row["asked"], str) and isinstance(row["answer"], str | None)

  rows = jsonl.sound_rows(path, sound, "its question is asked again")
  return {row["asked"]: row for row in rows}


def _said(editor: Any, kind: str, asked: Asked, done: dict[str, dict[str, Any]]) -> Said:
  """A query's answers; the captions stand in for an edit that no answer gave."""
  edited: list[str] = []
  raw: dict[str, Any] = {"edited": []}
  added, fallback = "", dict[str, None]()
  for call in calls(editor, asked):
    row = done[call.key(kind)]
    if row["answer"] is None:
      fallback[call.name] = None
    if call.name == "added":
      raw["added"], added = row["raw"], row["answer"] or ""
      continue
    raw["edited"].append(row["raw"])
    if row["answer"]:
      edited.append(row["answer"])
    else:
      edited += asked.captions if call.caption is None else [call.caption]
  return Said(Edit(tuple(edited), added), raw, tuple(fallback))
