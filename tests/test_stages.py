"""The skip rule: what counts as changed, and what a damaged record leads to."""

import json

import ml_collections
import numpy as np
import pytest
from absl import logging
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax import stages
from lafg_jax.utils import files

JSON = st.recursive(
  st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
  ),
  max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(JSON, JSON)
def test_fingerprint_tells_json_values_apart(a, b):
  same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
  assert (files.fingerprint(a) == files.fingerprint(b)) == same


def test_fingerprint_of_config_dict_array_and_file(tmp_path):
  config = ml_collections.ConfigDict({"a": 1, "b": {"c": (1, 2)}})
  assert files.fingerprint(config) == files.fingerprint({"b": {"c": [1, 2]}, "a": 1})
  changed = config.copy_and_resolve_references()
  changed.b.c = (2, 1)
  assert files.fingerprint(config) != files.fingerprint(changed)

  array = np.arange(6, dtype=np.int32)
  assert files.fingerprint(array) == files.fingerprint(array.copy())
  assert files.fingerprint(array[::2]) == files.fingerprint(array[::2].copy())
  others = (array + 1, array.reshape(2, 3), array.astype(np.int64), array.tolist())
  assert len({files.fingerprint(other) for other in (array, *others)}) == 5
  assert files.fingerprint(np.float64(0.5)) == files.fingerprint(0.5)

  file = tmp_path / "file"
  absent = files.fingerprint(file)
  file.write_text("one")
  one = files.fingerprint(file)
  file.write_text("two")
  assert len({absent, one, files.fingerprint(file), files.fingerprint(str(file))}) == 4
  file.rename(tmp_path / "other")
  (tmp_path / "other").write_text("one")
  assert files.fingerprint(tmp_path / "other") == one


@pytest.mark.parametrize("part", [{1, 2}, object(), b"x", {"a": {1: 2}}, np.array([object()])])
def test_fingerprint_refuses_what_it_cannot_hash(part):
  with pytest.raises(TypeError, match="cannot fingerprint"):
    files.fingerprint(part)


def test_hash_of_a_folder_sees_names_and_bytes(tmp_path):
  seen = set()
  folder = tmp_path / "folder"
  (folder / "sub").mkdir(parents=True)
  for name, text in (("a", "1"), ("a", "2"), ("sub/b", "1")):
    (folder / name).write_text(text)
    seen.add(files.file_hash(folder))
  (folder / "sub/b").rename(folder / "sub/c")
  seen.add(files.file_hash(folder))
  assert len(seen) == 4


def decision(caplog, *arguments):
  caplog.clear()
  with caplog.at_level("INFO", logger="absl"):
    done = stages.is_done(*arguments)
  assert arguments[2][:12] in caplog.text
  return done, caplog.text


@pytest.fixture
def propagating():
  # absl's logger keeps its records to itself unless told otherwise.
  logger = logging.get_absl_logger()
  before, logger.propagate = logger.propagate, True
  yield
  logger.propagate = before


def test_stage_reruns_for_each_reason(tmp_path, caplog, propagating):
  key = files.fingerprint("a")
  output, folder = tmp_path / "out.txt", tmp_path / "folder"
  arguments = (tmp_path, "encode", key, ["out.txt", folder])
  output.write_text("stray")
  done, text = decision(caplog, *arguments)
  assert not done and "first run" in text

  folder.mkdir()
  (folder / "x").write_text("x")
  output.write_text("text")
  stages.mark_done(*arguments)
  done, text = decision(caplog, *arguments)
  assert done and "skipped" in text

  done, text = decision(caplog, tmp_path, "encode", files.fingerprint("b"), ["out.txt", folder])
  assert not done and "config or inputs changed" in text
  done, text = decision(caplog, tmp_path, "describe", key, ["out.txt"])
  assert not done and "first run" in text

  output.write_text("tex")
  done, text = decision(caplog, *arguments)
  assert not done and "output changed" in text
  output.write_text("text")
  (folder / "x").write_text("y")
  assert not stages.is_done(*arguments)
  (folder / "x").write_text("x")
  assert stages.is_done(*arguments)
  output.unlink()
  done, text = decision(caplog, *arguments)
  assert not done and "output missing" in text


def test_stages_keep_each_other_and_survive_a_move(tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  for name in ("a", "b"):
    (workdir / name).write_text(name)
    stages.mark_done(workdir, name, name * 64, [workdir / name])
  moved = workdir.rename(tmp_path / "moved")
  assert all(stages.is_done(moved, name, name * 64, [moved / name]) for name in ("a", "b"))
  assert sorted(p.name for p in moved.iterdir()) == ["a", "b", "stages.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"encode": 3}', "\x00\x01"])
def test_damaged_record_is_told_and_replaced(tmp_path, caplog, propagating, text):
  (tmp_path / "stages.json").write_text(text)
  (tmp_path / "out").write_text("1")
  with caplog.at_level("WARNING", logger="absl"):
    assert not stages.is_done(tmp_path, "encode", "k", ["out"])
  assert "stages.json is damaged" in caplog.text
  stages.mark_done(tmp_path, "encode", "k", ["out"])
  assert stages.is_done(tmp_path, "encode", "k", ["out"])


def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path):
  path = tmp_path / "new" / "file"
  with files.replacing(path) as temporary:
    temporary.write_text("old")
  with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
    temporary.write_text("half")
    raise ZeroDivisionError
  assert path.read_text() == "old"
  assert list(path.parent.iterdir()) == [path]
