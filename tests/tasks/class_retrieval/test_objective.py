"""LaFG's objective: how it starts, what its weights mean, and what images are compared with."""

import jax
import numpy as np
import pytest

from lafg_jax.tasks.class_retrieval import objective
from lafg_jax.training import step


def test_controls_start_as_full_does(config_with):
  """They differ from it in nothing but the text: to the bit, all that both of them have."""
  full = objective.init_params(config_with(), 40, 24)
  assert set(full["projectors"]) == {"image", "text"}
  for alignment in ("orthogonal", "onehot"):
    control = objective.init_params(config_with(loss__alignment=alignment), 40, None)
    for name in ("backbone", "embedding"):
      jax.tree.map(np.testing.assert_array_equal, control[name], full[name])
    np.testing.assert_array_equal(control["projectors"]["image"], full["projectors"]["image"])
  shuffled = objective.init_params(config_with(language__shuffle="all"), 40, 24)
  jax.tree.map(np.testing.assert_array_equal, shuffled, full)


def test_beta_means_the_same_under_sum_and_mean_and_for_every_m(dataset, prototypes, config_with):
  """L = L_aux + beta L_ali with L_aux a mean over slot pairs, m(m-1) times that under `sum`."""
  rng = np.random.default_rng(0)
  params = objective.init_params(config_with(), len(dataset.class_names), 24)
  for m in (2, 3):
    batch = {
      "image": rng.integers(0, 256, (5 * m, 16, 16, 3), np.uint8),
      "label": np.tile(np.arange(5, dtype=np.int32), m),
    }
    totals = {}
    for reduction in ("sum", "mean"):
      config = config_with(loss__reduction=reduction, loss__beta=0.7, data__images_per_class=m)
      made = objective.build(config, len(dataset.class_names), prototypes, params)
      averages = step.init_state(made, config.train)[1].averages
      total, metrics = jax.jit(step.make_loss(made, axis=None))(
        params, averages, batch, made.constants, step.step_key(0, 0)
      )
      scale = m * (m - 1) if reduction == "sum" else 1
      expected = metrics["l_aux"] + 0.7 * scale * metrics["l_ali"]
      np.testing.assert_allclose(total, expected, rtol=1e-6)
      totals[reduction] = total / scale
    np.testing.assert_allclose(totals["sum"], totals["mean"], rtol=1e-5)


def test_alignment_targets(dataset, prototypes, config_with):
  count = len(dataset.class_names)
  scaled = objective.targets(config_with(loss__alignment="distribution"), count, prototypes)
  assert np.std(scaled["prototypes"]) == pytest.approx(1, abs=1e-5)
  raw = objective.targets(
    config_with(loss__alignment="distribution", loss__unit_variance=False), count, prototypes
  )
  np.testing.assert_array_equal(raw["prototypes"], prototypes.prototypes)
  words = objective.targets(config_with(loss__alignment="vocabulary"), count, prototypes)
  np.testing.assert_array_equal(words["vocabulary"], prototypes.vocabulary)
  mean = prototypes.vocabulary.mean(axis=0)
  for c, n in ((0, 0), (7, 3)):
    x, y = prototypes.queries[c] - mean, prototypes.vocabulary[n] - mean
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert words["attribute_cosine"][c, n] == pytest.approx(expected, abs=1e-5)
  assert set(objective.targets(config_with(loss__alignment="none"), count, None)) == set()
