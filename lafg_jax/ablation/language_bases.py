"""The language base of cells: made once for all that share its settings."""

from collections.abc import Sequence
from pathlib import Path

from absl import logging

from lafg_jax.ablation.plan import Cell
from lafg_jax.data import datasets
from lafg_jax.language import prototypes
from lafg_jax.language.describers import describe
from lafg_jax.language.encoders import images as image_features
from lafg_jax.language.encoders import texts
from lafg_jax.tasks.class_retrieval.choices import reads_images, recolourings
from lafg_jax.utils import files

# Keys that decide the features of sentences.
_OF_FEATURES = ("encoder", "prompt", "long_sentences")


def prepare(cells: Sequence[Cell], workdir: str) -> dict[str, Path]:
  """Describes, encodes and mines for the cells that read words.

  Returns:
    {cell.key: its prototypes.npz}.

  Raises:
    UserError, Incomplete: as the stages do.
  """
  found: dict[str, Path] = {}
  made: dict[str, Path] = {}
  for cell in cells:
    if cell.reads_words:
      key = _fingerprint(cell)
      if key not in made:
        made[key] = _prototypes(cell, Path(workdir, "language", key[:16]))
      found[cell.key] = made[key]
  return found


def _fingerprint(cell: Cell) -> str:
  language, data = cell.config.language, cell.config.data
  splits = datasets.class_splits(data)
  pictures = language.query == "image" or reads_images(cell.config)
  return files.fingerprint(
    describe.inputs(language),
    texts.encoder_folder(language.encoder),
    [language[name] for name in (*_OF_FEATURES, *prototypes.DECIDING)],
    splits,
    datasets.content_fingerprint(data, "train") if pictures else None,
    *(["readings", recolourings(cell.config)] if reads_images(cell.config) else []),
  )


def _prototypes(cell: Cell, folder: Path) -> Path:
  path = folder / "prototypes.npz"
  if path.exists():
    return path
  logging.info("language base of %s/%s: %s", cell.start, cell.variant, folder)
  folder.mkdir(parents=True, exist_ok=True)
  language, data = cell.config.language, cell.config.data
  splits = datasets.class_splits(data)
  names = splits["train"]
  kinds = datasets.super_classes(data)
  described: Sequence[str] = names
  held_out = [name for split in ("val", "test") for name in splits.get(split, ())]
  if kinds is not None:
    described, held_out = list(dict.fromkeys(kinds)), []
  describe.run(language, folder, described, held_out, kinds is not None)
  images = None
  if language.query == "image" or reads_images(cell.config):
    images = datasets.load_splits(data, ("train",))["train"]
  if reads_images(cell.config) and images is not None:
    image_features.run(language, folder, images, recolourings(cell.config))
  texts.run(language, folder, names, kinds, images)
  return prototypes.run(language, folder, names)
