"""Training: the same on any number of devices, resumable bit by bit, plain when it goes wrong."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from lafg_jax.data import datasets
from lafg_jax.tasks.class_retrieval import objective, train
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import checkpoints, loop, metrics_log, resume
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def flags(small, **changes):
  values = small | {k.replace("__", "."): v for k, v in changes.items()}
  return [f"--config.{key}={value}" for key, value in values.items()]


def run_main(workdir, *extra, start=("-m", "lafg_jax.main")):
  command = [sys.executable, *start, "--config", "configs/synthetic.py:prototypes"]
  command += [f"--workdir={workdir}", "--stage=train", "--config.loss.alignment=orthogonal"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  return subprocess.Popen(
    [*command, *extra], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
  )


def finish(process):
  _, stderr = process.communicate(timeout=1000)
  return process.returncode, stderr


def wait_until(happened, process):
  """Returns when `happened()` or when the process has ended by itself."""
  deadline = time.monotonic() + 1000
  while not happened() and process.poll() is None:
    assert time.monotonic() < deadline, "nothing happened"
    time.sleep(0.02)


def wait_for_lines(path, count, process):
  wait_until(lambda: len(metrics_log.read(str(path))) >= count, process)
  assert process.poll() is None, process.stderr.read()


def test_sigterm_saves_and_exits_75_and_the_same_command_goes_on(tmp_path, small):
  extra = flags(small, train__steps=4000, train__checkpoint_every=4000)
  process = run_main(tmp_path, *extra)
  wait_for_lines(tmp_path / metrics_log.FILE, 2, process)
  process.terminate()
  code, stderr = finish(process)
  assert code == 75, stderr
  stopped = checkpoints.steps(str(tmp_path))[0]
  assert 0 < stopped < 4000
  assert f"stopped at step {stopped} of 4000" in stderr
  process = run_main(tmp_path, *extra)
  wait_for_lines(tmp_path / metrics_log.FILE, stopped + 2, process)
  process.kill()
  assert f"going on from the checkpoint of step {stopped}" in process.communicate()[1]


def test_same_seed_same_parameters_and_other_seed_others(
  tmp_path, dataset, prototypes, config_with
):
  finals = []
  for name, seed in (("a", 0), ("b", 0), ("c", 1)):
    config = config_with(seed=seed)
    assert train.run(config, str(tmp_path / name), dataset, prototypes) == (8, False)
    finals.append(checkpoints.read(str(tmp_path / name), 8)[0])
  same, again, other = (x["state/params/embedding/kernel"] for x in finals)
  np.testing.assert_array_equal(same, again)
  assert not np.array_equal(same, other)


@pytest.mark.parametrize("form", ["prototype", "distribution", "vocabulary", "onehot", "none"])
def test_every_form_lowers_its_loss(tmp_path, dataset, prototypes, form, config_with):
  config = config_with(
    loss__alignment=form, train__steps=60, train__warmup=0.0, train__checkpoint_every=60
  )
  train.run(config, str(tmp_path), dataset, None if form in ("onehot", "none") else prototypes)
  lines = metrics_log.read(str(tmp_path / metrics_log.FILE))
  first, last = (np.mean([x["loss"] for x in part]) for part in (lines[:10], lines[-10:]))
  assert last < first
  arrays, meta = checkpoints.read(str(tmp_path), 60)
  has_text = any(path.startswith("state/params/projectors/text") for path in arrays)
  assert has_text == (form not in ("onehot", "none"))
  assert meta["dataset"]["class_names"] == list(dataset.class_names)


@pytest.mark.parametrize(
  ("changes", "moves"),
  [
    ({"loss__projector": "mean"}, False),
    ({"loss__projector": "fixed"}, False),
    ({"loss__projector": "free"}, True),
    ({"loss__projector": "fixed", "loss__alignment": "distribution"}, False),
    ({"loss__projector": "mean", "loss__alignment": "distribution"}, True),
  ],
)
def test_the_text_projector_moves_only_where_it_learns(
  tmp_path, dataset, prototypes, changes, moves, config_with
):
  config = config_with(**changes, train__weight_decay=0.1)
  before = objective.build(config, len(dataset.class_names), prototypes)
  train.run(config, str(tmp_path), dataset, prototypes)
  after = checkpoints.read(str(tmp_path), 8)[0]["state/params/projectors/text"]
  assert np.array_equal(before.params["projectors"]["text"], after) != moves


def test_mean_projectors_follow_by_the_ema_step(tmp_path, dataset, prototypes, config_with):
  config = config_with(train__steps=1, loss__ema_step=0.25, loss__alignment="distribution")
  before = objective.build(config, len(dataset.class_names), prototypes)
  train.run(config, str(tmp_path), dataset, prototypes)
  arrays, _ = checkpoints.read(str(tmp_path), 1)
  for side in ("image", "text"):
    expected = (
      0.75 * before.params["projectors"][side] + 0.25 * arrays[f"state/params/projectors/{side}"]
    )
    np.testing.assert_allclose(arrays[f"state/averages/projectors/{side}"], expected, rtol=1e-6)


def test_another_config_in_the_same_workdir_is_refused(tmp_path, dataset, prototypes, config_with):
  train.run(config_with(), str(tmp_path), dataset, prototypes)
  with pytest.raises(UserError, match=r"model.width: 16 -> 32.*--workdir"):
    train.run(config_with(model__width=32), str(tmp_path), dataset, prototypes)
  # What does not change the result may change.
  assert train.run(config_with(train__log_every=3), str(tmp_path), dataset, prototypes) == (
    8,
    False,
  )


def test_a_run_goes_on_under_another_config_where_it_is_told_to_and_can(
  tmp_path, dataset, config_with, caplog
):
  base = {"loss__alignment": "none", "train__steps": 4}
  train.run(config_with(**base), str(tmp_path), dataset, None)
  changed = {**base, "train__steps": 6, "loss__temperature": 0.3}
  with pytest.raises(UserError, match=r"loss.temperature: 0.1 -> 0.3; train.steps: 4 -> 6.*allow"):
    train.run(config_with(**changed), str(tmp_path), dataset, None)
  with caplog.at_level("WARNING", logger="absl"):
    config = config_with(**changed, train__allow_changed=True)
    assert train.run(config, str(tmp_path), dataset, None) == (6, False)
  assert "under another config: loss.temperature: 0.1 -> 0.3; train.steps: 4 -> 6" in caplog.text
  # What it went on under is its config now.
  assert train.run(config_with(**changed), str(tmp_path), dataset, None) == (6, False)
  for more in ({"model__width": 32}, {"train__optimizer": "sgd"}):
    config = config_with(**(changed | more | {"train__steps": 8, "train__allow_changed": True}))
    with pytest.raises(UserError, match=r"step 6 cannot go on under this config \(.* more\)"):
      train.run(config, str(tmp_path), dataset, None)


@pytest.fixture
def files(tmp_path, dataset):
  """The finches as files."""
  from PIL import Image

  paths = [str(tmp_path / f"{i}.png") for i in range(len(dataset))]
  for path, image in zip(paths, dataset.images, strict=True):
    Image.fromarray(image).save(path)
  return datasets.Dataset(**(vars(dataset) | {"images": np.array(paths), "ids": tuple(paths)}))


def test_other_content_of_a_training_image_is_refused(tmp_path, files, prototypes, config_with):
  config, workdir = config_with(), tmp_path / "run"
  train.run(config, str(workdir), files, prototypes)
  assert train.run(config, str(workdir), files, prototypes) == (8, False)
  Path(files.images[3]).write_bytes(b"another")
  with pytest.raises(UserError, match=r"\(the training images or classes\): pass another"):
    train.run(config, str(workdir), files, prototypes)


def test_other_pretrained_weights_are_refused(tmp_path, dataset, config_with):
  source = tmp_path / "weights.safetensors"
  source.write_bytes(b"some")
  config = config_with(model__pretrained=str(source), loss__alignment="none")
  old = train.meta(config, dataset, None)
  resume.check_same(config, old, train.meta(config, dataset, None), str(tmp_path))
  source.write_bytes(b"same")
  new = train.meta(config, dataset, None)
  with pytest.raises(UserError, match=r"another config \(the pretrained weights\)"):
    resume.check_same(config, old, new, str(tmp_path))


def test_a_damaged_checkpoint_costs_only_its_steps(tmp_path, dataset, prototypes, config_with):
  train.run(config_with(), str(tmp_path / "whole"), dataset, prototypes)
  train.run(config_with(), str(tmp_path / "hurt"), dataset, prototypes)
  meta = tmp_path / "hurt" / checkpoints.FOLDER / "8" / "meta" / "metadata"
  meta.write_text("{")
  assert train.run(config_with(), str(tmp_path / "hurt"), dataset, prototypes) == (8, False)
  whole, hurt = (checkpoints.read(str(tmp_path / name), 8)[0] for name in ("whole", "hurt"))
  for path, x in whole.items():
    np.testing.assert_array_equal(x, hurt[path], err_msg=path)


def test_when_every_checkpoint_is_damaged_nothing_is_started_anew(
  tmp_path, dataset, prototypes, config_with
):
  train.run(config_with(), str(tmp_path), dataset, prototypes)
  assert len(checkpoints.steps(str(tmp_path))) == 2
  for step in checkpoints.steps(str(tmp_path)):
    (tmp_path / checkpoints.FOLDER / str(step) / "meta" / "metadata").write_text("{")
  with pytest.raises(UserError, match="all 2 checkpoints"):
    train.run(config_with(), str(tmp_path), dataset, prototypes)
  assert len(checkpoints.steps(str(tmp_path))) == 2


def test_a_damaged_metrics_log_does_not_stop_a_run(
  tmp_path, dataset, prototypes, caplog, config_with
):
  train.run(config_with(train__steps=8), str(tmp_path), dataset, prototypes)
  path = tmp_path / metrics_log.FILE
  path.write_text(path.read_text().replace("{", "\x00", 1) + '{"step": 9, "lo')
  with caplog.at_level("WARNING", logger="absl"):
    assert [line["step"] for line in metrics_log.read(str(path))] == list(range(2, 9))
  assert "1 damaged lines" in caplog.text


def test_a_diverged_run_says_so_and_saves_nothing_of_it(tmp_path, dataset, prototypes, config_with):
  config = config_with(
    train__learning_rate=1e30, train__optimizer="sgd", train__clip_norm=0.0, train__warmup=0.0,
    train__weight_decay=1.0,
  )  # fmt: skip
  with pytest.raises(UserError, match="train.learning_rate"):
    train.run(config, str(tmp_path), dataset, prototypes)
  found = checkpoints.latest(str(tmp_path))
  assert found is None or all(np.isfinite(x).all() for x in found[0].values())


def test_more_classes_than_there_are_is_one_line(tmp_path, dataset, prototypes, config_with):
  with pytest.raises(UserError, match=r"data.classes_per_batch=41.*40"):
    train.run(config_with(data__classes_per_batch=41), str(tmp_path), dataset, prototypes)


def test_collapse_is_warned_of_once(tmp_path, dataset, prototypes, caplog, config_with):
  # All classes have one prototype: the text side is constant whatever is learned.
  constant = LoadedPrototypes(
    **(vars(prototypes) | {"prototypes": np.ones_like(prototypes.prototypes)})
  )
  config = config_with(train__steps=60, train__checkpoint_every=60)
  with caplog.at_level("WARNING", logger="absl"):
    train.run(config, str(tmp_path), dataset, constant)
  assert caplog.text.count("have collapsed") == 1


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equal_embeddings_have_the_loss_of_a_guess(config_with, reduction):
  # 10 images of 2 slots: each has its positive among 2 x 5 - 1 others that look the same.
  equal = objective.equal_l_aux(config_with(loss__reduction=reduction, loss__auxiliary="pairwise"))
  assert equal == pytest.approx(np.log(9) * (1 if reduction == "mean" else 2), rel=1e-5)
  supcon = config_with(loss__reduction="mean", loss__auxiliary="supcon")
  assert objective.equal_l_aux(supcon) == pytest.approx(np.log(9), rel=1e-5)


def test_a_model_that_does_no_better_than_a_guess_is_warned_of_once(
  tmp_path, dataset, prototypes, caplog, config_with
):
  config = config_with(
    train__learning_rate=0.0, train__steps=40, train__checkpoint_every=40,
    loss__alignment="none", loss__reduction="mean",
  )  # fmt: skip
  with caplog.at_level("WARNING", logger="absl"):
    train.run(config, str(tmp_path), dataset, prototypes)
  assert caplog.text.count("no better than a guess") == 1


def test_what_is_warned_of_depends_on_the_loss_and_how_much_is_done(config_with):
  def says(l_aux, done, **changes):
    config = config_with(loss__reduction="mean", loss__alignment="none", **changes)
    return objective.build(config, 40, None).warning({"l_aux": l_aux, "done": done})

  equal = np.log(9)
  assert "l_aux is 2.175, and 2.197 where all look alike" in says(0.99 * equal, 0.8)
  assert not says(0.96 * equal, 0.8) and not says(equal, 0.7)
  # Against proxies there is no such value.
  assert not says(equal, 0.8, loss__auxiliary="proxy_anchor")


def test_unreadable_images_are_named_once_and_training_goes_on(
  tmp_path, files, prototypes, caplog, config_with
):
  bad = [files.images[0], files.images[31]]
  for path in bad:
    Path(path).write_bytes(b"no image")
  config = config_with(train__steps=16, data__classes_per_batch=40, data__images_per_class=4)
  with caplog.at_level("WARNING", logger="absl"):
    assert train.run(config, str(tmp_path / "run"), files, prototypes) == (16, False)
  for path in bad:
    assert caplog.text.count(f"cannot read {path}") == 1
  assert "2 images could not be read" in caplog.text


def test_bfloat16_trains_and_keeps_float32_parameters(tmp_path, dataset, prototypes, config_with):
  config = config_with(model__dtype="bfloat16", train__steps=40, train__checkpoint_every=40)
  train.run(config, str(tmp_path), dataset, prototypes)
  lines = metrics_log.read(str(tmp_path / metrics_log.FILE))
  assert np.mean([x["loss"] for x in lines[-8:]]) < np.mean([x["loss"] for x in lines[:8]])
  arrays, _ = checkpoints.read(str(tmp_path), 40)
  assert {str(x.dtype) for x in arrays.values()} == {"float32", "int32"}


def test_no_step_copies_anything_unasked(tmp_path, dataset, config_with, monkeypatch):
  steps, seen = loop._steps, []

  def guarded(*args):
    found = steps(*args)
    while True:
      # Only device_put and device_get may move data: a NumPy argument of a step would be copied
      # anew each time, and a number taken off a device would be waited for.
      with jax.transfer_guard("disallow"):
        item = next(found, None)
      if item is None:
        return
      seen.append(item[0])
      yield item

  monkeypatch.setattr(loop, "_steps", guarded)
  config = config_with(loss__alignment="none", train__steps=4, train__log_every=4)
  train.run(config, str(tmp_path), dataset, None)
  assert seen == [1, 2, 3, 4]


def test_the_guard_sees_a_copy():
  double = jax.jit(lambda x: x * 2)
  with jax.transfer_guard("disallow"), pytest.raises(Exception, match="[Dd]isallowed"):
    double(np.ones(3))


def test_a_step_that_is_compiled_beforehand_learns_the_same(
  tmp_path, dataset, config_with, monkeypatch
):
  config = config_with(loss__alignment="none", train__steps=3, train__optimizer="sgd")
  train.run(config, str(tmp_path / "called"), dataset, None)
  monkeypatch.setattr(loop, "_LARGE", 0)
  compiled = dict(loop.devices._compiled)
  train.run(config, str(tmp_path / "compiled"), dataset, None)
  # Once: the plan's program is that of the steps.
  assert len(loop.devices._compiled) == len(compiled) + 1
  called, beforehand = (checkpoints.read(str(tmp_path / x), 3)[0] for x in ("called", "compiled"))
  for path, x in called.items():
    np.testing.assert_allclose(beforehand[path], x, rtol=1e-4, atol=1e-5, err_msg=path)
