"""No two streams of a run have one key, but for those that the module names."""

import inspect
import itertools
import re
from pathlib import Path

import numpy as np

from lafg_jax.utils import random_streams

PACKAGE = Path(__file__).parents[2] / "lafg_jax"
STREAMS = {
  name: function
  for name, function in inspect.getmembers(random_streams, inspect.isfunction)
  if function.__module__ == random_streams.__name__
}
# Pairs that share keys; the module says why they stay.
KNOWN = {("augmentation", "of_seed"), ("augmentation", "recolouring")}


def keys(function, numbers):
  """The words that NumPy seeds with, padded as it pads them, for all arguments out of `numbers`."""
  found = {}
  for arguments in itertools.product(numbers, repeat=len(inspect.signature(function).parameters)):
    entropy = np.ravel(function(*arguments).bit_generator.seed_seq.entropy).tolist()
    found[(*entropy, *[0] * (8 - len(entropy)))] = arguments
  return found


def test_streams_have_keys_of_their_own():
  drawn = {name: keys(function, range(9)) for name, function in STREAMS.items()}
  assert len(drawn) >= 10
  shared = {
    (one, other)
    for one, other in itertools.combinations(sorted(drawn), 2)
    if drawn[one].keys() & drawn[other].keys()
  }
  assert shared == KNOWN
  equal = drawn["augmentation"].keys() & drawn["recolouring"].keys()
  assert {drawn["augmentation"][key][2] for key in equal} == {5}, "row 5 alone"
  for name, function in STREAMS.items():
    assert len(drawn[name]) == 9 ** len(inspect.signature(function).parameters), name


def test_streams_of_equal_keys_are_equal_streams():
  """What makes the padding above necessary."""
  a, b = (np.random.default_rng(key).integers(2**62, size=4) for key in ([3], [3, 0, 0]))
  np.testing.assert_array_equal(a, b)


def test_generators_are_made_here_alone():
  made = re.compile(r"default_rng|SeedSequence|np\.random\.(seed|rand|normal|choice|permutation)")
  elsewhere = {
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    if made.search(path.read_text(encoding="utf-8"))
  }
  fixed = {"finches/classes.py", "finches/train_tiny_clip.py"}
  assert elsewhere == {"utils/random_streams.py"} | fixed
