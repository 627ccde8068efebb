"""CIRCO: queries with several right answers among the 123,403 unlabelled images of COCO 2017.

The gallery is, of these, the first that is there: the file composed.gallery_file (ids, a line each,
or an .npy), COCO's image_info_unlabeled2017.json, or the images themselves. An id is COCO's number,
as a text without zeros in front.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lafg_jax.data import listing
from lafg_jax.data.composed import Composed, Query, Training
from lafg_jax.data.composed_readers import common
from lafg_jax.data.composed_readers.common import Found
from lafg_jax.utils.errors import UserError

QUERIES = {"val": 220, "test": 800}
GALLERY = 123403
_INFO = "image_info_unlabeled2017.json"
_INFO_IN = ("COCO2017_unlabeled/annotations", "annotations", "")
_FOLDERS = ("COCO2017_unlabeled/unlabeled2017", "unlabeled2017", "")


def read(config: Any) -> list[Composed]:
  """One part, 'circo'."""
  split = config.composed.split
  if split not in QUERIES:
    raise UserError(f"--config.composed.split={split}: CIRCO has val and test")
  root = common.root(config, "CIRCO's annotations/ and COCO2017_unlabeled/")
  path = common.first_there(
    [root / "annotations" / f"{split}.json", root / f"{split}.json"],
    "fetch annotations/ of miccunifi/CIRCO",
  )
  queries = _queries(path, split != "test", config.composed.shared_concept)
  folder = common.images_folder(config, root)
  gallery, found = _gallery(config, root, folder)
  return [
    common.part(
      config,
      queries,
      gallery,
      found,
      name="circo",
      about="COCO 2017 unlabeled"
      + (", shared_concept joined to the text" if config.composed.shared_concept else ""),
      protocol="circo",
      drop=common.drops(config, False),
      where=folder,
      published=(QUERIES[split], GALLERY),
    )
  ]


def training(config: Any) -> Training:
  """Raises UserError: the benchmark has nothing to train on."""
  raise common.no_training(config.composed.source)


def _queries(path: Path, scored: bool, concept: bool) -> list[Query]:
  queries = []
  for k, entry in enumerate(common.json_of(path, list), 1):
    text = common.field(path, k, entry, "relative_caption", str)
    if concept:
      text = f"{common.field(path, k, entry, 'shared_concept', str)}, {text}"
    targets, kinds = _answers(path, k, entry) if scored else ((), ())
    reference = common.field(path, k, entry, "reference_img_id", int)
    number = common.field(path, k, entry, "id", int)
    queries.append(Query(str(number), str(reference), text, targets, kinds=kinds))
  return queries


def _answers(path: Path, k: int, entry: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """All right answers, the main one first, and the semantic aspects."""
  main = common.field(path, k, entry, "target_img_id", int)
  several = common.field(path, k, entry, "gt_img_ids", list)
  if main not in several or len(set(several)) < len(several):
    raise UserError(f"{path} entry {k}: target_img_id is one of gt_img_ids, all different")
  targets = [main, *(x for x in several if x != main)]
  return tuple(map(str, targets)), common.texts(path, k, entry, "semantic_aspects")


def _gallery(config: Any, root: Path, folder: Path) -> tuple[list[str], Found]:
  """All ids of the gallery in their order, and which images are there."""
  given = config.composed.gallery_file
  infos = [root / place / _INFO for place in _INFO_IN]
  info = next((path for path in infos if path.is_file()), None)
  path = Path(given) if given else info
  if path:
    key = "composed.gallery_file" if given else "composed.root"
    ids = [_number(path, name) for name in common.names_of(path, key)]
  elif config.composed.missing == "annotations":
    raise UserError(
      f"{infos[0]} is missing: without images it says what the gallery is; or pass "
      "--config.composed.gallery_file=FILE with an id a line"
    )
  else:
    at = _on_disk(folder)
    return sorted(at, key=int), Found(at)
  if config.composed.missing == "annotations":
    base = folder / _FOLDERS[0]
    return ids, Found({x: os.path.join(base, f"{int(x):012d}.jpg") for x in ids})
  return ids, Found(_on_disk(folder))


def _number(path: Path, name: str) -> str:
  """COCO's number of '000000000042.jpg' and of '42': '42'."""
  stem = os.path.splitext(os.path.basename(name))[0]
  if not stem.isdecimal():
    raise UserError(f"{path}: '{listing.shown(name)}' is no number of a COCO image")
  return str(int(stem))


def _on_disk(folder: Path) -> Mapping[str, str]:
  """{id: path} of the images in COCO's own folder, or anywhere below the folder of the images."""
  base = next(x for x in (folder / place for place in _FOLDERS) if x.is_dir())
  stems = common.by_stem(listing.images_below(base)[0])
  return {
    str(int(stem)): os.path.join(base, common.only(base, stem, paths))
    for stem, paths in stems.items()
    if stem.isdecimal()
  }
