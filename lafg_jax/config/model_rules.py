"""Rules between keys of the model, and between them and those of training."""

from ml_collections import ConfigDict

from lafg_jax.models.options import RESNET, SIZES
from lafg_jax.utils.errors import UserError


def check_model(config: ConfigDict) -> None:
  """Raises UserError for a network that cannot be, or weights that do not go with it."""
  model = config.model
  if model.patch_size and config.data.image_size % model.patch_size:
    raise UserError(
      f"--config.data.image_size={config.data.image_size}: it takes a multiple of "
      f"model.patch_size (now {model.patch_size})"
    )
  if model.size == "custom" and model.width % model.num_heads:
    raise UserError(
      f"--config.model.width={model.width}: it takes a multiple of model.num_heads "
      f"(now {model.num_heads})"
    )
  sizes = (model.width, model.depth, model.num_heads, model.mlp_dim)
  if model.size != "custom" and sizes != SIZES["base"]:
    raise UserError(
      f"--config.model.size={model.size}: width, depth, num_heads and mlp_dim are read only with "
      "--config.model.size=custom"
    )
  if model.conv_stem and model.patch_size & (model.patch_size - 1):
    raise UserError(
      f"--config.model.patch_size={model.patch_size}: with model.conv_stem it takes a power of 2"
    )
  if model.conv_stem and model.size == RESNET:
    raise UserError(f"--config.model.conv_stem: {RESNET} has convolutions; it is for ViTs")
  if config.loss.projector_init == "pretrained" and not (
    model.pretrained and not model.embedding_dim and not model.embedding_norm
  ):
    raise UserError(
      "--config.loss.projector_init=pretrained: it projects what a pretrained tower gives; pass "
      "--config.model.pretrained (CLIP, SigLIP), --config.model.embedding_dim=0 and no "
      "model.embedding_norm"
    )
  if config.evaluate.source == "pretrained" and not model.pretrained:
    raise UserError(
      "--config.evaluate.source=pretrained: no pretrained backbone; pass --config.model.pretrained"
    )


def check_profile(config: ConfigDict) -> None:
  """Raises UserError where P_t would meet both profiles and features of texts, of another width."""
  loss = config.loss
  if config.language.prototype != "profile":
    return
  clashes = {
    "alignment": loss.alignment == "vocabulary",
    "projector_init": loss.projector_init == "pretrained"
    and loss.alignment in ("prototype", "distribution"),
  }
  for key, clash in clashes.items():
    if clash:
      raise UserError(
        f"--config.loss.{key}={loss[key]}: it takes prototypes in the space of the texts, and a "
        "profile has an axis for each attribute; pass --config.language.prototype=attention"
      )


def check_tuning(config: ConfigDict) -> None:
  """Raises UserError about what keeps the backbone fixed: LoRA, prompts, and cached features."""
  model, train = config.model, config.train
  used = {
    f"model.lora_rank={model.lora_rank}": model.lora_rank,
    f"model.num_prompts={model.num_prompts}": model.num_prompts,
    "train.frozen_backbone": train.frozen_backbone,
  }
  names = [name for name, on in used.items() if on]
  if names and not model.pretrained:
    raise UserError(
      f"--config.{names[0]}: it keeps the backbone as it starts, which is random; pass "
      "--config.model.pretrained"
    )
  if not train.frozen_backbone:
    if train.feature_views:
      raise UserError(
        f"--config.train.feature_views={train.feature_views}: it is read only with "
        "--config.train.frozen_backbone=True"
      )
    return
  if len(names) > 1:
    raise UserError(
      f"--config.train.frozen_backbone: its features are computed once, and --config.{names[0]} "
      "would change them; pass one of the two"
    )
  if config.data.pack:
    raise UserError(
      f"--config.data.pack={config.data.pack}: train.frozen_backbone reads the images once, for "
      "its features, and no pack; leave it out"
    )
  if model.pool == "gem" and model.gem_learned:
    raise UserError(
      "--config.train.frozen_backbone: its features are pooled once; pass "
      "--config.model.gem_learned=False, or another model.pool"
    )
  if not model.embedding_dim:
    raise UserError(
      "--config.train.frozen_backbone: without an embedding nothing that retrieves would learn; "
      "pass --config.model.embedding_dim=D"
    )
