"""Checkpoints: what is saved comes back bit by bit, and damage never does."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import optax
import pytest

from lafg_jax.training import checkpoints, frozen_weights
from lafg_jax.utils.errors import UserError


def arrays(step):
  rng = np.random.default_rng(step)
  return {
    "state/params/backbone/kernel": rng.standard_normal((64, 48)).astype(np.float32),
    "state/step": np.asarray(step, np.int32),
    "prototypes/mean": rng.standard_normal(7).astype(np.float32),
  }


def frozen():
  """What all steps share."""
  kernel = np.random.default_rng(9).standard_normal((40, 30)).astype(np.float32)
  return {"state/params/tower/kernel": kernel, "state/params/scale": np.asarray(2, np.float32)}


def whole(step):
  return arrays(step) | frozen()


def save_all(workdir, *steps):
  fixed = checkpoints.subtree(frozen(), "state/params")
  kept = frozen_weights.keep(str(workdir), fixed)
  with checkpoints.manager(str(workdir), keep=2) as mngr:
    for step in steps:
      checkpoints.save(mngr, step, arrays(step), {"config": {"seed": step}}, kept)


@pytest.fixture
def workdir(tmp_path):
  save_all(tmp_path, 1, 2, 3)
  return tmp_path


def newest(workdir):
  return workdir / checkpoints.FOLDER / "3"


def test_round_trip_keeps_every_bit_and_the_newest(workdir):
  assert checkpoints.steps(str(workdir)) == [3, 2]
  got, meta = checkpoints.latest(str(workdir))
  assert meta["step"] == 3 and meta["config"] == {"seed": 3}
  assert meta["versions"]["jax"]
  expected = whole(3)
  assert set(got) == set(expected)
  for path, x in expected.items():
    assert got[path].dtype == x.dtype
    np.testing.assert_array_equal(got[path], x)


# Characters that some library takes for a pattern, a separator, an escape or a home folder.
ODD = [
  "runs[lr=3e-5,seed=0]",
  "[!a]{b,c}",
  "a*?b",
  "a\\b",
  "#%20a%5Bb%5D",
  "~",
  "-a b'c\"\n$HOME&b;c:d::e",
  "日本 ü \udcff",
  "x" * 250,
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_checkpoint_in_a_folder_of_any_name_reads_whole(tmp_path, name, monkeypatch):
  # What the name would find if it were a pattern, a path of its own or an escape.
  others = {tmp_path / "axxb", tmp_path / "a", tmp_path / "a[b]"}
  for other in others:
    (other / "checkpoints").mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  save_all(name, 2)
  assert set(tmp_path.iterdir()) == {tmp_path / name, *others}
  assert not any((other / "checkpoints" / "2").exists() for other in others)
  got, meta = checkpoints.latest(name)
  assert meta["step"] == 2 and checkpoints.steps(name) == [2]
  for path, x in whole(2).items():
    np.testing.assert_array_equal(got[path], x)
  # Nothing in it points to where it was saved.
  moved = tmp_path / "moved"
  os.rename(name, moved)
  assert checkpoints.read(str(moved), 2)[1]["step"] == 2


def test_a_full_disk_names_the_folder_and_not_a_link(tmp_path, monkeypatch):
  def full(*unused, **ignored):
    raise OSError(28, "No space left on device")

  workdir = str(tmp_path / "[x]")
  with (
    pytest.raises(UserError, match=r"\[x\]/checkpoints: a checkpoint cannot be written"),
    checkpoints.manager(workdir, keep=1) as mngr,
  ):
    monkeypatch.setattr(type(mngr), "save", full)
    checkpoints.save(mngr, 1, arrays(1), {"config": {}})


def data_files(folder):
  return [p for p in sorted(folder.rglob("*")) if p.is_file() and "/d/" in p.as_posix()]


def flip_one_bit(folder):
  largest = max(data_files(folder), key=lambda p: p.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(bytes(content))


def truncate(folder):
  largest = max(data_files(folder), key=lambda p: p.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:100])


def lose_meta(folder):
  shutil.rmtree(folder / "meta")


def cut_meta(folder):
  path = folder / "meta" / "metadata"
  path.write_text(path.read_text()[:50])


def other_checksum(folder):
  path = folder / "meta" / "metadata"
  meta = json.loads(path.read_text())
  meta["arrays"]["state/step"]["crc32"] += 1
  meta["crc32"] = checkpoints._meta_crc(meta)
  path.write_text(json.dumps(meta))


def other_meta(folder):
  path = folder / "meta" / "metadata"
  path.write_text(path.read_text().replace('"seed": 3', '"seed": 7'))


def other_format(folder):
  path = folder / "meta" / "metadata"
  path.write_text(path.read_text().replace('"format": 3', '"format": 4'))


def lose_arrays(folder):
  shutil.rmtree(folder / "arrays")


DAMAGES = [flip_one_bit, truncate, lose_meta, cut_meta, other_checksum, other_meta, other_format]
DAMAGES += [lose_arrays]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_newest_is_skipped_with_a_warning(workdir, damage, caplog):
  damage(newest(workdir))
  with caplog.at_level("WARNING", logger="absl"):
    got, meta = checkpoints.latest(str(workdir))
  assert meta["step"] == 2
  np.testing.assert_array_equal(got["state/step"], 2)
  assert str(newest(workdir)) in caplog.text
  assert newest(workdir).exists(), "reading must not touch what it cannot read"


@pytest.mark.parametrize("where", [checkpoints.FOLDER, checkpoints.BEST])
@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not other_format],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_a_damaged_checkpoint_that_is_alone_stops_and_says_what_to_do(
  workdir, damage, where, caplog
):
  shutil.rmtree(workdir / checkpoints.FOLDER / "2")
  (workdir / checkpoints.FOLDER).rename(workdir / where)
  path = workdir / where / "3"
  damage(path)
  for read in (checkpoints.latest, checkpoints.shared, checkpoints.require):
    with pytest.raises(UserError) as error:
      read(str(workdir), where=where)
    text = str(error.value)
    assert text.startswith(f"{path} is damaged (") and "\n" not in text
    anew = "start anew" if where == checkpoints.FOLDER else "choose the best anew"
    assert text.endswith(f"there is no other checkpoint: put a whole copy in its place, or rename "
                         f"or delete {path} to {anew}")  # fmt: skip
  assert path.exists() and "skipping" not in caplog.text
  # As the line says.
  path.rename(path.with_name("3-damaged"))
  assert checkpoints.latest(str(workdir), where=where) is None


def test_the_config_of_a_workdir_comes_from_the_newest_meta_that_reads(workdir):
  assert checkpoints.recorded_config(str(workdir)) == {"seed": 3}
  lose_arrays(newest(workdir))
  assert checkpoints.recorded_config(str(workdir)) == {"seed": 3}
  cut_meta(newest(workdir))
  assert checkpoints.recorded_config(str(workdir)) == {"seed": 2}
  (workdir / checkpoints.FOLDER).rename(workdir / checkpoints.BEST)
  assert checkpoints.recorded_config(str(workdir)) == {"seed": 2}
  cut_meta(workdir / checkpoints.BEST / "2")
  assert checkpoints.recorded_config(str(workdir)) is None
  assert checkpoints.recorded_config(str(workdir / "nothing")) is None


def read_whole(workdir, caplog):
  """The step that is read, after a look at every bit of what it holds."""
  caplog.clear()
  got, meta = checkpoints.latest(str(workdir))
  step, expected = meta["step"], whole(meta["step"])
  assert meta["config"] == {"seed": step} and set(got) == set(expected)
  for path, x in expected.items():
    np.testing.assert_array_equal(got[path], x)
  assert (step == 3) != (str(newest(workdir)) in caplog.text), "no damage without a warning"
  return step


def test_no_file_of_a_checkpoint_can_be_damaged_unnoticed(workdir, caplog):
  rng = np.random.default_rng(0)
  files = [path for path in sorted(newest(workdir).rglob("*")) if path.is_file()]
  assert len(files) >= 6
  noticed = 0
  with caplog.at_level("WARNING", logger="absl"):
    for path in files:
      content = path.read_bytes()
      flipped = bytearray(content)
      flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
      for damaged in (b"", content[: len(content) // 2], bytes(flipped), bytes(len(content))):
        path.write_bytes(damaged)
        noticed += read_whole(workdir, caplog) == 2
      path.unlink()
      noticed += read_whole(workdir, caplog) == 2
      path.write_bytes(content)
    assert read_whole(workdir, caplog) == 3
  # The rest is of files that say nothing of what is restored, such as the marks of a commit.
  assert noticed >= 15


def test_frozen_weights_cannot_be_damaged_unnoticed(workdir):
  (path,) = (workdir / "frozen").iterdir()
  content, rng = path.read_bytes(), np.random.default_rng(0)
  damages: list = [
    b"",
    content[:4],
    content[: len(content) // 2],
    content[:-1],
    bytes(len(content)),
  ]
  # Of the head, with names, shapes and places, every byte: then some of the numbers.
  head = 8 + int.from_bytes(content[:8], "little")
  for place in (*range(head), *rng.integers(head, len(content), 40)):
    flipped = bytearray(content)
    flipped[place] ^= 1 << int(rng.integers(8))
    damages.append(bytes(flipped))
  said = set()
  for damage in (*damages, None):
    path.unlink() if damage is None else path.write_bytes(damage)
    try:
      got = checkpoints.read(str(workdir), 3)[0]
    except checkpoints.Damaged as error:
      said.add(str(error))
      assert str(path) in str(error) and "\n" not in str(error)
    else:
      # A flipped blank of the head.
      for name, x in whole(3).items():
        np.testing.assert_array_equal(got[name], x)
      assert damage[8 : head - 8] == content[8 : head - 8] and damage[head:] == content[head:]
  assert len(said) > 10 and f"its frozen weights, {path}, are missing" in said
  # All checkpoints name it: nothing is started anew, renamed or removed.
  for read in (checkpoints.latest, checkpoints.shared, checkpoints.require):
    with pytest.raises(UserError, match=f"all 2 checkpoints .* {path}, are missing.*start anew"):
      read(str(workdir), **({} if read is checkpoints.require else {"set_aside": True}))
  assert checkpoints.steps(str(workdir)) == [3, 2]
  # A whole copy in its place, or a run that has the same weights, mends them all.
  path.write_bytes(content[:-1])
  frozen_weights.keep(str(workdir), checkpoints.subtree(frozen(), "state/params"))
  assert path.read_bytes() == content and checkpoints.latest(str(workdir))[1]["step"] == 3


def test_a_checkpoint_of_another_format_is_refused_in_one_line(workdir):
  path = newest(workdir) / "meta" / "metadata"
  meta = json.loads(path.read_text()) | {"format": checkpoints.FORMAT - 1}
  meta["crc32"] = checkpoints._meta_crc(meta)
  path.write_text(json.dumps(meta))
  said = f"has format {checkpoints.FORMAT - 1}, this version reads {checkpoints.FORMAT}"
  with pytest.raises(UserError, match=said):
    checkpoints.latest(str(workdir))


def test_a_half_written_checkpoint_has_another_name(workdir):
  half = workdir / checkpoints.FOLDER / "4.orbax-checkpoint-tmp"
  shutil.copytree(newest(workdir), half)
  assert checkpoints.latest(str(workdir))[1]["step"] == 3
  # The next run takes its room back, whichever steps it saves.
  with checkpoints.manager(str(workdir), keep=2):
    assert not half.exists()
  assert checkpoints.steps(str(workdir)) == [3, 2]


def test_set_aside_frees_the_step_for_a_rerun(workdir):
  flip_one_bit(newest(workdir))
  assert checkpoints.latest(str(workdir), set_aside=True)[1]["step"] == 2
  with checkpoints.manager(str(workdir), keep=2) as mngr:
    checkpoints.save(mngr, 3, arrays(3), {"config": {}})
  got, meta = checkpoints.latest(str(workdir))
  assert meta["step"] == 3
  np.testing.assert_array_equal(got["state/step"], 3)
  assert list((workdir / checkpoints.FOLDER).glob("damaged-3-*"))


def test_nothing_to_restore_says_what_to_run(tmp_path):
  assert checkpoints.latest(str(tmp_path)) is None
  with pytest.raises(UserError, match="--stage=train"):
    checkpoints.require(str(tmp_path))


def test_unflatten_like_restores_optax_states_and_lists_what_does_not_fit():
  params = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.zeros(4, np.float32)}
  state = {"params": params, "opt": optax.adamw(1e-3).init(params)}
  flat = checkpoints.flatten(state)
  changed = {path: x + 1 for path, x in flat.items()}
  restored = checkpoints.unflatten_like(state, changed)
  assert type(restored["opt"][0]) is type(state["opt"][0])
  np.testing.assert_array_equal(restored["opt"][0].mu["b"], np.ones(4))
  wrong = {p: x for p, x in flat.items() if p != "params/b"} | {
    "params/c": np.zeros(1),
    "params/a/kernel": np.ones((3, 2)),
  }
  with pytest.raises(ValueError) as error:
    checkpoints.unflatten_like(state, wrong)
  for part in ("missing params/b", "extra params/c", "params/a/kernel is (3, 2), not (2, 3)"):
    assert part in str(error.value)


def test_versions_name_what_is_installed():
  import jax

  assert checkpoints.versions()["jax"] == jax.__version__
  assert Path(checkpoints.folder("x")).is_absolute()
