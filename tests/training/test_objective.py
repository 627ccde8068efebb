"""An objective that has nothing to do with images, through the loop that trains every task.

A linear map with dropout, on two kinds of rows: even ones are to be mapped to their targets, odd
ones to zero. Run as a script it trains on as many devices as there are, and prints nothing.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lafg_jax.tasks.class_retrieval import default
from lafg_jax.training import best_checkpoint, checkpoints, loop, metrics_log, step
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ROWS, WIDTH, KEPT = 6, 4, 0.75
TRUE = np.random.default_rng(1).standard_normal((WIDTH, 3)).astype(np.float32)


def make_config(**train) -> ConfigDict:
  config = default.get_config()
  changes = {"steps": 12, "checkpoint_every": 3, "log_every": 1, "optimizer": "sgd", "freeze": ""}
  changes |= {"learning_rate": 0.1, "warmup": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
  config.train.update(changes | train)
  return config


def embed(params, averages, rows, constants, keys):
  """[b, 3]: rows [b, 4] with numbers dropped by the row's own key, through the map."""
  drawn = jax.vmap(lambda key: jax.random.bernoulli(key, KEPT, (WIDTH,)))(keys)
  return jnp.where(drawn, rows["x"], 0.0) / KEPT @ params["map"]["kernel"] + params["fixed"]


def loss(embeddings, params, averages, batch, constants, key):
  wanted = jnp.where(batch["kind"][:, None] == 0, batch["x"] @ constants["true"], 0.0)
  error = jnp.mean((embeddings - wanted) ** 2)
  return error, {"error": error, "noise": jax.random.normal(key)}


def make_objective() -> step.Objective:
  return step.Objective(
    params={"map": {"kernel": jnp.zeros((WIDTH, 3))}, "fixed": jnp.zeros(3)},
    embed=embed,
    loss=loss,
    embed_reads={"x": jax.ShapeDtypeStruct((WIDTH,), np.float32)},
    loss_reads={
      "x": jax.ShapeDtypeStruct((WIDTH,), np.float32),
      "kind": jax.ShapeDtypeStruct((), np.int32),
    },
    rows=ROWS,
    constants={"true": TRUE},
    is_frozen=lambda path: path == "fixed",
    rate_of=(("^map/", 0.5),),
    averaged=("map/kernel",),
    ema_step=0.25,
    shown=("loss", "error"),
    warning=lambda metrics: "the error is small" if metrics["error"] < 1e9 else "",
  )


def batch_of(number: int) -> dict[str, np.ndarray]:
  """The rows of a step, padded to the devices' number with what no loss may see."""
  x = np.random.default_rng([5, number]).standard_normal((ROWS, WIDTH)).astype(np.float32)
  padding = -ROWS % jax.device_count()
  kind = np.arange(ROWS + padding, dtype=np.int32) % 2
  return {"x": np.concatenate([x, np.full((padding, WIDTH), 1e3, np.float32)]), "kind": kind}


def make_feed(steps: int) -> loop.Feed:
  def batches(start, params, stopped):
    yield from map(batch_of, range(start, steps))

  return loop.Feed(
    batches, f"{ROWS} rows", (), lambda number: [f"row {k}" for k in range(ROWS)], "rows"
  )


def run(workdir, config=None, validation=None, **meta):
  config = make_config() if config is None else config
  meta = {"config": {}, "made_of": {}} | meta
  feed = make_feed(config.train.steps)
  return loop.run(config, str(workdir), make_objective, feed, meta=meta, validation=validation)


def by_hand(steps: int = 12) -> tuple[np.ndarray, np.ndarray, list[float]]:
  """The map and its EMA copy after `steps` of 12, and the losses: NumPy, but for the draws."""
  kernel, ema, velocity, losses = np.zeros((WIDTH, 3)), np.zeros((WIDTH, 3)), 0.0, []
  for number in range(steps):
    batch = batch_of(number)
    x, kind = batch["x"][:ROWS].astype(np.float64), batch["kind"][:ROWS]
    key_rows = jax.random.split(step.step_key(0, number))[0]
    keys = [jax.random.fold_in(key_rows, row) for row in range(ROWS)]
    drawn = np.stack([jax.random.bernoulli(key, KEPT, (WIDTH,)) for key in keys])
    seen = np.where(drawn, x, 0) / KEPT
    error = seen @ kernel - np.where(kind[:, None] == 0, x @ TRUE, 0)
    losses.append(float((error**2).mean()))
    # Momentum, as optax and torch have it; half the rate, by rate_of.
    velocity = seen.T @ error * 2 / error.size + 0.9 * velocity
    kernel = kernel - 0.5 * 0.1 * 0.5 * (1 + np.cos(np.pi * number / 12)) * velocity
    ema = 0.75 * ema + 0.25 * kernel
  return kernel, ema, losses


