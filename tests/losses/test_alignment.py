"""Losses against plain NumPy loops over the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.losses import alignment, contrastive

# Compiled whole: operation by operation takes longer.
pairwise = jax.jit(
  contrastive.pairwise_contrastive, static_argnames=("classes", "slots", "temperature", "reduction")
)


def numpy_pairwise(z, n, m, tau, reduction):
  """The formula, term by term, in float64."""
  z = z.astype(np.float64)
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  z = z.reshape(m, n, -1)

  def affinity(x, y):
    return np.exp(-np.sum((x - y) ** 2) / tau)

  total = 0.0
  for a in range(m):
    for b in range(m):
      if a == b:
        continue
      for i in range(n):
        across = sum(affinity(z[a, i], z[b, k]) for k in range(n))
        within = sum(affinity(z[a, i], z[a, k]) for k in range(n) if k != i)
        total -= np.log(affinity(z[a, i], z[b, i]) / (across + within)) / n
  return total if reduction == "sum" else total / (m * (m - 1))


def embeddings(n, m, d=16, seed=0):
  return np.random.default_rng(seed).standard_normal((n * m, d)).astype(np.float32)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(("n", "m"), [(7, 2), (5, 3), (4, 9), (1, 2)])
def test_pairwise_contrastive_is_the_formula(n, m, reduction):
  z = embeddings(n, m)
  got = pairwise(jnp.asarray(z), classes=n, slots=m, temperature=0.3, reduction=reduction)
  np.testing.assert_allclose(got, numpy_pairwise(z, n, m, 0.3, reduction), rtol=1e-5)


def test_sharp_temperature_equals_hyp_vit_at_twice_the_temperature():
  # Hyp-ViT's code: cross-entropy of cos / t, for each slot pair.
  n, m, t = 6, 2, 0.1
  z = embeddings(n, m, seed=1).astype(np.float64)
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  x = z.reshape(m, n, -1)
  expected = 0.0
  for a, b in ((0, 1), (1, 0)):
    across, within = x[a] @ x[b].T / t, x[a] @ x[a].T / t
    np.fill_diagonal(within, -np.inf)
    logits = np.concatenate([across, within], axis=1)
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    expected += np.mean(log_sum - np.diag(across))
  got = pairwise(jnp.asarray(z), classes=n, slots=m, temperature=2 * t)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 50))
def test_pairwise_contrastive_ignores_length_class_order_and_slot_order(seed, scale):
  n, m = 4, 3
  z = embeddings(n, m, seed=seed)
  rng = np.random.default_rng(seed)
  shuffled = z.reshape(m, n, -1)[rng.permutation(m)][:, rng.permutation(n)].reshape(n * m, -1)
  options = {"classes": n, "slots": m, "temperature": 0.2}
  one = pairwise(jnp.asarray(z), **options)
  two = pairwise(jnp.asarray(scale * shuffled), **options)
  assert one >= 0
  np.testing.assert_allclose(one, two, rtol=2e-4)


def test_identical_embeddings_have_a_finite_loss_and_gradient():
  def loss(z):
    return pairwise(z, classes=3, slots=2, temperature=0.01)

  for z in (jnp.ones((6, 4)), jnp.zeros((6, 4))):
    value, gradient = jax.jit(jax.value_and_grad(loss))(z)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def numpy_softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def numpy_skl(p, q):
  return np.mean(0.5 * (np.sum(p * np.log(p / q), -1) + np.sum(q * np.log(q / p), -1)))


def numpy_cosine(x, y):
  return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (
    y / np.linalg.norm(y, axis=1, keepdims=True)
  ).T


@pytest.fixture
def batch():
  rng = np.random.default_rng(3)

  def draw(*shape):
    return rng.standard_normal(shape).astype(np.float32)

  class_count, width, text_width, attribute_count = 5, 6, 7, 9
  return {
    "v": draw(8, 4),
    "labels": rng.integers(0, class_count, 8),
    "targets": {
      "prototypes": draw(class_count, text_width),
      "vocabulary": draw(attribute_count, text_width),
      "attribute_cosine": rng.uniform(-1, 1, (class_count, attribute_count)).astype(np.float32),
      "class_vectors": draw(class_count, width),
    },
    "projectors": {"image": draw(4, width), "text": draw(text_width, width)},
    "mean_projectors": {"image": draw(4, width), "text": draw(text_width, width)},
  }


def aligned(batch, form, projector, temperature=0.5):
  return alignment.alignment(**batch, form=form, projector=projector, temperature=temperature)


def test_distribution_form(batch):
  v, y, t = batch["v"], batch["labels"], batch["targets"]["prototypes"]
  p, e = batch["projectors"], batch["mean_projectors"]
  image = numpy_softmax(v @ p["image"])
  free = numpy_skl(image, numpy_softmax(t @ p["text"])[y])
  mean = numpy_skl(image, numpy_softmax(t @ e["text"])[y]) + numpy_skl(
    numpy_softmax(v @ e["image"]), numpy_softmax(t @ p["text"])[y]
  )
  for projector, expected in (("free", free), ("fixed", free), ("mean", mean)):
    loss, *_ = aligned(batch, "distribution", projector)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_prototype_form(batch):
  v, y = batch["v"], batch["labels"]
  for projector, text in (
    ("free", batch["projectors"]["text"]),
    ("fixed", batch["projectors"]["text"]),
    ("mean", batch["mean_projectors"]["text"]),
  ):
    cosine = numpy_cosine(v @ batch["projectors"]["image"], batch["targets"]["prototypes"] @ text)
    expected = -np.mean(np.log(numpy_softmax(cosine / 0.5)[np.arange(8), y]))
    loss, log_p, log_q = aligned(batch, "prototype", projector)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert log_p.shape == log_q.shape == (8, 5)


def test_vocabulary_form(batch):
  cosine = numpy_cosine(
    batch["v"] @ batch["projectors"]["image"],
    batch["targets"]["vocabulary"] @ batch["mean_projectors"]["text"],
  )
  q = numpy_softmax(batch["targets"]["attribute_cosine"] / 0.5)[batch["labels"]]
  first = numpy_skl(numpy_softmax(cosine / 0.5), q)
  cosine = numpy_cosine(
    batch["v"] @ batch["mean_projectors"]["image"],
    batch["targets"]["vocabulary"] @ batch["projectors"]["text"],
  )
  second = numpy_skl(numpy_softmax(cosine / 0.5), q)
  loss, *_ = aligned(batch, "vocabulary", "mean")
  np.testing.assert_allclose(loss, first + second, rtol=1e-4)
  cosine = numpy_cosine(
    batch["v"] @ batch["projectors"]["image"],
    batch["targets"]["vocabulary"] @ batch["projectors"]["text"],
  )
  for projector in ("free", "fixed"):
    loss, *_ = aligned(batch, "vocabulary", projector)
    np.testing.assert_allclose(loss, numpy_skl(numpy_softmax(cosine / 0.5), q), rtol=1e-4)


@pytest.mark.parametrize("form", ["orthogonal", "onehot"])
def test_controls_are_the_prototype_form_with_other_class_vectors(batch, form):
  same = dict(batch)
  same["targets"] = {"prototypes": batch["targets"]["class_vectors"]}
  same["projectors"] = {"image": batch["projectors"]["image"], "text": np.eye(6, dtype=np.float32)}
  expected, *_ = aligned(same, "prototype", "fixed")
  loss, *_ = aligned(batch, form, "mean")
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("form", "projector", "text_learns"),
  [
    ("distribution", "free", True),
    ("distribution", "mean", True),
    ("distribution", "fixed", False),
    ("prototype", "free", True),
    ("prototype", "mean", False),
    ("prototype", "fixed", False),
    ("vocabulary", "free", True),
    ("vocabulary", "mean", True),
    ("vocabulary", "fixed", False),
  ],
)
def test_which_projectors_take_a_gradient(batch, form, projector, text_learns):
  def loss(v, projectors, mean_projectors):
    inner = batch | {"v": v, "projectors": projectors, "mean_projectors": mean_projectors}
    return aligned(inner, form, projector)[0]

  arguments = [jax.tree.map(jnp.asarray, batch[k]) for k in ("v", "projectors", "mean_projectors")]
  v, free, mean = jax.grad(loss, argnums=(0, 1, 2))(*arguments)
  assert np.abs(v).max() > 0
  assert np.abs(free["image"]).max() > 0
  assert (np.abs(free["text"]).max() > 0) == text_learns
  assert all(np.abs(x).max() == 0 for x in jax.tree.leaves(mean))


def test_mean_projector_passes_gradient_to_the_image_in_both_terms(batch):
  only_mean_image = dict(batch)
  # With P_v = 0 the first term has no gradient in V: what is left comes through E_v.
  only_mean_image["projectors"] = batch["projectors"] | {"image": np.zeros((4, 6), np.float32)}

  def loss(v):
    return aligned(only_mean_image | {"v": v}, "distribution", "mean")[0]

  assert np.abs(jax.grad(loss)(jnp.asarray(batch["v"]))).max() > 0


def test_unknown_form_is_refused(batch):
  with pytest.raises(ValueError, match="nonsense"):
    aligned(batch, "nonsense", "mean")


def test_collapse_stats_name_both_ways_of_collapse():
  uniform = alignment.collapse_stats(jnp.log(jnp.full((6, 4), 0.25)))
  assert uniform["entropy"] == pytest.approx(1) and uniform["spread"] == pytest.approx(0, abs=1e-6)
  one_hot = jax.nn.log_softmax(100 * jnp.eye(4))
  alive = alignment.collapse_stats(one_hot)
  assert alive["entropy"] == pytest.approx(0, abs=1e-6)
  # Each row puts 1 where the mean has 1/4: half of (3/4 + 3 * 1/4).
  assert alive["spread"] == pytest.approx(0.75, abs=1e-6)
  constant = alignment.collapse_stats(jnp.repeat(one_hot[:1], 5, axis=0))
  assert constant["spread"] == pytest.approx(0, abs=1e-6)
