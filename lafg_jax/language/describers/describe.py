"""Class names -> `<workdir>/descriptions.jsonl`: {class, description, source} on each line."""

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.language import descriptions as files
from lafg_jax.language.describers import llm, prompt
from lafg_jax.language.describers.leaks import Leaks, leak_guard
from lafg_jax.language.describers.matching import match
from lafg_jax.language.descriptions import Record
from lafg_jax.language.spelling import squeezed
from lafg_jax.utils.class_names import shorten
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import replacing

MISSING = "descriptions_missing.txt"
# How a skeleton is asked for, in messages.
_SKELETON = "--stage=describe --config.language.describer=skeleton"


def run(
  language: Any,
  workdir: str | os.PathLike,
  class_names: Sequence[str],
  held_out: Sequence[str] = (),
  variants: bool = False,
) -> Path:
  """Writes the descriptions of exactly the given classes, in their order; returns the path.

  Under the describer 'skeleton' it writes `language.descriptions` instead, to be filled in.

  Args:
    language: the config section; `descriptions`, where it is set, wins over other describers.
    workdir: folder of the run.
    class_names: training classes, without the validation classes.
    held_out: names of the validation and test classes, which no description may mention.
    variants: the names are super-classes of nameless items; a language model is asked how the
      items of each differ.

  Raises:
    UserError: a file or setting is missing or malformed, or a class has no description.
    Incomplete: a language model gave no usable answer for some classes.
  """
  if language.describer == "skeleton":
    return _write_skeleton(language.descriptions, class_names)
  leaks = leak_guard(held_out)
  found = _found(language, workdir, class_names, leaks, variants)
  path, missing = Path(workdir) / "descriptions.jsonl", Path(workdir) / MISSING
  missing.unlink(missing_ok=True)
  kept = select(found, class_names, leaks, _origin(language), held_out, missing)
  with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
    file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
  return path


def _write_skeleton(target: str, class_names: Sequence[str]) -> Path:
  """Writes a JSON {class: []}; returns its path. Raises UserError rather than overwrite a file."""
  if not target:
    raise UserError(f"language.describer=skeleton writes a file to fill in: {files.HINT}")
  path = Path(target)
  if path.suffix.lower() in files.OTHER_SUFFIXES:
    raise UserError(f"--config.{files.KEY}={target}: a skeleton is JSON; pass a name in .json")
  if path.exists():
    raise UserError(
      f"--config.{files.KEY}={target} exists, and a skeleton does not overwrite it: pass another "
      "name, or leave out language.describer=skeleton to use the file"
    )
  # A line a class, so that it is easy to fill in.
  rows = ",\n".join(f"  {json.dumps(name, ensure_ascii=False)}: []" for name in class_names)
  with replacing(path) as temporary:
    temporary.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
  logging.info(
    'wrote %s with %d classes: fill in sentences, as ["One.", "Two."], then pass --config.%s=%s',
    *(path, len(class_names), files.KEY, target),
  )
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
  if language.descriptions or language.describer in ("file", "skeleton"):
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
    names = "file, skeleton, synthetic, shipped, transformers, openai"
    raise UserError(f"language.describer is one of {names}, not {language.describer!r}")
  return files.read_shipped()


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


def select(
  records: Sequence[Record],
  class_names: Sequence[str],
  leaks: Leaks,
  origin: str,
  held_out: Sequence[str] = (),
  missing_file: Path | None = None,
) -> list[Record]:
  """The cleaned records of `class_names`, class by class; logs what was left out.

  Records of other classes and sentences that leak are dropped. Names that are spelled otherwise
  than their class count as `matching.match` says. Raises UserError, with the `origin` of the
  records, for classes without any description; all of them are listed in `missing_file`.
  """
  kept: dict[str, dict[str, Record]] = {name: {} for name in class_names}
  meant = match((record["class"] for record in records), class_names, held_out)
  others: set[str] = set()
  empty = repeated = leaking = 0
  for record in records:
    name, text = meant.get(record["class"], ""), files.clean(record["description"])
    if record["class"] not in meant:
      others.add(record["class"])
    elif not text:
      empty += 1
    elif text in kept[name]:
      repeated += 1
    elif leaks(name, text):
      leaking += 1
    else:
      kept[name][text] = record | {"class": name, "description": text}
  missing = [name for name in class_names if not kept[name]]
  if missing:
    raise UserError(_what_is_missing(missing, kept, others, leaking, origin, missing_file))
  chosen = [record for by_text in kept.values() for record in by_text.values()]
  logging.info(
    "descriptions: %s of %s kept; dropped %s not trained on, "
    "%d repeated and %d empty sentences, and %d that name a class kept from training",
    *(counted(len(chosen), "sentence"), counted(len(kept), "class"), counted(len(others), "class")),
    *(repeated, empty, leaking),
  )
  spelled = [f"{name!r} for {kind!r}" for name, kind in meant.items() if name != kind]
  if spelled:
    text = "descriptions: %d class names are spelled otherwise and are taken: %s"
    logging.info(text, len(spelled), ", ".join(spelled[:3]) + (", ..." if spelled[3:] else ""))
  return chosen


def _what_is_missing(missing, kept, others, leaking: int, origin: str, path: Path | None) -> str:
  text = f"{len(missing)} of {len(kept)} training classes ({shorten(missing)})"
  if path:
    with replacing(path) as temporary:
      temporary.write_text("".join(f"{name}\n" for name in missing), encoding="utf-8")
    text += f", all listed in {path}"
  near = {squeezed(name): name for name in sorted(others)}
  for name in missing:
    if found := difflib.get_close_matches(squeezed(name), near, n=1, cutoff=0.7):
      text += f"; did you mean {near[found[0]]!r} for {name!r}?"
      break
  if leaking:
    text += f"; {leaking} sentences that name a class kept from training do not count"
  if origin.endswith("shipped"):
    text += f": {files.HINT}"
  return f"{origin}: no description for {text}"
