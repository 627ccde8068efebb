"""Every key of a config, with its default and one comment. Other configs change only what differs.

Paths are relative to the working directory. Override any key on the command line:
  python -m lafg_jax.main --config configs/cars.py --config.train.steps=100
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The defaults: the recipe of LaFG (CVPR 2026) for a ViT-B/16 at 224 px where it gives one."""
  config = ConfigDict()
  # What is trained and how it is judged: a folder of lafg_jax/tasks/.
  config.task = "class_retrieval"
  # Seeds initialisation, sampling and augmentation. Same seed, same result.
  config.seed = 0

  data = config.data = ConfigDict()
  # Reader: 'aircraft' (FGVC-Aircraft), 'cars' (Stanford Cars), 'cub' (CUB-200-2011), 'inshop'
  # (In-Shop Clothes), 'sop' (Stanford Online Products) or 'synthetic' (rendered finches); for
  # images of one's own 'folder', 'manifest', 'tfds' or 'hf', each with a config of that name.
  data.name = "cars"
  # Folder of the dataset; unused by 'synthetic'.
  data.root = ""
  # Stop unless the published image counts are found; False accepts a partial copy and says so.
  data.expect_counts = True
  # Show of each image its box alone, where the data set has boxes ('aircraft', 'cars', 'cub',
  # 'inshop').
  data.box_crop = False
  # Whole classes taken out of the training half for model selection, evenly spaced.
  data.num_val_classes = 0
  # Of the classes that are left to train on, train on so many, evenly spaced; 0 is all.
  data.max_train_classes = 0
  # 'folder': levels of folders, 1 (CLASS/) or 2 (SUPER_CATEGORY/CLASS/); 0 finds out.
  data.depth = 0
  # Part of the classes that is trained on; the rest is the test. For images of one's own.
  data.train_fraction = 0.5
  # The first classes train (-1), or classes drawn by this seed. For images of one's own.
  data.split_seed = -1
  # Text file with the classes of the test, one name a line, in place of the fraction.
  data.test_classes = ""
  # 'manifest': CSV or Parquet with the columns path and label or class; with split if it has one.
  # Paths are below data.root, or, where that is not set, below the file's folder.
  data.manifest = ""
  # 'tfds': a builder such as 'caltech_birds2011:0.1.1', or its folder; 'hf': a hub id or folder.
  # Their data.root is tensorflow-datasets' data_dir and the cache_dir of datasets; '' is its own.
  data.builder = ""
  # 'tfds' and 'hf': what the images are called there.
  data.image_key = "image"
  # 'tfds' and 'hf': what the labels are called there.
  data.label_key = "label"
  # Side of the square crop that the model sees, in pixels.
  data.image_size = 224
  # Shorter side before the centre crop (evaluation) and the random crop ('resize_crop').
  data.resize_size = 256
  # Training crop: 'random_resized' (Hyp-ViT) or 'resize_crop' (resize, then random crop: LaFG).
  data.train_crop = "resize_crop"
  # Area range of 'random_resized', as fractions of the image.
  data.crop_scale = (0.2, 1.0)
  # Aspect range of 'random_resized', width over height.
  data.crop_ratio = (0.75, 4.0 / 3.0)
  # Flip half of the training images left to right.
  data.flip = True
  # Strength of random changes of colour in training (SimCLR: 0.5 to 1); 0 leaves colours.
  data.color_jitter = 0.0
  # N: distinct classes in a batch.
  data.classes_per_batch = 98
  # m: images of each of them; the batch is N x m whatever the number of devices.
  data.images_per_class = 9
  # Self-supervision: each training image is a class of its own, and its m images are random crops
  # of it. No label and no word is read: with loss.alignment='none'.
  data.instances = False
  # R: images that a batch has beyond N x m, any training images in other colours: of no class, they
  # are read by L_img alone, which then reads no others. With loss.image_alignment; 0 has none.
  data.recoloured_per_batch = 0
  # K: in how many other colours language.encoder sees each training image, for these.
  data.recolourings = 6
  # Decode JPEGs at 1/2, 1/4 or 1/8 where a training crop is shrunk by as much. Its pixels then
  # differ by 0.5 to 2 of 255 in the mean. Evaluation decodes whole images.
  data.scaled_decoding = True
  # Folder of packs: training images decoded and resized once, to data.resize_size (a quarter more
  # for 'random_resized'), 3 bytes a pixel, several times as fast to read; '' reads the files.
  # Crops are nearly the same; of random resized ones pixels differ by 0.5 to 2 of 255 in the mean.
  # Not with train.frozen_backbone, which reads each image once.
  data.pack = ""
  # Processes that decode for training and evaluation; 0 decodes in threads of this process. Threads
  # of --stage=data and of building a pack; 0 takes one a core.
  data.num_workers = 0
  # Batches decoded ahead.
  data.prefetch = 4

  language = config.language = ConfigDict()
  # Who describes the classes: 'file' (language.descriptions), 'shipped' (with this package, for
  # some data sets), 'synthetic' (the finches'), or a language model: 'transformers' (in this
  # process) or 'openai' (any OpenAI-compatible endpoint).
  language.describer = "file"
  # JSON {class: [sentence, ...]}, JSONL of {"class": ..., "description": ...}, or CSV with those
  # two columns. Where it is set it is read, whatever language.describer says.
  language.descriptions = ""
  # Language model: a hub id or folder of a chat model ('transformers'), or its name ('openai').
  language.llm = ""
  # URL of the endpoint, such as http://localhost:11434/v1; '' is $OPENAI_BASE_URL, or OpenAI's own.
  language.base_url = ""
  # Environment variable that holds the endpoint's key. The key itself stands in no config or log.
  language.api_key_env = "OPENAI_API_KEY"
  # Requests to the endpoint at once.
  language.concurrency = 8
  # Seconds that the endpoint may be silent.
  language.timeout_s = 120.0
  # Attempts after the first: on trouble with the endpoint, and on an unusable answer.
  language.retries = 4
  # n: sentences that the language model is asked for, a class.
  language.sentences_per_class = 10
  # Visually closest training classes that the prompt names, to be told apart.
  language.num_neighbours = 3
  # JSON {class: [class, ...]} of those; '' finds them by language.encoder over the class names.
  language.neighbours = ""
  # Longest answer of the language model, in tokens.
  language.max_tokens = 1024
  # Temperature of its sampling; 0 is greedy.
  language.temperature = 0.7
  # Seed of its sampling ('transformers').
  language.llm_seed = 0
  # Classes asked about at once ('transformers').
  language.llm_batch_size = 8
  # Text encoder: a hub id or a folder in transformers' format, or 'tiny_clip' (shipped).
  language.encoder = "openai/clip-vit-large-patch14"
  # Class query t_c: this prompt with the class name.
  language.prompt = "a photo of {}"
  # 'name': the prompt alone (LaFG). 'descriptions': plus the mean of the class's own descriptions.
  # 'image': plus the mean image feature of the class's training images, by the same encoder (CLIP,
  # SigLIP): for classes without names, such as SOP's, whose prompt has the super-class.
  language.query = "name"
  # N: entries of the attribute vocabulary (K-means centres over all descriptions).
  language.num_attributes = 256
  # K: vocabulary entries that a class attends to.
  language.top_k = 10
  # tau_k: temperature of that attention. 1 is the paper's text, and nearly uniform.
  language.tau_k = 0.05
  # Seed of K-means.
  language.kmeans_seed = 0
  # Starts of K-means, of which the best is kept.
  language.kmeans_restarts = 4
  # Sentences above which K-means works in mini-batches: faster, a little worse.
  language.minibatch_above = 50_000
  # Centres stay on the sphere in every round of K-means, rather than only in the end.
  language.spherical = False
  # Fraction of sentences, those that fit all classes alike, to leave out; 0 keeps all.
  language.drop_generic = 0.0
  # Control experiment: fraction of sentences, drawn by language.kmeans_seed, that are dealt to
  # another class than the one they were written for.
  language.wrong_sentences = 0.0
  # Sentences encoded at once.
  language.batch_size = 256
  # Sentences longer than the encoder's context: 'split' at sentences and clauses, or 'cut'.
  language.long_sentences = "split"
  # Folder that keeps encoded features for all runs; '' keeps none. It may be deleted at any time.
  language.cache = "~/.cache/lafg_jax/features"
  # The class's prototype in training: 'attention' (LaFG's T_c) or 'profile' (how much its sentences
  # say of each attribute); or without the vocabulary, 'query' (t_c) or 'descriptions' (the mean of
  # the class's own). Control without words: 'images' (the mean of what language.encoder, one with
  # an image tower, makes of the class's training images).
  language.prototype = "attention"
  # 'profile': temperature of a sentence's shares in the attributes; small: in few of them.
  language.tau_profile = 0.05
  # Subtract the mean over the training classes when prototypes are loaded for training; in the
  # 'vocabulary' form, that of the attributes.
  language.centre = True
  # Control: give every class the prototype of another one.
  language.shuffle = False
  # --stage=inspect shows every class that is described, validation and test classes and names that
  # the data set lacks too; nothing but the page is written. False: the training classes.
  language.inspect_all = False

  model = config.model = ConfigDict()
  # 'auto' (that of the pretrained weights; without any 'base'), 'tiny', 'small', 'base', 'large' or
  # 'custom', a ViT of the four numbers below; or 'resnet50'.
  model.size = "auto"
  model.width = 768
  model.depth = 12
  model.num_heads = 12
  model.mlp_dim = 3072
  # Side of a patch in pixels, with conv_stem a power of 2; 0: that of the weights, or else 16.
  model.patch_size = 0
  # 'token' (class token), 'mean' or 'gem' (generalised mean) over patches, 'map' (attention pooling
  # as in SigLIP), or 'auto': as the weights were trained, or else 'token' ('mean' of a ResNet).
  model.pool = "auto"
  # p of 'gem', where it starts: 1 is the mean, large values near the maximum.
  model.gem_p = 3.0
  # p is learned.
  model.gem_learned = True
  # What a ViT has beyond the plain one, such as 'layer_scale registers=4' (lafg_jax/models/
  # options.py lists them); 'auto': what the weights have, or else nothing.
  model.options = "auto"
  # Convolutions in place of the patch embedding: for training from scratch at small sizes.
  model.conv_stem = False
  # Epsilon of every LayerNorm of the backbone; 0: that of the weights, or else 1e-12.
  model.layer_norm_eps = 0.0
  # Width D of the embedding, a linear layer; 0 uses the backbone's own feature.
  model.embedding_dim = 512
  # Between feature and linear layer: '' or 'layer', a LayerNorm without parameters (ProxyNCA++).
  model.embedding_norm = ""
  # LoRA: rank of the update of each target kernel; the backbone stays fixed, the head learns.
  # 0 = off.
  model.lora_rank = 0
  # The update is lora_alpha / lora_rank times A B.
  model.lora_alpha = 16.0
  # Regular expression over the paths of the backbone's kernels that get one.
  model.lora_targets = "attention/(query|value)/kernel"
  # Visual prompts, learned tokens behind the class token; the backbone stays fixed, the head
  # learns. 0 = off.
  model.num_prompts = 0
  # 'shallow' (before the first block) or 'deep' (anew before every block).
  model.prompts_depth = "shallow"
  # Mean and standard deviation that normalise images in [0, 1], for R, G, B; (): those of the
  # weights, or else 0.5.
  model.mean = ()
  model.std = ()
  # Arithmetic of the backbone: 'bfloat16' or 'float32'. Parameters and losses are float32.
  model.dtype = "bfloat16"
  # Pretrained backbone, '' = random: a hub id, a folder, a file or a URL (gs://) of safetensors of
  # transformers (ViT, DINO, DINOv2, DINOv3, CLIP, SigLIP, ResNet) or timm, or of a vit_jax .npz;
  # what lafg_jax.export wrote; or 'tiny_clip', the image tower of the shipped encoder.
  model.pretrained = "google/vit-base-patch16-224-in21k"

  loss = config.loss = ConfigDict()
  # L_aux: 'pairwise' (LaFG, Hyp-ViT), or in its place 'supcon' (Khosla et al., 2020),
  # 'norm_softmax' (Zhai & Wu, 2019) or 'proxy_anchor' (Kim et al., 2020); these want 'mean' below.
  loss.auxiliary = "pairwise"
  # Temperature of L_aux, the divisor of D = 2 - 2 cos, in every form but 'proxy_anchor', which has
  # none. A published divisor of cos counts twice here: 0.1 of Hyp-ViT and SupCon is 0.2.
  loss.temperature = 0.1
  # 'proxy_anchor': the scale alpha of its cosines.
  loss.proxy_alpha = 32.0
  # 'proxy_anchor': the margin delta, on the cosine.
  loss.proxy_margin = 0.1
  # Learning rate of proxies ('norm_softmax', 'proxy_anchor') over train.learning_rate.
  loss.proxy_lr_factor = 100.0
  # 'sum' over the m(m-1) ordered slot pairs (published recipes), or 'mean'.
  loss.reduction = "sum"
  # Weight of L_ali against the mean over slot pairs (or over rows and proxies, where L_aux is
  # another loss); under 'sum' it is scaled to mean the same.
  loss.beta = 1.0
  # L_ali: 'prototype', 'distribution', 'vocabulary'; controls without words: 'orthogonal',
  # 'onehot'; 'none' trains on L_aux alone.
  loss.alignment = "prototype"
  # L_img, of each training image with what language.encoder itself sees in it (an encoder with an
  # image tower: CLIP, SigLIP): 'vocabulary', its cosines to the attributes; the controls without
  # words 'random' (to random directions instead) and 'feature' (its feature as it is); 'none'.
  loss.image_alignment = "none"
  # Weight of L_img, as loss.beta is that of L_ali.
  loss.image_beta = 5.0
  # Temperature of its cosines ('vocabulary', 'random').
  loss.image_temperature = 0.1
  # What the image side is compared with: 'free' (P_t, learned), 'mean' (its EMA) or 'fixed'.
  loss.projector = "mean"
  # P_v and P_t start 'random', or in the space that a vision-language model has learned
  # ('pretrained'): P_v as the image projection of model.pretrained (CLIP, SigLIP), P_t as the
  # identity. That takes model.embedding_dim=0 and the same model as language.encoder.
  loss.projector_init = "random"
  # Width W of the projectors' common space; with 'pretrained', that of the model's texts.
  loss.projector_width = 256
  # tau_a: temperature of the cosines of L_ali.
  loss.alignment_temperature = 0.05
  # alpha: step of the EMA twins, E <- (1 - alpha) E + alpha P.
  loss.ema_step = 0.01
  # Scale the loaded prototypes to unit variance (the 'distribution' form needs it).
  loss.unit_variance = True

  train = config.train = ConfigDict()
  # Optimiser steps, each on one batch of N x m images.
  train.steps = 1800
  # 'sgd' (momentum 0.9) or 'adamw'.
  train.optimizer = "sgd"
  # Peak learning rate, after warm-up; decays to 0 along a cosine.
  train.learning_rate = 1e-5
  # Part of the steps that warm up linearly, in [0, 1).
  train.warmup = 0.05
  # Weight decay of kernels (not of biases, norms, embeddings, projectors, proxies, LoRA, prompts).
  train.weight_decay = 1e-4
  # Largest global gradient norm; 0 does not clip.
  train.clip_norm = 3.0
  # Regular expression over parameter paths such as 'backbone/block_0/'; what it finds stays fixed.
  train.freeze = ""
  # Only head, projectors and class vectors learn, on features that the fixed backbone gives once
  # and that <workdir>/features keeps.
  train.frozen_backbone = False
  # What it sees of an image: 0 is the centre crop, k are k random training crops, always the same.
  train.feature_views = 0
  # Steps between lines of metrics.
  train.log_every = 20
  # Steps between checkpoints; the last step always has one.
  train.checkpoint_every = 200
  # Newest checkpoints kept.
  train.keep_checkpoints = 2
  # Steps between evaluations on the validation classes (data.num_val_classes), and one after the
  # last step; 0 = off. Their Recall@1 and MAP@R go to metrics.jsonl.
  train.validate_every = 0
  # Keep the step with the best MAP@R of these, in <workdir>/best; evaluate.source=best reads it.
  train.keep_best = False
  # Go on from checkpoints of another config, with a warning, where their arrays fit the model.
  train.allow_changed = False

  evaluate = config.evaluate = ConfigDict()
  # What is evaluated: 'checkpoint' (newest of the workdir), 'best' (of train.keep_best),
  # 'pretrained' (the backbone's own feature, no training), 'untrained' (the model before training),
  # or the path of an embeddings.npz.
  evaluate.source = "checkpoint"
  # Classes evaluated on: 'test', or 'val' (data.num_val_classes) for model selection.
  evaluate.split = "test"
  # K of Recall@K.
  evaluate.ks = (1, 2, 4, 8)
  # Images embedded at once, over all devices.
  evaluate.batch_size = 256
  return config.lock()


