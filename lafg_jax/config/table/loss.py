"""Rows of `config.loss`: L_aux, LaFG's alignment L_ali, the added L_img, and their controls."""

from lafg_jax.config.record import BOOL, POSITIVE, Key, ReadBy, Rule, at_least, one_of

# Values of loss.alignment that read no words.
WORDLESS = ("none", "orthogonal", "onehot")
# Values of loss.alignment with L_ali.
ALIGNED = ("prototype", "distribution", "vocabulary", "orthogonal", "onehot")
# Values of loss.auxiliary that learn one proxy per class.
PROXIED = ("norm_softmax", "proxy_anchor")

# fmt: off
ROWS = (
  Key("loss.auxiliary", "pairwise", one_of("pairwise", "supcon", *PROXIED), "training",
      "L_aux: 'pairwise' (LaFG, Hyp-ViT), or in its place 'supcon' (Khosla et al., 2020), "
      "'norm_softmax' (Zhai & Wu, 2019), 'proxy_anchor' (Kim et al., 2020), with reduction=mean."),
  Key("loss.temperature", 0.1, POSITIVE, "training",
      "Temperature of L_aux, the divisor of D = 2 - 2 cos; 'proxy_anchor' has none. Twice a "
      "published divisor of cos: 0.1 of Hyp-ViT and SupCon is 0.2 here."),
  Key("loss.proxy_alpha", 32.0, POSITIVE, "training",
      "'proxy_anchor': the scale alpha of its cosines.",
      ReadBy("loss.auxiliary", ("proxy_anchor",), 32.0)),
  Key("loss.proxy_margin", 0.1, at_least(0), "training",
      "'proxy_anchor': the margin delta, on the cosine.",
      ReadBy("loss.auxiliary", ("proxy_anchor",), 0.1)),
  Key("loss.proxy_lr_factor", 100.0, POSITIVE, "training",
      "Proxies' rate over train.learning_rate.", ReadBy("loss.auxiliary", PROXIED, 100.0)),
  Key("loss.reduction", "sum", one_of("sum", "mean"), "training",
      "'sum' over the m(m-1) ordered slot pairs (published recipes), or 'mean'.",
      ReadBy("loss.auxiliary", ("pairwise",), "mean")),
  Key("loss.beta", 1.0, at_least(0), "training",
      "Weight of L_ali against the mean of L_aux over slot pairs, or over rows and proxies; with "
      "'sum' it is scaled to have the same effect.", ReadBy("loss.alignment", ALIGNED)),
  Key("loss.alignment", "prototype", one_of(*ALIGNED, "none"), "training",
      "L_ali: 'prototype', 'distribution', 'vocabulary'; controls without words: 'orthogonal', "
      "'onehot'; 'none' trains on L_aux alone."),
  Key("loss.image_alignment", "none", one_of("none", "vocabulary", "random", "feature"), "training",
      "L_img aligns each training image with what language.encoder (CLIP, SigLIP) sees in it: "
      "'vocabulary', its cosines to the attributes; controls without words: 'random', its cosines "
      "to random directions, and 'feature', its feature itself; 'none'."),
  Key("loss.image_beta", 5.0, at_least(0), "training", "Weight of L_img; see loss.beta."),
  Key("loss.image_temperature", 0.1, POSITIVE, "training",
      "Temperature of the cosines of L_img ('vocabulary', 'random')."),
  Key("loss.projector", "mean", one_of("free", "mean", "fixed"), "training",
      "What the image side is compared with: 'free' (P_t, learned), 'mean' (its EMA) or 'fixed'."),
  Key("loss.projector_init", "random", one_of("random", "pretrained"), "training",
      "P_v and P_t start 'random', or 'pretrained': P_v as the image projection of "
      "model.pretrained (CLIP, SigLIP), P_t as the identity. The latter takes "
      "model.embedding_dim=0 and the same model as language.encoder."),
  Key("loss.projector_width", 256, at_least(2), "training",
      "Width W of the projectors' common space; with 'pretrained', that of the model's texts."),
  Key("loss.alignment_temperature", 0.05, POSITIVE, "training", "tau_a, temperature of L_ali."),
  Key("loss.ema_step", 0.01, Rule(lambda x: 0 < x <= 1, "above 0 and at most 1"), "training",
      "alpha: step of the EMA copies, E <- (1 - alpha) E + alpha P."),
  Key("loss.unit_variance", True, BOOL, "training",
      "Scale the loaded prototypes to unit variance (the 'distribution' form needs it)."),
  Key("loss.start_distance", 0.0, at_least(0), "training",
      "L2-SP (Li et al., 2018): weight of half the squared distance of what is learned of the "
      "backbone, and of a head that is not random, to where it started; see loss.beta."),
)
