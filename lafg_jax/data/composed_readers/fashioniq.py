"""FashionIQ: pairs of garments and two sentences each; a part for each of three categories.

Its files are captions/cap.CATEGORY.SPLIT.json (or json/, as Pic2Word calls that folder),
image_splits/split.CATEGORY.SPLIT.json, and images ASIN.jpg or ASIN.png anywhere below the folder.
"""

from pathlib import Path
from typing import Any

from lafg_jax.data.composed import Composed, Query, Training
from lafg_jax.data.composed_readers import common

CATEGORIES = ("dress", "shirt", "toptee")
# Queries and images of the original gallery, and of VAL's.
PUBLISHED = {
  ("dress", "train"): (5985, 11452),
  ("shirt", "train"): (5988, 19036),
  ("toptee", "train"): (6027, 16121),
  ("dress", "val"): (2017, 3817),
  ("shirt", "val"): (2038, 6346),
  ("toptee", "val"): (1961, 5373),
  ("dress", "test"): (2024, 3818),
  ("shirt", "test"): (2038, 6346),
  ("toptee", "test"): (2056, 5374),
}
VAL_GALLERY = {"dress": 2628, "shirt": 3089, "toptee": 2902}
_ENDS = ".?, "
_LAYOUT = "captions/, image_splits/ and the images"


def read(config: Any) -> list[Composed]:
  """A part for each category; raises UserError as `common.part` does."""
  root = common.root(config, _LAYOUT)
  return [_category(config, root, category) for category in CATEGORIES]


def training(config: Any) -> Training:
  """Raises UserError: the benchmark has nothing to train on."""
  raise common.no_training(config.composed.source)


def joined(texts: tuple[str, ...]) -> str:
  """The sentences of a pair as one: '.', '?', ',' and spaces cut from both ends, then 'and'.

  Empty sentences are left out (3 of the validation are empty).
  """
  stripped = [text.strip(_ENDS) for text in texts]
  return " and ".join(text for text in stripped if text)


def _category(config: Any, root: Path, category: str) -> Composed:
  split = config.composed.split
  captions = common.first_there(
    [root / folder / f"cap.{category}.{split}.json" for folder in ("captions", "json")],
    f"pass --config.composed.root=FOLDER with {_LAYOUT} of XiaoxiaoGuo/fashion-iq",
  )
  listed = root / "image_splits" / f"split.{category}.{split}.json"
  listed = common.first_there([listed], "fetch image_splits/ of XiaoxiaoGuo/fashion-iq")
  queries = _queries(captions, split != "test")
  gallery = [str(name) for name in common.json_of(listed, list)]
  about, published = "original split", PUBLISHED[category, split]
  if config.composed.gallery == "val":
    asked = {x for query in queries for x in (query.reference, *query.targets)}
    gallery = [name for name in gallery if name in asked]
    about = "VAL split (images of queries alone)"
    # Known for the validation; in other splits the files alone can say it.
    number = VAL_GALLERY[category] if split == "val" else len(gallery)
    published = published[0], number
  folder = common.images_folder(config, root)
  places = {x: (f"images/{x}.jpg", f"images/{x}.png", f"{x}.jpg", f"{x}.png") for x in gallery}
  return common.part(
    config,
    queries,
    gallery,
    common.find(config, folder, gallery, places),
    name=category,
    about=about,
    protocol="fashioniq",
    drop=common.drops(config, False),
    where=folder,
    published=published,
  )


def _queries(path: Path, scored: bool) -> list[Query]:
  queries = []
  for k, entry in enumerate(common.json_of(path, list)):
    reference = common.field(path, k + 1, entry, "candidate", str)
    targets = (common.field(path, k + 1, entry, "target", str),) if scored else ()
    text = joined(common.texts(path, k + 1, entry, "captions"))
    queries.append(Query(str(k), reference, text, targets))
  return queries
