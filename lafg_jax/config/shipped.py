"""The configs that come with this package, by a name such as 'cars'."""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

_PACKAGE = Path(__file__).resolve().parents[1]


def folder() -> Path:
  """The checkout's configs/, or its copy in a package that pip has installed."""
  installed = _PACKAGE / "shipped_configs"
  return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
  """All names of shipped configs, sorted."""
  return sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__")


def find(name: str) -> str:
  """The path of a name such as 'cars:scratch', with the variant; any other text as it is."""
  word, colon, variant = name.partition(":")
  return f"{folder() / word}.py{colon}{variant}" if word in names() else name


def get_config(name: str) -> ConfigDict:
  """The config that --config=NAME gives, such as 'cars:scratch'."""
  path, _, variant = find(name).partition(":")
  return runpy.run_path(path)["get_config"](*([variant] if variant else []))
