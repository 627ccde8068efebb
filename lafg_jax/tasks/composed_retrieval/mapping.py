"""Phi: a CLIP's image feature to a pseudo word, a vector beside the embeddings of its tokens.

'lincir' and 'searle' (Gu et al., CVPR 2024; Baldrati et al., ICCV 2023) have one net: Linear, GELU
(erf), Dropout, twice, then Linear; its hidden layers are four times as wide as the features.
'pic2word' (Saito et al., CVPR 2023): Linear, Dropout, ReLU, twice, then Linear; 512 wide. Neither
normalises what goes in or comes out.

Parameters are {'layer_0': {'kernel', 'bias'}, 'layer_1': ..., ...}; the last layer is linear.
"""

import os
import re
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lafg_jax.models.weights import files
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import UserError

KINDS = ("lincir", "searle", "pic2word")
# The width of Pic2Word's hidden layers; the others' are this many times the features'.
_PIC2WORD_HIDDEN, _TIMES = 512, 4
_KEY = "--config.mapping.source"
# Where checkpoints have the state of the net.
_PLACES = ("Phi", "state_dict_img2text", "img2text")
_NAMES = {
  "lincir": re.compile(r"layers\.(\d+)\.(weight|bias)"),
  "pic2word": re.compile(r"(?:layers\.(\d+)\.0|fc_out)\.(weight|bias)"),
}


def hidden(kind: str, dim: int, width: int = 0) -> int:
  """The width of the hidden layers: `width`, mapping.hidden, or where that is 0 as published."""
  return width or (_PIC2WORD_HIDDEN if kind == "pic2word" else _TIMES * dim)


