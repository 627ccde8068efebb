"""The default config of composed retrieval: CVSI on CLIP ViT-L/14, and rules between its keys."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from lafg_jax.config import keys, validation

# Stages of a bare run; none on request.
STAGES = ("caption", "edit", "train", "evaluate", "report")
ON_REQUEST: tuple[str, ...] = ()
_OF_MODEL = ("model.pretrained", "model.dtype", "model.remat")
_OURS = ("composed", "captioner", "editor", "mapping", "query")
SECTIONS = ("task", "seed", "data", *_OF_MODEL, *_OURS, "train", "evaluate")


def get_config() -> ConfigDict:
  """CVSI on CLIP ViT-L/14 at 224 px, with LinCIR's training of Phi."""
  config = keys.defaults(SECTIONS)
  config.task = "composed_retrieval"
  config.data.name = "manifest"
  config.data.update(image_size=224, resize_size=224)
  config.model.update(pretrained="openai/clip-vit-large-patch14", dtype="float32")
  config.train.update(optimizer="adamw", learning_rate=1e-4, weight_decay=0.01, steps=20_000)
  config.train.update(clip_norm=0.0)
  return config


def default_names(config: ConfigDict) -> list[str]:
  """The stages of a bare run of this config."""
  del config
  return list(STAGES)


def validate(config: ConfigDict, stages: Sequence[str]) -> None:
  """Raises UserError with the key and what it takes, for the first value that cannot be."""
  del stages
  validation.validate_values(config, SECTIONS)
