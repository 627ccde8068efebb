"""Rows of `config.model`: the backbone, its head, and what tunes it with few parameters."""

from lafg_jax.config.record import BOOL, POSITIVE, REGEX, TEXT, Key, Rule, at_least, numbers, one_of
from lafg_jax.models.options import GIVEN, RESNET, SIZES, Options, parse_options

# fmt: off
ROWS = (
  Key("model.size", "auto", one_of("auto", *SIZES, "custom", RESNET, GIVEN), "embedding",
      "'auto' (that of the pretrained weights; without any 'base'), 'tiny', 'small', 'base', "
      "'large' or 'custom', a ViT of the four numbers below; 'resnet50'; or 'features', which is "
      "no backbone: vectors of data.name=features go to the head as they are."),
  Key("model.width", 768, at_least(1), "embedding", "'custom': channels of a token."),
  Key("model.depth", 12, at_least(1), "embedding", "'custom': blocks."),
  Key("model.num_heads", 12, at_least(1), "embedding", "'custom': attention heads of a block."),
  Key("model.mlp_dim", 3072, at_least(1), "embedding", "'custom': hidden units of a block's MLP."),
  Key("model.patch_size", 0, at_least(0), "embedding",
      "Side of a patch in pixels, with conv_stem a power of 2; 0: that of the weights, or 16.",
      auto=0),
  Key("model.pool", "auto", one_of("auto", "token", "mean", "gem", "map"), "embedding",
      "'token' (class token), 'mean' or 'gem' (generalised mean) over patches, 'map' (SigLIP's "
      "attention pooling), or 'auto': that of the weights, or 'token' (of a ResNet 'mean')."),
  Key("model.gem_p", 3.0, POSITIVE, "embedding",
      "First p of 'gem': 1 is the mean, large values approach the maximum."),
  Key("model.gem_learned", True, BOOL, "embedding", "p is learned."),
  Key("model.options", "auto", Rule(lambda x: x == "auto" or bool(parse_options(x) or True),
           f"auto, or words separated by spaces, of {', '.join(Options._fields)}"), "embedding",
      "What a ViT has beyond the plain one, such as 'layer_scale registers=4' "
      "(lafg_jax/models/options.py lists them); 'auto': what the weights have, or else nothing."),
  Key("model.conv_stem", False, BOOL, "embedding",
      "Convolutions in place of the patch embedding: for training from scratch at small sizes."),
  Key("model.layer_norm_eps", 0.0, at_least(0), "embedding",
      "Epsilon of every LayerNorm of the backbone; 0: that of the weights, or else 1e-12.",
      auto=0.0),
  Key("model.embedding_dim", 512,
      Rule(lambda x: type(x) is int and x >= -1, "a whole number from 0 on, or auto"), "embedding",
      "Width D of the embedding, a linear layer; 'auto' (-1) is the backbone's width; 0 uses the "
      "backbone's own feature.", auto=-1),
  Key("model.embedding_norm", "", one_of("", "layer"), "embedding",
      "Before the linear layer: '' or 'layer', a LayerNorm without parameters (ProxyNCA++)."),
  Key("model.head_init", "random", one_of("random", "identity", "pca", "pca_whitened"), "embedding",
      "How the linear layer starts: 'random'; 'identity' (embedding_dim is the backbone's width); "
      "'pca', the leading components of features of 2,048 training images; 'pca_whitened', each "
      "divided by its standard deviation. All but 'random' keep what pretrained weights know."),
  Key("model.centre", False, BOOL, "embedding",
      "After training, the mean embedding of 1,024 training images is learned; it is subtracted "
      "from every embedding of unit norm, which is scaled to unit norm again."),
  Key("model.lora_rank", 0, at_least(0), "embedding",
      "LoRA: rank of a target kernel's update; the backbone is fixed, the head learns. 0 = off."),
  Key("model.lora_alpha", 16.0, POSITIVE, "embedding", "Scale: lora_alpha / lora_rank times A B."),
  Key("model.lora_targets", "attention/(query|value)/kernel", REGEX, "embedding",
      "Regular expression over paths of the backbone's kernels: those that get an update."),
  Key("model.num_prompts", 0, at_least(0), "embedding",
      "Learned tokens after the class token; the backbone stays fixed, the head learns. 0 = off."),
  Key("model.prompts_depth", "shallow", one_of("shallow", "deep"), "embedding",
      "'shallow' (before the first block) or 'deep' (anew before every block)."),
  Key("model.mean", (),
      Rule(lambda x: x == () or numbers(x, 3), "three numbers, for R, G and B, or ()"), "embedding",
      "Mean that normalises images in [0, 1], for R, G, B; (): that of the weights, or else 0.5.",
      auto=()),
  Key("model.std", (), Rule(lambda x: x == () or (numbers(x, 3) and min(x) > 0),
           "three numbers above 0, for R, G and B, or ()"), "embedding",
      "Standard deviation that does so; (): that of the weights, or else 0.5.", auto=()),
  Key("model.dtype", "bfloat16", one_of("float32", "bfloat16"), "embedding",
      "Arithmetic of the backbone: 'bfloat16' or 'float32'. Parameters and losses are float32."),
  Key("model.remat", "none", one_of("none", "dots", "blocks"), "nothing",
      "What a backward pass computes again to save memory: 'none'; 'dots', all but the products "
      "with weights; 'blocks', all inside of a block (a third more time)."),
  Key("model.pretrained", "google/vit-base-patch16-224-in21k", TEXT, "embedding",
      "Pretrained backbone, '' = random: a hub id, a folder, a file or a URL (gs://) of "
      "safetensors of transformers (ViT, DINO, DINOv2, DINOv3, CLIP, SigLIP, ResNet) or timm, or "
      "of a vit_jax .npz; output of lafg_jax.export; or the shipped 'tiny_clip'.", path=True),
)
