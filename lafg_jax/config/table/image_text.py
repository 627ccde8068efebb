"""Rows of image-text retrieval: `prompts`, `reweighting`, `category` and `image_text`."""

from lafg_jax.config.record import BOOL, NAMED, Key, ReadBy, Rule, at_least, one_of

# Methods that train the towers themselves, and the one that trains a box after the image tower.
FULL = ("finetune", "finetune_distill")
ADAPTER = "clip_adapter"
# Methods with prompts in the text tower, and in the image tower.
_TEXT = ("dcar", "coop", "ivlp", "maple")
_IMAGE = ("dcar", "vpt_shallow", "vpt_deep", "ivlp", "maple")
_PROMPTED = tuple(dict.fromkeys(_TEXT + _IMAGE))
METHODS = (*_PROMPTED, ADAPTER, *FULL, "zero_shot")

_DCAR = ReadBy("prompts.method", ("dcar",))
_WITH_PROMPTS = ReadBy("prompts.method", _PROMPTED)
_BOTH = ReadBy("prompts.method", ("dcar", "ivlp", "maple"))
_FRACTION = Rule(lambda x: 0 <= x <= 1, "a number from 0 to 1")

# fmt: off
ROWS = (
  Key("prompts.method", "dcar", one_of(*METHODS), "embedding",
      "What adapts CLIP: 'dcar' (dual prompts, re-weighted captions, L_cate), 'coop', "
      "'vpt_shallow', 'vpt_deep', 'ivlp', 'maple', 'clip_adapter'; 'finetune' trains all, "
      "'finetune_distill' beside its start; 'zero_shot' trains nothing."),
  Key("prompts.number", 0, at_least(0), "embedding",
      "k: prompts of a side; 'auto' (or 0): the method's, 4 for 'dcar', 16 for 'coop', 8 for VPT, "
      "2 for 'maple' and 'ivlp'.", _WITH_PROMPTS, auto=0),
  Key("prompts.depth", 0, at_least(0), "embedding",
      "J: blocks with prompts of their own, the input included; 'auto' (or 0): the method's, 1 "
      "for 'dcar', 'coop' and 'vpt_shallow', 9 for 'maple', all for the others. A tower of fewer "
      "blocks takes as many as it has.", _WITH_PROMPTS, auto=0),
  Key("prompts.init", "auto", one_of("auto", "words", "normal", "uniform"), "embedding",
      "Text prompts start as the embeddings of prompts.words ('words') or from N(0, 0.02) "
      "('normal'); free image prompts from N(0, 0.02), or with 'uniform' as VPT has it. 'auto': "
      "words for 'dcar', 'maple' and 'ivlp', else normal.", _WITH_PROMPTS),
  Key("prompts.words", "a photo of a", NAMED, "embedding",
      "The words of prompts.init=words; prompts beyond them start from N(0, 0.02).",
      ReadBy("prompts.method", _TEXT)),
  Key("prompts.coupling", "auto", one_of("auto", "linear", "mlp", "none"), "embedding",
      "How image prompts come from text prompts: 'linear', 'mlp' (a hidden layer and a free "
      "residual), 'none' (they are free); 'auto': linear for 'dcar' and 'maple', none for 'ivlp'.",
      _BOTH),
  Key("prompts.hidden", 128, at_least(1), "embedding",
      "Width of the hidden layer of prompts.coupling=mlp.", ReadBy("prompts.coupling", ("mlp",))),
  Key("prompts.place", "before_norm", one_of("before_norm", "after_norm"), "embedding",
      "Image prompts of the input enter before CLIP's ln_pre (MaPLe, DCAR) or after it (VPT's "
      "own).", ReadBy("prompts.method", _IMAGE)),
  Key("reweighting.similarity", "context_free", one_of("context_free", "contextual"), "training",
      "S(token, image), whose change from a blank image to the caption's own weighs the token: "
      "'context_free' by the feature of the token alone, 'contextual' by its hidden state.", _DCAR),
  Key("reweighting.gamma", 0.5, _FRACTION, "training",
      "Strength of the weights: a = 1 + gamma (w / mean w, within 1/4 and 4, - 1); 0 is off.",
      _DCAR),
  Key("reweighting.raw", False, BOOL, "training",
      "a = w itself: the literal reading of the paper, which scales captions to nothing.", _DCAR),
  Key("reweighting.blank", "white", one_of("white", "grey", "black"), "training",
      "The blank image: 255, 128 or 0.", _DCAR),
  Key("reweighting.plain", 0.5, _FRACTION, "training",
      "Probability that a training caption keeps a = 1, as captions have in evaluation.", _DCAR),
  Key("reweighting.weights", "own", one_of("own", "shuffled", "other", "random"), "training",
      "Controls: the weights of the caption's own image, the same 'shuffled' within the caption, "
      "those of an 'other' image of the batch, or 'random' ones of the same distribution.", _DCAR),
  Key("reweighting.at_test", "none", one_of("none", "mean", "rerank"), "evaluation",
      "A second figure beside that of plain captions: each token with its mean weight in training "
      "('mean'), or the 50 nearest ranked anew with the weights of each pair ('rerank').", _DCAR),
  Key("category.weight", 1.0, at_least(0), "training",
      "lambda, the weight of L_cate; 0 leaves it out.", _DCAR),
  Key("category.alpha", 0.5, at_least(0), "training",
      "A candidate of the image's class weighs 1 + alpha in L_cate.", _DCAR),
  Key("category.form", "logits", one_of("logits", "cosine"), "training",
      "'logits' adds log(1 + alpha) to a candidate's logit; 'cosine' multiplies its cosine, where "
      "alpha above 0.05 drowns all else.", _DCAR),
  Key("category.candidates", "negatives", one_of("negatives", "batch"), "training",
      "'negatives' of the caption, or with 'batch' the batch's other captions as well.", _DCAR),
  Key("category.caa", "bottleneck", one_of("bottleneck", "linear", "identity"), "training",
      "CAA, the box after the stored text features in L_cate: a residual bottleneck, one linear "
      "layer, or nothing.", _DCAR),
  Key("image_text.direction", "symmetric", one_of("symmetric", "image_to_text"), "training",
      "L_con: the mean of both directions, or from images to texts alone (CoOp, MaPLe as "
      "published)."),
  Key("image_text.logit_scale", "frozen", one_of("frozen", "learned"), "training",
      "The factor of cosines: CLIP's own, or learned up to 100 (with 'finetune').",
      ReadBy("prompts.method", FULL, "frozen")),
  Key("image_text.shuffle_captions", "none", one_of("none", "images", "classes"), "training",
      "Controls: training captions are dealt out anew among all 'images', or each class takes "
      "those of another ('classes')."),
  Key("image_text.distillation", 1.0, at_least(0), "training",
      "Weight of 1 - cos between the model and its start, on random crops.",
      ReadBy("prompts.method", ("finetune_distill",))),
)
# fmt: on
