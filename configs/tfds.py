"""A builder of tensorflow-datasets with images and labels: the recipe of configs/folder.py.

  python -m lafg_jax.main --config configs/tfds.py --config.data.builder=caltech_birds2011

configs/tfds.py:scratch is a small model from random weights. Words are as for a folder.

It is read from --config.data.root=DATA_DIR (~/tensorflow_datasets if that is not set), where it was
prepared as ArrayRecord. Reading needs no TensorFlow; preparing it, once, does:
  import tensorflow_datasets as tfds  # beside tensorflow and importlib_resources
  builder = tfds.builder("caltech_birds2011", data_dir=DATA_DIR, file_format="array_record")
  builder.download_and_prepare()
--config.data.builder=FOLDER is a prepared folder itself (DATA_DIR/NAME/VERSION). Its own splits are
pooled; the first half of the labels trains, the other half is the test, as in the protocols of
CUB-200-2011 and Cars-196. Other splits: as configs/folder.py says.
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = default.OWN_VARIANTS


def get_config(variant: str = "pretrained"):
  """As for a folder; configs/folder.py says where the recipes are from."""
  return default.own_images("tfds", variant)
