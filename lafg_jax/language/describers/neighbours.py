"""Which training classes look most like a class: a prompt asks how it differs from these."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.utils.errors import UserError


def find(
  language: Any, class_names: Sequence[str], wanted: Sequence[str]
) -> dict[str, tuple[str, ...]]:
  """The visually closest training classes of each wanted class, nearest first.

  They come from the file `language.neighbours`; without one they are the classes whose names are
  nearest by the cosine of their text features. Each class has at most `language.num_neighbours`.

  No name but the `class_names` of training is returned, so that no other enters a prompt. Raises
  UserError if the file is missing or malformed, or the encoder cannot be loaded.
  """
  if language.neighbours:
    return _from_file(language.neighbours, language.num_neighbours, class_names, wanted)
  count = min(language.num_neighbours, len(class_names) - 1)
  if count <= 0:
    return dict.fromkeys(wanted, ())
  from lafg_jax.language.encoders import texts

  prompts = [language.prompt.replace("{}", name) for name in class_names]
  features = texts.encode_texts(
    prompts, language.encoder, language.batch_size, runtime=language.encoder_runtime
  )
  near = {}
  for name in wanted:
    own = class_names.index(name)
    cosines = features @ features[own]
    cosines[own] = -np.inf
    near[name] = tuple(class_names[i] for i in np.argsort(-cosines, kind="stable")[:count])
  return near


def _from_file(path: str, count: int, class_names, wanted) -> dict[str, tuple[str, ...]]:
  if not os.path.isfile(path):
    raise UserError(f"language.neighbours: no file {path!r}: pass a JSON {{class: [class, ...]}}")
  try:
    given = json.loads(Path(path).read_text(encoding="utf-8-sig"))
  except ValueError as error:
    raise UserError(f"language.neighbours: {path} is not JSON ({error})") from None
  lists: list[Any] = list(given.values()) if isinstance(given, dict) else [None]
  if not all(isinstance(n, list) and all(isinstance(x, str) for x in n) for n in lists):
    raise UserError(f"language.neighbours: {path} is not {{class: [class, ...]}}")
  foreign = {name for names in lists for name in names} - set(class_names)
  if foreign:
    logging.info("neighbours: %d names that are not trained on are left out", len(foreign))
  near = {}
  for name in wanted:
    others = [x for x in dict.fromkeys(given.get(name, ())) if x not in foreign and x != name]
    near[name] = tuple(others[:count])
  return near
