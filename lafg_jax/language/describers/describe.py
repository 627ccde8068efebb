"""Class names -> `<workdir>/descriptions.jsonl`: {class, description, source} on each line."""

import difflib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.language import descriptions as files
from lafg_jax.language.describers import llm, prompt
from lafg_jax.language.descriptions import Record
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import replacing

# (class, sentence) -> whether the sentence names a class that is kept from training.
Leaks = Callable[[str, str], bool]

_YEAR = re.compile(r"\s+(19|20)\d\d\s*$")


def run(
  language: Any,
  workdir: str | os.PathLike,
  class_names: Sequence[str],
  held_out: Sequence[str] = (),
  variants: bool = False,
) -> Path:
  """Writes the descriptions of exactly the given classes, in their order; returns the path.

  Args:
    language: the config section; `descriptions`, where it is set, wins over `describer`.
    workdir: folder of the run.
    class_names: training classes, without the validation classes.
    held_out: names of the validation and test classes, which no description may mention.
    variants: the names are super-classes of nameless items; a language model is asked how the
      items of each differ.

  Raises:
    UserError: a file or setting is missing or malformed, or a class has no description.
    Incomplete: a language model gave no usable answer for some classes.
  """
  leaks = leak_guard(held_out)
  found = _found(language, workdir, class_names, leaks, variants)
  kept = select(found, class_names, leaks, _origin(language))
  path = Path(workdir) / "descriptions.jsonl"
  with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
    file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
  return path


def inputs(language: Any) -> list[Any]:
  """What decides the descriptions besides the class names, for `stages.fingerprint`."""
  if _origin(language) == files.KEY:
    path = Path(language.descriptions)
    return [path if path.is_file() else None]
  if language.describer in ("transformers", "openai"):
    return [prompt.PROMPT_VERSION, llm.settings(language)]
  return [language.describer, files.SHIPPED if language.describer == "shipped" else None]


def _origin(language: Any) -> str:
  """The config key that descriptions come from, for messages."""
  if language.descriptions or language.describer == "file":
    return files.KEY
  return f"language.describer={language.describer}"


def _found(language, workdir, class_names, leaks: Leaks, variants: bool = False) -> list[Record]:
  """Descriptions of these classes, maybe of others; without class names, of all that are known."""
  if _origin(language) == files.KEY:
    return files.read_file(language.descriptions)
  if language.describer in ("transformers", "openai"):
    return llm.run(language, workdir, class_names, leaks, variants)
  if language.describer == "synthetic":
    from lafg_jax.finches import classes

    names = class_names or classes.class_names("seen") + classes.class_names("unseen")
    texts_of = classes.describe(names).items()
    return [files.record(name, text, "synthetic") for name, texts in texts_of for text in texts]
  if language.describer != "shipped":
    names = "file, synthetic, shipped, transformers, openai"
    raise UserError(f"language.describer is one of {names}, not {language.describer!r}")
  records = files.read_shipped()
  described = {record["class"] for record in records}
  missing = [name for name in class_names if name not in described]
  if missing:
    raise UserError(
      f"language.describer=shipped has no description for {len(missing)} of {len(class_names)} "
      f"training classes ({shorten(missing)}): {files.HINT}"
    )
  return records


def everything(language: Any, data_name: str) -> list[Record]:
  """Cleaned descriptions of every class that the describer knows, seen in training or not.

  They are for people to look at: none may reach training, and nothing is written. A language model
  knows no classes, so none is asked. Where the package ships a file named `data_name`, only its
  descriptions are returned. Raises UserError if a file is missing, malformed, or has none.
  """
  leaks = leak_guard(())
  found = _found(language, "", (), leaks)
  found = [r for r in found if r["source"] == f"shipped:{data_name}.json"] or found
  described = {r["class"]: None for r in found if r["class"] and files.clean(r["description"])}
  if not described:
    raise UserError(f"{_origin(language)} describes no class: {files.HINT}")
  return select(found, list(described), leaks, _origin(language))


def leak_guard(held_out: Sequence[str]) -> Leaks:
  """(class, sentence) -> whether the sentence holds the full name of a class that is held out.

  Names and sentences are compared as words, whatever their case and punctuation, without the model
  year at the end of a name. A name that is part of the described class's own name does not count.
  """
  names = {_words(_YEAR.sub("", name)) or _words(name) for name in held_out} - {()}
  lengths = sorted({len(name) for name in names})

  def spans(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {words[i : i + n] for n in lengths for i in range(len(words) - n + 1)} & names

  return lambda own_name, sentence: bool(spans(sentence) - spans(own_name))


def _words(text: str) -> tuple[str, ...]:
  return tuple(re.findall(r"\w+", text.casefold()))


def select(
  records: Sequence[Record], class_names: Sequence[str], leaks: Leaks, origin: str
) -> list[Record]:
  """The cleaned records of `class_names`, class by class; logs what was left out.

  Records of other classes and sentences that leak are dropped. Raises UserError, with the `origin`
  of the records, for classes without any description.
  """
  kept: dict[str, dict[str, Record]] = {name: {} for name in class_names}
  others: set[str] = set()
  empty = repeated = leaking = 0
  for record in records:
    name, text = record["class"], files.clean(record["description"])
    if name not in kept:
      others.add(name)
    elif not text:
      empty += 1
    elif text in kept[name]:
      repeated += 1
    elif leaks(name, text):
      leaking += 1
    else:
      kept[name][text] = record | {"description": text}
  missing = [name for name in class_names if not kept[name]]
  if missing:
    text = f"{len(missing)} of {len(class_names)} training classes ({shorten(missing)})"
    for near in difflib.get_close_matches(missing[0], sorted(others), n=1):
      text += f"; the nearest name there is {near!r}"
    if leaking:
      text += f"; {leaking} sentences that name a class kept from training do not count"
    raise UserError(f"{origin}: no description for {text}")
  chosen = [record for by_text in kept.values() for record in by_text.values()]
  logging.info(
    "descriptions: %s of %s kept; dropped %s not trained on, "
    "%d repeated and %d empty sentences, and %d that name a class kept from training",
    *(counted(len(chosen), "sentence"), counted(len(kept), "class"), counted(len(others), "class")),
    *(repeated, empty, leaking),
  )
  return chosen
