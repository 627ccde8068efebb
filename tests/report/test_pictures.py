"""Retrieval pictures, by their pixels."""

import numpy as np

from lafg_jax.report import pictures


def test_frames_tell_right_from_wrong():
  labels = np.array([0, 0, 1])
  shades = {0: 10, 1: 120, 2: 240}
  sheet = pictures.retrieval_grid(
    [[0, 1, 2], [2, 0]], labels, lambda i: np.full((5, 9, 3), shades[i], np.uint8), side=20
  )
  pixels = np.asarray(sheet)
  cell, gap, border = 28, 6, 4
  lefts = [gap, 3 * gap + cell + gap, 3 * gap + 2 * (cell + gap)]
  frames = {
    (0, 0): pictures.QUERY,
    (0, 1): pictures.RIGHT,
    (0, 2): pictures.WRONG,
    (1, 0): pictures.QUERY,
    (1, 1): pictures.WRONG,
  }
  shown = {(0, 0): 0, (0, 1): 1, (0, 2): 2, (1, 0): 2, (1, 1): 0}
  for (row, column), colour in frames.items():
    top, left = gap + row * (cell + gap), lefts[column]
    assert tuple(pixels[top, left]) == colour
    assert tuple(pixels[top + cell - 1, left + cell - 1]) == colour
    middle = pixels[top + border + 10, left + border + 10]
    assert tuple(middle) == (shades[shown[row, column]],) * 3
  # The second query has one neighbour: the place of a second stays white.
  assert tuple(pixels[gap + cell + gap, lefts[2]]) == (255, 255, 255)
