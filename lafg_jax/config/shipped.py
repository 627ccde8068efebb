"""Where the configs that come with this package are: by a name such as 'cars'."""

import re
import runpy
from pathlib import Path

from ml_collections import ConfigDict

_PACKAGE = Path(__file__).resolve().parents[1]


def folder() -> Path:
  """The checkout's configs/, or where pip has installed the package, what was built from it."""
  installed = _PACKAGE / "shipped_configs"
  return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
  """What `find` knows, in order."""
  return sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__")


def find(name: str) -> str:
  """The path of 'cars:scratch' with its variant; what is no such name as it is."""
  word, colon, variant = name.partition(":")
  if not re.fullmatch(r"\w+", word) or word not in names():
    return name
  return f"{folder() / word}.py{colon}{variant}"


def get_config(name: str) -> ConfigDict:
  """The config that --config=NAME gives, such as 'cars:scratch'."""
  path, _, variant = find(name).partition(":")
  return runpy.run_path(path)["get_config"](*([variant] if variant else []))
