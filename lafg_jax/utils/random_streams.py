"""All streams of random numbers that NumPy draws in a run, by their keys.

The key of `np.random.default_rng` is a list of numbers, and NumPy pads it with zeros: [s], [s, 0]
and [s, 0, 0] are one stream. Most streams have four numbers, and each of these ends with its own
number, not 0. A test draws all keys and looks for equal ones.

Some keys are equal nevertheless: each is one draw among thousands of a run, used for different
purposes, and tables in docs/ and splits of users' data depend on them. `of_seed(s)` has the key of
the augmentation of seed s, step 0, row 0. `recolouring` of image s, version v has that of seed s,
step v, row 5. `class_vectors` and `directions` have those of steps 793,173 and 859,847, row 0.

`finches/` draws the finches and the tiny CLIP from fixed seeds.
"""

import numpy as np

Generator = np.random.Generator


def augmentation(seed: int, step: int, place: int) -> Generator:
  """Crop, flip and colours of row `place` of a global batch."""
  return np.random.default_rng([seed, step, place])


def classes(seed: int, epoch: int) -> Generator:
  """The order of the classes in a class epoch."""
  return np.random.default_rng([seed, epoch, 0, 1])


def images_of_class(seed: int, label: int, pass_: int) -> Generator:
  """The order of a class's images."""
  return np.random.default_rng([seed, label, pass_, 2])


def view(seed: int, number: int, row: int) -> Generator:
  """View `number` of image `row`, the same in all epochs."""
  return np.random.default_rng([seed, number, row, 3])


def recoloured_rows(seed: int, step: int) -> Generator:
  """Which images a batch shows in other colours, and in which."""
  return np.random.default_rng([seed, step, 0, 4])


def feature_views(seed: int, step: int) -> Generator:
  """Which view's features a batch takes of each image."""
  return np.random.default_rng([seed, step, 0, 6])


def example_pictures(seed: int) -> Generator:
  """The images that the page of a data set shows."""
  return np.random.default_rng([seed, 0, 0, 7])


def image_order(seed: int, epoch: int) -> Generator:
  """The order of the images in an epoch."""
  return np.random.default_rng([seed, epoch, 0, 8])


def negatives(seed: int, epoch: int, row: int) -> Generator:
  """The negative captions of a row in an epoch."""
  return np.random.default_rng([seed, epoch, row, 9])


def plumages(label: int) -> Generator:
  """The order of the plumages of a class of captioned finches, whatever the seed of the run."""
  return np.random.default_rng([label, 0, 0, 10])


def picture_of_finch(label: int, number: int) -> Generator:
  """Pose, light and scenery of a captioned finch, whatever the seed of the run."""
  return np.random.default_rng([label, number, 0, 11])


def wording_of_finch(label: int, number: int) -> Generator:
  """The words of a caption of a finch, whatever the seed of the run."""
  return np.random.default_rng([label, number, 0, 12])


def masked_word(seed: int, row: int) -> Generator:
  """The word that stands for a key phrase, in text `row` that has none."""
  return np.random.default_rng([seed, row, 0, 21])


def concept_phrases(seed: int, step: int) -> Generator:
  """Which phrases about their concepts the images of a batch have, in SEARLE's distillation."""
  return np.random.default_rng([seed, step, 0, 22])


def inversion(seed: int, image: int) -> Generator:
  """Start, templates and phrases of the inversion of an image, by a number of its feature."""
  return np.random.default_rng([seed, image, 0, 23])


def recolouring(row: int, version: int) -> Generator:
  """The colours of image `row` in one version, whatever the seed of the run."""
  return np.random.default_rng([row, version, 5])


def class_vectors(seed: int) -> Generator:
  """Class targets without words."""
  return np.random.default_rng([seed, 0xC1A55])


def directions(seed: int) -> Generator:
  """Random directions in place of attributes."""
  return np.random.default_rng([seed, 0xD1EC7])


def of_seed(seed: int) -> Generator:
  """Draws that a seed decides once: language.shuffle, language.wrong_sentences, data.split_seed and
  the resamples of an interval. Each has its own seed, or is used in runs without the others."""
  return np.random.default_rng(seed)


def family_of_finches(number: int, purpose: int) -> Generator:
  """The birds of a family of the composed finches (0), and how many pictures each has (1)."""
  return np.random.default_rng([number, purpose, 0, 31])


def composed_finch(part: int, number: int) -> Generator:
  """The picture of bird `number` of a part of the composed finches; part 0 is that of training."""
  return np.random.default_rng([part, number, 0, 32])


def composed_query(part: int, number: int) -> Generator:
  """The words of a composed query on finches; number 0 is also which queries are asked."""
  return np.random.default_rng([part, number, 0, 33])


def training_finch(number: int, purpose: int) -> Generator:
  """How a training bird of the composed finches looks (0), and the words of its caption (1)."""
  return np.random.default_rng([number, purpose, 0, 34])


def captions_of_image(seed: int, content: int) -> Generator:
  """The wording of the captions that CLIP reads in an image, and which are wrong on purpose."""
  return np.random.default_rng([seed, content, 0, 35])


def random_heat(number: int) -> Generator:
  """Heat over an image that knows nothing of the model: what explanations are compared with."""
  return np.random.default_rng([number, 0, 0, 41])
