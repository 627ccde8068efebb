"""Projectors P_v, P_t and P_r of the alignment, and class vectors without words."""

import jax
import jax.numpy as jnp
import numpy as np

from lafg_jax.models.weights import load
from lafg_jax.utils import random_streams
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.vectors import l2_normalise


def init_projectors(
  key: jax.Array, embedding_dim: int, text_dim: int | None, width: int
) -> dict[str, jax.Array]:
  """P_v [D, W] and P_t [d, W]: inputs of unit variance give outputs of unit variance.

  Without words (text_dim None) there is no P_t, and P_v starts as it would with them.
  """
  key_image, key_text = jax.random.split(key)
  image = {"image": _unit_variance(key_image, embedding_dim, width)}
  return image if text_dim is None else image | {"text": _unit_variance(key_text, text_dim, width)}


def _unit_variance(key: jax.Array, inputs: int, outputs: int) -> jax.Array:
  return jax.random.normal(key, (inputs, outputs)) / np.sqrt(inputs)


def init_teacher(key: jax.Array, embedding_dim: int, width: int) -> jax.Array:
  """P_r [D, d], from a key of its own: P_v and P_t start the same with and without it."""
  return _unit_variance(jax.random.fold_in(key, 0x8EAD), embedding_dim, width)


def pretrained_teacher(source: str, embedding_dim: int, width: int) -> jax.Array:
  """P_r [D, d] as a vision-language model has it; raises as `pretrained_projectors`."""
  image = load.image_projection(source, embedding_dim)
  _check_towers(source, image.shape[1], "teacher features", width)
  return jnp.asarray(image)


def _check_towers(source: str, found: int, what: str, width: int | None) -> None:
  if width not in (None, found):
    raise UserError(
      f"--config.loss.projector_init=pretrained: {what} have {width} numbers and images of "
      f"{source} {found}: it takes the two towers of one model; check language.encoder"
    )


def pretrained_projectors(
  source: str, embedding_dim: int, text_dim: int | None, width: int
) -> dict[str, jax.Array]:
  """P_v [D, d] as a vision-language model has it; P_t the identity, or none without words.

  Raises UserError as `load.image_projection`, and where `width` or `text_dim` is not d.
  """
  image = jnp.asarray(load.image_projection(source, embedding_dim))
  found = image.shape[1]
  if width != found:
    raise UserError(
      f"--config.loss.projector_width={width}: {source} projects to {found}; with "
      f"loss.projector_init=pretrained pass --config.loss.projector_width={found}"
    )
  _check_towers(source, found, "prototypes", text_dim)
  return {"image": image} if text_dim is None else {"image": image, "text": jnp.eye(found)}


def class_vectors(kind: str, num_classes: int, width: int, seed: int) -> np.ndarray:
  """[C, W] float32 word-free class targets: the controls `orthogonal` and `onehot`.

  `orthogonal` are rows of a random orthonormal basis; where C > W no such basis exists, and its
  columns are orthonormal instead (a tight frame, rows scaled to unit length). `onehot` starts as
  random unit vectors, and is learned.
  """
  x = random_streams.class_vectors(seed).standard_normal((num_classes, width))
  if kind == "orthogonal":
    x = np.linalg.qr(x.T)[0].T if num_classes <= width else np.linalg.qr(x)[0]
  return l2_normalise(x, "class vectors")
