"""One module a data set: `read(data) -> (training half, test half)` as `datasets.Dataset`s.

The module of a data set has the name that `data.name` has. Nothing is imported here: the check of
a config, before flags are parsed, reads the table below.
"""

from typing import Any

# data.name -> what lies in the folder data.root.
LAYOUTS = {
  "aircraft": "data/variants.txt and data/images/",
  "cars": "devkit/ and cars_train/, or train/CLASS/ and test/CLASS/, or data/train-*.parquet",
  "cub": "images.txt, image_class_labels.txt, classes.txt and images/",
  "folder": "a folder of images a class",
  "inshop": "Eval/list_eval_partition.txt and Img/img/",
  "sop": "Ebay_train.txt, Ebay_test.txt and the folders bicycle_final/ to toaster_final/",
}
# data.name -> the key that says where the images are, and what it takes.
SOURCES = {
  "hf": ("builder", "ID of an image data set on the Hugging Face hub, or a folder"),
  "manifest": ("manifest", "FILE, a CSV or Parquet of path, label or class, and perhaps split"),
  "tfds": ("builder", "NAME of a prepared tensorflow-datasets builder, or its folder"),
}
# Keys that only some data sets read, with the value that asks for nothing.
_OWN = ("folder", *SOURCES)
READ_BY: dict[str, tuple[object, tuple[str, ...]]] = {
  "box_crop": (False, ("aircraft", "cars", "cub", "inshop")),
  "builder": ("", ("hf", "tfds")),
  "depth": (0, ("folder",)),
  "image_key": ("image", ("hf", "tfds")),
  "label_key": ("label", ("hf", "tfds")),
  "manifest": ("", ("manifest",)),
  "pack": ("", (*LAYOUTS, *SOURCES)),
  "split_seed": (-1, _OWN),
  "test_classes": ("", _OWN),
  "train_fraction": (0.5, _OWN),
}
# Data sets that are drawn: there is nothing to read.
DRAWN = ("synthetic",)
NAMES = (*LAYOUTS, *SOURCES, *DRAWN)


def source(data: Any) -> str:
  """What says where the images of `config.data` are; '' where nothing does."""
  if data.name in DRAWN:
    return "in memory"
  return data[SOURCES[data.name][0]] if data.name in SOURCES else data.root
