"""Which of two ways encodes: Flax, or transformers with torch (`language.encoder_runtime`)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lafg_jax.language.encoders import by_flax, by_transformers, layout, load, tokens
from lafg_jax.language.encoders.cache import Encode
from lafg_jax.utils import packages, places
from lafg_jax.utils.errors import UserError

_KEY = "language.encoder_runtime"
_NEEDED = ("torch", "safetensors", "torch", "transformers")


class Reader(Protocol):
  """How an encoder reads text."""

  @property
  def context(self) -> int:
    """Tokens at most, special tokens included."""

  def lengths(self, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before any cut, special tokens included."""


class Runtime(NamedTuple):
  """One way to encode; each function takes (encoder, its folder, ...) first."""

  load_reader: Callable[[str, Path], Any]  # a `Reader`
  text_encoder: Callable[[str, Path, Any, Sequence[str]], Encode]
  image_encoder: Callable[[str, Path, Callable[[int], Any]], Encode]


_FLAX, _TRANSFORMERS = (
  Runtime(way.load_reader, way.text_encoder, way.image_encoder)
  for way in (by_flax, by_transformers)
)


def of(encoder: str, folder: Path, asked: str, images: bool = False) -> Runtime:
  """The way of an encoder's texts, or with `images` of its images.

  Args:
    encoder: what the user calls it.
    folder: with its files.
    asked: 'flax', 'transformers', or 'auto': Flax where it reads the encoder.

  Raises:
    UserError: the way that is asked for cannot read the encoder, or its packages are missing.
  """
  if asked not in ("auto", "flax", "transformers"):
    raise UserError(f"{_KEY} is auto, flax or transformers, not {asked!r}")
  with load.loading(encoder):
    reason = by_flax.refusal(folder, images)
    only = layout.is_open_clip(folder)
  if asked != "transformers" and not reason:
    return _FLAX
  if only:
    reason = reason or "it is in open_clip's layout, which transformers does not read"
    raise UserError(f"{load.KEY} {encoder!r} cannot be loaded ({reason}): {load.HINT}")
  if asked == "flax":
    raise UserError(
      f"{_KEY}=flax: it cannot read {encoder!r} ({reason}); pass --config.{_KEY}=auto"
    )
  packages.require(*_NEEDED)
  return _TRANSFORMERS


def check(encoder: str, asked: str = "auto") -> None:
  """Raises UserError for an encoder that is not there or cannot be read, as `of` does.

  Of a hub repository at most the config is downloaded, and nothing is loaded.
  """
  folder = load.local_folder(encoder)
  if folder is not None:
    of(encoder, folder, asked)
    return
  problem = load.NOT_ON_HUB.replace("[]", repr(encoder))
  places.check_hub(encoder, problem)
  try:
    packages.require(*_NEEDED)
  except UserError:
    # Better now than after the whole has been downloaded.
    path = places.hub_file(encoder, "config.json", problem)
    with load.loading(encoder):
      known = path is None or bool(tokens.reading(Path(path).parent).family)
    if asked == "transformers" or not known:
      raise
