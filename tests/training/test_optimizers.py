"""Optimisers against torch's own, step by step, and the schedule against its formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import synthetic
from lafg_jax.training import optimizers
from lafg_jax.training.step import Objective


def config_with(**train):
  config = synthetic.get_config("prototypes")
  config.train.update({"steps": 40, "learning_rate": 0.1, "clip_norm": 0.0} | train)
  return config


def params():
  rng = np.random.default_rng(0)
  return {
    "embedding": {
      "kernel": jnp.asarray(rng.standard_normal((3, 2)), jnp.float32),
      "bias": jnp.asarray(rng.standard_normal(2), jnp.float32),
    },
    "projectors": {"image": jnp.asarray(rng.standard_normal((2, 2)), jnp.float32)},
  }


def gradients(step):
  rng = np.random.default_rng(100 + step)
  return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), params())


def run(config, steps):
  state_params = params()
  optimizer = optimizers.make(config.train, Objective(state_params, None, None, {}, {}, 0, {}))
  state = optimizer.init(state_params)
  for step in range(steps):
    updates, state = optimizer.update(gradients(step), state, state_params)
    state_params = optax.apply_updates(state_params, updates)
  return state_params


def torch_run(config, steps):
  """The same in PyTorch: decay on the kernel alone, the schedule set by hand."""
  torch = pytest.importorskip("torch")
  flat = {"/".join(str(k.key) for k in path): x for path, x in jax.tree.leaves_with_path(params())}
  tensors = {k: torch.nn.Parameter(torch.tensor(np.asarray(x))) for k, x in flat.items()}
  decay = config.train.weight_decay
  groups = [
    {"params": [x], "weight_decay": decay if k.endswith("kernel") else 0.0}
    for k, x in tensors.items()
  ]
  if config.train.optimizer == "sgd":
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
  else:
    moments = {"betas": (0.9, config.train.adam_b2), "eps": config.train.adam_eps}
    optimizer = torch.optim.AdamW(groups, lr=1.0, **moments)
  for step in range(steps):
    rate = expected_rate(config.train, step)
    for group in optimizer.param_groups:
      group["lr"] = rate
    grads = jax.tree.leaves_with_path(gradients(step))
    for path, x in grads:
      tensors["/".join(str(k.key) for k in path)].grad = torch.tensor(np.asarray(x))
    optimizer.step()
  return {k: x.detach().numpy() for k, x in tensors.items()}


def expected_rate(train, step):
  warmup = int(train.warmup * train.steps)
  if step < warmup:
    return train.learning_rate * step / warmup
  if train.schedule == "constant":
    return train.learning_rate
  progress = (step - warmup) / (train.steps - warmup)
  return train.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@pytest.mark.parametrize(
  "changes",
  [
    {"optimizer": "sgd"},
    {"optimizer": "adamw"},
    {"optimizer": "adamw", "adam_b2": 0.9, "adam_eps": 0.1, "schedule": "constant"},
  ],
)
def test_ten_steps_equal_torch(changes):
  config = config_with(weight_decay=0.05, learning_rate=0.01, **changes)
  ours, theirs = run(config, 10), torch_run(config, 10)
  for path, x in jax.tree.leaves_with_path(ours):
    name = "/".join(str(k.key) for k in path)
    np.testing.assert_allclose(x, theirs[name], rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_schedule_warms_up_and_ends_at_zero(warmup):
  train = config_with(warmup=warmup).train
  schedule = optimizers.schedule(train)
  for step in range(train.steps + 1):
    assert schedule(step) == pytest.approx(expected_rate(train, step), abs=1e-7)
  assert schedule(train.steps) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_a_constant_rate_stays(warmup):
  train = config_with(warmup=warmup, schedule="constant").train
  schedule = optimizers.schedule(train)
  for step in range(train.steps + 1):
    assert schedule(step) == pytest.approx(expected_rate(train, step), abs=1e-7)
  assert schedule(train.steps) == pytest.approx(0.1)


def test_clipping_bounds_the_whole_gradient():
  start, config = params(), config_with(optimizer="sgd", weight_decay=0.0, warmup=0.0)
  config.train.clip_norm = 0.5
  moved = jax.tree.map(lambda a, b: a - b, start, run(config, 1))
  assert optax.global_norm(gradients(0)) > 0.5
  assert optax.global_norm(moved) == pytest.approx(0.5 * config.train.learning_rate, rel=1e-5)
