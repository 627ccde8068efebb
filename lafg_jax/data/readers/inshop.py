"""In-Shop Clothes Retrieval (DeepFashion): items of clothing, with lists of queries and gallery.

Items have no names. An item is called by its kind and its number, such as 'men denim 00000080'. Its
kind, 'men denim', is its super-class. Queries search the gallery alone.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lafg_jax.data.datasets import Dataset
from lafg_jax.data.readers import common
from lafg_jax.data.readers.common import Image, Published
from lafg_jax.utils.errors import UserError

PUBLISHED = Published(3_997, 25_882), Published(3_985, 14_218 + 12_612)
QUERIES = 14_218
_HEADER = ("image_name", "item_id", "evaluation_status")
_BOX_HEADER = ("image_name", "clothes_type", "pose_type", "x_1", "y_1", "x_2", "y_2")


def read(data: Any) -> tuple[Dataset, Dataset]:
  """The training list, and the query list followed by the gallery list."""
  root = common.root_folder(data)
  listed = _listed(_find(root, "Eval", "list_eval_partition.txt"), root, data)
  boxes = _boxes(root, data) if data.box_crop else None
  train, _ = _half("train", root, listed["train"], boxes, data)
  test, shown = _half("test", root, listed["query"] + listed["gallery"], boxes, data)
  queries = {image.path for image in listed["query"]}
  test = dataclasses.replace(test, is_query=np.array([i.path in queries for i in shown], bool))
  return common.check_counts(
    data, "In-Shop Clothes Retrieval", (train, test), PUBLISHED, queries=QUERIES
  )


def _find(root: Path, folder: str, file: str) -> Path:
  """root/folder/file; root/file where it is there instead."""
  path = root / folder / file
  return path if path.exists() or not (root / file).exists() else root / file


def _half(
  split: str, root: Path, images: list[Image], boxes: dict | None, data: Any
) -> tuple[Dataset, list[Image]]:
  """The half, and its images in the same order."""
  images = common.present(root, images, data)
  # The first image of an item tells its kind.
  kinds = {image.key: _kind(image.path) for image in reversed(images)}
  names = {item: f"{kinds[item]} {item.removeprefix('id_')}" for item in sorted(kinds)}
  return common.half("inshop", split, root, images, names, kinds, boxes), images


def _kind(path: str) -> str:
  """'women tees tanks' of 'Img/img/WOMEN/Tees_Tanks/id_00000002/02_1_front.jpg'."""
  folders = path.split("/")[:-2]
  return " ".join(folders[folders.index("img") + 1 :]).replace("_", " ").lower()


def _listed(path: Path, root: Path, data: Any) -> dict[str, list[Image]]:
  images: dict[str, list[Image]] = {"train": [], "query": [], "gallery": []}
  folder = _folder(root)
  for file, item, status in _rows(path, data, _HEADER):
    if status not in images:
      raise UserError(f"{path}: {file} is in '{status}', not in train, query or gallery")
    if not file.startswith("img/") or file.count("/") < 3:
      raise UserError(f"{path}: {file} is not img/.../ITEM/FILE: fetch it again")
    images[status].append(Image(folder + file, item))
  common.check_listed_once(path, [image for part in images.values() for image in part])
  trained = {image.key for image in images["train"]}
  both = sorted({i.key for i in images["query"] + images["gallery"]} & trained)
  if both:
    raise UserError(f"{path}: {len(both)} items are in train and test lists, such as {both[0]}")
  return images


def _folder(root: Path) -> str:
  """What stands before 'img/...': the archives unpack to Img/img/ or to img/."""
  return "Img/" if (root / "Img" / "img").is_dir() else ""


def _rows(path: Path, data: Any, header: tuple[str, ...]) -> list[list[str]]:
  """The lines below the first two, which hold the number of lines and the names of the columns."""
  common.require_file(path, data)
  with path.open(encoding="utf-8-sig", errors="replace") as file:
    count, names = file.readline().strip(), file.readline().split()
  if not count.isdecimal() or names != list(header):
    raise UserError(f"{path} does not begin with a count and '{' '.join(header)}': fetch it again")
  rows = common.read_rows(path, data, len(header), skip=2)
  if len(rows) != int(count):
    raise UserError(f"{path} has {len(rows):,} lines, not {int(count):,}: fetch it again")
  return rows


def _boxes(root: Path, data: Any) -> dict[str, common.Box]:
  """{path: left, top, right, bottom}; the file has the corners, zero-padded."""
  path, folder = _find(root, "Anno", "list_bbox_inshop.txt"), _folder(root)
  return {
    folder + file: common.box(path, file, corners)
    for file, _, _, *corners in _rows(path, data, _BOX_HEADER)
  }
