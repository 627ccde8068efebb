"""Recall@K of the three protocols against scikit-learn, and every order of equal strings."""

import itertools

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.tasks.image_text_retrieval import bounds, recalls
from lafg_jax.tasks.image_text_retrieval.recalls import Embedded
from lafg_jax.utils.errors import UserError

WAYS = bounds.DIRECTIONS
DIM = 8


def unit(rng, count):
  x = rng.normal(size=(count, DIM))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def means(embedded, ks, protocols=bounds.PROTOCOLS):
  found = recalls.measure(embedded, ks, protocols)
  return {
    (way, protocol): [found[way][protocol][f"recall@{k}"].mean() for k in ks]
    for way in WAYS
    for protocol in protocols
  }


def first_hits(scores, keys, right):
  """1-based place of the first right item in each order that luck may give equal keys."""
  order = sorted(
    set(keys), key=lambda key: -max(s for s, k in zip(scores, keys, strict=True) if k == key)
  )
  groups = [[i for i, k in enumerate(keys) if k == key] for key in order]
  for parts in itertools.product(*(list(itertools.permutations(group)) for group in groups)):
    placed = [right[i] for i in itertools.chain(*parts)]
    yield placed.index(True) + 1 if True in placed else np.inf


def recall(lists, k):
  return np.mean([np.mean([place <= k for place in places]) for places in lists])


def oracle(e, k):
  """The definitions, query by query, over every order of equal strings."""
  first = {s: i for i, s in reversed(list(enumerate(e.strings)))}
  vectors = np.array([e.texts[first[s]] for s in e.strings], np.float64)
  extra = np.zeros((0, DIM)) if e.distractors is None else e.distractors
  keys = [*e.strings, *(-1 - i for i in range(len(extra)))]
  scores = e.images.astype(np.float64) @ np.concatenate([vectors, extra]).T
  of_class = e.labels[e.owner]
  wrong = [False] * len(extra)
  found = {}
  lists = [[*(e.owner == i), *wrong] for i in range(len(e.images))]
  found["image_to_text", "instance"] = [
    list(first_hits(s, keys, r)) for s, r in zip(scores, lists, strict=True)
  ]
  lists = [[*(of_class == e.labels[i]), *wrong] for i in range(len(e.images))]
  found["image_to_text", "class"] = [
    list(first_hits(s, keys, r)) for s, r in zip(scores, lists, strict=True)
  ]
  items = list(first) + keys[len(e.strings) :]
  columns = [*first.values(), *range(len(e.strings), len(keys))]
  lists = [[s in set(e.strings[e.owner == i]) for s in items] for i in range(len(e.images))]
  found["image_to_text", "merged"] = [
    list(first_hits(s[columns], items, r)) for s, r in zip(scores, lists, strict=True)
  ]
  every = range(len(e.images))
  back = scores[:, : len(e.strings)].T
  for name, right in (
    ("instance", [e.owner[j] == np.arange(len(e.images)) for j in range(len(e.owner))]),
    ("class", [of_class[j] == e.labels for j in range(len(e.owner))]),
  ):
    found["text_to_image", name] = [
      list(first_hits(s, every, list(r))) for s, r in zip(back, right, strict=True)
    ]
  found["text_to_image", "merged"] = [
    list(first_hits(back[first[s]], every, [i in e.owner[e.strings == s] for i in every]))
    for s in first
  ]
  return {name: recall(lists, k) for name, lists in found.items()}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_equals_every_order_of_equal_strings(data):
  count = data.draw(st.integers(1, 4))
  more = data.draw(st.lists(st.integers(0, count - 1), max_size=3))
  owner = np.array([*range(count), *more])
  numbers = st.integers(0, 4)
  strings = np.array(data.draw(st.lists(numbers, min_size=len(owner), max_size=len(owner))))
  labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
  rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
  distractors = unit(rng, 2) if data.draw(st.booleans()) else None
  e = Embedded(unit(rng, count), unit(rng, len(owner)), owner, strings, labels, distractors)
  found = means(e, (1, 2, 3))
  for at, k in enumerate((1, 2, 3)):
    wanted = oracle(e, k)
    for name, values in found.items():
      assert values[at] == pytest.approx(wanted[name], abs=1e-9), (name, k)


def test_equals_scikit_learn_where_all_strings_differ():
  rng = np.random.default_rng(0)
  count = 90
  images = unit(rng, count)
  texts = unit(rng, count) * 0.7 + images
  e = Embedded(images, texts, np.arange(count), rng.permutation(count), rng.integers(0, 9, count))
  found = means(e, (1, 5, 10))
  for at, k in enumerate((1, 5, 10)):
    of = {"k": k, "labels": np.arange(count)}
    to_text = sklearn.metrics.top_k_accuracy_score(np.arange(count), images @ texts.T, **of)
    to_image = sklearn.metrics.top_k_accuracy_score(np.arange(count), texts @ images.T, **of)
    assert 0.05 < to_text < 1
    for protocol in ("instance", "merged"):
      assert found["image_to_text", protocol][at] == pytest.approx(to_text)
      assert found["text_to_image", protocol][at] == pytest.approx(to_image)
  alone = means(e, (1, 5, 10), ("merged",))
  assert all(alone[name] == found[name] for name in alone)


