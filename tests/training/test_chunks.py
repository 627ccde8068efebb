"""Rows in chunks: how many at a time is read off XLA's plans, and the step compiles once."""

import json
import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals

from lafg_jax.runtime import out_of_memory
from lafg_jax.tasks.class_retrieval import objective, train
from lafg_jax.training import checkpoints, chunks, loop, metrics_log
from lafg_jax.training import step as train_step

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compiled(monkeypatch):
  """Names of the programs that XLA compiled since the test began."""
  names = []
  original = jax._src.compiler.backend_compile_and_load

  def counting(backend, module, *args, **kwargs):
    names.append(str(module.operation.attributes["sym_name"]).strip('"'))
    return original(backend, module, *args, **kwargs)

  monkeypatch.setattr(jax._src.compiler, "backend_compile_and_load", counting)
  monkeypatch.setattr(loop, "_mapped_steps", {})
  # A program out of the cache of the disk would not count.
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  jax._src.compilation_cache.reset_cache()
  yield names
  jax.config.update("jax_enable_compilation_cache", before)
  jax._src.compilation_cache.reset_cache()


def losses(workdir):
  return [line["loss"] for line in metrics_log.read(str(workdir / metrics_log.FILE))]


def test_what_fits_is_chosen_by_two_plans_and_kept(
  tmp_path, dataset, config_with, monkeypatch, caplog, compiled
):
  config = config_with(
    loss__alignment="none", train__steps=2, train__checkpoint_every=1, data__classes_per_batch=20
  )
  run = lambda name: train.run(config, str(tmp_path / name), dataset, None)  # noqa: E731
  run("whole")
  # 'mapped' is the step: it was planned, and what was planned is what ran.
  steps = [name for name in compiled if "mapped" in name or "_fun" in name]
  assert len(steps) == 1, compiled
  assert not (tmp_path / "whole" / chunks.FILE).exists()

  plans, make_planner = {}, loop._planner

  def planner(*args):
    needs = make_planner(*args)
    return lambda rows: plans.setdefault(rows, needs(rows))

  monkeypatch.setattr(loop, "_planner", planner)
  monkeypatch.setattr(out_of_memory, "_USABLE", 1)
  monkeypatch.setattr(out_of_memory, "device_bytes", lambda: 2**40)
  run("planned")
  limit = int(plans[40] * 0.8)
  monkeypatch.setattr(out_of_memory, "device_bytes", lambda: limit)
  plans.clear(), compiled.clear()
  with caplog.at_level("INFO", logger="absl"):
    run("limited")
  chosen = json.loads((tmp_path / "limited" / chunks.FILE).read_text())["rows_per_chunk"]
  assert len(plans) == 2 and 1 <= chosen < 40
  assert f"{chosen} rows at a time of a device's 40" in caplog.text
  np.testing.assert_allclose(losses(tmp_path / "limited"), losses(tmp_path / "whole"), rtol=1e-4)
  # The next start plans nothing.
  shutil.rmtree(tmp_path / "limited" / checkpoints.FOLDER / "2")
  plans.clear()
  run("limited")
  assert not plans


@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_what_is_computed_again_changes_no_gradient_and_is_not_kept(config_with, dataset, remat):
  found, kept = {}, {}
  rng = np.random.default_rng(0)
  batch = {"image": rng.integers(0, 256, (10, 32, 32, 3), np.uint8), "label": np.arange(10) // 2}
  for name in ("none", remat):
    changes = {"model__remat": name, "model__depth": 4, "data__image_size": 32}
    config = config_with(loss__alignment="none", model__patch_size=4, **changes)
    made = objective.build(config, 40)
    loss = train_step.make_loss(made, None)
    value = lambda params, loss=loss: loss(params, {}, batch, {}, train_step.step_key(0, 0))[0]  # noqa: E731
    # XLA's plan would not show it: on CPUs it merges what is computed twice.
    residuals = [x for x, why in saved_residuals(value, made.params) if "argument" not in why]
    kept[name] = sum(x.size * x.dtype.itemsize for x in residuals)
    found[name] = jax.jit(jax.grad(value))(made.params)
  # The weights of attention, [64, 64] a head, are most of what a small model keeps.
  assert kept[remat] < kept["none"] * (0.5 if remat == "dots" else 0.2), kept
  scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(found["none"]))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale),
    found["none"],
    found[remat],
  )


@pytest.mark.parametrize(("name", "rows", "gib"), [("cub", 32, 16), ("cars", 128, 40)])
def test_the_papers_batch_fits_one_device(name, rows, gib):
  path = ROOT / "benchmarks" / "memory.py"
  planned = runpy.run_path(str(path))["planned"]
  # As XLA plans it for the CPU, where bfloat16 becomes float32.
  assert planned(name, rows, "none")[0] < gib * 2**30
