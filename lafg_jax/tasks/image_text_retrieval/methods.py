"""The methods of prompts.method, and what each puts in place of 'auto'. It imports no jax."""

from typing import NamedTuple

from ml_collections import ConfigDict

from lafg_jax.config.table.image_text import ADAPTER, FULL


class Method(NamedTuple):
  """What a method learns.

  text, image: whether there are prompts on that side.
  number, depth, init, coupling: what prompts.* of these names are where they are 'auto'. A depth
    beyond the blocks of a tower is all its blocks.
  """

  text: bool = False
  image: bool = False
  number: int = 0
  depth: int = 0
  init: str = "normal"
  coupling: str = "none"


# Deep prompts of all blocks: no tower has more.
ALL_BLOCKS = 99

# Section 3 of the method's document; dcar's values are ours where its paper is silent.
_METHODS = {
  "dcar": Method(True, True, 4, 1, "words", "linear"),
  "coop": Method(True, False, 16, 1),
  "vpt_shallow": Method(False, True, 8, 1),
  "vpt_deep": Method(False, True, 8, ALL_BLOCKS),
  "ivlp": Method(True, True, 2, ALL_BLOCKS, "words"),
  "maple": Method(True, True, 2, 9, "words", "linear"),
}


def of(config: ConfigDict) -> Method:
  """What the method of a config learns, with the config's own values where it sets them."""
  method = _METHODS.get(config.prompts.method, Method())
  if not (method.text or method.image):
    return method
  prompts = config.prompts
  coupled = method.text and method.image
  return method._replace(
    number=prompts.number or method.number,
    depth=prompts.depth or method.depth,
    init=method.init if prompts.init == "auto" else prompts.init,
    coupling=method.coupling if prompts.coupling == "auto" or not coupled else prompts.coupling,
  )


def resolve(config: ConfigDict) -> ConfigDict:
  """A copy of a config with the method's values in place of each 'auto' of `prompts`."""
  config = config.copy_and_resolve_references()
  found = of(config)
  if found.number:
    config.prompts.update(
      number=found.number, depth=found.depth, init=found.init, coupling=found.coupling
    )
  return config


def trains(config: ConfigDict) -> bool:
  """Whether there is anything to train: not in zero-shot retrieval."""
  return config.prompts.method != "zero_shot"


def is_full(config: ConfigDict) -> bool:
  """Whether the towers themselves are trained."""
  return config.prompts.method in FULL


def reweights(config: ConfigDict) -> bool:
  """Whether the tokens of a training caption have weights."""
  weighting = config.reweighting
  return config.prompts.method == "dcar" and bool(weighting.gamma or weighting.raw)


def has_categories(config: ConfigDict) -> bool:
  """Whether L_cate is part of the loss."""
  return config.prompts.method == "dcar" and config.category.weight > 0


def adapts(config: ConfigDict) -> bool:
  """Whether the image feature goes through CLIP-Adapter."""
  return config.prompts.method == ADAPTER


def reads_tokens(config: ConfigDict) -> bool:
  """Whether weights are made of the features of single tokens."""
  return reweights(config) and config.reweighting.similarity == "context_free"


def reads_stored(config: ConfigDict) -> bool:
  """Whether training reads stored text features."""
  return has_categories(config) or reads_tokens(config)
