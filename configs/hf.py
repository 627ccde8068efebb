"""An image data set of the Hugging Face hub, or in one of its formats: configs/folder.py's recipe.

  python -m lafg_jax.main --config configs/hf.py --config.data.builder=OWNER/NAME

configs/hf.py:scratch is a small model from random weights. Words are as for a folder.

OWNER/NAME:CONFIG takes one of its configs, and a folder what `save_to_disk` wrote, Parquet files or
folders of images. --config.data.image_key and --config.data.label_key are its columns. Its own
splits are pooled; the first half of the labels trains, the other half is the test. Other splits: as
configs/folder.py says. Needs the package `datasets`: pip install lafg_jax[data].
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = default.OWN_VARIANTS


def get_config(variant: str = "pretrained"):
  """As for a folder; configs/folder.py says where the recipes are from."""
  return default.own_images("hf", variant)
