"""Rows of `config.data`, the names of the data sets, and where their images are."""

from lafg_jax.config.record import (
  BOOL,
  NAMED,
  TEXT,
  Key,
  ReadBy,
  Rule,
  at_least,
  auto_or,
  numbers,
  one_of,
)
from lafg_jax.utils import ground

# data.name -> what is in the folder data.root.
LAYOUTS = {
  "aircraft": "data/variants.txt and data/images/",
  "cars": "devkit/ and cars_train/, or train/CLASS/ and test/CLASS/, or data/train-*.parquet",
  "cub": "images.txt, image_class_labels.txt, classes.txt and images/",
  "folder": "a folder of images a class",
  "inshop": "Eval/list_eval_partition.txt and Img/img/",
  "sop": "Ebay_train.txt, Ebay_test.txt and the folders bicycle_final/ to toaster_final/",
}
# data.name -> the key that locates the images, and what it takes.
SOURCES = {
  "features": ("manifest", "FILE, an .npz, .safetensors or Parquet of features and labels"),
  "hf": ("builder", "ID of an image data set on the Hugging Face hub, or a folder"),
  "manifest": ("manifest", "FILE, a CSV or Parquet of path, label or class, and perhaps split"),
  "tfds": ("builder", "NAME of a prepared tensorflow-datasets builder, or its folder"),
}
# The data set of vectors in place of images, and the model.size of a model that takes them.
FEATURES = "features"
# Data sets that are drawn and not read.
DRAWN = ("synthetic",)
NAMES = (*LAYOUTS, *SOURCES, *DRAWN)

_BOXED = ("aircraft", "cars", "cub", "inshop")
_BUILT = ("hf", "tfds")
# One's own images, whose classes the keys below split.
OWN = ("folder", *SOURCES)


def _by(names: tuple[str, ...], unset: object) -> ReadBy:
  return ReadBy("data.name", names, unset)


