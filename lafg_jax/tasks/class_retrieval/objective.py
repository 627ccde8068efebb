"""What LaFG trains: L = L_aux + beta L_ali (+ image_beta L_img) of a global batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.config.table.loss import PROXIED, WORDLESS
from lafg_jax.losses import alignment, contrastive, metric_learning, start_distance
from lafg_jax.models import embedder as embedders
from lafg_jax.models import layer_rates, lora
from lafg_jax.tasks.class_retrieval import projectors
from lafg_jax.tasks.class_retrieval.choices import reads_words
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.tasks.class_retrieval.start import MakeHead
from lafg_jax.training import optimizers, partition
from lafg_jax.training.step import Objective
from lafg_jax.utils.vectors import l2_normalise

# An image or text side this near to uniform or constant no longer tells classes apart.
UNIFORM_ENTROPY, CONSTANT_SPREAD = 0.999, 0.002
# Of L_aux where all embeddings are equal. A run with more of it after three quarters of its steps
# has learned nothing: of fine-tunings on Cars those that had collapsed had 0.98 or more, the others
# 0.94 or less.
GUESS_SHARE, LATE = 0.97, 0.75


def build(
  config: ConfigDict,
  num_classes: int,
  prototypes: LoadedPrototypes | None = None,
  params: dict[str, Any] | None = None,
  make_head: MakeHead | None = None,
) -> Objective:
  """The objective of a resolved config, for C training classes; without words no prototypes.

  A batch has N m rows of classes, slot-major, then R recoloured rows of no class. L_aux and L_ali
  compare the former. L_img compares the latter, or the former where R is 0. The parameters are by
  default those before training, `init_params`.
  """
  loss, size = config.loss, config.data.image_size
  if params is None:
    text_dim = None if prototypes is None else prototypes.prototypes.shape[1]
    teacher_dim = None if prototypes is None else prototypes.teacher_dim
    params = init_params(config, num_classes, text_dim, teacher_dim, make_head)
  embed_reads = {"image": embedders.input_of(embedders.build(config.model), size)}
  if config.train.frozen_backbone:
    width = embedders.build(config.model).backbone.width
    embed_reads = {"feature": jax.ShapeDtypeStruct((width,), np.float32)}
  loss_reads = ("label",) if loss.image_alignment == "none" else ("label", "index")
  made = Objective(
    params=params,
    embed=_make_embed(config),
    loss=make_loss(config),
    embed_reads=embed_reads,
    loss_reads=dict.fromkeys(loss_reads, jax.ShapeDtypeStruct((), np.int32)),
    rows=num_rows(config),
    constants=targets(config, num_classes, prototypes),
    is_frozen=_frozen_by(config),
    # Their learning rates go with the length that `init_proxies` gives them.
    rate_of=((r"^proxies$", loss.proxy_lr_factor), *_layer_rates(config)),
    # L_img has no EMA copy of its projector.
    averaged=tuple(f"projectors/{x}" for x in params.get("projectors", {}) if x != "teacher"),
    ema_step=loss.ema_step,
    shown=("loss", "l_aux", "l_ali", "l_img", "l_start", "image_entropy", "image_spread"),
    warning=_make_warning(config),
  )
  if not loss.start_distance:
    return made
  return made._replace(constants=made.constants | {"start": _anchor(config, made)})


def init_params(
  config: ConfigDict,
  num_classes: int,
  text_dim: int | None,
  teacher_dim: int | None = None,
  make_head: MakeHead | None = None,
) -> dict[str, Any]:
  """The parameters before training, a pure function of the config and of what makes the head.

  {'backbone', 'embedding', 'projectors': {'image' P_v [D, W], 'text' P_t [d, W], 'teacher' P_r
  [D, d]}}, and what `Embedder` and model.lora_rank add. P_v is there with L_ali, P_t where that
  reads prototypes, P_r with L_img. The control `onehot` adds 'class_vectors' [C, W], and a
  loss.auxiliary with proxies 'proxies' [C, D]. text_dim is the width of the prototypes, None
  without words; teacher_dim is d, the width of the teacher features, None without L_img.
  """
  loss = config.loss
  embedder, params = embedders.init_model(config)
  if make_head is not None:
    params["embedding"] = make_head(embedder, params)
  embedding_dim = config.model.embedding_dim or embedder.backbone.width
  key = embedders.seeds(config)[1]
  if loss.auxiliary in PROXIED:
    # A key of its own: all else starts the same with and without.
    own = jax.random.fold_in(key, 0x9A0C)
    params["proxies"] = metric_learning.init_proxies(own, num_classes, embedding_dim)
  words: Any = projectors.init_projectors
  teacher: Any = projectors.init_teacher
  start: Any = key
  if loss.projector_init == "pretrained":
    words, teacher = projectors.pretrained_projectors, projectors.pretrained_teacher
    start = config.model.pretrained
  made = {}
  if loss.alignment != "none":
    text_dim = None if loss.alignment in WORDLESS else text_dim
    made = words(start, embedding_dim, text_dim, loss.projector_width)
  if loss.image_alignment != "none":
    made["teacher"] = teacher(start, embedding_dim, teacher_dim)
  if made:
    params["projectors"] = made
  if loss.alignment == "onehot":
    vectors = projectors.class_vectors("onehot", num_classes, loss.projector_width, config.seed)
    params["class_vectors"] = jnp.asarray(vectors)
  return params


def _layer_rates(config: ConfigDict) -> tuple[tuple[str, float], ...]:
  if config.train.layer_decay == 1:
    return ()
  return layer_rates.of_vit(embedders.build(config.model).backbone.depth, config.train.layer_decay)


def _anchor(config: ConfigDict, made: Objective) -> dict[str, Any]:
  """The start of what is learned of the backbone, and of a head that is not random."""
  kept = ("backbone", "embedding") if config.model.head_init != "random" else ("backbone",)
  params = {name: x for name, x in made.params.items() if name in kept}
  learned = partition.split(params, optimizers.frozen(config.train, made))[0]
  # Copies: the step takes the parameters' own memory.
  return jax.tree.map(np.array, learned)


def check_paths(config: ConfigDict) -> None:
  """Raises UserError where model.lora_targets or train.freeze find nothing; computes nothing."""
  # No path depends on a width, but pretrained projectors take one width alone.
  random = config.loss.projector_init == "random"
  dim = (2 if random else config.loss.projector_width) if reads_words(config) else None
  params = jax.eval_shape(lambda: init_params(config, 2, dim, dim))
  optimizers.check_freeze(config.train, params, _frozen_by(config))


def _frozen_by(config: ConfigDict) -> Callable[[str], bool]:
  """Whether a parameter stays as it started, whatever train.freeze says."""
  loss, model = config.loss, config.model
  # A text side that is not learned must not decay or drift: in the 'prototype' form P_t takes no
  # gradient unless it is 'free'. L_img reads the text side as it is.
  text_is_fixed = (
    loss.projector == "fixed"
    or (loss.projector == "mean" and loss.alignment == "prototype")
    or loss.alignment in WORDLESS
  )
  # LoRA and prompts are there to leave what was pretrained as it is.
  keeps_backbone = bool(model.lora_rank or model.num_prompts or config.train.frozen_backbone)

  def is_frozen(path: str) -> bool:
    if path == "projectors/text":
      return text_is_fixed
    return keeps_backbone and path.startswith("backbone/")

  return is_frozen


def targets(
  config: ConfigDict, num_classes: int, prototypes: LoadedPrototypes | None
) -> dict[str, np.ndarray]:
  """What the losses compare images with, float32: the `targets` of both forms of `alignment`."""
  loss = config.loss
  found: dict[str, Any] = {}
  if loss.alignment == "orthogonal":
    width, seed = loss.projector_width, config.seed
    found["class_vectors"] = projectors.class_vectors("orthogonal", num_classes, width, seed)
  elif prototypes is not None and loss.alignment == "vocabulary":
    centre = prototypes.vocabulary.mean(axis=0) * config.language.centre
    queries, attributes = prototypes.queries - centre, prototypes.vocabulary - centre
    cosine = l2_normalise(queries, "class queries") @ l2_normalise(attributes, "attributes").T
    # The formula centres the class's side of the comparison only.
    found = {"vocabulary": prototypes.vocabulary, "attribute_cosine": cosine}
  elif prototypes is not None:
    unit_variance = loss.unit_variance and loss.alignment == "distribution"
    scale = prototypes.prototypes.std() if unit_variance else 1
    found["prototypes"] = prototypes.prototypes / scale
  found = {name: np.asarray(x, np.float32) for name, x in found.items()}
  return found if prototypes is None else found | prototypes.teacher_features


def _auxiliary(config, v, labels, params) -> jax.Array:
  """L_aux of embeddings v [N m, D], slot-major, with labels [N m]."""
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


def _make_embed(config: ConfigDict) -> Callable[..., jax.Array]:
  """Images uint8 [b, S, S, 3], or features [b, width] of a frozen backbone, or given, to [b, D]."""
  embedder = embedders.build(config.model)

  def embed(params, averages, rows, constants, keys):
    del averages, constants, keys
    if "feature" in rows:
      return embedder.apply({"params": params}, rows["feature"], method="head")
    return embedder.apply({"params": lora.merge(params, embedder.lora_alpha)}, rows["image"])

  return embed


def num_rows(config: ConfigDict) -> int:
  """N m + R, the rows of a global batch."""
  data = config.data
  return data.classes_per_batch * data.images_per_class + data.recoloured_per_batch


def make_loss(config: ConfigDict) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
  """`Objective.loss` of a config."""
  options, data = config.loss, config.data
  n, m = data.classes_per_batch, data.images_per_class
  # Under 'sum', L_aux is m(m-1) times its mean: scaled alike, L_ali keeps the meaning of beta.
  scale = m * (m - 1) if options.reduction == "sum" else 1
  beta, image_beta = options.beta * scale, options.image_beta * scale
  read = slice(n * m if data.recoloured_per_batch else 0, None)

  def loss(embeddings, params, averages, batch, constants, key):
    del key
    v, labels = embeddings[: n * m], batch["label"][: n * m]
    total = _auxiliary(config, v, labels, params)
    metrics = {"l_aux": total}
    if options.alignment != "none":
      ali, found = _aligned(config, v, labels, params, averages, constants)
      total = total + beta * ali
      metrics |= found
    if options.image_alignment != "none":
      metrics["l_img"] = alignment.image_alignment(
        embeddings[read],
        batch["index"][read],
        constants,
        params["projectors"]["teacher"],
        form=options.image_alignment,
        temperature=options.image_temperature,
      )
      total = total + image_beta * metrics["l_img"]
    if options.start_distance:
      metrics["l_start"] = start_distance.half_squared(params, constants["start"])
      total = total + options.start_distance * scale * metrics["l_start"]
    return total, metrics

  return loss


def _aligned(config, v, labels, params, averages, constants):
  """L_ali of embeddings v [N m, D], and metrics that show whether a side of it collapses."""
  options = config.loss
  if options.alignment == "onehot":
    constants = {"class_vectors": params["class_vectors"]}
  ali, log_p, log_q = alignment.alignment(
    v,
    labels,
    constants,
    params["projectors"],
    averages["projectors"],
    form=options.alignment,
    projector=options.projector,
    temperature=options.alignment_temperature,
  )
  metrics = {"l_ali": ali}
  for side, log_probs in (("image", log_p), ("text", log_q)):
    stats = alignment.collapse_stats(jax.lax.stop_gradient(log_probs))
    metrics |= {f"{side}_{name}": value for name, value in stats.items()}
  return ali, metrics


def equal_l_aux(config: ConfigDict) -> float:
  """L_aux of a batch whose embeddings are all equal; without proxies."""
  n, m = config.data.classes_per_batch, config.data.images_per_class
  labels = jnp.tile(jnp.arange(n), m)
  return float(_auxiliary(config, jnp.ones((n * m, 2)), labels, {}))


def _make_warning(config: ConfigDict) -> Callable[[dict[str, float]], str]:
  """`Objective.warning` of a config."""

  def warning(metrics: dict[str, float]) -> str:
    late = metrics["done"] >= LATE and config.loss.auxiliary not in PROXIED
    if (wrong := _collapse(metrics)) or not late:
      return wrong
    l_aux, guess = metrics["l_aux"], equal_l_aux(config)
    if l_aux < GUESS_SHARE * guess:
      return ""
    return (
      f"the model tells images apart no better than a guess: l_aux is {l_aux:.4g}, and "
      f"{guess:.4g} where all look alike (try a smaller train.learning_rate, a longer "
      "train.warmup, or more steps)"
    )

  return warning


def _collapse(metrics: dict[str, float]) -> str:
  """The warning where a side of L_ali no longer tells classes apart; '' where both do."""
  for side in ("image", "text"):
    entropy, spread = metrics.get(f"{side}_entropy", 0.0), metrics.get(f"{side}_spread", 1.0)
    if entropy > UNIFORM_ENTROPY or spread < CONSTANT_SPREAD:
      return (
        f"the projected distributions of the {side} side have collapsed: entropy {entropy:.4f} of "
        f"1, spread {spread:.4f}; L_ali teaches nothing so (try language.centre, "
        "loss.unit_variance or loss.alignment_temperature)"
      )
  return ""
