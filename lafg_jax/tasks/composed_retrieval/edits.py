"""The stage `edit`: composed queries -> `edits.jsonl`, a line each.

A line has `id`, `part`, `edited`, `added`, `editor` (who wrote it), `prompt` (its name and version,
'' without one), `raw` (the answers as they came), and maybe `fallback` (which of the two had no
usable answer) and `wrong` (the query whose edit it got, on purpose). No backbone is involved.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.config.table.composed import LLM
from lafg_jax.data.composed import Composed
from lafg_jax.language.describers import endpoint, local_llm
from lafg_jax.language.editors import by_llm, by_rules, from_file, prompt, without_llm
from lafg_jax.language.editors.record import Asked, Edit, Said
from lafg_jax.utils import jsonl
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError

FILE = "edits.jsonl"


def run(
  config: Any,
  workdir: str | os.PathLike,
  parts: Sequence[Composed],
  captions: dict[str, list[str]],
) -> Path:
  """Writes the edit of every query of all parts; returns the path.

  captions: of each reference image, by id; not read by the editors 'file' and 'perfect'.

  Raises:
    UserError: a reference has no caption, the file lacks queries, or the model cannot be used.
    Incomplete: the endpoint did not answer some questions; the same command asks them alone.
  """
  path = Path(workdir) / FILE
  rows = list(_rows(config, workdir, parts, captions)) if config.editor.kind != "none" else []
  jsonl.write(path, rows)
  return path


def read(workdir: str | os.PathLike, kind: str = "none") -> dict[tuple[str, str], Edit]:
  """{(part, query id): edit} of a workdir; nothing where no editor ran.

  kind: `editor.kind`; with any but 'none' a missing file is a UserError, as is a damaged one.
  """
  path = Path(workdir) / FILE
  if not path.exists():
    if kind != "none":
      raise UserError(f"{path} does not exist: run --stage=edit first")
    return {}

  def of(row: dict[str, Any]) -> tuple[tuple[str, str], Edit]:
    return (row["part"], row["id"]), Edit(tuple(map(str, row["edited"])), str(row["added"]))

  return dict(jsonl.read(path, of, "edit"))


def check(config: Any) -> None:
  """Raises UserError for a file, a model or an endpoint that is not there; nothing is loaded."""
  editor = config.editor
  if editor.kind == "file":
    from_file.read(editor.file)
  if editor.kind in LLM:
    if not editor.llm:
      raise UserError(f"editor.llm is empty: pass the model of editor.kind={editor.kind}")
    module = local_llm if editor.kind == "transformers" else endpoint
    module.check(by_llm.chat_of(editor))
  if editor.kind in (*LLM, "grammar") and config.captioner.kind == "none":
    raise UserError(
      f"--config.editor.kind={editor.kind} edits captions of the reference images: pass "
      "--config.captioner.kind, such as file or transformers"
    )
  if editor.kind == "grammar":
    by_rules.of(config)


def inputs(config: Any) -> list[Any]:
  """What decides the edits beside the queries and the captions, for a stage's fingerprint."""
  editor = config.editor
  found: list[Any] = [editor.kind, editor.wrong, editor.wrong and editor.seed]
  if editor.kind == "file":
    found.append(Path(editor.file))
  if editor.kind == "grammar":
    found += [editor.form, by_rules.phrases(config)]
  if editor.kind in LLM:
    kind = prompt.kind_of(editor.prompt, config.composed.source)
    said = [kind, prompt.PROMPT_VERSION, editor.form, editor.added]
    found += [*by_llm.settings(editor), *said]
  return found


def _rows(
  config: Any, workdir: Any, parts: Sequence[Composed], captions: Any
) -> Iterator[dict[str, Any]]:
  queries = [(part, query) for part in parts for query in part.queries]
  editor = config.editor
  asked = [
    Asked(part.name, query.id, tuple(captions.get(query.reference, ())), query.text)
    for part, query in queries
  ]
  if editor.kind in (*LLM, "grammar"):
    bare = [query.reference for (_, query), x in zip(queries, asked, strict=True) if not x.captions]
    _require_captions(editor.kind, list(dict.fromkeys(bare)))
  kind = prompt.kind_of(editor.prompt, config.composed.source)
  said = list(_edited(config, workdir, kind, asked, [query.edited for _, query in queries]))
  _tell_fallbacks(said)
  wrong = without_llm.wrong_of([x.part for x in asked], editor.wrong, editor.seed)
  if wrong:
    logging.info("edit: %s get another one's edit (editor.wrong)", counted(len(wrong), "query"))
  version = f"{kind} {prompt.PROMPT_VERSION}" if editor.kind in LLM else ""
  written = {"editor": f"{editor.kind}:{_who(editor)}".rstrip(":"), "prompt": version}
  for i, (x, _) in enumerate(said):
    own = said[wrong.get(i, i)][1]
    row: dict[str, Any] = {
      "id": x.id,
      "part": x.part,
      "edited": list(own.edit.edited),
      "added": own.edit.added,
    }
    row |= written | {"raw": own.raw}
    row |= {"fallback": list(own.fallback)} if own.fallback else {}
    yield row | ({"wrong": asked[wrong[i]].id} if i in wrong else {})


def _who(editor: Any) -> str:
  return Path(editor.file).name if editor.kind == "file" else editor.llm * (editor.kind in LLM)


def _require_captions(kind: str, bare: list[str]) -> None:
  if bare:
    raise UserError(
      f"--config.editor.kind={kind}: {counted(len(bare), 'reference image')} have no caption, such "
      f"as {bare[0]!r}: run --stage=caption first, or pass a captioner.file that has them"
    )


def _edited(
  config: Any, workdir: Any, kind: str, asked: list[Asked], truths: list[str]
) -> Iterator[tuple[Asked, Said]]:
  editor = config.editor
  if editor.kind == "file":
    return from_file.run(editor, asked)
  if editor.kind == "perfect":
    return without_llm.by_truth(asked, truths)
  if editor.kind == "grammar":
    return without_llm.by_grammar(by_rules.of(config), editor.form, asked)
  return by_llm.run(editor, workdir, kind, asked)


def _tell_fallbacks(said: list[tuple[Asked, Said]]) -> None:
  """Logs how many queries had no usable answer, and names some."""
  stands_in = {"edited": "the reference's captions stand in", "added": "nothing is added"}
  for name, what in stands_in.items():
    found = [asked.id for asked, x in said if name in x.fallback]
    if found:
      shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
      text = "edit: no usable answer (%s) for %d of %d queries: %s (%s)"
      logging.warning(text, name, len(found), len(said), what, shown)
