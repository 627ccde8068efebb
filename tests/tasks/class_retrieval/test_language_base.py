"""Loading prototypes.npz for training: order, leaks, centring, the shuffled control, damage."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.tasks.class_retrieval import language_base
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise, mean_pairwise_cosine

NAMES = ("red finch", "blue finch", "green finch", "grey finch")


def arrays(names=NAMES, width=3):
  rng = np.random.default_rng(0)
  vectors = lambda count: rng.normal(size=(count, width)).astype(np.float32)  # noqa: E731
  return {
    "class_names": np.array(names),
    "prototypes": vectors(len(names)) + 2,
    "queries": vectors(len(names)),
    "vocabulary": vectors(6),
    "encoder": np.array("some/encoder"),
  }


def write(path, **changes):
  content = {**arrays(), **changes}
  np.savez(path, **{key: value for key, value in content.items() if value is not None})
  return path


def load(path, names=NAMES, *, centre=False, shuffle=False, seed=0):
  return language_base.load(path, names, centre=centre, shuffle=shuffle, seed=seed)


@pytest.mark.parametrize("names", itertools.permutations(NAMES))
def test_rows_follow_the_order_asked_for(tmp_path, names):
  stored = arrays()
  loaded = load(write(tmp_path / "p.npz"), names)
  for row, name in enumerate(names):
    at = NAMES.index(name)
    np.testing.assert_array_equal(loaded.prototypes[row], stored["prototypes"][at])
    np.testing.assert_array_equal(loaded.queries[row], stored["queries"][at])
  np.testing.assert_array_equal(loaded.vocabulary, stored["vocabulary"])
  assert loaded.encoder == "some/encoder"
  assert not loaded.mean.any()


def test_centring_subtracts_and_returns_the_mean_of_the_classes(tmp_path):
  stored = arrays()["prototypes"]
  loaded = load(write(tmp_path / "p.npz"), NAMES[::-1], centre=True)
  mean = sum(row.astype(np.float64) for row in stored) / len(stored)
  np.testing.assert_allclose(loaded.mean, mean, rtol=1e-6)
  np.testing.assert_allclose(loaded.prototypes + loaded.mean, stored[::-1], rtol=1e-6)
  np.testing.assert_array_equal(loaded.queries, arrays()["queries"][::-1])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_shuffle_gives_every_class_the_pair_of_another(tmp_path_factory, count, seed):
  names = [f"class {i}" for i in range(count)]
  stored = arrays(names)
  path = write(tmp_path_factory.mktemp("shuffle") / "p.npz", **stored)
  loaded = load(path, names, shuffle=True, seed=seed)
  again = load(path, names, shuffle=True, seed=seed)
  np.testing.assert_array_equal(loaded.prototypes, again.prototypes)
  distance = np.abs(loaded.prototypes[:, None] - stored["prototypes"][None]).sum(-1)
  origin = distance.argmin(axis=1)
  assert sorted(origin) == list(range(count))
  assert all(origin[i] != i for i in range(count))
  np.testing.assert_array_equal(loaded.prototypes, stored["prototypes"][origin])
  np.testing.assert_array_equal(loaded.queries, stored["queries"][origin])


def test_shuffle_depends_on_the_seed_and_needs_two_classes(tmp_path):
  path = write(tmp_path / "p.npz")
  results = {load(path, shuffle=True, seed=seed).prototypes.tobytes() for seed in range(20)}
  assert len(results) > 1
  lone = write(tmp_path / "one.npz", **arrays(["only"]))
  with pytest.raises(UserError, match="language.shuffle"):
    load(lone, ["only"], shuffle=True)


def test_class_outside_training_is_refused_by_name(tmp_path):
  path = write(tmp_path / "p.npz")
  with pytest.raises(UserError, match="1 class not of the training .*'grey finch'.*leak"):
    load(path, NAMES[:3])


def test_missing_and_repeated_classes_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"lacks 1 of 5 training classes \('new'\)"):
    load(write(tmp_path / "p.npz"), (*NAMES, "new"))
  twice = write(tmp_path / "twice.npz", class_names=np.array([*NAMES[:3], NAMES[0]]))
  with pytest.raises(UserError, match="twice"):
    load(twice)


def test_missing_file_and_missing_array_name_the_stage(tmp_path):
  with pytest.raises(UserError, match="does not exist: run --stage=prototypes"):
    load(tmp_path / "p.npz")
  with pytest.raises(UserError, match="lacks an array .*vocabulary.*--stage=prototypes"):
    load(write(tmp_path / "p.npz", vocabulary=None))


@pytest.mark.parametrize(
  "changes",
  [
    {"prototypes": np.ones((3, 3), np.float32)},
    {"queries": np.ones((4, 2), np.float32)},
    {"vocabulary": np.ones(3, np.float32)},
    {"prototypes": np.full((4, 3), np.nan, np.float32)},
    {"queries": np.ones((4, 3), np.int32)},
  ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes):
  with pytest.raises(UserError, match=f"{next(iter(changes))} .*--stage=prototypes"):
    load(write(tmp_path / "p.npz", **changes))


def test_file_that_is_no_npz_is_refused(tmp_path):
  path = tmp_path / "p.npz"
  np.save(tmp_path / "lone.npy", np.ones(3))
  pickled = np.array([{"a": 1}], dtype=object)
  np.save(tmp_path / "pickled.npy", pickled, allow_pickle=True)
  lone, pickle = ((tmp_path / name).read_bytes() for name in ("lone.npy", "pickled.npy"))
  for content in (b"", b"text", lone, pickle):
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or no npz.*--stage=prototypes"):
      load(path)
  with pytest.raises(UserError, match="damaged"):
    load(write(path, class_names=np.array(NAMES, dtype=object)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_load_as_other_numbers(tmp_path_factory, data):
  folder = tmp_path_factory.mktemp("damage")
  good = write(folder / "good.npz").read_bytes()
  bad = bytearray(good)
  if data.draw(st.booleans()):
    bad = bad[: data.draw(st.integers(0, len(good) - 1))]
  else:
    bad[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
  (folder / "bad.npz").write_bytes(bad)
  try:
    loaded = load(folder / "bad.npz")
  except UserError:
    return
  np.testing.assert_array_equal(loaded.prototypes, arrays()["prototypes"])
  np.testing.assert_array_equal(loaded.vocabulary, arrays()["vocabulary"])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 1000))
def test_mean_pairwise_cosine_equals_a_loop(count, width, seed):
  vectors = np.random.default_rng(seed).normal(size=(count, width))
  pairs = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in itertools.combinations(list(vectors), 2)]
  assert mean_pairwise_cosine(vectors) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_mean_pairwise_cosine_of_few_or_zero_rows():
  assert np.isnan(mean_pairwise_cosine(np.ones((1, 3))))
  assert mean_pairwise_cosine(np.array([[0.0, 0], [1, 0]])) == 0


def test_l2_normalise_refuses_vectors_without_direction():
  unit = l2_normalise(np.array([[3.0, 4.0]]), "x")
  np.testing.assert_allclose(unit, [[0.6, 0.8]], rtol=1e-6)
  for bad in (0.0, np.nan, np.inf):
    with pytest.raises(UserError, match="features: .*direction"):
      l2_normalise(np.full((2, 3), bad), "features")


def test_reading_needs_no_language_library():
  code = (
    "import sys, lafg_jax.tasks.class_retrieval.language_base; "
    "print([m for m in ('torch', 'transformers', 'sklearn', 'jax') if m in sys.modules])"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["attention", "profile", "query", "descriptions"])
def test_the_chosen_array_stands_for_the_class(tmp_path, kind):
  rng = np.random.default_rng(0)
  names = [f"class {k}" for k in range(5)]
  arrays = {
    key: rng.standard_normal((5, 3)).astype(np.float32)
    for key in ("prototypes", "queries", "vocabulary", "description_means")
  }
  arrays["vocabulary"] = rng.standard_normal((7, 3)).astype(np.float32)
  arrays["attribute_profiles"] = rng.standard_normal((5, 7)).astype(np.float32)
  path = tmp_path / "prototypes.npz"
  np.savez(path, class_names=np.array(names), encoder=np.array("x"), **arrays)
  found = language_base.load(path, names, centre=True, shuffle=False, seed=0, kind=kind)
  wanted = {"attention": "prototypes", "query": "queries", "descriptions": "description_means",
            "profile": "attribute_profiles"}  # fmt: skip
  array = arrays[wanted[kind]]
  np.testing.assert_allclose(found.prototypes, array - array.mean(axis=0), atol=1e-6)
  np.testing.assert_array_equal(found.queries, arrays["queries"])
