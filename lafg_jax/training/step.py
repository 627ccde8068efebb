"""The step of any objective, written once against a named axis: `loop` maps it over the devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from lafg_jax.training import chunks, optimizers, partition

# Keeps these keys apart from those that initialise a model, which are split from the same seed.
_STEP_STREAM = 0x57E9


class TrainState(flax.struct.PyTreeNode):
  """All that a step changes; a checkpoint has one unreplicated copy of it.

  params: the whole tree, with frozen parts. averages: the EMA copies of the parameters that
  `Objective.averaged` names, nested as in params. opt_state: of the trained parameters alone. ema:
  the moving average of the trained parameters, nested as in params; {} where train.ema is off.
  """

  step: jax.Array
  params: dict[str, Any]
  averages: dict[str, Any]
  opt_state: optax.OptState
  ema: dict[str, Any] = flax.struct.field(default_factory=dict)


class Objective(NamedTuple):
  """What is trained, as arrays and pure functions: all that `training/` knows of a task.

  embed works row by row, on a device's share of the rows. loss works on the global batch, and every
  device computes the same one. Neither closes over arrays, so that runs share compiled programs.

  params: the whole tree, with frozen parts.
  embed: (params, averages, rows, constants, keys [b]) -> a pytree of [b, ...]. The keys depend on
    (seed, step, row of the global batch) alone.
  loss: (embeddings, params, averages, batch, constants, key) -> (scalar, {name: scalar}) of the
    global batch without padding: `rows` rows.
  embed_reads, loss_reads: what of a batch embed and loss take: {name: shape and dtype of one row}.
  rows: B, rows of the global batch.
  constants: arrays that every device holds once.
  is_frozen: whether the parameter at a path, such as 'backbone/block_0/...', stays as it started.
  rate_of: (regular expression over paths, factor on the learning rate); the first that finds wins.
  averaged: paths of the parameters that have an EMA copy, E <- (1 - ema_step) E + ema_step P.
  shown: metrics in the progress line, in this order.
  warning: metrics as plain numbers, and `done`, the share of the steps -> what is wrong with the
    training, or ''.
  """

  params: dict[str, Any]
  embed: Callable[..., Any]
  loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
  embed_reads: dict[str, jax.ShapeDtypeStruct]
  loss_reads: dict[str, jax.ShapeDtypeStruct]
  rows: int
  constants: dict[str, Any]
  is_frozen: Callable[[str], bool] = lambda path: False
  rate_of: tuple[tuple[str, float], ...] = ()
  averaged: tuple[str, ...] = ()
  ema_step: float = 0.0
  shown: tuple[str, ...] = ("loss",)
  warning: Callable[[dict[str, float]], str] = lambda metrics: ""


def init_state(
  objective: Objective, train: ConfigDict
) -> tuple[optax.GradientTransformation, TrainState]:
  """The optimiser, and the state before training; raises as `optimizers.check_freeze`."""
  optimizer = optimizers.make(train, objective)
  trained = partition.split(objective.params, optimizers.frozen(train, objective))[0]
  return optimizer, TrainState(
    step=jnp.zeros((), jnp.int32),
    params=objective.params,
    # Copies: the step donates its state, and a buffer can be donated only once.
    averages=jax.tree.map(jnp.copy, _select(objective.params, objective.averaged)),
    opt_state=optimizer.init(trained),
    ema=jax.tree.map(jnp.copy, trained) if train.ema else {},
  )


def _select(params: dict[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
  """The parameters at some paths, nested as in `params`."""
  flat = traverse_util.flatten_dict(params, sep="/")
  return traverse_util.unflatten_dict({path: flat[path] for path in paths}, sep="/")


def _moved(ema: dict[str, Any], new: dict[str, Any], decay: float, t: jax.Array) -> dict[str, Any]:
  """The moving average after step t, from 1 on: E <- d E + (1 - d) P; {} where there is none.

  d = min(decay, (1 + t) / (10 + t)), as TensorFlow's moving averages have it: it forgets the start
  even in a short run.
  """
  if not ema:
    return {}
  d = jnp.minimum(decay, (1 + t) / (10 + t))
  return jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, new)


def step_key(seed: jax.Array | int, step: jax.Array | int) -> jax.Array:
  """The key of a step, from which those of its rows and of its loss are made."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _STEP_STREAM), step)


