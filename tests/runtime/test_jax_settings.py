"""jax's global settings, as a notebook or an environment has them, change no figure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from lafg_jax.evaluate import knn
from lafg_jax.runtime import devices, jax_settings
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
  "jax_enable_x64": True,
  "jax_numpy_dtype_promotion": "strict",
  "jax_numpy_rank_promotion": "raise",
  "jax_transfer_guard": "disallow",
  "jax_default_prng_impl": "rbg",
  "jax_threefry_partitionable": False,
  "jax_debug_nans": True,
  "jax_debug_infs": True,
  "jax_debug_key_reuse": True,
  "jax_enable_checks": True,
  "jax_disable_jit": True,
  "jax_enable_custom_prng": True,
  "jax_check_tracer_leaks": True,
  "jax_default_matmul_precision": "highest",
  "jax_array_garbage_collection_guard": "log",
}


@pytest.fixture
def changed():
  """Changes settings until the end of the test."""
  before = {name: getattr(jax.config, name) for name in SETTINGS}
  yield jax.config.update
  for name, value in before.items():
    jax.config.update(name, value)


def drawn(scale, rows):
  """Promotes int8 and float32, adds a vector to a matrix, draws, and divides by 0."""
  noise = jax.random.uniform(jax.random.key(3), (4,))
  x = (rows.astype(jnp.int8) + scale) * noise
  return jnp.where(jnp.isfinite(x / 0.0), 0.0, x)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_figures_under_any_setting(name, changed):
  generator = np.random.default_rng(0)
  vectors = generator.normal(size=(70, 4)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  labels = np.arange(70) // 2
  rows = generator.integers(0, 9, (6, 4))
  # Before any setting, so that it is the reference; compiled once for all of them.
  plain = devices.spread(drawn, np.float32(2.5))(rows)
  changed(name, SETTINGS[name])
  scores, found = knn.search(vectors, vectors, 3)
  _, expected = NearestNeighbors(n_neighbors=3).fit(vectors).kneighbors(vectors)
  np.testing.assert_array_equal(found, expected)
  assert scores.dtype == np.float32 and found.dtype == np.int32
  ranks, _ = knn.match_ranks(vectors, labels, vectors, labels, exclude_self=True)
  order = np.argsort(-(vectors @ vectors.T) + 9 * np.eye(70), axis=1)
  partner = np.arange(70) ^ 1
  np.testing.assert_array_equal(ranks[:, 0], 1 + (order == partner[:, None]).argmax(1))
  got = devices.spread(drawn, np.float32(2.5))(rows)
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, plain)
  # The program around it keeps what it asked for.
  assert str(getattr(jax.config, name)) == str(SETTINGS[name])


def test_what_cannot_be_is_one_line_before_work(changed, monkeypatch):
  for name, value, said in (
    ("jax_default_matmul_precision", "F16_F16_F16", "takes one of default, high"),
    ("jax_random_seed_offset", 5, "--config.seed=N"),
  ):
    before = getattr(jax.config, name)
    changed(name, value)
    with pytest.raises(UserError, match=said):
      jax_settings.check()
    changed(name, before)
  for platforms in ("foo", "cuda", "cpu,foo"):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    with pytest.raises(UserError, match=r"no platform '(foo|cuda)'.*JAX_PLATFORMS=cpu"):
      jax_settings.check()
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  jax_settings.check()
  monkeypatch.setenv("JAX_PLATFORM_NAME", "gpu")
  with pytest.raises(UserError, match="^JAX_PLATFORM_NAME=gpu: .*JAX_PLATFORM_NAME=cpu"):
    jax_settings.check()


def test_a_run_under_all_settings_of_the_environment(tmp_path):
  labels = np.arange(40) // 4
  np.savez(tmp_path / "e.npz", vectors=np.eye(10, dtype=np.float32)[labels], labels=labels)
  (tmp_path / "no_folder").touch()
  names = [name for name in SETTINGS if name not in ("jax_disable_jit", "jax_check_tracer_leaks")]
  environment = {name.upper(): str(SETTINGS[name]) for name in names}
  environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "no_folder" / "cache")}
  broken = {"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "maybe"}
  found = []
  for number, variables in enumerate((environment, broken)):
    words = ["--config=synthetic", "--stage=evaluate", f"--workdir={tmp_path / str(number)}"]
    done = subprocess.run(
      [sys.executable, "-m", "lafg_jax.main", *words, f"--config.evaluate.source={tmp_path}/e.npz"],
      env=os.environ | variables,
      cwd=tmp_path,
      capture_output=True,
      text=True,
    )
    found.append(done)
  assert found[0].returncode == 0, found[0].stderr
  assert "Traceback" not in found[0].stderr and "jax_enable_x64=True" in found[0].stderr
  result = json.loads((tmp_path / "0" / "evaluation.json").read_text())
  assert result["map@r"] == 1 and result["num_queries"] == 40
  assert found[1].returncode == 2
  assert found[1].stderr.splitlines()[-1].startswith("error: jax does not start: ")
  assert "JAX_ENABLE_X64" in found[1].stderr.splitlines()[-1]
