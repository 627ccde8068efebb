"""What the choices of a config read: words, images, and how many recolourings."""

from ml_collections import ConfigDict

from lafg_jax.config.table.loss import PROXIED, WORDLESS
from lafg_jax.config.table.train import OF_MODELS

__all__ = ["OF_MODELS", "PROXIED", "WORDLESS", "reads_images", "reads_words", "recolourings"]


def reads_words(config: ConfigDict) -> bool:
  """Whether training reads the language base."""
  return config.loss.alignment not in WORDLESS or config.loss.image_alignment != "none"


def reads_images(config: ConfigDict) -> bool:
  """Whether training reads what language.encoder sees in each image."""
  return config.loss.image_alignment != "none" or (
    reads_words(config) and config.language.prototype == "images"
  )


def recolourings(config: ConfigDict) -> int:
  """K, in how many other colours language.encoder sees each training image; 0 for none."""
  return config.data.recolourings if config.data.recoloured_per_batch else 0
