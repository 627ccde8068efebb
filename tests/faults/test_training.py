"""Faults in the middle of training: divergence, memory, vanished images, clocks and signals."""

import os
import shutil
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lafg_jax.data import datasets, pipeline
from lafg_jax.runtime import out_of_memory
from lafg_jax.tasks.class_retrieval import train
from lafg_jax.tasks.class_retrieval.batches import plan
from lafg_jax.training import checkpoints, frozen_features, loop, metrics_log
from lafg_jax.utils.errors import UserError


@pytest.fixture
def config(config_with):
  return config_with(loss__alignment="none", train__steps=12, train__checkpoint_every=3)


@pytest.mark.parametrize(("step", "saved"), [(8, "the checkpoint of step 6"), (2, "no checkpoint")])
def test_divergence_names_its_first_step_and_the_batch(
  tmp_path, dataset, config, monkeypatch, step, saved
):
  # Lines are rare, so that the step is noticed late: with the next checkpoint.
  config.train.log_every = 100
  make_sound = loop.make_step

  def make(*args):
    sound = make_sound(*args)

    def with_nan(state, *given):
      factor = jnp.where(state.step == step - 1, jnp.nan, 1.0)
      state, metrics = sound(state, *given)
      params = jax.tree.map(lambda x: x * factor, state.params)
      return state.replace(params=params), metrics | {"loss": metrics["loss"] * factor}

    return with_nan

  monkeypatch.setattr(loop, "make_step", make)
  # Neither the program of another test nor, for another test, this one.
  monkeypatch.setattr(loop, "_mapped_steps", {})
  with pytest.raises(UserError, match=f"diverged at step {step} .*{saved}") as error:
    train.run(config, str(tmp_path), dataset, None)
  assert "\n" not in str(error.value)
  # What the loop was given at that step, rather than what anybody computes anew.
  batches = pipeline.train_batches(
    dataset,
    config.data,
    plan(dataset, config.data, config.seed),
    seed=config.seed,
    start_step=step - 1,
    num_steps=1,
  )
  expected = [dataset.ids[row] for row in next(batches)["index"]]
  assert (tmp_path / f"diverged_at_step_{step}.txt").read_text().splitlines() == expected
  assert ", ".join(expected[:3]) in str(error.value)
  found = checkpoints.latest(str(tmp_path))
  assert (found[1]["step"] if found else 0) == (step - 1) // 3 * 3
  assert found is None or all(np.isfinite(x).all() for x in found[0].values())


def test_memory_that_runs_out_says_how_many_rows_fit(tmp_path, dataset, config, monkeypatch):
  plans = {}

  class NoMemory:
    def __init__(self, mapped):
      self.lower = mapped.lower

    def __call__(self, *args):
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")

  def planner(*args):
    needs = make_planner(*args)
    return lambda rows: plans.setdefault(rows, needs(rows))

  pmap, make_planner = jax.pmap, loop._planner
  monkeypatch.setattr(jax, "pmap", lambda *args, **kwargs: NoMemory(pmap(*args, **kwargs)))
  monkeypatch.setattr(loop, "_planner", planner)
  monkeypatch.setattr(out_of_memory, "device_bytes", lambda: limit[0])
  monkeypatch.setattr(out_of_memory, "_USABLE", 1)
  monkeypatch.setattr(loop, "_mapped_steps", {})
  config.data.classes_per_batch = 40
  limit = [2**40]
  with pytest.raises(UserError, match="out of memory with 40 classes x 2 images a batch, 80 rows"):
    train.run(config, str(tmp_path), dataset, None)
  # All of it fits, as XLA plans: something else is in the way, and half is tried.
  with pytest.raises(UserError, match="--config.train.rows_per_chunk=40,"):
    train.run(config, str(tmp_path), dataset, None)

  config.train.rows_per_chunk = 80
  limit[0] = plans[80] * 8 // 10
  with pytest.raises(UserError) as error:
    train.run(config, str(tmp_path), dataset, None)
  assert "\n" not in str(error.value)
  fits = int(str(error.value).split("--config.train.rows_per_chunk=")[1].split(",")[0])
  assert 1 <= fits < 80 and plans[fits] <= limit[0]


