"""A disk that is full: one line that names the path, and what was there before stays good."""

import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.language.describers import describe, llm
from lafg_jax.language.encoders import cache as feature_cache
from lafg_jax.tasks.class_retrieval import train
from lafg_jax.training import checkpoints, frozen_features, frozen_weights, loop, metrics_log
from lafg_jax.training.step import Objective
from lafg_jax.utils import files, jsonl
from lafg_jax.utils.errors import UserError


def one_line(error, path):
  text = str(error.value)
  assert "\n" not in text and str(path) in text
  return text


def test_the_disk_fills_up_while_a_checkpoint_is_saved(
  small_disk, tmp_path, dataset, config_with, monkeypatch, capfd
):
  config = config_with(loss__alignment="none", train__freeze="backbone/block_0/attention")
  train.run(config, str(tmp_path / "unbroken"), dataset, None)
  whole = checkpoints.read(str(tmp_path / "unbroken"), 8)[0]
  workdir, save = str(small_disk.folder / "run"), checkpoints.save

  def save_on_a_full_disk(mngr, step, arrays, meta, frozen):
    if step == 4:
      mngr.wait_until_finished()
      small_disk.fill()
    save(mngr, step, arrays, meta, frozen)

  # Full from the start.
  Path(workdir).mkdir()
  small_disk.fill()
  with pytest.raises(UserError, match="frozen weights cannot be written .No space left") as error:
    train.run(config, workdir, dataset, None)
  one_line(error, f"{workdir}/frozen")
  small_disk.free()
  assert [path for path in Path(workdir).rglob("*") if path.is_file()] == []
  monkeypatch.setattr(checkpoints, "save", save_on_a_full_disk)
  with pytest.raises(UserError, match="No space left on device") as error:
    train.run(config, workdir, dataset, None)
  one_line(error, checkpoints.folder(workdir))
  assert "Traceback" not in capfd.readouterr().err
  monkeypatch.undo()
  assert checkpoints.latest(workdir)[1]["step"] == 2
  names = {path.name for path in Path(checkpoints.folder(workdir)).iterdir()}
  assert names == {"2"}, "what is half written takes no room"
  small_disk.free()
  assert train.run(config, workdir, dataset, None) == (8, False)
  resumed = checkpoints.read(workdir, 8)[0]
  for path, x in whole.items():
    np.testing.assert_array_equal(x, resumed[path], err_msg=path)


def arrays(step, size):
  values = np.random.default_rng(step).standard_normal(size).astype(np.float32)
  return {"state/step": np.asarray(step, np.int32), "state/params/kernel": values}


def test_a_save_that_fails_anywhere_leaves_the_one_before(tmp_path, files_end_at):
  with checkpoints.manager(str(tmp_path), keep=2) as mngr:
    checkpoints.save(mngr, 1, arrays(1, 1000), {"config": {}})
  # The smaller the file that may be, the earlier the save fails: at the arrays, or at the meta.
  for step, limit in enumerate((30_000, 3_000, 300, 10), start=2):
    with pytest.raises(UserError, match="File too large") as error, files_end_at(limit):
      with checkpoints.manager(str(tmp_path), keep=2) as mngr:
        checkpoints.save(mngr, step, arrays(step, 50_000), {"config": {}})
    one_line(error, checkpoints.folder(str(tmp_path)))
    assert checkpoints.latest(str(tmp_path))[1]["step"] == 1
    assert checkpoints.steps(str(tmp_path)) == [1]


def test_what_a_thread_writes_after_its_save_failed_is_removed_too(tmp_path):
  late = Path(checkpoints.folder(str(tmp_path)), "4.orbax-checkpoint-tmp", "arrays")
  late.mkdir(parents=True)

  def write_on():
    for _ in range(30):
      late.mkdir(parents=True, exist_ok=True)
      time.sleep(0.01)

  writer = threading.Thread(target=write_on)
  writer.start()
  with checkpoints.manager(str(tmp_path), keep=2):
    pass
  writer.join()
  assert not late.parent.exists()


def test_frozen_weights_that_cannot_be_written_are_one_line_and_leave_nothing(
  tmp_path, files_end_at
):
  fixed = {"kernel": arrays(1, 50_000)["state/params/kernel"]}
  for limit in (100_000, 300, 1):
    with pytest.raises(UserError, match="File too large.*make room") as error, files_end_at(limit):
      frozen_weights.keep(str(tmp_path), fixed)
    one_line(error, tmp_path / "frozen")
    assert not list((tmp_path / "frozen").iterdir())
  kept = frozen_weights.keep(str(tmp_path), fixed)
  read = frozen_weights.read(str(tmp_path), kept)
  np.testing.assert_array_equal(read["state/params/kernel"], fixed["kernel"])


