"""Class names -> written descriptions: `<workdir>/descriptions.jsonl`, one object a line."""

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.data.prototypes import shorten
from lafg_jax.errors import UserError
from lafg_jax.stages import replacing

Record = dict[str, str]  # {"class", "description", "source"}

_HINT = "pass --config.language.descriptions=FILE"


def run(language: Any, workdir: str | os.PathLike, class_names: Sequence[str]) -> Path:
  """Writes the descriptions of exactly the given classes, in their order.

  Args:
    language: the config section; `describer` is 'file' (reads `descriptions`) or 'synthetic'.
    workdir: folder of the run.
    class_names: training classes, validation classes taken out.

  Returns:
    The path of descriptions.jsonl: {"class", "description", "source"} a line.

  Raises:
    UserError: the file is missing or malformed, or a class has no description.
  """
  if language.describer == "file":
    records = read_file(language.descriptions)
  elif language.describer == "synthetic":
    from lafg_jax.data import synthetic

    described = synthetic.describe(class_names)
    records = [_record(c, text, "synthetic") for c, texts in described.items() for text in texts]
  else:
    raise UserError(f"language.describer is 'file' or 'synthetic', not {language.describer!r}")
  kept = select(records, class_names)
  path = Path(workdir) / "descriptions.jsonl"
  with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
    file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
  return path


def read(workdir: str | os.PathLike, class_names: Sequence[str]) -> list[Record]:
  """The descriptions that `run` wrote.

  Raises:
    UserError: the file is missing or damaged, or is not about exactly these classes.
  """
  path = Path(workdir) / "descriptions.jsonl"
  if not path.is_file():
    raise UserError(f"{path} does not exist: run --stage=describe first")
  records = _read_jsonl(path, "run --stage=describe again")
  if {record["class"] for record in records} != set(class_names):
    raise UserError(f"{path} was written for other classes: run --stage=describe again")
  return records


def read_file(path: str) -> list[Record]:
  """Reads descriptions from JSON `{class: [sentence, ...]}` or, by its suffix, from .jsonl.

  Raises:
    UserError: no path given, no such file, or not of that form; a bad JSONL line is named.
  """
  if not path:
    raise UserError(
      "language.descriptions is empty: pass --config.language.descriptions=FILE, a JSON "
      "{class: [sentence, ...]} or a .jsonl of {class, description}"
    )
  if not os.path.isfile(path):
    raise UserError(f"language.descriptions: no file {path!r}: {_HINT}")
  if Path(path).suffix.lower() in (".jsonl", ".ndjson"):
    return _read_jsonl(Path(path), _HINT)
  return _read_json(Path(path))


def select(records: Sequence[Record], class_names: Sequence[str]) -> list[Record]:
  """The cleaned records of `class_names`, class by class; logs what was left out.

  Raises:
    UserError: classes without any description, counted and the first few named.
  """
  kept: dict[str, dict[str, Record]] = {name: {} for name in class_names}
  others: set[str] = set()
  empty = repeated = 0
  for record in records:
    name, text = record["class"], clean(record["description"])
    if name not in kept:
      others.add(name)
    elif not text:
      empty += 1
    elif text in kept[name]:
      repeated += 1
    else:
      kept[name][text] = record | {"description": text}
  missing = [name for name in class_names if not kept[name]]
  if missing:
    near = difflib.get_close_matches(missing[0], sorted(others), n=1)
    raise UserError(
      f"language.descriptions: no description for {len(missing)} of {len(class_names)} training "
      f"classes ({shorten(missing)})" + (f"; the nearest name there is {near[0]!r}" if near else "")
    )
  chosen = [record for by_text in kept.values() for record in by_text.values()]
  logging.info(
    "descriptions: %d sentences of %d classes kept; dropped %d classes that are not trained on, "
    "%d repeated and %d empty sentences",
    *(len(chosen), len(kept), len(others), repeated, empty),
  )
  return chosen


def clean(text: str) -> str:
  """One line without stray double quotes: a pair around the whole, or an unpaired one at an end.

  Returns '' for a text without any letter or digit.
  """
  text = " ".join(text.split())
  quotes = sum(text.count(mark) for mark in '"“”')
  wrapped = len(text) > 1 and text[0] in '"“' and text[-1] in '"”' and quotes == 2
  if wrapped or quotes % 2:
    text = text.strip('"“” ')
  return text if any(character.isalnum() for character in text) else ""


def _record(name: str, text: str, source: str) -> Record:
  return {"class": name.strip(), "description": text, "source": source}


def _read_text(path: Path, hint: str) -> str:
  try:
    return path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as UTF-8 text ({error}): {hint}") from None


def _read_json(path: Path) -> list[Record]:
  try:
    pairs = json.loads(_read_text(path, _HINT), object_pairs_hook=list)
  except ValueError as error:
    raise UserError(f"{path} is not JSON ({error}); one object a line needs .jsonl") from None
  expected = f"{path}: expected {{class: [sentence, ...]}}"
  # The hook turns an object into pairs, which keeps a class that stands there twice.
  if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
    raise UserError(f"{expected}, found another kind of value: {_HINT}")
  for name, texts in pairs:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
      raise UserError(f"{expected}, but {name!r} has no list of strings: {_HINT}")
  return [_record(name, text, f"file:{path.name}") for name, texts in pairs for text in texts]


def _read_jsonl(path: Path, hint: str) -> list[Record]:
  records = []
  # Only \n ends a line: a sentence may hold any other of Unicode's line separators.
  for number, line in enumerate(_read_text(path, hint).split("\n"), 1):
    if not line.strip():
      continue
    try:
      value = json.loads(line)
    except ValueError as error:
      raise UserError(f"{path} line {number} is not JSON ({error}): {hint}") from None
    row = {"source": f"file:{path.name}"} | (value if isinstance(value, dict) else {})
    name, text, source = (row.get(key) for key in ("class", "description", "source"))
    if not (isinstance(name, str) and isinstance(text, str) and isinstance(source, str)):
      raise UserError(f'{path} line {number} is not {{"class": str, "description": str}}: {hint}')
    records.append(_record(name, text, source))
  return records
