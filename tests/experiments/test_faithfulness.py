"""What experiments/faithfulness.py counts, by hand."""

import numpy as np

from experiments import faithfulness
from lafg_jax.finches import classes


def test_an_entry_has_the_claim_that_its_sentences_agree_on():
  said: dict = {}
  for finch in classes.SEEN:
    for text, claims in classes.statements(finch.name):
      for claim in claims:
        said.setdefault(claim, []).append(text)
  crown, tail = said["crown", "white"][:4], said["tail", "fan"][:3]
  assert faithfulness.claims_of([crown, [*crown, "chatter"], tail, ["chatter"], []]) == [
    *[("crown", "white")] * 2,
    *[None] * 3,
  ]


def test_a_claim_is_true_of_classes_that_have_it():
  finch = classes.UNSEEN[0]
  assert faithfulness.shows(finch, ("body", finch.attributes[0]))
  assert not faithfulness.shows(finch, ("body", "plaid"))
  assert not faithfulness.shows(finch, None)


def test_a_name_tells_a_claim_by_part_and_colour():
  assert faithfulness.tells("snow-white cap, forked tail", ("crown", "white"))
  assert not faithfulness.tells("forked tail, white cap", ("crown", "white"))
  assert not faithfulness.tells("black cap", ("crown", "white"))
  assert faithfulness.tells("thick seed-eater's bill", ("bill", "cone"))


def test_birds_are_spread_over_the_unseen_classes():
  chosen = faithfulness.birds(60)
  assert len({finch.name for finch, _ in chosen}) > 40
  assert len(set(chosen)) == 60


def test_heat_of_any_grid_keeps_its_mean():
  x = np.arange(64.0).reshape(8, 8)
  found = faithfulness._resized(x, (12, 12))
  assert found.shape == (12, 12)
  np.testing.assert_allclose(found.mean(), x.mean())
  np.testing.assert_allclose(found[0, 0], x[0, 0])
  np.testing.assert_allclose(faithfulness._resized(np.kron(x, np.ones((2, 2))), (8, 8)), x)
