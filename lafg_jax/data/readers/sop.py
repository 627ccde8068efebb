"""Stanford Online Products: items for sale in 12 super-classes; the items have no names."""

from pathlib import Path
from typing import Any

from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import common
from lafg_jax.data.readers.common import Image, Published
from lafg_jax.utils.errors import UserError

PUBLISHED = Published(11_318, 59_551), Published(11_316, 60_502)
_HEADER = ["image_id", "class_id", "super_class_id", "path"]


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The two lists that come with the data set, which share no item."""
  root = common.root_folder(data, "Ebay_train.txt", "Stanford_Online_Products")
  train, test = (_half(root, split, data) for split in ("train", "test"))
  shared = set(train.class_names) & set(test.class_names)
  if shared:
    raise UserError(
      f"{root}: {len(shared)} items stand in both lists, such as {min(shared)}: fetch it again"
    )
  return common.check_counts(data, "Stanford Online Products", (train, test), PUBLISHED)


def _half(root: Path, split: str, data: Any) -> Dataset:
  path = root / f"Ebay_{split}.txt"
  images, kinds = [], {}
  rows = common.read_rows(path, data, len(_HEADER))
  if rows[:1] != [_HEADER]:
    raise UserError(f"{path} does not begin with '{' '.join(_HEADER)}': fetch it again")
  for _, item, _, file in rows[1:]:
    if not item.isdecimal():
      raise UserError(f"{path}: {file} has class_id {item}, not a number: fetch it again")
    images.append(Image(file, int(item)))
    kinds[int(item)] = file.split("/")[0].removesuffix("_final").replace("_", " ")
  images = common.present(root, images, data)
  names = {item: f"{kinds[item]} {item}" for item in sorted(kinds)}
  return common.half("sop", split, root, images, names, super_classes=kinds)