# fmt: off
ROWS = (
  Key("data.name", "cars", one_of(*NAMES), "training",
      "Data set: 'aircraft' (FGVC-Aircraft), 'cars' (Stanford Cars), 'cub' (CUB-200-2011), "
      "'inshop' (In-Shop Clothes), 'sop' (Stanford Online Products) or 'synthetic' (finches); "
      "for your own images 'folder', 'manifest', 'tfds' or 'hf'; 'features', vectors of any "
      "encoder. Each is a config's name too."),
  Key("data.root", "", TEXT, "nothing", "Folder of the data set; 'synthetic' has none.",
      path=True),
  Key("data.expect_counts", True, BOOL, "nothing",
      "Stop unless the published image counts are found; False only warns, for partial copies."),
  Key("data.box_crop", False, BOOL, "embedding",
      "Crop each image to its box, where the data set has boxes.", _by(_BOXED, False)),
  Key("data.num_val_classes", 0, at_least(0), "training",
      "Classes taken out of the training half, evenly spaced, for model selection."),
  Key("data.max_train_classes", 0, Rule(lambda x: isinstance(x, int) and (x == 0 or x >= 2),
           "0 for all, or a number of at least 2"), "training",
      "Train on only so many of the other training classes, evenly spaced; 0 is all."),
  Key("data.max_images_per_class", 0, at_least(0), "training",
      "Train on only so many images of each class, drawn by the seed of the run; 0 is all."),
  Key("data.depth", 0, Rule(lambda x: x in (0, 1, 2), "0, 1 or 2"), "training",
      "Levels of folders, 1 (CLASS/) or 2 (SUPER/CLASS/); 0 detects it.", _by(("folder",), 0)),
  Key("data.split_folders", "split", one_of("split", "pool", "classes"), "training",
      "Folders called train, val and test, or query and gallery, in any usual spelling: 'split' "
      "keeps their classes apart; 'pool' puts the images of each class together and splits whole "
      "classes; 'classes' takes them for classes like others.", _by(("folder",), "split")),
  Key("data.train_fraction", 0.5, Rule(lambda x: 0 < x <= 1, "a number above 0 and at most 1"),
      "training", "Part of the classes for training; the rest are for the test.", _by(OWN, 0.5)),
  Key("data.split_seed", -1, Rule(lambda x: -1 <= x < 2**31, "-1, or a seed of 0 or more"),
      "training", "-1 trains on the first classes; a seed draws them.", _by(OWN, -1)),
  Key("data.test_classes", "", TEXT, "nothing",
      "Text file with the test classes, one per line, in place of the fraction.", _by(OWN, ""),
      path=True),
  Key("data.last_train_label", -1, at_least(-1), "training",
      "Classes whose label is a number up to this one train, and the others are the test: 98 of "
      "Cars-196, 100 of CUB; -1: data.train_fraction says.", _by((FEATURES,), -1)),
  Key("data.manifest", "", TEXT, "nothing",
      "CSV or Parquet with the columns path, label or class, and perhaps split. Paths start at "
      "data.root, or else at the file's folder. Of 'features' an .npz, .safetensors or Parquet of "
      "features, labels, and perhaps split, ids and class_names.", _by(("manifest", FEATURES), ""),
      path=True),
  Key("data.class_names", "", TEXT, "nothing",
      "Names of classes that are numbers in data.manifest: a text file with a number and a name a "
      "line (CUB's classes.txt), or a MATLAB file of class_names (Cars' cars_meta.mat).",
      _by((FEATURES,), ""), path=True),
  Key("data.builder", "", TEXT, "nothing",
      "'tfds': a builder such as 'caltech_birds2011:0.1.1', or its folder; 'hf': a hub id or "
      "folder. data.root is then the data_dir or cache_dir; '' is the default.", _by(_BUILT, ""),
      path=True),
  Key("data.image_key", "image", NAMED, "training",
      "Name of the images in data.builder.", _by(_BUILT, "image")),
  Key("data.label_key", "label", NAMED, "training",
      "Name of the labels in data.builder.", _by(_BUILT, "label")),
  Key("data.ground", ground.DEFAULT, Rule(lambda x: bool(ground.rgb(x)),
           "a colour's name such as white, #rrggbb, or a grey from 0 to 255"), "embedding",
      "Colour behind what is transparent in an image: on light grey, dark and white things show."),
  Key("data.image_size", 224, at_least(8), "embedding",
      "Side of the square crop that the model sees, in pixels."),
  Key("data.resize_size", 256, at_least(8), "embedding",
      "Shorter side before the centre crop (evaluation) and the random crop ('resize_crop')."),
  Key("data.pad", "none", one_of("none", "target"), "embedding",
      "'target': before the centre crop, an image whose long side is 1.25 times the short one or "
      "more gets black bars up to that (SEARLE, LinCIR, CVSI). Training crops have none."),
  Key("data.train_crop", "resize_crop", one_of("random_resized", "resize_crop"), "training",
      "Training crop: 'random_resized' (Hyp-ViT) or 'resize_crop' (LaFG: resize, random crop)."),
  Key("data.crop_scale", (0.2, 1.0), Rule(lambda x: numbers(x, 2) and 0 < x[0] <= x[1] <= 1,
           "two fractions of the area, (low, high), 0 < low <= high <= 1"), "training",
      "Area range of 'random_resized', as fractions of the image."),
  Key("data.crop_ratio", (0.75, 4.0 / 3.0), Rule(lambda x: numbers(x, 2) and 0 < x[0] <= x[1],
           "two aspect ratios, (low, high), 0 < low <= high"), "training",
      "Aspect range of 'random_resized', width over height."),
  Key("data.flip", True, BOOL, "training", "Flip half of the training images left to right."),
  Key("data.color_jitter", 0.0, Rule(lambda x: 0 <= x <= 1, "a number from 0 to 1"), "training",
      "Strength of random changes of colour in training (SimCLR: 0.5 to 1); 0 leaves colours."),
  Key("data.classes_per_batch", 98, auto_or(2), "training",
      "N: distinct classes in a batch; 'auto' (or 0): all training classes, or as many as fill 128 "
      "images.", auto=0),
  Key("data.images_per_class", 9, auto_or(2), "training",
      "m: images of each of them; 'auto' (or 0): the median of the training classes, from 2 to 8. "
      "The batch is N x m whatever the number of devices.", auto=0),
  Key("data.instances", False, BOOL, "training",
      "Self-supervision: each training image is its own class, and its m images are random crops "
      "of it. Labels and words are not used; it takes loss.alignment='none'."),
  Key("data.recoloured_per_batch", 0, at_least(0), "training",
      "R: images of a batch beyond N x m: random training images in other colours, without a "
      "class. Only L_img (loss.image_alignment) reads them, and then it reads no others; 0: none."),
  Key("data.recolourings", 6, at_least(1), "training",
      "K: recoloured versions of each training image that language.encoder sees, for these."),
  Key("data.scaled_decoding", True, BOOL, "training",
      "Decode JPEGs at 1/2, 1/4 or 1/8 where a training crop is shrunk by as much. Its pixels "
      "differ by 0.5 to 2 of 255 on average. Evaluation decodes whole images."),
  Key("data.pack", "", TEXT, "nothing",
      "Folder of packs: training images decoded and resized once, to data.resize_size (a quarter "
      "more for 'random_resized'), 3 bytes per pixel, faster to read; '' reads the files. Pixels "
      "of 'random_resized' differ by 0.5 to 2 of 255 on average, so a run cannot change between "
      "the two. Not with train.frozen_backbone.", _by((*LAYOUTS, *SOURCES), ""), path=True),
  Key("data.num_workers", 0, at_least(0), "nothing",
      "Processes that decode images; 0 decodes in threads of this process. For --stage=data and "
      "for building a pack: threads; 0 takes one per core."),
  Key("data.prefetch", 4, at_least(1), "nothing", "Batches decoded ahead."),
)
