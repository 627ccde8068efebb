"""Training: the state, a step written against a named axis, and the loop with the one jax.pmap."""

import collections
import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from lafg_jax import checkpoints, losses, optimizers, stages
from lafg_jax import config as config_keys
from lafg_jax.data import pack, pipeline
from lafg_jax.data.datasets import Dataset, fingerprint
from lafg_jax.data.prototypes import LoadedPrototypes, l2_normalise
from lafg_jax.errors import UserError
from lafg_jax.metrics_log import MetricsLog
from lafg_jax.models import embedder as embedders
from lafg_jax.validation import WORDLESS

AXIS = "devices"
MAX_IN_FLIGHT = 2
# Keys that do not change what is learned: a run may go on under other values of these.
FREE_KEYS = ("data.root", "data.num_workers", "data.prefetch", "train.log_every",
             "train.checkpoint_every", "train.keep_checkpoints", "data.expect_counts",
             "data.pack")  # fmt: skip


class TrainState(flax.struct.PyTreeNode):
  """All that a step changes; a checkpoint holds one unreplicated copy of it.

  params: {'backbone', 'embedding', 'projectors': {'image' [D, W], 'text' [d, W]}} and, for the
  control `onehot`, 'class_vectors' [C, W]. mean_projectors: the EMA twins of 'projectors'.
  """

  step: jax.Array
  params: dict[str, Any]
  mean_projectors: dict[str, jax.Array]
  opt_state: optax.OptState


def init_state(
  config: ConfigDict, num_classes: int, text_dim: int | None
) -> tuple[embedders.Embedder, optax.GradientTransformation, TrainState]:
  """The model, its optimiser and the state before training: a pure function of the config."""
  loss = config.loss
  embedder, params = embedders.init_model(config)
  if loss.alignment != "none":
    embedding_dim = config.model.embedding_dim or embedder.backbone.width
    params["projectors"] = embedders.init_projectors(
      embedders.seeds(config)[1], embedding_dim, text_dim, loss.projector_width
    )
  if loss.alignment == "onehot":
    params["class_vectors"] = jnp.asarray(
      embedders.class_vectors("onehot", num_classes, loss.projector_width, config.seed)
    )
  optimizer = optimizers.make(config, params)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # Copies: the step donates its state, and a buffer can be donated only once.
    mean_projectors=jax.tree.map(jnp.copy, params.get("projectors", {})),
    opt_state=optimizer.init(params),
  )
  return embedder, optimizer, state


def alignment_targets(
  config: ConfigDict, num_classes: int, prototypes: LoadedPrototypes | None
) -> dict[str, np.ndarray]:
  """What `losses.alignment` compares images with, as float32 arrays (see its `targets`)."""
  loss = config.loss
  if loss.alignment == "orthogonal":
    vectors = embedders.class_vectors("orthogonal", num_classes, loss.projector_width, config.seed)
    return {"class_vectors": vectors}
  if prototypes is None:
    return {}
  targets = {"prototypes": prototypes.prototypes}
  if loss.unit_variance and loss.alignment == "distribution":
    targets["prototypes"] = targets["prototypes"] / targets["prototypes"].std()
  if loss.alignment == "vocabulary":
    centre = prototypes.vocabulary.mean(axis=0)
    queries, attributes = prototypes.queries - centre, prototypes.vocabulary - centre
    cosine = l2_normalise(queries, "class queries") @ l2_normalise(attributes, "attributes").T
    # The formula centres the class's side of the comparison only.
    targets = {"vocabulary": prototypes.vocabulary, "attribute_cosine": cosine}
  return {name: np.asarray(x, np.float32) for name, x in targets.items()}


