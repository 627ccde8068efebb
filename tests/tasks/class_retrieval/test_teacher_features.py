"""What training compares each image with, from files that these tests write."""

import dataclasses

import numpy as np
import pytest

from lafg_jax.language.encoders import images
from lafg_jax.tasks.class_retrieval import teacher_features
from lafg_jax.utils.errors import UserError


@pytest.fixture
def folder(tmp_path, dataset):
  """prototypes.npz and image_features.npz of random numbers, d = 6, 9 attributes."""
  rng = np.random.default_rng(0)
  count, n = len(dataset.class_names), len(dataset.ids)
  np.savez(
    tmp_path / "prototypes.npz",
    class_names=np.array(dataset.class_names),
    prototypes=rng.standard_normal((count, 6)),
    queries=rng.standard_normal((count, 6)),
    vocabulary=rng.standard_normal((9, 6)),
    encoder=np.array("one"),
  )
  write(tmp_path, dataset, rng.standard_normal((n, 6)).astype(np.float32))
  return tmp_path


def write(folder, dataset, features, encoder="one"):
  ids = np.array(dataset.ids)
  np.savez(folder / images.FILE, ids=ids, features=features, encoder=np.array(encoder))


def load(folder, dataset, config_with, **changes):
  config = config_with(**({"loss__image_alignment": "vocabulary"} | changes))
  return teacher_features.load(config, folder / "prototypes.npz", dataset)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_cosines_are_of_centred_images_and_centred_attributes(folder, dataset, config_with):
  features = np.load(folder / images.FILE)["features"].astype(np.float64)
  vocabulary = np.load(folder / "prototypes.npz")["vocabulary"]
  found = load(folder, dataset, config_with).teacher_features
  attributes = unit(vocabulary - vocabulary.mean(axis=0))
  wanted = unit(features - features.mean(axis=0)) @ attributes.T
  np.testing.assert_allclose(found["image_cosine"], wanted, atol=1e-6)
  np.testing.assert_allclose(found["directions"], attributes, atol=1e-6)
  raw = load(folder, dataset, config_with, language__centre=False).teacher_features
  np.testing.assert_allclose(raw["image_cosine"], unit(features) @ unit(vocabulary).T, atol=1e-6)


def test_without_images_nothing_is_read(folder, dataset, config_with):
  (folder / images.FILE).unlink()
  assert load(folder, dataset, config_with, loss__image_alignment="none").teacher_features == {}
  with pytest.raises(UserError, match="--stage=encode"):
    load(folder, dataset, config_with)


def test_shuffled_images_read_as_those_of_the_class_whose_words_they_get(
  folder, dataset, config_with
):
  features = np.zeros((len(dataset.ids), 6), np.float32)
  features[:, 0] = dataset.labels + 1
  write(folder, dataset, features)
  words = np.load(folder / "prototypes.npz")["prototypes"]
  changes = {"loss__image_alignment": "feature", "language__centre": False}
  own = load(folder, dataset, config_with, **changes).teacher_features["image_feature"]
  np.testing.assert_array_equal(own, features)
  found = load(folder, dataset, config_with, language__shuffle="all", **changes)
  given = [int(np.abs(words - row).sum(axis=1).argmin()) for row in found.prototypes]
  assert all(c != other for c, other in enumerate(given))
  seen = found.teacher_features["image_feature"][:, 0] - 1
  np.testing.assert_array_equal(seen, np.array(given)[dataset.labels])


@pytest.mark.parametrize("form", ["vocabulary", "feature"])
@pytest.mark.parametrize("prototype", ["attention", "images"])
def test_each_part_is_shuffled_alone_as_it_is_in_all(folder, dataset, config_with, form, prototype):
  changes = {"loss__image_alignment": form, "language__prototype": prototype}
  found = {
    value: load(folder, dataset, config_with, language__shuffle=value, **changes)
    for value in ("", "all", "prototypes", "teacher")
  }
  for value, base, of_images in (("prototypes", "all", ""), ("teacher", "", "all")):
    np.testing.assert_array_equal(found[value].prototypes, found[base].prototypes)
    np.testing.assert_array_equal(found[value].queries, found[base].queries)
    for name, given in found[value].teacher_features.items():
      np.testing.assert_array_equal(given, found[of_images].teacher_features[name])
  assert (found["all"].prototypes != found[""].prototypes).any()
  (name,) = {"image_cosine", "image_feature"} & found[""].teacher_features.keys()
  assert (found["all"].teacher_features[name] != found[""].teacher_features[name]).any()


