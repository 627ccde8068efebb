"""ResNet weights of Hugging Face, timm and torchvision, renamed for models/resnet.py."""

from typing import Any

from lafg_jax.models.options import RESNET
from lafg_jax.models.weights.family import IMAGENET, NAMES, Family, Settings, published_mean_std
from lafg_jax.utils.errors import UserError

# A ResNet-50 v1.5 in a config.json of Hugging Face, which leaves out its defaults: these.
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
  """Settings from a config.json of Hugging Face or timm; from {}, those of a ResNet-50.

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
  # 32: the last map has a place for 32 x 32 pixels. A ResNet has none of the other numbers.
  mean_std = published_mean_std(config.get("pretrained_cfg") or {})
  return Settings(0, 0, 0, 0, 32, "mean", 0.0, size=RESNET, **mean_std)


HUGGING_FACE = Family(
  name="ResNet",
  model_types=("resnet",),
  names=NAMES["resnet_hugging_face"],
  settings=settings,
  marker="encoder.stages.0.layers.0.layer.2.convolution.weight",
  # Heads, and a count of batches.
  unused=r"num_batches_tracked$|^(classifier|fc)\.",
  prefix="resnet.",
  mean_std=IMAGENET,
)
TORCHVISION = HUGGING_FACE._replace(
  name="ResNet of timm and torchvision",
  model_types=("timm", "timm_wrapper"),
  names=NAMES["resnet_torchvision"],
  marker="layer1.0.conv3.weight",
  prefix="timm_model.",
  architecture="resnet",
)