def make_loss(
  embedder: embedders.Embedder, config: ConfigDict, axis: str | None
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
  """L = L_aux + beta L_ali of the *global* batch, from each device's share of its rows.

  `loss(params, mean_projectors, batch, targets) -> (loss, metrics)` with batch 'image'
  [b, S, S, 3] uint8 and 'label' [b]. Rows past N x m are padding: cut off before both losses.
  """
  n, m = config.data.classes_per_batch, config.data.images_per_class
  options = config.loss
  # Under 'sum', L_aux is m(m-1) times its mean: L_ali grows alike, so that beta keeps its meaning.
  beta = options.beta * (m * (m - 1) if options.reduction == "sum" else 1)

  def gather(x: Any) -> jax.Array:
    if axis is not None:
      x = jax.lax.all_gather(x, axis, tiled=True)
    return x[: n * m]

  def loss(params, mean_projectors, batch, targets):
    v = gather(embedder.apply({"params": params}, batch["image"]))  # [N m, D]
    labels = gather(batch["label"])
    aux = losses.pairwise_contrastive(
      v, classes=n, slots=m, temperature=options.temperature, reduction=options.reduction
    )
    metrics = {"l_aux": aux}
    total = aux
    if options.alignment != "none":
      if options.alignment == "onehot":
        targets = {"class_vectors": params["class_vectors"]}
      ali, log_p, log_q = losses.alignment(
        v,
        labels,
        targets,
        params["projectors"],
        mean_projectors,
        form=options.alignment,
        projector=options.projector,
        temperature=options.alignment_temperature,
      )
      total = aux + beta * ali
      metrics["l_ali"] = ali
      for side, log_probs in (("image", log_p), ("text", log_q)):
        stats = losses.collapse_stats(jax.lax.stop_gradient(log_probs))
        metrics |= {f"{side}_{name}": value for name, value in stats.items()}
    return total, metrics | {"loss": total}

  return loss


def make_gradients(
  embedder: embedders.Embedder, config: ConfigDict, axis: str | None
) -> Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]:
  """`gradients(params, mean_projectors, batch, targets) -> (grads, metrics)` of `make_loss`."""
  loss = make_loss(embedder, config, axis)

  def gradients(params, mean_projectors, batch, targets):
    grads, metrics = jax.grad(loss, has_aux=True)(params, mean_projectors, batch, targets)
    if axis is not None:
      # Every device holds the loss of the whole batch, and all_gather's transpose adds the devices'
      # gradients up: their mean is the gradient of that one loss.
      grads = jax.lax.pmean(grads, axis)
    return grads, metrics

  return gradients


def make_step(
  embedder: embedders.Embedder,
  optimizer: optax.GradientTransformation,
  config: ConfigDict,
  axis: str | None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """`step(state, batch, targets) -> (state, metrics)`, to be mapped over `axis`."""
  gradients = make_gradients(embedder, config, axis)
  schedule = optimizers.schedule(config.train)
  alpha = config.loss.ema_step

  def step(state: TrainState, batch, targets):
    grads, metrics = gradients(state.params, state.mean_projectors, batch, targets)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    mean_projectors = jax.tree.map(
      lambda e, p: (1 - alpha) * e + alpha * p,
      state.mean_projectors,
      params.get("projectors", {}),
    )
    metrics |= {
      "grad_norm": optax.global_norm(grads),
      # Of the updated parameters: what a checkpoint of this step would hold.
      "param_norm": optax.global_norm(params),
      "learning_rate": schedule(state.step),
    }
    return TrainState(state.step + 1, params, mean_projectors, opt_state), metrics

  return step


def replicate(tree: Any) -> Any:
  """One copy of every leaf on each local device, with a leading device axis."""
  sharding = _device_sharding()
  count = jax.local_device_count()
  return jax.tree.map(
    lambda x: jax.device_put(np.broadcast_to(np.asarray(x), (count, *np.shape(x))), sharding), tree
  )


def unreplicate(tree: Any) -> Any:
  """The first local copy of every leaf, as NumPy arrays that do not share the device's memory."""
  return jax.tree.map(lambda x: np.array(x.addressable_data(0))[0], tree)


@functools.cache
def _device_sharding() -> NamedSharding:
  return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))


def to_devices(batches: Iterator[dict[str, np.ndarray]], ahead: int = 2) -> Iterator[tuple]:
  """(host rows, device batch) pairs; transfers run `ahead` batches before they are asked for."""
  count, sharding = jax.local_device_count(), _device_sharding()
  queue: list[tuple] = []
  for batch in batches:
    device = {
      name: jax.device_put(batch[name].reshape(count, -1, *batch[name].shape[1:]), sharding)
      for name in ("image", "label")
    }
    queue.append((batch, device))
    if len(queue) > ahead:
      yield queue.pop(0)
  yield from queue


def deciding_keys(config: ConfigDict) -> list[str]:
  """The keys that decide what is learned.

  Of `language` only what happens when prototypes are loaded: the rest is in their fingerprint.
  """
  names = [
    k
    for k in config_keys.keys(config)
    if (k == "seed" or k.startswith(("data.", "model.", "loss.", "train."))) and k not in FREE_KEYS
  ]
  if config.loss.alignment in WORDLESS:
    return names
  return [*names, "language.centre", "language.shuffle"]


class _StopRequest:
  """Becomes true at the first SIGTERM or SIGINT; the second has its usual effect."""

  def __init__(self) -> None:
    self.asked = False
    self.previous: dict[int, Any] = {}

  def __enter__(self) -> "_StopRequest":
    for number in (signal.SIGTERM, signal.SIGINT):
      self.previous[number] = signal.signal(number, self._ask)
    return self

  def _ask(self, number: int, frame: Any) -> None:
    logging.info("%s: saving and leaving", signal.Signals(number).name)
    self.asked = True
    signal.signal(number, self.previous[number])

  def __exit__(self, *unused) -> None:
    for number, handler in self.previous.items():
      signal.signal(number, handler)