def arrays_of(workdir, at=12):
  return checkpoints.read(str(workdir), at)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of an unbroken run."""
  workdir = tmp_path_factory.mktemp("whole")
  assert run(workdir) == (12, False)
  return workdir


def test_it_trains_as_computed_by_hand(whole):
  kernel, ema, losses = by_hand()
  arrays = arrays_of(whole)
  np.testing.assert_allclose(arrays["state/params/map/kernel"], kernel, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(arrays["state/averages/map/kernel"], ema, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(arrays["state/params/fixed"], np.zeros(3))
  lines = metrics_log.read(str(whole / metrics_log.FILE))
  np.testing.assert_allclose([line["loss"] for line in lines], losses, rtol=1e-4)
  assert all(line["error"] == line["loss"] and "rows_per_second" in line for line in lines[1:])
  assert len({line["noise"] for line in lines}) == 12, "each step has a key of its own"


def test_eight_devices_train_as_one(whole, tmp_path):
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  flags = environment.get("XLA_FLAGS", "")
  environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"
  command = [sys.executable, __file__, str(tmp_path)]
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  one, eight = arrays_of(whole), arrays_of(tmp_path)
  for path, x in one.items():
    np.testing.assert_allclose(eight[path], x, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("rows_per_chunk", [1, 4])
def test_rows_in_chunks_train_as_all_at_once(whole, tmp_path, rows_per_chunk):
  assert run(tmp_path, make_config(rows_per_chunk=rows_per_chunk)) == (12, False)
  one, chunked = arrays_of(whole), arrays_of(tmp_path)
  for path, x in one.items():
    # Each row has the key of its place in the batch: the same numbers are dropped.
    np.testing.assert_allclose(chunked[path], x, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_killed_run_goes_on_with_the_same_bits(whole, tmp_path):
  shutil.copytree(whole, tmp_path / "killed")
  for at in checkpoints.steps(str(whole)):
    if at > 9:
      shutil.rmtree(tmp_path / "killed" / checkpoints.FOLDER / str(at))
  assert run(tmp_path / "killed") == (12, False)
  again = arrays_of(tmp_path / "killed")
  for path, x in arrays_of(whole).items():
    np.testing.assert_array_equal(again[path], x, err_msg=path)


def test_the_best_step_is_kept(tmp_path):
  config = make_config(validate_every=3, keep_best=True)
  given = iter([0.2, 0.7, 0.4, 0.7])
  validation = best_checkpoint.Validation(lambda params: {"score": next(given)}, "score")
  run(tmp_path, config, validation)
  kept, meta = checkpoints.latest(str(tmp_path), where=checkpoints.BEST)
  assert meta["step"] == 6 and meta["validation"] == {"step": 6, "score": 0.7}
  np.testing.assert_allclose(kept["state/params/map/kernel"], by_hand(6)[0], rtol=1e-4, atol=1e-5)


def test_what_it_is_made_of_decides_whether_it_goes_on(tmp_path):
  run(tmp_path, make_config(steps=3), made_of={"the corpus": "a" * 64, "mode": "plain"})
  changed = {"the corpus": "b" * 64, "mode": "other"}
  with pytest.raises(UserError, match=r"\(the corpus; mode: plain -> other\)"):
    run(tmp_path, made_of=changed)


def test_its_warning_is_said_once(tmp_path, caplog):
  run(tmp_path, make_config(steps=60))
  assert caplog.text.count("step 50: the error is small") == 1


if __name__ == "__main__":
  assert jax.device_count() == 8
  run(sys.argv[1])
  print(json.dumps("done"))
