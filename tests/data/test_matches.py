"""Matches of queries against a count by two loops, and which images are read for them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data import images, matches
from lafg_jax.data.datasets import Dataset


def dataset(labels, asks=None, files=None):
  labels = np.array(labels, np.int32)
  names = tuple(f"class {k}" for k in range(labels.max() + 1))
  files = files if files is not None else np.array([f"{row}.png" for row in range(len(labels))])
  asks = None if asks is None else np.array(asks, bool)
  ids = tuple(map(str, range(len(labels))))
  return Dataset("folder", "test", files, labels, names, ids, is_query=asks)


def counted_by_loops(labels, asks, keep):
  """(queries, those without a match, whether no query finds a wrong image) by the definitions."""
  queries, without, wrong = 0, 0, 0
  for i, one in enumerate(labels):
    if keep[i] and (asks is None or asks[i]):
      others = [
        label == one
        for j, label in enumerate(labels)
        if keep[j] and (j != i if asks is None else not asks[j])
      ]
      queries += 1
      without += not any(others)
      wrong += any(others) and not all(others)
  return queries, without, queries > without and not wrong


@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_the_definitions(seed):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 1 + seed % 5, 9).tolist()
  asks = None if seed % 2 else (rng.random(9) < 0.4).tolist()
  keep = rng.random(9) < 0.8
  found = matches.of(dataset(labels, asks), keep)
  assert (found.queries, found.without_match, found.all_match) == counted_by_loops(
    labels, asks, keep
  )


@pytest.mark.parametrize(
  ("labels", "asks", "said"),
  [
    ([0, 1, 2], None, "the test has 3 images of 3 classes, and no class has two"),
    ([0], None, "the test has 1 image of 1 class, and no class has two"),
    ([0, 0, 1, 1], [1, 1, 0, 0], "2 queries and a gallery of 2 images, and no query"),
    ([0, 0, 1, 1], [1, 1, 1, 1], "4 queries and a gallery of 0 images"),
    ([0, 0, 1, 1], [0, 0, 0, 0], "0 queries and a gallery of 4 images"),
    ([0, 0, 1], None, ""),
    ([0, 0, 1, 1], [1, 0, 1, 1], ""),
  ],
)
def test_why_nothing_is_measured(labels, asks, said):
  data = dataset(labels, asks)
  why = matches.nothing_to_measure(data, matches.of(data))
  assert said in why and bool(why) == bool(said)


@pytest.mark.parametrize("asks", [None, [1, 0, 1, 0, 1, 0]])
def test_a_pair_that_can_be_read_is_looked_for(tmp_path, monkeypatch, asks):
  files = np.array([str(tmp_path / f"{row}.png") for row in range(6)])
  for file in files:
    Image.new("RGB", (8, 8)).save(file)
  data, reads, read = dataset([0, 0, 1, 1, 2, 2], asks, files), [], images.of_dataset
  monkeypatch.setattr(images, "of_dataset", lambda x, row: reads.append(row) or read(x, row))
  assert matches.any_readable(data) and reads == [0, 1]
  for row in (0, 3):
    (tmp_path / f"{row}.png").write_bytes(b"<html>")
  assert matches.any_readable(data)
  (tmp_path / "4.png").unlink()
  assert not matches.any_readable(data)
  assert matches.any_readable(dataclasses.replace(data, labels=data.labels * 0))
