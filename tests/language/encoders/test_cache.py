"""The feature cache: one class more costs one class, and a kill costs a batch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.language.encoders import cache as feature_cache
from lafg_jax.language.encoders.cache import FeatureCache
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).parents[3]


def fill(folder, texts, identity="e", seconds=3.0):
  with FeatureCache(folder, identity, seconds) as cache:
    for text in texts:
      cache.add([cache.key(text.encode())], np.full((1, 3), float(len(text)), np.float32))


def known(folder, texts, identity="e"):
  cache = FeatureCache(folder, identity)
  found = cache.read([cache.key(text.encode()) for text in texts])
  return {text for text in texts if cache.key(text.encode()) in found}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.text(max_size=5), max_size=4), min_size=1, max_size=5))
def test_what_was_added_is_found_with_its_features(tmp_path_factory, runs):
  folder = tmp_path_factory.mktemp("cache")
  for texts in runs:
    fill(folder, texts)
  cache = FeatureCache(folder, "e")
  texts = sorted(set().union(*runs))
  found = cache.read([cache.key(text.encode("utf-8")) for text in texts])
  assert len(found) == len(texts)
  for text in texts:
    np.testing.assert_array_equal(found[cache.key(text.encode())], np.full(3, len(text)))
  assert not cache.read([cache.key(b"never added")])


def test_another_encoder_shares_nothing(tmp_path):
  fill(tmp_path, ["a"])
  assert known(tmp_path, ["a"]) == {"a"} and not known(tmp_path, ["a"], "f")


def test_no_folder_keeps_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  fill("", ["a"])
  assert not known("", ["a"]) and not list(tmp_path.iterdir())


def spoil_half(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_byte(path):
  data = bytearray(path.read_bytes())
  data[data.rindex(np.full(3, 2, np.float32).tobytes()) + 1] ^= 4
  path.write_bytes(bytes(data))


def spoil_empty(path):
  path.write_bytes(b"")


def spoil_shape(path):
  np.savez(path, keys=np.load(path)["keys"], features=np.zeros((2, 3), np.float32))


def spoil_pickle(path):
  np.savez(path, keys=np.array([{}], dtype=object), features=np.zeros((1, 3), np.float32))


def spoil_nan(path):
  np.savez(path, keys=np.load(path)["keys"], features=np.full((1, 3), np.nan, np.float32))


@pytest.mark.parametrize(
  "spoil", [spoil_half, spoil_byte, spoil_empty, spoil_shape, spoil_pickle, spoil_nan]
)
def test_a_damaged_file_is_set_aside_and_the_rest_is_used(tmp_path, logged, spoil):
  fill(tmp_path, ["a"])
  (good,) = tmp_path.rglob("*.npz")
  fill(tmp_path, ["bb"])
  (bad,) = set(tmp_path.rglob("*.npz")) - {good}
  spoil(bad)
  assert known(tmp_path, ["a", "bb"]) == {"a"}
  assert logged.text.count("is damaged and set aside") == 1
  fill(tmp_path, ["bb"])
  assert known(tmp_path, ["a", "bb"]) == {"a", "bb"}
  assert logged.text.count("is damaged") == 1


def test_many_files_become_one(tmp_path):
  texts = [f"text {i}" for i in range(40)]
  for text in texts:
    fill(tmp_path, [text])
  assert len(list(tmp_path.rglob("*.npz"))) == 40
  assert known(tmp_path, texts[:3]) == set(texts[:3])
  assert len(list(tmp_path.rglob("*.npz"))) == 1
  assert known(tmp_path, texts) == set(texts)


def test_work_is_written_within_the_given_seconds(tmp_path):
  cache = FeatureCache(tmp_path, "e", seconds=0.0)
  cache.add([cache.key(b"a")], np.zeros((1, 3), np.float32))
  assert known(tmp_path, ["a"]) == {"a"}
  slow = FeatureCache(tmp_path, "e", seconds=1e6)
  slow.add([slow.key(b"b")], np.zeros((1, 3), np.float32))
  assert not known(tmp_path, ["b"])
  slow.flush()
  assert known(tmp_path, ["b"]) == {"b"}


def test_features_that_are_not_finite_are_not_kept(tmp_path):
  with FeatureCache(tmp_path, "e") as cache:
    keys = [cache.key(text) for text in (b"a", b"b", b"c")]
    cache.add(keys, np.array([[1, np.nan], [2, 3], [np.inf, 4]]))
    cache.add(keys[:1], np.full((1, 2), np.nan))
  found = FeatureCache(tmp_path, "e").read(keys)
  assert {key: row.tolist() for key, row in found.items()} == {keys[1]: [2.0, 3.0]}
  with FeatureCache(tmp_path / "none", "e") as cache:
    cache.add(keys[:1], np.full((1, 2), np.nan))
  assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="language.cache: .*--config.language.cache=FOLDER"):
    fill(tmp_path / "file", ["a"])


def test_adding_one_class_encodes_one_class(tmp_path, logged, monkeypatch):
  from lafg_jax.language.encoders import by_flax
  from lafg_jax.language.encoders import texts as encode

  old = ["a red finch", "a blue finch", "a red finch"]
  first = encode.encode_texts(old, "tiny_clip", 2, cache=tmp_path)
  assert "from the cache" not in logged.text
  asked = []
  batch = by_flax.encoded

  def counted(rows, *rest):
    asked.append(len(rows))
    return batch(rows, *rest)

  monkeypatch.setattr(by_flax, "encoded", counted)
  new = ["a finch with a long bill", "a green finch"]
  both = encode.encode_texts([*new, *old], "tiny_clip", 1, cache=tmp_path)
  assert sum(asked) == 2 and "2 of 4 texts come from the cache" in logged.text
  np.testing.assert_array_equal(both[2:], first)
  np.testing.assert_allclose(both, encode.encode_texts([*new, *old], "tiny_clip", 5), atol=1e-6)
  asked.clear()
  monkeypatch.setattr(by_flax, "_loaded", None)  # Nothing is left to encode.
  np.testing.assert_array_equal(encode.encode_texts(old, "tiny_clip", 2, cache=tmp_path), first)
  assert not asked


KILLED = """
import sys, time
from lafg_jax.language.encoders import by_flax, texts
encoded, begun = by_flax.encoded, []
def slow(*args):
  print("batch", flush=True)
  begun.append(args)
  # It never ends by itself, however late it is killed.
  time.sleep(0.03 if len(begun) < 20 else 10_000)
  return encoded(*args)
