"""The query and the gallery of CVSI from the features of their terms: NumPy, no model.

Section 1.5 and 1.6 of the method's document. All features of one term are L2-normalised, except q_m
and t_c, which are means of normalised ones.
"""

from typing import Any

import numpy as np

from lafg_jax.tasks.composed_retrieval.methods import TERMS, Weights, without


def unit(x: np.ndarray) -> np.ndarray:
  """Rows [n, D] of unit length, float32; zeros stay."""
  norms = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
  # In place of float64 all through: a gallery may have 100,000 rows.
  return (x / np.where(norms > 0, norms, 1.0).astype(np.float32)[:, None]).astype(np.float32)


def query(
  q_m: np.ndarray | None,
  q_f: np.ndarray | None,
  q_v: np.ndarray | None,
  weights: Weights,
  q_t: np.ndarray | None = None,
  edited: np.ndarray | None = None,
) -> np.ndarray:
  """q = alpha q_m + beta q_f + rest q_v [Q, D] float32; the arguments are those of `pieces`."""
  return total(pieces(q_m, q_f, q_v, weights, q_t, edited))


def total(of: dict[str, np.ndarray]) -> np.ndarray:
  """The sum [Q, D] of what `pieces` gives."""
  first, *others = of.values()
  return sum(others, start=first)


def pieces(
  q_m: np.ndarray | None,
  q_f: np.ndarray | None,
  q_v: np.ndarray | None,
  weights: Weights,
  q_t: np.ndarray | None = None,
  edited: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """{term: weight times features [Q, D] float32}, of each term with a weight.

  Args:
    q_m: mean of the normalised features of edited descriptions.
    q_f: normalised features of the text with the pseudo word.
    q_v: normalised features of the reference image.
    weights: a term whose weight is 0 may be None.
    q_t: normalised features of the text alone, of baselines.
    edited: [Q] bool, which queries have an edited description; the weights of the others' terms
      are scaled up to 1. None is all of them.
  """
  terms = {"edit": q_m, "phi": q_f, "image": q_v, "text": q_t}
  given = dict(zip(TERMS, weights, strict=True))
  lacking = given
  if edited is not None and weights.alpha and not edited.all():
    there = {name for name, x in terms.items() if x is not None} - {"edit"}
    lacking = dict(zip(TERMS, without(weights, there), strict=True))
  found = {}
  for name in (name for name in TERMS if given[name] or lacking[name]):
    w: Any = np.float32(given[name])
    if lacking != given and edited is not None:
      w = np.where(edited, w, np.float32(lacking[name]))[:, None]
    found[name] = w * terms[name]  # type: ignore[operator]
  return found


def gallery(
  t_v: np.ndarray,
  t_c: np.ndarray | None,
  gamma: float,
  *,
  captioned: np.ndarray | None = None,
  normalize_captions: bool = False,
  normalize_fused: bool = False,
) -> np.ndarray:
  """t = (1 - gamma) t_v + gamma t_c [G, D] float32.

  Args:
    t_v: normalised features of the images.
    t_c: mean of the normalised features of an image's captions.
    captioned: [G] bool, which images have captions; t of the others is t_v. None is all of them.
    normalize_captions: t_c is normalised first (CVSI's code for FashionIQ).
    normalize_fused: t is normalised, so that the score is the cosine (CVSI's figure) in place of
      the dot product (its code).
  """
  found = t_v
  if gamma and t_c is not None:
    t_c = unit(t_c) if normalize_captions else t_c
    found = np.float32(1 - gamma) * t_v + np.float32(gamma) * t_c
    if captioned is not None:
      found = np.where(captioned[:, None], found, t_v)
  return unit(found) if normalize_fused else found
