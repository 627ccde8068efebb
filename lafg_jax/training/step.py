"""The train state, the loss of a global batch, and a step written against a named axis."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from lafg_jax.losses import alignment, contrastive, metric_learning
from lafg_jax.models import embedder as embedders
from lafg_jax.models import lora
from lafg_jax.tasks.class_retrieval import projectors
from lafg_jax.tasks.class_retrieval.choices import PROXIED, WORDLESS, reads_words
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import optimizers
from lafg_jax.utils.vectors import l2_normalise


class TrainState(flax.struct.PyTreeNode):
  """All that a step changes; a checkpoint holds one unreplicated copy of it.

  params: {'backbone', 'embedding', 'projectors': {'image' P_v [D, W], 'text' P_t [d, W] and, of
  L_img, 'reading' P_r [D, d]}}, what `Embedder` and model.lora_rank add, for the control `onehot`,
  'class_vectors' [C, W], and where loss.auxiliary has proxies, 'proxies' [C, D].
  mean_projectors: the EMA twins of P_v and P_t. opt_state: of the trained parameters alone.
  """

  step: jax.Array
  params: dict[str, Any]
  mean_projectors: dict[str, jax.Array]
  opt_state: optax.OptState


def init_state(
  config: ConfigDict, num_classes: int, text_dim: int | None, reading_dim: int | None = None
) -> tuple[embedders.Embedder, optax.GradientTransformation, TrainState]:
  """The model, its optimiser and the state before training: a pure function of the config.

  Args:
    config: resolved.
    num_classes: C.
    text_dim: width of the prototypes; None without words.
    reading_dim: d, width of what L_img reads in images; None without it.
  """
  loss = config.loss
  embedder, params = embedders.init_model(config)
  embedding_dim = config.model.embedding_dim or embedder.backbone.width
  if loss.auxiliary in PROXIED:
    # A key of its own: all else starts the same with and without.
    key = jax.random.fold_in(embedders.seeds(config)[1], 0x9A0C)
    params["proxies"] = metric_learning.init_proxies(key, num_classes, embedding_dim)
  if loss.alignment != "none" or loss.image_alignment != "none":
    params["projectors"] = _projectors(config, embedding_dim, text_dim, reading_dim)
  if loss.alignment == "onehot":
    params["class_vectors"] = jnp.asarray(
      projectors.class_vectors("onehot", num_classes, loss.projector_width, config.seed)
    )
  optimizer = optimizers.make(config, params)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # Copies: the step donates its state, and a buffer can be donated only once.
    mean_projectors=jax.tree.map(jnp.copy, _with_twins(params)),
    opt_state=optimizer.init(optimizers.split(config, params)[0]),
  )
  return embedder, optimizer, state


def _projectors(
  config: ConfigDict, embedding_dim: int, text_dim: int | None, reading_dim: int | None
) -> dict[str, jax.Array]:
  """P_v where there is L_ali, P_t where that reads prototypes, P_r where there is L_img."""
  loss, made = config.loss, {}
  if loss.alignment in WORDLESS:
    text_dim = None
  args = (embedding_dim, text_dim, loss.projector_width)
  key = embedders.seeds(config)[1]
  if loss.alignment != "none":
    made = (
      projectors.pretrained_projectors(config.model.pretrained, *args)
      if loss.projector_init == "pretrained"
      else projectors.init_projectors(key, *args)
    )
  if loss.image_alignment != "none":
    assert reading_dim is not None
    made["reading"] = (
      projectors.pretrained_reading(config.model.pretrained, embedding_dim, reading_dim)
      if loss.projector_init == "pretrained"
      else projectors.init_reading(key, embedding_dim, reading_dim)
    )
  return made


def _with_twins(params: dict[str, Any]) -> dict[str, jax.Array]:
  """The projectors of L_ali: the others have no EMA."""
  return {name: x for name, x in params.get("projectors", {}).items() if name != "reading"}


def check_paths(config: ConfigDict) -> None:
  """Raises UserError where model.lora_targets or train.freeze find nothing; computes nothing."""
  # Paths depend neither on the number of classes nor on the width of the text features, but what
  # projectors start from may.
  random = config.loss.projector_init == "random"
  dim = (2 if random else config.loss.projector_width) if reads_words(config) else None
  jax.eval_shape(lambda: init_state(config, num_classes=2, text_dim=dim, reading_dim=dim)[2])


def alignment_targets(
  config: ConfigDict, num_classes: int, prototypes: LoadedPrototypes | None
) -> dict[str, np.ndarray]:
  """What the losses compare images with, float32: the `targets` of both alignments of `losses`."""
  readings = {} if prototypes is None else prototypes.readings
  return _class_targets(config, num_classes, prototypes) | readings


def _class_targets(
  config: ConfigDict, num_classes: int, prototypes: LoadedPrototypes | None
) -> dict[str, np.ndarray]:
  loss = config.loss
  if loss.alignment == "orthogonal":
    vectors = projectors.class_vectors("orthogonal", num_classes, loss.projector_width, config.seed)
    return {"class_vectors": vectors}
  if prototypes is None:
    return {}
  targets = {"prototypes": prototypes.prototypes}
  if loss.unit_variance and loss.alignment == "distribution":
    targets["prototypes"] = targets["prototypes"] / targets["prototypes"].std()
  if loss.alignment == "vocabulary":
    centre = prototypes.vocabulary.mean(axis=0) * config.language.centre
    queries, attributes = prototypes.queries - centre, prototypes.vocabulary - centre
    cosine = l2_normalise(queries, "class queries") @ l2_normalise(attributes, "attributes").T
    # The formula centres the class's side of the comparison only.
    targets = {"vocabulary": prototypes.vocabulary, "attribute_cosine": cosine}
  return {name: np.asarray(x, np.float32) for name, x in targets.items()}


def auxiliary(
  config: ConfigDict, v: jax.Array, labels: jax.Array, params: dict[str, Any]
) -> jax.Array:
  """L_aux of a global batch, as `loss.auxiliary` has it.

  Args:
    config: all keys.
    v: [N m, D] embeddings, slot-major, without padding.
    labels: [N m] int.
    params: those of the state, of which the proxies are read.
  """
  loss, data = config.loss, config.data
  if loss.auxiliary == "supcon":
    return metric_learning.supcon(v, labels, temperature=loss.temperature)
  if loss.auxiliary == "norm_softmax":
    return metric_learning.norm_softmax(v, labels, params["proxies"], temperature=loss.temperature)
  if loss.auxiliary == "proxy_anchor":
    return metric_learning.proxy_anchor(
      v, labels, params["proxies"], alpha=loss.proxy_alpha, margin=loss.proxy_margin
    )
  return contrastive.pairwise_contrastive(
    v,
    classes=data.classes_per_batch,
    slots=data.images_per_class,
    temperature=loss.temperature,
    reduction=loss.reduction,
  )


def make_loss(
  embedder: embedders.Embedder, config: ConfigDict, axis: str | None
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
  """L = L_aux + beta L_ali (+ L_img) of the *global* batch, from each device's share of its rows.

  `loss(params, mean_projectors, batch, targets) -> (loss, metrics)` with batch 'label' [b] and
  'image' [b, S, S, 3] uint8 or, with a frozen backbone, 'feature' [b, width], what the backbone
  made of it; 'index' [b], the images' rows, where L_img is asked for. Rows past N x m are R
  recoloured images, which L_img alone sees and which take the place of the others there, and
  padding, cut off before all losses.
  """
  n, m = config.data.classes_per_batch, config.data.images_per_class
  of_classes, every = n * m, n * m + config.data.recoloured_per_batch
  read = slice(of_classes if every > of_classes else 0, every)
  options = config.loss
  # Under 'sum', L_aux is m(m-1) times its mean: L_ali grows alike, so that beta keeps its meaning.
  scale = m * (m - 1) if options.reduction == "sum" else 1
  beta, image_beta = options.beta * scale, options.image_beta * scale

  def gather(x: Any) -> jax.Array:
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)

  def embed(params, batch):
    if "feature" in batch:
      return embedder.apply({"params": params}, batch["feature"], method="head")
    return embedder.apply({"params": lora.merge(params, embedder.lora_alpha)}, batch["image"])

  def loss(params, mean_projectors, batch, all_targets):
    targets = all_targets
    of_all = gather(embed(params, batch))  # [N m + R and padding, D]
    v, labels = of_all[:of_classes], gather(batch["label"])[:of_classes]
    aux = auxiliary(config, v, labels, params)
    metrics = {"l_aux": aux}
    total = aux
    if options.alignment != "none":
      if options.alignment == "onehot":
        targets = {"class_vectors": params["class_vectors"]}
      ali, log_p, log_q = alignment.alignment(
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
        stats = alignment.collapse_stats(jax.lax.stop_gradient(log_probs))
        metrics |= {f"{side}_{name}": value for name, value in stats.items()}
    if options.image_alignment != "none":
      reading = alignment.image_alignment(
        of_all[read],
        gather(batch["index"])[read],
        all_targets,
        params["projectors"]["reading"],
        form=options.image_alignment,
        temperature=options.image_temperature,
      )
      total = total + image_beta * reading
      metrics["l_img"] = reading
    return total, metrics | {"loss": total}

  return loss


def make_gradients(
  embedder: embedders.Embedder, config: ConfigDict, axis: str | None
) -> Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]:
  """`gradients(params, mean_projectors, batch, targets) -> (grads, metrics)` of `make_loss`.

  Only of the parameters that are trained: what is frozen costs no backward pass of its own.
  """
  loss = make_loss(embedder, config, axis)

  def gradients(params, mean_projectors, batch, targets):
    trained, fixed = optimizers.split(config, params)

    def of_trained(trained):
      return loss(optimizers.join(trained, fixed), mean_projectors, batch, targets)

    grads, metrics = jax.grad(of_trained, has_aux=True)(trained)
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
    trained, fixed = optimizers.split(config, state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    params = optimizers.join(trained, fixed)
    mean_projectors = jax.tree.map(
      lambda e, p: (1 - alpha) * e + alpha * p,
      state.mean_projectors,
      _with_twins(params),
    )
    metrics |= {
      "grad_norm": optax.global_norm(grads),
      # Of the updated parameters: what a checkpoint of this step would hold. A frozen backbone
      # cannot diverge, and to read all of it would be most of a step on its features.
      "param_norm": optax.global_norm(trained),
      "learning_rate": schedule(state.step),
    }
    return TrainState(state.step + 1, params, mean_projectors, opt_state), metrics

  return step