def test_the_controls_hold_no_words(folder, dataset, config_with):
  mined, random, again = (
    load(folder, dataset, config_with, loss__image_alignment=form).teacher_features
    for form in ("vocabulary", "random", "random")
  )
  np.testing.assert_array_equal(random["directions"], again["directions"])
  assert random["directions"].shape == mined["directions"].shape
  assert np.abs(random["directions"] - mined["directions"]).max() > 0.1
  feature = load(folder, dataset, config_with, loss__image_alignment="feature").teacher_features
  assert set(feature) == {"image_feature"} and feature["image_feature"].shape[1] == 6


def test_recoloured_images_are_read_in_place_of_the_others(folder, dataset, config_with):
  n, versions = len(dataset.ids), 2
  with np.load(folder / images.FILE) as arrays:
    old = dict(arrays)
  recoloured = np.random.default_rng(3).standard_normal((n, versions, 6)).astype(np.float32)
  recoloured[5, 1] = 0
  np.savez(folder / images.FILE, **old, recoloured=recoloured)
  changes = {"data__recoloured_per_batch": 4, "data__recolourings": versions}
  found = load(folder, dataset, config_with, **changes).teacher_features
  assert found["image_cosine"].shape == (n * versions, 9)
  centred = recoloured[7, 1].astype(np.float64) - old["features"].mean(axis=0, dtype=np.float64)
  wanted = unit(centred[None]) @ found["directions"].T
  np.testing.assert_allclose(found["image_cosine"][7 * versions + 1], wanted[0], atol=1e-5)
  assert not found["image_cosine"][5 * versions + 1].any()
  shuffled = load(folder, dataset, config_with, language__shuffle="all", **changes).teacher_features
  given = shuffled["image_cosine"].reshape(n, versions, 9)
  own = found["image_cosine"].reshape(n, versions, 9)
  for row in (0, n - 1):
    [source] = np.flatnonzero((own == given[row]).all(axis=(1, 2)))
    assert dataset.labels[source] != dataset.labels[row], "all versions of one image"
  with pytest.raises(UserError, match="other recolourings.*--stage=encode"):
    load(folder, dataset, config_with, data__recoloured_per_batch=4, data__recolourings=3)
  np.savez(folder / images.FILE, **old)
  with pytest.raises(UserError, match="--stage=encode"):
    load(folder, dataset, config_with, **changes)


def test_an_image_that_could_not_be_read_has_zeros(folder, dataset, config_with):
  features = np.load(folder / images.FILE)["features"]
  features[7] = 0
  write(folder, dataset, features)
  cosine = load(folder, dataset, config_with).teacher_features["image_cosine"]
  assert not cosine[7].any() and np.abs(cosine[8]).max() > 0


@pytest.mark.parametrize("change", ["other images", "other encoder"])
def test_features_of_something_else_are_refused(folder, dataset, config_with, change):
  features = np.load(folder / images.FILE)["features"]
  if change == "other images":
    write(folder, dataclasses.replace(dataset, ids=dataset.ids[::-1]), features)
  else:
    write(folder, dataset, features, encoder="another")
  with pytest.raises(UserError, match="--stage=encode"):
    load(folder, dataset, config_with)


def test_prototypes_of_images_are_the_means_of_their_classes(folder, dataset, config_with):
  features = unit(np.load(folder / images.FILE)["features"].astype(np.float64))
  features[3] = 0  # could not be read
  write(folder, dataset, features)
  changes = {"loss__image_alignment": "none", "language__prototype": "images"}
  found = load(folder, dataset, config_with, **changes)
  count = len(dataset.class_names)
  readable = np.delete(np.arange(len(features)), 3)
  means = unit(
    np.stack(
      [features[[k for k in readable if dataset.labels[k] == c]].sum(0) for c in range(count)]
    )
  )
  np.testing.assert_allclose(found.prototypes, means - means.mean(axis=0), atol=1e-6)
  np.testing.assert_allclose(found.mean, means.mean(axis=0), atol=1e-6)
  assert found.prototypes.dtype == found.mean.dtype == np.float32 and found.teacher_features == {}
  raw = load(folder, dataset, config_with, language__centre=False, **changes)
  np.testing.assert_allclose(raw.prototypes, means, atol=1e-6)
  shuffled = load(folder, dataset, config_with, language__shuffle="all", **changes).prototypes
  nearest = [int(np.abs(found.prototypes - row).sum(axis=1).argmin()) for row in shuffled]
  assert sorted(nearest) == list(range(count))
  assert all(c != other for c, other in enumerate(nearest))
