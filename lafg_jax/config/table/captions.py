"""Rows of `config.captions`: image-text pairs, their splits, and wrong captions beside them."""

from lafg_jax.config.record import TEXT, Key, ReadBy, at_least, one_of, within

SOURCES = ("finches", "fdrd", "table")
_FILES = ("fdrd", "table")


def _by(*names: str, unset: object) -> ReadBy:
  return ReadBy("captions.source", names, unset)


# fmt: off
ROWS = (
  Key("captions.source", "finches", one_of(*SOURCES), "training",
      "Where captions come from: 'finches' (drawn), 'fdrd' (the JSON files of DCAR's data set) or "
      "'table' (JSONL, CSV or Parquet of your own)."),
  Key("captions.file", "", TEXT, "nothing",
      "File with the captions. 'table': the columns image and caption, and perhaps class, split, "
      "id and negatives. Images lie below data.root, or else below the file's folder.",
      _by(*_FILES, unset=""), path=True),
  Key("captions.test_file", "", TEXT, "nothing",
      "A second file, with the test, where train and test are two files.",
      _by(*_FILES, unset=""), path=True),
  Key("captions.layout", "auto",
      one_of("auto", "flower", "pets", "plane", "car", "caltech", "dtd", "ucf"), "training",
      "Domain of the FDRD file, which says where its images lie; 'auto': the file's name tells it.",
      _by("fdrd", unset="auto")),
  Key("captions.class_column", "", TEXT, "training",
      "Column with the classes; '' is 'class' or another usual name.", _by("table", unset="")),
  Key("captions.template", "", TEXT, "training",
      "Makes captions of other columns, named in braces: '{name}, a {colour} {type}'; cells that "
      "are empty or NA say nothing. '' reads the column caption.", _by("table", unset="")),
  Key("captions.finches", "individuals", one_of("individuals", "classes"), "training",
      "'individuals': 16 classes, a bill and a tail each, and birds with plumages of their own; "
      "'classes': the 100 classes of data.name='synthetic', whose birds look alike, and so say "
      "their captions.", _by("finches", unset="individuals")),
  Key("captions.images_per_class", 0, at_least(0), "training",
      "Finches of a class; 0: 60 seen and 40 unseen individuals, or 30 and 20 of 'classes'.",
      _by("finches", unset=0)),
  Key("captions.split", "own", one_of("own", "images", "classes"), "training",
      "'own': by the two files or the column split (finches: seen and unseen classes); 'images': "
      "captions.test_fraction of the images of each class are the test; 'classes': whole classes, "
      "by data.train_fraction, data.split_seed or data.test_classes."),
  Key("captions.classes", "all", one_of("all", "train", "test"), "training",
      "Under captions.split='images': all classes, or those that captions.split='classes' would "
      "give to the training or to the test, so that one run adapts to classes another never saw.",
      ReadBy("captions.split", ("images",), "all")),
  Key("captions.test_fraction", 0.2, within(0.01, 1), "training",
      "Part of each class for the test under captions.split='images': of 0.2 every fifth image.",
      ReadBy("captions.split", ("images",), 0.2)),
  Key("captions.val_fraction", 0.0, within(0, 1), "training",
      "Part of the training images of each class held out for validation; data.num_val_classes "
      "holds out whole classes instead."),
  Key("captions.batch_size", 128, at_least(2), "training",
      "Images of a batch, each with one of its captions; an epoch shows each image once."),
  Key("captions.negatives", "views",
      one_of("views", "category", "attribute", "given", "random", "none"), "training",
      "Wrong captions of an image: 'category' names a near class in its caption, 'attribute' takes "
      "another caption of its class, 'views' half of each; 'given' are those of the data; "
      "'random' are captions of any other images (control)."),
  Key("captions.num_negatives", 4, at_least(1), "training",
      "K: wrong captions of an image, drawn anew each epoch."),
  Key("captions.nearest_classes", 10, at_least(1), "training",
      "m: 'category' negatives name one of so many classes, those with the nearest names."),
  Key("captions.distractors", "none", one_of("none", "negatives"), "evaluation",
      "'negatives': wrong captions join the gallery of texts in the evaluation, which is harder; "
      "those of the data, or else with a near class named."),
)