@settings(max_examples=200, deadline=None)
@given(
  fixed=st.integers(0, 10**9),
  known=st.floats(0, 1),
  each=st.integers(1, 10**7),
  rows=st.integers(1, 2000),
  share=st.floats(0.01, 1.5),
)
def test_the_rows_that_are_named_fit_after_two_plans(fixed, known, each, rows, share):
  planned = []

  def needs(count):
    planned.append(count)
    return fixed + each * count

  limit = share * needs(rows)
  planned.clear()
  found = out_of_memory.fitting(needs, rows, limit, int(fixed * known))
  assert len(planned) <= 2 and 0 <= found <= rows
  best = min(max(int((limit - fixed) // each), 0), rows)
  assert found <= best and (found == best == rows or found >= 0.85 * best - 2)


def test_features_and_embeddings_go_on_with_half_of_the_rows(monkeypatch, caplog):
  from lafg_jax.runtime import devices

  # It asks the compiler once a process, by the jit that is replaced below.
  devices.compiler_options()
  sizes = []

  def jit(function, **kwargs):
    def limited(params, x):
      sizes.append(len(x))
      if len(x) > 8:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
      return function(params, x)

    return limited

  monkeypatch.setattr(jax, "jit", jit)
  apply = devices.spread(lambda p, x: x * p, np.float32(2))
  rows = np.arange(21, dtype=np.float32)[:, None]
  with caplog.at_level("WARNING", logger="absl"):
    np.testing.assert_array_equal(apply(rows), rows * 2)
    np.testing.assert_array_equal(apply(rows[:9]), rows[:9] * 2)
  assert max(sizes) == 21 and sizes.count(21) == 1 and caplog.text.count("out of memory") == 2

  monkeypatch.setattr(jax, "jit", lambda *args, **kwargs: jit_fails)
  with pytest.raises(UserError, match="evaluate.batch_size"):
    devices.spread(lambda p, x: x, np.float32(2))(rows)


def jit_fails(*args):
  raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")


def test_images_that_vanish_are_named_and_the_run_goes_on(
  tmp_path, dataset, config, monkeypatch, caplog
):
  (tmp_path / "images").mkdir()
  paths = [str(tmp_path / "images" / f"{i}.png") for i in range(len(dataset))]
  for path, image in zip(paths, dataset.images, strict=True):
    Image.fromarray(image).save(path, compress_level=0)
  files = datasets.Dataset(**(vars(dataset) | {"images": np.array(paths), "ids": tuple(paths)}))
  last = set(np.unique(files.labels, return_index=True)[1].tolist())
  watch = metrics_log.MetricsLog.watch

  def vanish(self, step, metrics):
    if step == 1:
      # All images of all classes but one each.
      for row, path in enumerate(paths):
        if row not in last:
          os.unlink(path)
    watch(self, step, metrics)

  monkeypatch.setattr(metrics_log.MetricsLog, "watch", vanish)
  config.train.steps, config.data.prefetch = 9, 0
  with caplog.at_level("WARNING", logger="absl"):
    assert train.run(config, str(tmp_path / "run"), files, None) == (9, False)
  named = [line.split("cannot read ")[1].split(";")[0] for line in caplog.text.splitlines()
           if "cannot read " in line]  # fmt: skip
  assert named and len(named) == len(set(named)) and set(named) <= set(paths)
  assert not any(Path(path).exists() for path in named)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, dataset, config, monkeypatch, caplog):
  train.run(config, str(tmp_path / "unbroken"), dataset, None)
  now = [time.time()]

  def backwards():
    now[0] -= 3600.0
    return now[0]

  monkeypatch.setattr(time, "time", backwards)
  monkeypatch.setattr(time, "time_ns", lambda: int(backwards() * 1e9))
  workdir, watch = tmp_path / "broken", metrics_log.MetricsLog.watch

  def stop(self, step, metrics):
    if step == 7:
      os.kill(os.getpid(), signal.SIGTERM)
    watch(self, step, metrics)

  monkeypatch.setattr(metrics_log.MetricsLog, "watch", stop)
  with caplog.at_level("INFO", logger="absl"):
    step, stopped = train.run(config, str(workdir), dataset, None)
    assert stopped and 7 <= step < 12
    # The newest checkpoint is the oldest file.
    for saved in checkpoints.steps(str(workdir)):
      os.utime(workdir / checkpoints.FOLDER / str(saved), (10**9 - saved * 1000,) * 2)
    monkeypatch.setattr(metrics_log.MetricsLog, "watch", watch)
    assert train.run(config, str(workdir), dataset, None) == (12, False)
  assert f"going on from the checkpoint of step {step}" in caplog.text
  assert "ETA 0m" in caplog.text and "ETA -" not in caplog.text
  whole, broken = (checkpoints.read(str(tmp_path / n), 12)[0] for n in ("unbroken", "broken"))
  for path, x in whole.items():
    np.testing.assert_array_equal(x, broken[path], err_msg=path)


def test_a_damaged_checkpoint_that_is_alone_does_not_let_the_run_start_anew(
  tmp_path, dataset, config
):
  config.train.keep_checkpoints = 1
  assert train.run(config, str(tmp_path), dataset, None) == (12, False)
  (path,) = (tmp_path / checkpoints.FOLDER).iterdir()
  log = (tmp_path / metrics_log.FILE).read_bytes()
  (path / "meta" / "metadata").write_text("{")
  for _ in range(2):
    with pytest.raises(UserError, match=f"^{path} is damaged .* or delete {path} to start anew$"):
      train.run(config, str(tmp_path), dataset, None)
  assert (tmp_path / metrics_log.FILE).read_bytes() == log
  path.rename(path.with_name("12-damaged"))
  assert train.run(config, str(tmp_path), dataset, None) == (12, False)
  lines = metrics_log.read(str(tmp_path / metrics_log.FILE))
  assert [line["step"] for line in lines] == list(range(1, 13))


def test_a_crash_in_the_very_first_save_is_no_damage(tmp_path, dataset, config):
  # A kill leaves all that Orbax wrote under its temporary name: the last thing it does is rename.
  whole = tmp_path / "whole"
  train.run(config, str(whole), dataset, None)
  unfinished = tmp_path / "run" / checkpoints.FOLDER / "3.orbax-checkpoint-tmp-1"
  shutil.copytree(whole / checkpoints.FOLDER / "12", unfinished)
  assert train.run(config, str(tmp_path / "run"), dataset, None) == (12, False)
  assert not unfinished.exists()
  one, other = (checkpoints.read(str(tmp_path / name), 12)[0] for name in ("whole", "run"))
  for path, x in one.items():
    np.testing.assert_array_equal(x, other[path], err_msg=path)


def at_step(monkeypatch, step, numbers):
  watch = metrics_log.MetricsLog.watch

  def send(self, now, metrics):
    watch(self, now, metrics)
    if now == step:
      for number in numbers:
        os.kill(os.getpid(), number)

  monkeypatch.setattr(metrics_log.MetricsLog, "watch", send)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_saves_and_ends(tmp_path, dataset, config, monkeypatch, number):
  before = signal.getsignal(number)
  at_step(monkeypatch, 4, [number])
  step, stopped = train.run(config, str(tmp_path), dataset, None)
  assert stopped and 4 <= step <= 5
  assert checkpoints.latest(str(tmp_path))[1]["step"] == step
  assert signal.getsignal(number) is before


@pytest.fixture
def interruptible():
  """Whoever has started the tests in the background has left SIGINT ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_leaves_whichever_came_first(
  tmp_path, dataset, config, monkeypatch, first, interruptible
):
  at_step(monkeypatch, 4, [first, signal.SIGINT])
  with pytest.raises(KeyboardInterrupt):
    train.run(config, str(tmp_path), dataset, None)
  assert checkpoints.latest(str(tmp_path))[1]["step"] == 3
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_while_features_are_made_keeps_the_files_that_are_done(
  tmp_path, dataset, config_with, monkeypatch, caplog
):
  config = config_with(
    loss__alignment="none", train__frozen_backbone=True, evaluate__batch_size=8, train__steps=2,
    model__conv_stem=False,
  )  # fmt: skip
  monkeypatch.setattr(frozen_features, "CHUNK", 16)
  write, written = frozen_features._write, []

  def write_and_stop(folder, start, chunk):
    write(folder, start, chunk)
    written.append(start)
    if len(written) == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(frozen_features, "_write", write_and_stop)
  with caplog.at_level("INFO", logger="absl"):
    assert train.run(config, str(tmp_path), dataset, None) == (0, True)
  assert "features: stopped, 3 of 75 files are kept" in caplog.text
  assert len(list(tmp_path.glob("features/*/*.npz"))) == 3
  assert train.run(config, str(tmp_path), dataset, None) == (2, False)
  assert sorted(written) == list(range(0, 1200, 16)), "no file was made twice"
