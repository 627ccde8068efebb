"""Invariants of the sampler, counted by hand from its batches."""

import collections

import numpy as np
import pytest
from absl import logging
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.data import sampling
from lafg_jax.utils.errors import UserError


@st.composite
def problems(draw):
  counts = draw(st.lists(st.integers(1, 13), min_size=1, max_size=12))
  labels = np.repeat(np.arange(len(counts)), counts)
  labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(labels).astype(np.int32)
  per_batch = draw(st.integers(1, len(counts)))
  return labels, per_batch, draw(st.integers(1, 5)), draw(st.integers(0, 2**31))


def sampler(labels, classes_per_batch, images_per_class, seed):
  return sampling.make_sampler(
    labels, classes_per_batch=classes_per_batch, images_per_class=images_per_class, seed=seed
  )


@settings(max_examples=60, deadline=None)
@given(problems())
def test_batches_are_class_balanced(problem):
  labels, per_batch, per_class, _ = problem
  batch = sampler(*problem)
  for step in range(12):
    rows = batch(step)
    assert rows.shape == (per_class, per_batch)
    of_class = labels[rows]
    assert (of_class == of_class[:1]).all(), "a column holds one class"
    assert len(set(of_class[0])) == per_batch, "the classes are distinct"
    for column in rows.T:
      available = np.sum(labels == labels[column[0]])
      repeats = collections.Counter(column.tolist()).values()
      assert len(repeats) == min(per_class, available)
      assert max(repeats) - min(repeats) <= 1, "images repeat only once all are in"


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 10**9))
def test_a_batch_depends_on_seed_and_step_alone(problem, step):
  ordered, fresh = sampler(*problem), sampler(*problem)
  for earlier in range(3):
    ordered(earlier)
  np.testing.assert_array_equal(ordered(step), fresh(step))


@settings(max_examples=40, deadline=None)
@given(problems())
def test_a_class_epoch_shows_no_class_twice_and_all_where_n_divides_c(problem):
  labels, per_batch, _, _ = problem
  num_classes = len(set(labels))
  batch = sampler(*problem)
  steps = num_classes // per_batch
  for epoch in range(4):
    seen = [label for step in range(steps) for label in labels[batch(epoch * steps + step)[0]]]
    assert len(set(seen)) == len(seen) == steps * per_batch
    if num_classes % per_batch == 0:
      assert set(seen) == set(labels.tolist())


@settings(max_examples=40, deadline=None)
@given(
  st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 99)
)
def test_no_image_repeats_within_a_pass(num_classes, per_class, turns, spare, seed):
  # All classes are in every batch, so step s is turn s of each class.
  size = per_class * turns + min(spare, per_class - 1)
  labels = np.repeat(np.arange(num_classes), size)
  batch = sampler(labels, num_classes, per_class, seed)
  for pass_ in range(3):
    rows = np.concatenate([batch(pass_ * turns + turn).ravel() for turn in range(turns)])
    assert len(set(rows.tolist())) == len(rows) == num_classes * per_class * turns
    if size == per_class * turns:
      assert set(rows.tolist()) == set(range(len(labels)))


def test_steps_passes_and_seeds_differ_and_all_images_come_up_equally_often():
  labels = np.repeat(np.arange(20), 12)
  batch = sampler(labels, 10, 4, 0)
  batches = [batch(step) for step in range(300)]
  assert len({rows.tobytes() for rows in batches}) == 300
  assert len({sampler(labels, 10, 4, seed)(0).tobytes() for seed in range(50)}) == 50
  # 150 class epochs x 4 images, over 12 images: 50 passes, each image once in each.
  counts = np.bincount(np.concatenate([rows.ravel() for rows in batches]), minlength=len(labels))
  assert (counts == 50).all()
  # And which classes meet in a batch is drawn anew.
  partners = collections.Counter(frozenset(labels[rows[0]].tolist()) for rows in batches)
  assert max(partners.values()) <= 3


def test_small_classes_are_warned_about_once_with_their_number(monkeypatch):
  told = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: told.append(text % args))
  batch = sampler(np.array([0, 0, 0, 1, 1, 2]), 3, 3, 0)
  for step in range(5):
    batch(step)
  assert len(told) == 1 and told[0].startswith("2 of 3 classes") and "images_per_class=3" in told[0]


@pytest.mark.parametrize(
  ("per_batch", "per_class", "seed", "said"),
  [
    (4, 2, 0, r"data\.classes_per_batch=4: only 3 training classes"),
    (0, 2, 0, r"data\.classes_per_batch=0"),
    (2, 0, 0, r"data\.images_per_class=0"),
    (2, 2, -1, "seed"),
  ],
)
def test_impossible_settings_are_one_line(per_batch, per_class, seed, said):
  with pytest.raises(UserError, match=said) as error:
    sampler(np.array([0, 0, 1, 1, 2, 2]), per_batch, per_class, seed)
  assert "\n" not in str(error.value)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 1000), st.integers(1, 9), st.integers(1, 6))
def test_shares_of_the_processes_make_up_the_padded_batch(num_rows, per_process, processes):
  devices = per_process * processes
  shares = [sampling.process_rows(num_rows, devices, p, processes) for p in range(processes)]
  assert len({len(share) for share in shares}) == 1
  assert len(shares[0]) % per_process == 0
  rows = np.concatenate(shares)
  assert len(rows) % devices == 0 and 0 <= len(rows) - num_rows < devices
  assert rows[:num_rows].tolist() == list(range(num_rows))
  assert not rows[num_rows:].any()


def test_processes_with_uneven_devices_are_refused():
  with pytest.raises(ValueError, match="3 devices"):
    sampling.process_rows(8, 3, 0, 2)
