"""What the choices of a config read: words, images, and how many recolourings."""

from ml_collections import ConfigDict

from lafg_jax.config.table.loss import WORDLESS


def reads_words(config: ConfigDict) -> bool:
  """Whether training reads the language base."""
  return config.loss.alignment not in WORDLESS or config.loss.image_alignment != "none"


def reads_images(config: ConfigDict) -> bool:
  """Whether training reads the teacher features: language.encoder's, of each image."""
  return config.loss.image_alignment != "none" or (
    reads_words(config) and config.language.prototype == "images"
  )


def recolourings(config: ConfigDict) -> int:
  """K, the number of other colours in which language.encoder sees each training image."""
  return config.data.recolourings if config.data.recoloured_per_batch else 0