def hyp_vit(config: ConfigDict) -> None:
  """The recipe of Hyp-ViT (CVPR 2022) in its sphere mode: ViT-S/16, AdamW, no words.

  It divides cos by 0.1, which is a temperature of 0.2 for D = 2 - 2 cos. The random-resized-crop of
  scale (0.2, 1), the flip and the gradient norm of 3 are the defaults already.
  """
  config.data.train_crop = "random_resized"
  config.model.size = "small"
  config.model.pretrained = "timm/vit_small_patch16_224.augreg_in21k"
  config.model.embedding_dim = 384
  config.loss.alignment = "none"
  config.loss.temperature = 0.2
  config.train.optimizer = "adamw"
  config.train.learning_rate = 3e-5
  config.train.weight_decay = 0.01


def self_supervised(config: ConfigDict) -> None:
  """Two crops of an image against those of others (SimCLR, Chen et al. 2020): no label, no word."""
  config.data.instances = True
  config.data.classes_per_batch = 128
  config.data.images_per_class = 2
  config.data.train_crop = "random_resized"
  config.data.crop_scale = (0.2, 1.0)
  config.data.color_jitter = 0.5
  config.loss.alignment = "none"
  # 0.1 as SimCLR divides, by the cosine.
  config.loss.temperature = 0.2


def small_from_scratch(config: ConfigDict, image_size: int, patch_size: int) -> None:
  """A tiny ViT with a convolutional stem and random weights, and what suits its training."""
  config.data.image_size = image_size
  config.data.resize_size = image_size
  config.data.train_crop = "random_resized"
  config.data.classes_per_batch = 20
  config.data.images_per_class = 4
  config.model.size = "custom"
  config.model.width = 128
  config.model.depth = 4
  config.model.num_heads = 4
  config.model.mlp_dim = 256
  config.model.patch_size = patch_size
  config.model.pool = "mean"
  config.model.options = ""
  config.model.mean = (0.5, 0.5, 0.5)
  config.model.std = (0.5, 0.5, 0.5)
  config.model.conv_stem = True
  config.model.layer_norm_eps = 1e-6
  config.model.embedding_dim = 128
  config.model.dtype = "float32"
  config.model.pretrained = ""
  config.loss.reduction = "mean"
  config.loss.projector_width = 128
  config.train.optimizer = "adamw"
  config.train.learning_rate = 1e-3
  config.train.warmup = 0.1
