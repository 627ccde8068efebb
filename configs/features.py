"""Features of any encoder that are there already, in a file: head and class targets, in seconds.

  python -m lafg_jax.main --config configs/features.py --config.data.manifest=/data/features.npz

is for an encoder that this package cannot load, or has run before. The file is one of
  .npz, .safetensors    arrays `features` [n, D] (float16 or float32) and `labels` [n]
  .parquet              a column `features` with a list of D numbers in each row, and `labels`
Labels are whole numbers (gaps are fine) or names. There may be
  class_names           of the numbers: one for each in ascending order, or all from 0 or 1 on
  split                 train, val, test; or query and gallery in place of test
  ids (or paths)        names of the rows
Names in another file: --config.data.class_names=FILE, CUB's classes.txt or Cars' cars_meta.mat.
Without a split the first half of the classes trains; --config.data.last_train_label=98 lets the
classes up to that number train (Cars-196; 100 of CUB), and the keys of configs/folder.py hold too.

The head starts as the identity, as wide as the features, and embeddings are centred on the mean of
training images. For a smaller width: --config.model.head_init=pca --config.model.embedding_dim=128.

Class targets are fixed vectors, and with words prototypes, as configs/folder.py says. The batch is
128 vectors of as many classes as there are.
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = ("features",)


def get_config(variant: str = "features"):
  """A head that starts as the identity, AdamW; `variant`: features."""
  default.check_variant("configs/features.py", variant, VARIANTS)
  return default.own_features()