def run(
  config: ConfigDict, workdir: str, dataset: Dataset, prototypes: LoadedPrototypes | None
) -> tuple[int, bool]:
  """Trains to `train.steps`, from the newest checkpoint when there is one.

  Returns:
    The step reached, and whether SIGTERM or SIGINT asked to stop there; it is saved either way.

  Raises:
    UserError: another config trained this workdir, or the loss is no longer finite.
  """
  num_classes, words = len(dataset.class_names), _prototype_arrays(prototypes)
  meta = _meta(config, dataset, prototypes)
  found = checkpoints.latest(workdir, set_aside=True)
  if found is not None:
    _check_same(config, found[1], meta, workdir)
  step = found[1]["step"] if found else 0
  if step >= config.train.steps:
    logging.info("train: already at step %d", step)
    return step, False
  batches = _batches(config, dataset, step)
  text_dim = words["prototypes"].shape[1] if words else None
  embedder, optimizer, state = init_state(config, num_classes, text_dim)
  if found is not None:
    state = _restore(state, *found)
  _announce(config, state)
  state = replicate(state)
  targets = replicate(alignment_targets(config, num_classes, prototypes))
  mapped = jax.pmap(
    make_step(embedder, optimizer, config, AXIS), axis_name=AXIS, donate_argnums=(0,)
  )
  in_flight: collections.deque = collections.deque()
  with (
    # Outermost: a signal must not end the wait for the last, asynchronous save.
    _StopRequest() as stop,
    contextlib.closing(batches),
    checkpoints.manager(workdir, config.train.keep_checkpoints) as mngr,
    MetricsLog(workdir, step, config) as log,
  ):
    for host, batch in to_devices(batches):
      log.unreadable(host["unreadable"], dataset)
      state, metrics = mapped(state, batch, targets)
      step += 1
      in_flight.append(metrics["loss"])
      if len(in_flight) > MAX_IN_FLIGHT:
        # Two steps back is done or nearly so: this bounds memory without stalling the device.
        jax.block_until_ready(in_flight.popleft())
      last = step == config.train.steps or stop.asked
      if step % config.train.log_every == 0 or last:
        log.write(step, metrics)
      if step % config.train.checkpoint_every == 0 or last:
        log.check_finite(step, metrics)
        arrays = {"state": unreplicate(state), "prototypes": words}
        checkpoints.save(mngr, step, checkpoints.flatten(arrays), meta)
      if last:
        break
  return step, stop.asked


def _batches(config: ConfigDict, dataset: Dataset, start: int) -> Any:
  return pipeline.train_batches(
    dataset,
    config.data,
    seed=config.seed,
    start_step=start,
    num_steps=config.train.steps - start,
    num_devices=jax.device_count(),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def _announce(config: ConfigDict, state: TrainState) -> None:
  logging.info(
    "train: steps %d to %d of %d x %d images on %d devices, %.2f M parameters",
    int(state.step),
    config.train.steps,
    config.data.classes_per_batch,
    config.data.images_per_class,
    jax.device_count(),
    sum(x.size for x in jax.tree.leaves(state.params)) / 1e6,
  )


def _check_same(config: ConfigDict, old: dict[str, Any], new: dict[str, Any], workdir: str) -> None:
  changed = config_keys.differences(deciding_keys(config), old["config"], new["config"])
  if old["dataset"] != new["dataset"]:
    changed.append("the training images or classes")
  if old["prototypes"] != new["prototypes"]:
    changed.append("the prototypes")
  if changed:
    raise UserError(
      f"{checkpoints.folder(workdir)} was trained with another config ({'; '.join(changed)}): "
      "pass another --workdir, or delete that folder to start anew"
    )


def _restore(state: TrainState, arrays: checkpoints.Arrays, meta: dict[str, Any]) -> TrainState:
  logging.info("train: going on from the checkpoint of step %d", meta["step"])
  inner = {p.removeprefix("state/"): x for p, x in arrays.items() if p.startswith("state/")}
  return checkpoints.unflatten_like(state, inner)


def _meta(
  config: ConfigDict, dataset: Dataset, prototypes: LoadedPrototypes | None
) -> dict[str, Any]:
  """What a checkpoint says of itself beside its arrays; JSON."""
  return {
    "config": config_keys.flatten(config),
    "dataset": {
      "name": dataset.name,
      "fingerprint": fingerprint(dataset),
      "class_names": list(dataset.class_names),
      "partial": dataset.partial,
    }
    # Where a pack lies may change within a run; whether there is one, and of what size, may not.
    | ({"packed": pack.side(config.data)} if config.data.pack else {}),
    "prototypes": None
    if prototypes is None
    else {
      "encoder": prototypes.encoder,
      "fingerprint": stages.fingerprint(_prototype_arrays(prototypes)),
    },
  }


def _prototype_arrays(prototypes: LoadedPrototypes | None) -> dict[str, np.ndarray]:
  names = ("prototypes", "queries", "vocabulary", "mean")
  return {} if prototypes is None else {name: getattr(prototypes, name) for name in names}
