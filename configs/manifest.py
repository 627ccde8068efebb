"""Images listed in a CSV or Parquet file: the recipe of configs/folder.py.

  python -m lafg_jax.main --config configs/manifest.py --config.data.manifest=/data/images.csv

configs/manifest.py:scratch is a small model from random weights. Words are as for a folder.

A row is an image. Columns, whose usual other names are read too (docs/guide/data.md):
  path                      absolute, or below data.root; below the file's own folder if that is ''
  label and/or class        a number from 0, and the name; names alone set the order of classes
  split (may be missing)    train, val, test; or query and gallery in place of test; any spelling
  left, top, right, bottom  (may be missing) in pixels: the part of the image that is shown
A class belongs to one of train, val and test. Where there is val, data.num_val_classes is the
number of its classes. Without a column split, classes are split as configs/folder.py says.
Listed images that are missing stop the run; --config.data.expect_counts=False leaves them out, and
marks the results as those of a partial copy. No split may lose all of its images.
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = default.OWN_VARIANTS


def get_config(variant: str = "pretrained"):
  """As for a folder; configs/folder.py says where the recipes are from."""
  return default.own_images("manifest", variant)
