"""Class names -> written descriptions: `<workdir>/descriptions.jsonl`, one object a line."""

import difflib
import functools
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
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import replacing

# (class, sentence) -> whether the sentence names a class that is kept from training.
Leaks = Callable[[str, str], bool]

# (language section, workdir, class names, leaks) -> records, of these classes and maybe of others.
Describer = Callable[[Any, str | os.PathLike, Sequence[str], Leaks], list[Record]]

_YEAR = re.compile(r"\s+(19|20)\d\d\s*$")


def run(
  language: Any,
  workdir: str | os.PathLike,
  class_names: Sequence[str],
  held_out: Sequence[str] = (),
  variants: bool = False,
) -> Path:
  """Writes the descriptions of exactly the given classes, in their order.

  Args:
    language: the config section; `descriptions`, where it is set, wins over `describer`.
    workdir: folder of the run.
    class_names: training classes, validation classes taken out.
    held_out: names of the validation and test classes, which no description may mention.
    variants: the names are super-classes of nameless items; a language model is asked how the
      items of each differ.

  Returns:
    The path of descriptions.jsonl: {"class", "description", "source"} a line.

  Raises:
    UserError: a file or setting is missing or malformed, or a class has no description.
    Incomplete: a language model gave no usable answer for some classes.
  """
  leaks = leak_guard(held_out)
  origin, describer = _describer(language, variants)
  kept = select(describer(language, workdir, class_names, leaks), class_names, leaks, origin)
  path = Path(workdir) / "descriptions.jsonl"
  with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
    file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
  return path


def inputs(language: Any) -> list[Any]:
  """What decides the descriptions besides the class names, for `stages.fingerprint`."""
  if language.descriptions or language.describer == "file":
    path = Path(language.descriptions)
    return [path if path.is_file() else None]
  if language.describer in ("transformers", "openai"):
    return [prompt.PROMPT_VERSION, llm.settings(language)]
  return [language.describer, files.SHIPPED if language.describer == "shipped" else None]


def _describer(language: Any, variants: bool) -> tuple[str, Describer]:
  """Where the descriptions come from, in words, and the function that gets them."""
  if language.descriptions or language.describer == "file":
    return "language.descriptions", _from_file
  ask = functools.partial(llm.run, variants=variants)
  describers: dict[str, Describer] = {
    "synthetic": _synthetic,
    "shipped": _shipped,
    "transformers": ask,
    "openai": ask,
  }
  if language.describer not in describers:
    names = ", ".join(["file", *describers])
    raise UserError(f"language.describer is one of {names}, not {language.describer!r}")
  return f"language.describer={language.describer}", describers[language.describer]


def _from_file(language, workdir, class_names, leaks) -> list[Record]:
  return files.read_file(language.descriptions)


def _synthetic(language, workdir, class_names, leaks) -> list[Record]:
  from lafg_jax.finches import classes

  described = classes.describe(
    class_names or classes.class_names("seen") + classes.class_names("unseen")
  )
  return [files.record(c, text, "synthetic") for c, texts in described.items() for text in texts]


def _shipped(language, workdir, class_names, leaks) -> list[Record]:
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

  To be looked at: nothing of it may reach training, and nothing is written.

  Args:
    language: the config section. A language model knows no classes, so none is asked.
    data_name: of the data set; where the package ships a file of that name, that file alone.

  Raises:
    UserError: a file is missing or malformed, or has no description at all.
  """
  origin, describer = _describer(language, variants=False)
  # Of no class in particular: a describer gives all that it has.
  found = describer(language, "", (), _keeps_all)
  found = [r for r in found if r["source"] == f"shipped:{data_name}.json"] or found
  described = {r["class"]: None for r in found if r["class"] and files.clean(r["description"])}
  if not described:
    raise UserError(f"{origin} describes no class: {files.HINT}")
  return select(found, list(described), _keeps_all, origin)


def _keeps_all(own_name: str, sentence: str) -> bool:
  return False


def leak_guard(held_out: Sequence[str]) -> Leaks:
  """Tells sentences that hold the full name of a class that is known but not trained on.

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
  records: Sequence[Record],
  class_names: Sequence[str],
  leaks: Leaks,
  origin: str = "language.descriptions",
) -> list[Record]:
  """The cleaned records of `class_names`, class by class; logs what was left out.

  Args:
    records: of these classes and of others.
    class_names: training classes.
    leaks: what `leak_guard` made; sentences that it tells are dropped.
    origin: the config key that the records came from, for messages.

  Raises:
    UserError: classes without any description, counted and the first few named.
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
    near = difflib.get_close_matches(missing[0], sorted(others), n=1)
    dropped = f"; {leaking} sentences that name a class kept from training do not count"
    raise UserError(
      f"{origin}: no description for {len(missing)} of {len(class_names)} training "
      f"classes ({shorten(missing)})"
      + (f"; the nearest name there is {near[0]!r}" if near else "")
      + (dropped if leaking else "")
    )
  chosen = [record for by_text in kept.values() for record in by_text.values()]
  logging.info(
    "descriptions: %d sentences of %d classes kept; dropped %d classes that are not trained on, "
    "%d repeated and %d empty sentences, and %d that name a class kept from training",
    *(len(chosen), len(kept), len(others), repeated, empty, leaking),
  )
  return chosen