class Scalar:
  """A metric as the device holds it."""

  def addressable_data(self, index):
    return np.ones(1, np.float32)


MADE = Objective({}, None, None, {}, {}, 8, {})
FEED = loop.Feed(None, None, (), lambda step: [])


def test_metrics_that_cannot_be_written_name_their_file(
  tmp_path, config_with, files_end_at, monkeypatch
):
  monkeypatch.setattr(metrics_log.divergence, "number", lambda x: 1.0 if type(x) is Scalar else x)
  metrics = dict.fromkeys(("loss", "grad_norm", "param_norm"), Scalar())
  config = config_with(train__steps=10**6)
  log = metrics_log.MetricsLog(str(tmp_path), 0, config.train, MADE, FEED)
  with pytest.raises(OSError) as error, files_end_at(5_000), log:
    for step in range(1, 1000):
      log.write(step, metrics)
  assert error.value.filename == str(tmp_path / metrics_log.FILE)
  lines = metrics_log.read(str(tmp_path / metrics_log.FILE))
  assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)) and len(lines) > 5


@pytest.mark.parametrize("by_numpy", [False, True])
def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, files_end_at, by_numpy):
  path = tmp_path / "kept"
  path.write_bytes(b"before")
  with pytest.raises(OSError) as error, files_end_at(1_000):
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
      if by_numpy:
        np.savez(file, x=np.zeros(10_000))
      else:
        file.write(bytes(10_000))
  assert error.value.filename == str(path) and error.value.strerror
  assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_descriptions_that_cannot_be_written_name_their_file(
  tmp_path, config_with, dataset, files_end_at
):
  language = config_with(language__describer="synthetic").language
  with pytest.raises(OSError) as error, files_end_at(500):
    describe.run(language, str(tmp_path), dataset.class_names, [], False)
  assert error.value.filename == str(tmp_path / "descriptions.jsonl")
  assert not list(tmp_path.iterdir())


def test_a_class_that_cannot_be_kept_names_the_file_and_those_before_are_there(
  tmp_path, files_end_at
):
  path, row = tmp_path / "partial.jsonl", {"class": "a", "sentences": ["b" * 100]}
  with pytest.raises(OSError) as error, files_end_at(300), jsonl.appending(path) as file:
    for _ in range(5):
      jsonl.append(file, row)
  assert error.value.filename == str(path)
  assert llm._read_partial(path) == {"a": ["b" * 100]}


def test_features_that_cannot_be_kept_are_one_line(tmp_path, files_end_at):
  chunk = (np.zeros((1000, 1, 8), np.float32), np.zeros(1000, np.int32))
  with pytest.raises(UserError, match="--workdir") as error, files_end_at(1_000):
    frozen_features._write(tmp_path / "features", 0, chunk)
  one_line(error, tmp_path / "features")
  assert not list((tmp_path / "features").iterdir())
  cache = feature_cache.FeatureCache(str(tmp_path / "cache"), "encoder")
  with pytest.raises(UserError, match="language.cache") as error, files_end_at(1_000):
    cache.add([cache.key(b"text")], np.zeros((1, 10_000), np.float32))
    cache.flush()
  one_line(error, tmp_path / "cache")


def test_orbaxs_own_account_of_a_failure_is_left_out_and_others_are_not(tmp_path):
  def record(path, failed):
    info = (ValueError, ValueError("x"), None) if failed else None
    return logging.LogRecord("absl", logging.ERROR, path, 1, "text", (), info)

  orbax = checkpoints.ocp.__file__
  said = [
    checkpoints._without_orbax_tracebacks(record(p, f)) for p in (orbax, "a.py") for f in (1, 0)
  ]
  assert said == [False, True, True, True]


def test_what_a_save_writes_after_it_has_failed_is_gone_after_the_close(tmp_path):
  folder = Path(checkpoints.folder(str(tmp_path)))
  with pytest.raises(UserError, match="make room"), checkpoints.manager(str(tmp_path), keep=2):
    # Another thread of Orbax's, a moment late.
    (folder / "4.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)
    raise UserError("make room")
  assert not list(folder.iterdir())