def make_loss(
  objective: Objective, axis: str | None, rows_per_chunk: int = 0
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
  """The loss of the *global* batch, from each device's share of its rows.

  `loss(params, averages, batch, constants, key) -> (loss, metrics)`; `batch` has what the objective
  reads, [b, ...]; `key` is that of the step. The rows of all devices, one after the other, are the
  global batch and padding, which is cut off before the loss. At most `rows_per_chunk` of a device's
  rows are embedded at a time; 0 embeds all at once.
  """

  embed = chunks.in_chunks(objective.embed, rows_per_chunk)

  def whole(x: jax.Array) -> jax.Array:
    every = x if axis is None else jax.lax.all_gather(x, axis, tiled=True)
    return every[: objective.rows]

  def loss(params, averages, batch, constants, key):
    rows = {name: batch[name] for name in objective.embed_reads}
    count = len(next(iter(rows.values())))
    first = 0 if axis is None else jax.lax.axis_index(axis) * count
    key_rows, key_loss = jax.random.split(key)
    keys = jax.vmap(lambda row: jax.random.fold_in(key_rows, row))(first + jnp.arange(count))
    embeddings = jax.tree.map(whole, embed(params, averages, rows, constants, keys))
    others = {name: whole(batch[name]) for name in objective.loss_reads}
    total, metrics = objective.loss(embeddings, params, averages, others, constants, key_loss)
    return total, metrics | {"loss": total}

  return loss


def make_gradients(
  objective: Objective, train: ConfigDict, axis: str | None, rows_per_chunk: int = 0
) -> Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]:
  """`gradients(params, averages, batch, constants, key) -> (grads, metrics)` of `make_loss`.

  Only of the trained parameters, so that frozen ones cost no backward pass.
  """
  loss = make_loss(objective, axis, rows_per_chunk)
  is_frozen = optimizers.frozen(train, objective)

  def gradients(params, averages, batch, constants, key):
    trained, fixed = partition.split(params, is_frozen)

    def of_trained(trained):
      return loss(partition.join(trained, fixed), averages, batch, constants, key)

    grads, metrics = jax.grad(of_trained, has_aux=True)(trained)
    if axis is not None:
      # Each device has the loss of the whole batch, and all_gather's transpose adds the gradients
      # of all devices: their mean is the gradient of that one loss.
      grads = jax.lax.pmean(grads, axis)
    return grads, metrics

  return gradients


def make_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  train: ConfigDict,
  axis: str | None,
  rows_per_chunk: int = 0,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """`step(state, batch, constants, seed) -> (state, metrics)`, to be mapped over `axis`."""
  gradients = make_gradients(objective, train, axis, rows_per_chunk)
  is_frozen, schedule = optimizers.frozen(train, objective), optimizers.schedule(train)
  alpha, averaged = objective.ema_step, objective.averaged

  def step(state: TrainState, batch, constants, seed):
    key = step_key(seed, state.step)
    grads, metrics = gradients(state.params, state.averages, batch, constants, key)
    trained, fixed = partition.split(state.params, is_frozen)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    params = partition.join(trained, fixed)
    new = _select(params, averaged)
    averages = jax.tree.map(lambda e, p: (1 - alpha) * e + alpha * p, state.averages, new)
    ema = _moved(state.ema, trained, train.ema, state.step + 1)
    metrics |= {
      "grad_norm": optax.global_norm(grads),
      # Of the updated parameters, which a checkpoint would hold. Frozen ones cannot diverge, and
      # to read all of a backbone would be most of a step on its features.
      "param_norm": optax.global_norm(trained),
      "learning_rate": schedule(state.step),
    }
    return TrainState(state.step + 1, params, averages, opt_state, ema), metrics

  return step
