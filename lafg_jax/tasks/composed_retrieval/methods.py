"""The methods of query.method: which terms make a query and a gallery. It imports no jax.

Terms by name: 'edit' is q_m, the mean of the edited descriptions' features; 'phi' is q_f, the text
with the pseudo word; 'image' is q_v, the reference image; 'text' is the text alone; 'captions' is
t_c, the mean of a gallery image's captions.
"""

from collections.abc import Collection
from typing import NamedTuple

from ml_collections import ConfigDict

from lafg_jax.config.table.composed import MAPPINGS
from lafg_jax.utils.errors import UserError

# Templates of q_f: "$" is the pseudo word, {text} the modification, {added} the objects added.
TEMPLATES = {
  "cvsi": "a photo of $ that {text}. And the photo should have {added}.",
  "without_added": "a photo of $ that {text}.",
  "plain": "a photo of $ that {text}",
  "pic2word": "a photo of $ , {text}",
}
# Descriptions that stand beside a query's own: true ones, those that the editor makes of true
# captions, and those of an editor that half of the time answers another query.
OTHER_EDITS = ("perfect", "true_captions", "noisy")
TERMS = ("edit", "phi", "image", "text")


class Weights(NamedTuple):
  """The weights of q_m, q_f, q_v and of the text alone; their sum is 1."""

  alpha: float
  beta: float
  rest: float
  text: float = 0.0


class Method(NamedTuple):
  """What makes a query and a gallery.

  weights: of the query's terms. gamma: of captions in the gallery. template: of TEMPLATES; 'cvsi'
  is 'without_added' for a query without objects. edits: 'all' edited descriptions of a query, its
  'first', or one of `OTHER_EDITS`. words: whose pseudo word is in q_f, 'own' or of 'other' images.
  """

  weights: Weights
  gamma: float = 0.0
  template: str = "cvsi"
  edits: str = "all"
  words: str = "own"


def of(config: ConfigDict) -> Method:
  """The method of a config before anything is found to be missing.

  Raises UserError where no term is left.
  """
  name, query = config.query.method, config.query
  if name == "image":
    return Method(Weights(0.0, 0.0, 1.0))
  if name == "text":
    return Method(Weights(0.0, 0.0, 0.0, 1.0))
  if name == "sum":
    return Method(Weights(0.0, 0.0, 0.5, 0.5))
  if name == "cirevl":
    return Method(Weights(1.0, 0.0, 0.0), edits="first")
  if name in MAPPINGS:
    return Method(Weights(0.0, 1.0, 0.0), template=template_of(name), words=query.words)
  weights = Weights(query.alpha, query.beta, max(0.0, round(1 - query.alpha - query.beta, 9)))
  used = {"edit": query.use_edit, "phi": query.use_phi, "image": query.use_image}
  if not any(used.values()):
    raise UserError(
      "--config.query.use_image=False: no term of the query is left; leave query.use_edit, "
      "query.use_phi or query.use_image at True"
    )
  template = "cvsi" if query.use_added else "without_added"
  gamma = query.gamma if query.use_captions else 0.0
  on = {name for name, is_used in used.items() if is_used}
  return Method(without(weights, on), gamma, template, words=query.words)


def template_of(mapping: str) -> str:
  """The plain template of a Phi trained in this way."""
  return "pic2word" if mapping == "pic2word" else "plain"


def without(weights: Weights, there: set[str]) -> Weights:
  """The weights without the terms that are not `there`, scaled up to a sum of 1.

  Where the others' weights are 0, those of them that are there share the weight evenly: with the
  image alone, q_v has all of it. All are 0 where none is there.
  """
  values = [x if name in there else 0.0 for name, x in zip(TERMS, weights, strict=True)]
  if not sum(values):
    values = [float(name in there and name != "text") for name in TERMS]
  total = sum(values) or 1.0
  return Weights(*(x / total for x in values))


def available(method: Method, there: set[str]) -> Method:
  """The method with the terms that are `there`, of 'edit', 'phi' and 'captions' (and always
  'image' and 'text')."""
  weights = without(method.weights, {"image", "text", *there})
  return method._replace(weights=weights, gamma=method.gamma if "captions" in there else 0.0)


def weights_of(config: ConfigDict, there: set[str]) -> Weights:
  """The weights of a config's query where 'edit' and 'phi' are `there` or not."""
  return available(of(config), there).weights


def resolve(config: ConfigDict) -> ConfigDict:
  """A copy of a config in which Phi is trained in the way of the method."""
  config = config.copy_and_resolve_references()
  if config.query.method in MAPPINGS:
    config.mapping.method = config.query.method
  return config


def reads(config: ConfigDict) -> set[str]:
  """Which of 'captions', 'edit' and 'phi' the figures of a config depend on.

  'captions' are read by the gallery, and by an editor that changes them.
  """
  method, found = of(config), set()
  if method.weights.alpha and config.editor.kind != "none":
    found.add("edit")
  if method.weights.beta:
    found.add("phi")
  edits = "edit" in found and edits_captions(config)
  if config.captioner.kind != "none" and (edits or gallery_captions(config, method)):
    found.add("captions")
  return found


def edits_captions(config: ConfigDict) -> bool:
  """Whether the editor changes captions: not one that reads a file, or the truth."""
  return config.editor.kind not in ("none", "file", "perfect")


def gallery_captions(config: ConfigDict, method: Method) -> bool:
  """Whether the gallery's captions count."""
  return bool(method.gamma) and config.captioner.kind != "none" and config.captioner.gallery


def inverts(config: ConfigDict) -> bool:
  """Whether each reference image is inverted, in place of Phi (SEARLE-OTI)."""
  return config.query.method == "searle" and config.query.oti


def trains(config: ConfigDict) -> bool:
  """Whether Phi is trained here."""
  return "phi" in reads(config) and not config.mapping.source and not inverts(config)


def beside(config: ConfigDict, there: set[str], other: Collection[str]) -> dict[str, Method]:
  """{name: method} of a table: the config's own first, then what costs nothing more.

  there: of 'edit', 'phi', 'captions' and 'added'. other: of OTHER_EDITS. Beside CVSI stand each of
  its terms off and what the baselines make of the same features.
  """
  own = available(of(config), there)
  found = {config.query.method: own}
  if config.query.method == "cvsi":
    found |= _terms_off(own, "added" in there)
    if "phi" in there:
      way = config.mapping.method
      found[way] = Method(Weights(0.0, 1.0, 0.0), template=template_of(way))
    if "edit" in there:
      found["cirevl"] = Method(Weights(1.0, 0.0, 0.0), edits="first")
      known = [name for name in OTHER_EDITS if name in other and own.weights.alpha]
      found |= {f"{name}_edits": own._replace(edits=name) for name in known}
  cheap = {
    "image": Method(Weights(0.0, 0.0, 1.0)),
    "text": Method(Weights(0.0, 0.0, 0.0, 1.0)),
    "sum": Method(Weights(0.0, 0.0, 0.5, 0.5)),
  }
  return found | {name: method for name, method in cheap.items() if name not in found}


def _terms_off(own: Method, added: bool) -> dict[str, Method]:
  """The method without each term that has a weight."""
  there = {name for name, weight in zip(TERMS, own.weights, strict=True) if weight}
  found = {}
  if len(there) > 1:
    for name in (name for name in TERMS if name in there):
      found[f"no_{name}"] = own._replace(weights=without(own.weights, there - {name}))
  if own.gamma:
    found["no_captions"] = own._replace(gamma=0.0)
  if added and own.weights.beta and own.template == "cvsi":
    found["no_added"] = own._replace(template="without_added")
  return found