def init(kind: str, dim: int, width: int, hidden: int, key: jax.Array) -> dict[str, Any]:
  """Random parameters as torch's Linear starts: U(-a, a), a = 1 / sqrt(inputs), biases too.

  dim: of the features. width: of token embeddings.
  """
  del kind
  params = {}
  sizes = ((dim, hidden), (hidden, hidden), (hidden, width))
  for number, (of, (inputs, outputs)) in enumerate(
    zip(jax.random.split(key, len(sizes)), sizes, strict=True)
  ):
    bound, keys = inputs**-0.5, jax.random.split(of)
    shapes = {"kernel": (inputs, outputs), "bias": (outputs,)}
    params[f"layer_{number}"] = {
      name: jax.random.uniform(one, shape, minval=-bound, maxval=bound)
      for one, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
  return params


def apply(
  kind: str,
  params: dict[str, Any],
  x: jax.Array,
  dropout: float = 0.0,
  key: jax.Array | None = None,
) -> jax.Array:
  """Features [B, D], not normalised, to pseudo words [B, width] float32.

  dropout: the part of hidden units that training leaves out; it takes `key`, a key for each row
  [B], so that what a row loses does not depend on its batch.
  """
  last = len(params) - 1
  for number in range(last + 1):
    layer = params[f"layer_{number}"]
    x = x @ layer["kernel"] + layer["bias"]
    if number < last:
      # Pic2Word's dropout stands before its ReLU, which is the same as after it.
      x = jax.nn.relu(x) if kind == "pic2word" else jax.nn.gelu(x, approximate=False)
      x = x if key is None else _dropped(x, dropout, key, number)
  return x


def _dropped(x: jax.Array, rate: float, keys: jax.Array, number: int) -> jax.Array:
  def one(key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, x.shape[1:])

  return jnp.where(jax.vmap(one)(keys), x / (1 - rate), 0.0)


def load(config: ConfigDict, clip: Any) -> tuple[str, dict[str, Any]] | None:
  """(kind, params) of mapping.source, None where that is empty.

  Raises UserError: nothing is there, it is no Phi, or not one of this CLIP or of mapping.method.
  """
  source = config.mapping.source
  if not source:
    return None
  kind, params = from_workdir(source, config) if os.path.isdir(source) else from_torch(source)
  check(source, params, clip)
  # A torch file does not tell a Phi of SEARLE from one of LinCIR.
  alike = ("lincir", "searle") if kind != "pic2word" and not os.path.isdir(source) else (kind,)
  if (method := config.mapping.method) not in alike:
    raise UserError(
      f"{_KEY}={source}: its Phi is of {' or '.join(alike)}, and mapping.method (or query.method) "
      f"is {method}; pass --config.mapping.method={kind}"
    )
  return kind, params


def check(source: str, params: dict[str, Any], clip: Any) -> None:
  """Raises UserError where a Phi does not fit the features and the tokens of a CLIP."""
  last = params[f"layer_{len(params) - 1}"]
  found = (len(params["layer_0"]["kernel"]), last["kernel"].shape[1])
  wanted = (clip.dim, clip.text.sizes[0])
  if found != wanted:
    raise UserError(
      f"{_KEY}={source}: it maps features of {found[0]} to words of {found[1]} numbers, and this "
      f"CLIP has {wanted[0]} and {wanted[1]}: pass the Phi of --config.model.pretrained"
    )


def from_workdir(workdir: str, config: ConfigDict) -> tuple[str, dict[str, Any]]:
  """(kind, params) of a trained workdir: of its best checkpoint where it has one, or the newest.

  Raises UserError where there is none, or where it was trained on another CLIP than the config's.
  """
  where = checkpoints.BEST if checkpoints.steps(workdir, checkpoints.BEST) else checkpoints.FOLDER
  arrays, meta = checkpoints.require(workdir, where)
  params = checkpoints.subtree(arrays, "state/params/mapping")
  if not params:
    raise UserError(f"{_KEY}={workdir}: its checkpoints have no Phi; pass a run of this task")
  name, content = config.model.pretrained, files.content_hash(config.model.pretrained, files.WHOLE)
  theirs = meta["made_of"].get("the pretrained weights")
  if content != theirs or (content is None and meta["config"]["model.pretrained"] != name):
    raise UserError(
      f"{_KEY}={workdir}: its Phi was trained on {meta['config']['model.pretrained']}, other "
      f"weights than --config.model.pretrained={name}; pass these"
    )
  return meta["config"]["mapping.method"], params


def from_torch(path: str) -> tuple[str, dict[str, Any]]:
  """(kind, params) of a checkpoint of LinCIR, SEARLE or Pic2Word, or of its state as safetensors.

  LinCIR's and SEARLE's {'epoch', 'Phi': {'layers.0.weight', ...}} are 'lincir'. Pic2Word's is the
  whole training state, with 'state_dict_img2text', whose names may begin with 'module.'.

  Raises UserError: nothing is there, it cannot be read, or it holds no Phi.
  """
  state = _state(path)
  for kind, pattern in _NAMES.items():
    named = {name: match for name in state if (match := pattern.fullmatch(name))}
    if named and len(named) == len(state):
      return kind, _layers(path, {n: (m[1], m[2]) for n, m in named.items()}, state)
  shown = ", ".join(sorted(map(str, state))[:3])
  raise UserError(
    f"{_KEY}={path}: it holds no mapping network, but {shown or 'nothing'}; pass a checkpoint of "
    "SEARLE, LinCIR or Pic2Word"
  )


def _state(path: str) -> dict[str, Any]:
  """The state of the net in a file: {name: tensor or array}."""
  if not os.path.isfile(path):
    raise UserError(f"{_KEY}={path}: no such file or folder")
  if path.endswith(".safetensors"):
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
      found: Any = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
      raise UserError(f"{_KEY}={path}: it cannot be read ({error})") from error
  else:
    found = _read_torch(path)
  # A checkpoint, or the state by itself; a net under another name stands beside 'epoch'.
  place = next((name for name in _PLACES if name in found), None)
  state = found[place] if place else found
  if not isinstance(state, dict):
    raise UserError(f"{_KEY}={path}: its {place} is no state of a network")
  return {str(name).removeprefix("module."): x for name, x in state.items()}


def _read_torch(path: str) -> dict[str, Any]:
  try:
    import torch
  except ImportError as error:
    raise UserError(f"{_KEY}={path}: a .pt file takes PyTorch; pip install torch") from error
  try:
    # Pic2Word's file holds a whole CLIP and its optimiser, of which nothing is read.
    mapped = zipfile.is_zipfile(path)
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
  # torch raises all kinds of errors on damaged files.
  except Exception as error:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{_KEY}={path}: it is no checkpoint that can be read ({why[:90]})") from error
  if not isinstance(found, dict):
    raise UserError(f"{_KEY}={path}: it holds a {type(found).__name__}, not a state")
  return found


def _layers(path: str, named: dict[str, tuple[str | None, str]], state: Any) -> dict[str, Any]:
  """Layers in their order, kernels [in, out], float32; UserError where they do not fit together."""
  # None is fc_out, the last.
  order = sorted({number for number, _ in named.values()}, key=lambda n: (n is None, int(n or 0)))
  params: dict[str, Any] = {f"layer_{i}": {} for i in range(len(order))}
  for name, (number, what) in named.items():
    x = state[name]
    x = np.asarray(x.detach().float().numpy() if hasattr(x, "detach") else x, np.float32)
    kernel = what == "weight"
    params[f"layer_{order.index(number)}"]["kernel" if kernel else "bias"] = x.T if kernel else x
  layers = list(params.values())
  whole = all(x.keys() == {"kernel", "bias"} and x["kernel"].ndim == 2 for x in layers)
  if not whole or any(len(x["bias"]) != x["kernel"].shape[1] for x in layers):
    raise UserError(f"{_KEY}={path}: a layer of its network lacks its weight or its bias")
  if any(
    a["kernel"].shape[1] != len(b["kernel"]) for a, b in zip(layers, layers[1:], strict=False)
  ):
    raise UserError(f"{_KEY}={path}: the layers of its network do not follow each other")
  return params
