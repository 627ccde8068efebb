"""The fusion of a query and a gallery against the document's formulas, by hand."""

import numpy as np
import pytest

from lafg_jax.tasks.composed_retrieval import queries
from lafg_jax.tasks.composed_retrieval.methods import Weights


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def terms():
  rng = np.random.default_rng(0)
  q_m = rng.normal(size=(4, 15, 6))
  return {
    # The mean of 15 normalised features, which is shorter than 1 and stays so.
    "m": unit(q_m).mean(axis=1).astype(np.float32),
    "f": unit(rng.normal(size=(4, 6))).astype(np.float32),
    "v": unit(rng.normal(size=(4, 6))).astype(np.float32),
    "t": unit(rng.normal(size=(4, 6))).astype(np.float32),
  }


def test_a_query_is_the_weighted_sum_of_its_terms(terms):
  m, f, v, t = terms.values()
  found = queries.query(m, f, v, Weights(0.2, 0.6, 0.2))
  np.testing.assert_allclose(found, 0.2 * m + 0.6 * f + 0.2 * v, atol=1e-6)
  assert found.dtype == np.float32
  # Terms without a weight may be missing.
  np.testing.assert_allclose(queries.query(None, f, None, Weights(0.0, 1.0, 0.0)), f)
  both = queries.query(None, None, v, Weights(0.0, 0.0, 0.5, 0.5), t)
  # Document, section 1.8: hat(q_v + hat(f_t(text))).
  np.testing.assert_allclose(unit(both), unit(v + t), atol=1e-6)


def test_a_query_without_an_edited_description_has_the_other_terms_scaled_up(terms):
  m, f, v, _ = terms.values()
  edited = np.array([True, False, True, False])
  m = m * edited[:, None]
  found = queries.query(m, f, v, Weights(0.6, 0.3, 0.1), edited=edited)
  np.testing.assert_allclose(found[edited], (0.6 * m + 0.3 * f + 0.1 * v)[edited], atol=1e-6)
  np.testing.assert_allclose(found[~edited], (0.75 * f + 0.25 * v)[~edited], atol=1e-6)
  # The edited descriptions alone, where a query has none: its image.
  alone = queries.query(m, None, v, Weights(1.0, 0.0, 0.0), edited=edited)
  np.testing.assert_allclose(alone[~edited], v[~edited], atol=1e-6)
  np.testing.assert_allclose(alone[edited], m[edited], atol=1e-6)


def test_pieces_add_up_to_the_query(terms):
  m, f, v, _ = terms.values()
  weights, edited = Weights(0.6, 0.0, 0.4), np.array([True, True, False, True])
  pieces = queries.pieces(m, f, v, weights, edited=edited)
  whole = queries.query(m, f, v, weights, edited=edited)
  np.testing.assert_allclose(sum(pieces.values()), whole, atol=1e-6)
  # q_f has no weight, but where a description is missing the image has all of it.
  assert set(pieces) == {"edit", "image"}
  np.testing.assert_allclose(whole[2], v[2], atol=1e-6)


def test_a_gallery_is_images_and_the_means_of_captions(terms):
  rng = np.random.default_rng(1)
  t_v = unit(rng.normal(size=(5, 6))).astype(np.float32)
  t_c = unit(rng.normal(size=(5, 15, 6))).mean(axis=1).astype(np.float32)
  found = queries.gallery(t_v, t_c, 0.2)
  np.testing.assert_allclose(found, 0.8 * t_v + 0.2 * t_c, atol=1e-6)
  again = queries.gallery(t_v, t_c, 0.1, normalize_captions=True)
  np.testing.assert_allclose(again, 0.9 * t_v + 0.1 * unit(t_c), atol=1e-6)
  cosine = queries.gallery(t_v, t_c, 0.2, normalize_fused=True)
  np.testing.assert_allclose(cosine, unit(0.8 * t_v + 0.2 * t_c), atol=1e-6)
  # The dot product prefers images whose captions agree; the cosine does not.
  assert np.ptp(np.linalg.norm(found, axis=1)) > 0.01
  some = np.array([True, False, True, True, True])
  mixed = queries.gallery(t_v, t_c, 0.2, captioned=some)
  np.testing.assert_allclose(mixed[1], t_v[1])
  np.testing.assert_allclose(mixed[some], found[some])
  np.testing.assert_array_equal(queries.gallery(t_v, None, 0.2), t_v)


def test_zeros_have_no_direction_and_stay():
  x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
  np.testing.assert_allclose(queries.unit(x), [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
