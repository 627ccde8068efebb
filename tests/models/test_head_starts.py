"""How the linear layer starts, against scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from lafg_jax.models import embedder as embedders
from lafg_jax.models import heads
from lafg_jax.utils.errors import UserError

RNG = np.random.default_rng(0)
FEATURES = (RNG.standard_normal((60, 9)) @ RNG.standard_normal((9, 9)) + 3).astype(np.float32)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("dim", [1, 4, 9])
def test_components_are_those_of_scikit_learn_up_to_their_signs(dim, whiten):
  head = heads.pca(FEATURES, dim, whiten)
  assert {x.dtype for x in head.values()} == {np.dtype(np.float32)}
  found = FEATURES @ head["kernel"] + head["bias"]
  expected = PCA(dim, whiten=whiten).fit_transform(FEATURES.astype(np.float64))
  signs = np.sign((found * expected).sum(axis=0))
  np.testing.assert_allclose(found, expected * signs, atol=2e-4)
  # A sign of its own, whatever LAPACK gives.
  kernel = head["kernel"]
  assert (kernel[np.abs(kernel).argmax(axis=0), np.arange(dim)] > 0).all()


def test_a_feature_that_never_changes_is_not_scaled_up():
  still = FEATURES.copy()
  still[:, 3] = 1
  found = still @ (head := heads.pca(still, 9, whiten=True))["kernel"] + head["bias"]
  assert np.isfinite(found).all() and np.abs(found[:, -1]).max() < 1


def test_too_few_images_and_sizes_that_cannot_be_are_one_line():
  with pytest.raises(UserError, match="embedding_dim=4 or less"):
    heads.pca(FEATURES[:5], 5)
  with pytest.raises(UserError, match="head_init=identity: the backbone's width is 9"):
    heads.check("identity", 8, 9)
  with pytest.raises(UserError, match="embedding_dim=9 or less"):
    heads.check("pca_whitened", 10, 9)
  for fine in (("identity", 9, 9), ("pca", 9, 9), ("random", 99, 9)):
    heads.check(*fine)


def test_with_the_identity_an_embedding_is_the_feature(config_with):
  images = RNG.integers(0, 256, (2, 16, 16, 3), np.uint8)
  config = config_with(model__head_init="identity")
  embedder, params = embedders.init_model(config)
  got = embedder.apply({"params": params}, images, method="features")
  np.testing.assert_array_equal(embedder.apply({"params": params}, images), got)
