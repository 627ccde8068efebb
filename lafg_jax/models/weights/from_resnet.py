"""ResNet weights of Hugging Face, timm and torchvision, renamed for models/resnet.py."""

from typing import Any

from lafg_jax.models.weights.family import IMAGENET_MEAN, IMAGENET_STD, Family, Settings
from lafg_jax.utils.errors import UserError

# Modules: ours on the left; {i} and {j} number stages and blocks from 0, {i+1} stages from 1.
_HUGGING_FACE = {
  "stem/conv": "embedder.embedder.convolution",
  "stem/norm": "embedder.embedder.normalization",
  "stage_{i}_block_{j}/conv_1/conv": "encoder.stages.{i}.layers.{j}.layer.0.convolution",
  "stage_{i}_block_{j}/conv_1/norm": "encoder.stages.{i}.layers.{j}.layer.0.normalization",
  "stage_{i}_block_{j}/conv_2/conv": "encoder.stages.{i}.layers.{j}.layer.1.convolution",
  "stage_{i}_block_{j}/conv_2/norm": "encoder.stages.{i}.layers.{j}.layer.1.normalization",
  "stage_{i}_block_{j}/conv_3/conv": "encoder.stages.{i}.layers.{j}.layer.2.convolution",
  "stage_{i}_block_{j}/conv_3/norm": "encoder.stages.{i}.layers.{j}.layer.2.normalization",
  "stage_{i}_block_{j}/shortcut/conv": "encoder.stages.{i}.layers.{j}.shortcut.convolution",
  "stage_{i}_block_{j}/shortcut/norm": "encoder.stages.{i}.layers.{j}.shortcut.normalization",
}
_TORCHVISION = {
  "stem/conv": "conv1",
  "stem/norm": "bn1",
  "stage_{i}_block_{j}/conv_1/conv": "layer{i+1}.{j}.conv1",
  "stage_{i}_block_{j}/conv_1/norm": "layer{i+1}.{j}.bn1",
  "stage_{i}_block_{j}/conv_2/conv": "layer{i+1}.{j}.conv2",
  "stage_{i}_block_{j}/conv_2/norm": "layer{i+1}.{j}.bn2",
  "stage_{i}_block_{j}/conv_3/conv": "layer{i+1}.{j}.conv3",
  "stage_{i}_block_{j}/conv_3/norm": "layer{i+1}.{j}.bn3",
  "stage_{i}_block_{j}/shortcut/conv": "layer{i+1}.{j}.downsample.0",
  "stage_{i}_block_{j}/shortcut/norm": "layer{i+1}.{j}.downsample.1",
}


# What a config.json of Hugging Face says of a ResNet-50 v1.5; it leaves out its defaults, which are
# these.
_RESNET50 = {
  "layer_type": "bottleneck",
  "hidden_act": "relu",
  "embedding_size": 64,
  "hidden_sizes": [256, 512, 1024, 2048],
  "depths": [3, 4, 6, 3],
  "downsample_in_first_stage": False,
  "downsample_in_bottleneck": False,
}
# timm's model_args that change nothing before the pooling.
_HARMLESS = {"num_classes", "in_chans", "global_pool", "drop_rate"}


def settings(config: dict[str, Any]) -> Settings:
  """Settings from a config.json, Hugging Face's or timm's; of {}, those of a ResNet-50.

  Raises:
    UserError: a ResNet of other depths, blocks, strides or activation.
  """
  other = [f"{key} {config[key]}" for key, x in _RESNET50.items() if config.get(key, x) != x]
  other += sorted(set(config.get("model_args") or {}) - _HARMLESS)
  architecture = config.get("architecture", "resnet50")
  if architecture.split(".")[0] != "resnet50":
    other.append(architecture)
  if other:
    raise UserError(
      f"--config.model.pretrained: a ResNet with {', '.join(other)} cannot be read; ResNet-50 v1.5 "
      "can, that of torchvision, timm (resnet50) and Hugging Face (microsoft/resnet-50)"
    )
  pretrained = config.get("pretrained_cfg") or {}
  return Settings(
    # The last map has a place for 32 x 32 pixels; a ResNet has no other of these numbers.
    0, 0, 0, 0, 32, "mean", 0.0,
    mean=tuple(pretrained["mean"]) if "mean" in pretrained else None,
    std=tuple(pretrained["std"]) if "std" in pretrained else None,
    size="resnet50",
  )  # fmt: skip


# Heads, and a count that nothing reads.
_UNUSED = r"num_batches_tracked$|^(classifier|fc)\."

HUGGING_FACE = Family(
  name="ResNet",
  model_types=("resnet",),
  names=_HUGGING_FACE,
  settings=settings,
  marker="encoder.stages.0.layers.0.layer.2.convolution.weight",
  prefixes=("resnet.",),
  unused=_UNUSED,
  kernel="",
  mean=IMAGENET_MEAN,
  std=IMAGENET_STD,
)
TORCHVISION = HUGGING_FACE._replace(
  name="ResNet of timm and torchvision",
  model_types=("timm", "timm_wrapper"),
  names=_TORCHVISION,
  marker="layer1.0.conv3.weight",
  prefixes=("timm_model.",),
  architecture="resnet",
)
