"""Layer-wise learning-rate decay of a ViT: less, the nearer to the image."""


def of_vit(depth: int, decay: float) -> tuple[tuple[str, float], ...]:
  """(regular expression over paths, factor on the learning rate); the first that finds wins.

  As BEiT (Bao et al., ICLR 2022) and MAE (He et al., CVPR 2022) fine-tune: block i of L has
  decay^(L - i), what is before the blocks decay^(L + 1), and what is behind them 1. Updates of
  LoRA learn as the block that they belong to.
  """
  blocks = [(rf"^(backbone|lora)/block_{i}/", decay ** (depth - i)) for i in range(depth)]
  behind = (r"^backbone/(norm|map_head)/", 1.0)
  return (*blocks, behind, (r"^(backbone|lora)/", decay ** (depth + 1)))