def test_a_table_by_hand():
  """Three images; the first two have one caption. All is right but image 2's text comes last."""
  axes = np.eye(DIM, dtype=np.float32)
  images = np.stack([axes[0] + 0.1 * axes[3], axes[0], axes[0] + 0.5 * axes[1]])
  texts = np.stack([axes[0], axes[0] + 1e-7, axes[2]])
  e = Embedded(images, texts, np.arange(3), np.array([7, 7, 9]), np.array([4, 4, 5]))
  found = recalls.measure(e, (1, 2, 3))
  wanted = {
    ("image_to_text", "instance"): ([0.5, 0.5, 0], [1, 1, 0], [1, 1, 1]),
    ("image_to_text", "merged"): ([1, 1, 0], [1, 1, 1], [1, 1, 1]),
    ("image_to_text", "class"): ([1, 1, 0], [1, 1, 0], [1, 1, 1]),
    # All images score 1 for the first string, and 0 for the other: what is wrong comes first.
    ("text_to_image", "instance"): ([0, 0, 0], [0, 0, 0], [1, 1, 1]),
    ("text_to_image", "merged"): ([0, 0], [1, 0], [1, 1]),
    ("text_to_image", "class"): ([0, 0, 0], [1, 1, 0], [1, 1, 1]),
  }
  for (way, protocol), rows in wanted.items():
    for k, row in zip((1, 2, 3), rows, strict=True):
      assert found[way][protocol][f"recall@{k}"].tolist() == row, (way, protocol, k)


def test_another_string_that_ties_stands_before():
  """Captions that differ behind the context have one embedding, and no luck of their order."""
  same = np.tile(unit(np.random.default_rng(0), 1), (4, 1))
  e = Embedded(same, same, np.arange(4), np.arange(4), np.zeros(4, int))
  for way in WAYS:
    assert means(e, (3, 4), ("instance",))[way, "instance"] == [0, 1]


def test_a_shuffle_of_the_owners_falls_to_chance():
  rng = np.random.default_rng(1)
  count = 300
  images = unit(rng, count)
  strings = np.arange(count) // 2
  texts = unit(rng, count) * 0.1 + images[strings * 2]
  right = Embedded(images[strings * 2], texts, np.arange(count), strings, np.zeros(count, int))
  assert means(right, (1,), ("instance",))["image_to_text", "instance"][0] > 0.49
  found = []
  for _ in range(8):
    shuffled = right._replace(owner=rng.permutation(count), images=images)
    found.append([means(shuffled, (10,), ("instance",))[way, "instance"] for way in WAYS])
  chance = bounds.beside(recalls.pairing(right), (10,))
  for way, measured in zip(WAYS, np.mean(found, 0)[:, 0], strict=True):
    wanted = chance[way]["instance"]["chance"]["recall@10"]
    assert wanted == pytest.approx(10 / count)
    # Five standard errors of 2,400 queries.
    assert measured == pytest.approx(wanted, abs=5 * np.sqrt(wanted / 2400))


def test_the_order_of_rows_and_batches_decides_nothing():
  rng = np.random.default_rng(2)
  count, owner = 40, np.concatenate([np.arange(40), rng.integers(0, 40, 40)])
  strings, labels = rng.integers(0, 50, 80), rng.integers(0, 5, 40)
  texts = unit(rng, 50)[strings]
  images = unit(rng, count)
  e = Embedded(images, texts, owner, strings, labels)
  turned, order = rng.permutation(count), rng.permutation(80)
  back = np.argsort(turned)
  other = Embedded(
    *(images[turned], texts[order], back[owner[order]], strings[order] + 100, labels[turned] * 3)
  )
  first, second = means(e, (1, 5)), means(other, (1, 5))
  for name in first:
    assert first[name] == pytest.approx(second[name]), name
  # Equal captions of two batches differ in the last bit, and count as equal all the same.
  close = texts.copy()
  close[1:] = np.nextafter(close[1:], 2)
  again = means(e._replace(texts=close), (1, 5))
  assert again["image_to_text", "instance"] == pytest.approx(first["image_to_text", "instance"])


def test_distractors_can_only_lower_image_to_text():
  rng = np.random.default_rng(3)
  images = unit(rng, 60)
  texts = images + 0.5 * unit(rng, 60)
  e = Embedded(images, texts, np.arange(60), np.arange(60) // 2 * 2, np.arange(60) % 6)
  easy, hard = means(e, (1, 5)), means(e._replace(distractors=unit(rng, 500)), (1, 5))
  for protocol in bounds.PROTOCOLS:
    assert hard["image_to_text", protocol][0] < easy["image_to_text", protocol][0]
    assert hard["text_to_image", protocol] == easy["text_to_image", protocol]


def test_what_does_not_fit_is_refused():
  e = Embedded(np.ones((2, 3)), np.ones((2, 3)), np.array([0, 0]), np.arange(2), np.arange(2))
  with pytest.raises(UserError, match="1 of 2 images have a text"):
    recalls.measure(e, (1,))
  with pytest.raises(UserError, match="2 texts with 1 images"):
    recalls.measure(e._replace(owner=np.array([0])), (1,))