by_flax.encoded = slow
texts.FeatureCache = lambda *a, kind=texts.FeatureCache: kind(*a, seconds=0.0)
texts.encode_texts([f"a {i} finch" for i in range(400)], "tiny_clip", 4, cache=sys.argv[1])
"""


def test_a_kill_loses_at_most_a_batch(tmp_path, logged):
  run = subprocess.Popen(
    [sys.executable, "-c", KILLED, str(tmp_path)],
    stdout=subprocess.PIPE,
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  assert run.stdout is not None
  begun = 0
  while begun < 12 and run.stdout.readline():
    begun += 1
  time.sleep(0.05)
  run.send_signal(signal.SIGKILL)
  rest = run.stdout.read().count(b"batch")
  run.wait()
  assert begun == 12 and run.returncode == -signal.SIGKILL
  from lafg_jax.language.encoders import texts as encode

  texts = [f"a {i} finch" for i in range(400)]
  found = encode.encode_texts(texts, "tiny_clip", 50, cache=tmp_path)
  kept = int(logged.text.split(" of 400 texts come from the cache")[0].split()[-1])
  assert 4 * (begun + rest - 1) <= kept <= 4 * (begun + rest)
  np.testing.assert_allclose(found, encode.encode_texts(texts, "tiny_clip", 64), atol=1e-5)
  assert "damaged" not in logged.text


def test_features_that_are_not_asked_for_are_not_read(tmp_path, monkeypatch):
  for number in range(3):
    fill(tmp_path, [f"{number} {k}" for k in range(4)])
  read, whole = [], feature_cache.read_cached_npz
  monkeypatch.setattr(
    feature_cache, "read_cached_npz", lambda path, *rest: read.append(path) or whole(path, *rest)
  )
  cache = FeatureCache(tmp_path, "e")
  assert not cache.read([cache.key(b"another")]) and not read
  assert len(cache.read([cache.key(b"1 2"), cache.key(b"another")])) == 1 and len(read) == 1


def test_the_files_not_read_for_longest_make_room(tmp_path, monkeypatch):
  for number in range(4):
    fill(tmp_path, [f"{number} {k}" for k in range(100)], f"encoder {number % 2}")
  files = sorted(tmp_path.glob("*/*.npz"), key=lambda path: path.name)
  size = files[0].stat().st_size
  for age, path in enumerate(files):
    os.utime(path, (1e9 + age, 1e9 + age))
  cache = FeatureCache(tmp_path, "encoder 0")
  assert cache.read([cache.key(b"0 7")]), "the oldest is read, and stays"
  monkeypatch.setattr(feature_cache, "MOST_BYTES", 3 * size + size // 2)
  fill(tmp_path, [f"{k} new" for k in range(100)], "encoder 0")
  left = sorted(tmp_path.glob("*/*.npz"), key=lambda path: path.name)
  assert files[0] in left and files[1] not in left and files[2] not in left and files[3] in left
  assert len(left) == 3
