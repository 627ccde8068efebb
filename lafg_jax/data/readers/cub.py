"""CUB-200-2011: birds of 200 classes, 1-100 train, 101-200 test; its train/test list is not used.

Names are those of classes.txt without number and underscores: 'Black footed Albatross'.
"""

from pathlib import Path
from typing import Any

from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import common
from lafg_jax.data.readers.common import Image, Published
from lafg_jax.utils.errors import UserError

CLASSES, TRAIN_CLASSES = 200, 100
PUBLISHED = Published(100, 5_864), Published(100, 5_924)


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The first and the second hundred classes of the native folder."""
  root = common.root_folder(data, "images.txt", "CUB_200_2011")
  names = _names(root / "classes.txt", data)
  files = {key: file for key, (file,) in common.by_id(root / "images.txt", data, 2).items()}
  images = common.present(root, _labelled(root, files, names, data), data)
  boxes = _boxes(root / "bounding_boxes.txt", files, data) if data.box_crop else None
  halves = common.halves("cub", root, images, names, range(TRAIN_CLASSES + 1), boxes)
  return common.check_counts(data, "CUB-200-2011", halves, PUBLISHED)


def _names(path: Path, data: Any) -> dict[int, str]:
  """{class id: name}, sorted, of lines such as '1 001.Black_footed_Albatross'."""
  names: dict[int, str] = {}
  for key, (folder,) in common.by_id(path, data, 2).items():
    if not key.isdecimal() or not 1 <= int(key) <= CLASSES:
      raise UserError(f"{path}: {folder} has class id {key}, not one of 1-{CLASSES}")
    names[int(key)] = folder.partition(".")[2].replace("_", " ") or folder
  common.check_names(path, names)
  return dict(sorted(names.items()))


def _labelled(root: Path, files: dict[str, str], names: dict[int, str], data: Any) -> list[Image]:
  path = root / "image_class_labels.txt"
  labels = common.by_id(path, data, 2)
  if labels.keys() != files.keys():
    odd = min(labels.keys() ^ files.keys())
    raise UserError(f"{path} and images.txt are of different images, such as id {odd}: fetch both")
  images = []
  for key, file in files.items():
    label, folder = labels[key][0], file.partition(".")[0]
    if not label.isdecimal() or int(label) not in names:
      raise UserError(f"{path}: image {key} has class {label}, which classes.txt has not")
    # The folder has the class id too: '001.Black_footed_Albatross/...'.
    if folder.isdecimal() and int(folder) != int(label):
      raise UserError(f"{path}: image {key} is {file}, but of class {label}: fetch it again")
    images.append(Image(f"images/{file}", int(label)))
  return images


def _boxes(path: Path, files: dict[str, str], data: Any) -> dict[str, common.Box]:
  """{path: left, top, right, bottom} of lines 'id x y width height'."""
  boxes: dict[str, common.Box] = {}
  for key, fields in common.by_id(path, data, 5).items():
    if key in files:
      x, y, width, height = common.box(path, f"image {key}", fields)
      boxes[f"images/{files[key]}"] = (x, y, x + width, y + height)
  return boxes
