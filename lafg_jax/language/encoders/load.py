"""Frozen encoders in transformers' format: where their files are, how texts become tokens, pooling.

CLIP, SigLIP and SigLIP 2 (text and image towers), and sentence encoders (any other text encoder),
from a folder or a hub id. torch and transformers are imported only when something is loaded.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from lafg_jax.utils import files, packages, places
from lafg_jax.utils.errors import UserError

_KEY = "language.encoder"
_HINT = "pass the folder of a transformers text encoder, --config.language.encoder=FOLDER"
# What is downloaded of a hub repository: no weights in other formats or precisions.
_HUB_FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"]
# The text tower of a model of two towers.
_TEXT_TOWERS = {
  "clip": "CLIPTextModelWithProjection",
  "siglip": "SiglipTextModel",
  "siglip2": "Siglip2TextModel",
}
_POOLINGS = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")


class TextReader(NamedTuple):
  """How one encoder reads text."""

  tokenizer: Any
  limit: int  # tokens in the context, special tokens included
  lower: bool
  full_padding: bool  # to `limit`, without a mask
  # 'tower': the tower's own output; else names as in sentence-transformers, whose vectors are
  # concatenated in this order.
  pooling: tuple[str, ...]

  def lengths(self, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before any cut, special tokens included."""
    return [len(ids) for ids in self.tokenizer(self._cased(texts), verbose=False)["input_ids"]]

  def tokens(self, texts: Sequence[str]) -> dict[str, Any]:
    """Arguments [B, L] of the model, cut to `limit`."""
    found = self.tokenizer(
      self._cased(texts),
      padding="max_length" if self.full_padding else True,
      truncation=True,
      max_length=self.limit,
      return_attention_mask=True,
      return_tensors="pt",
    )
    # SigLIP was trained without a mask over its padding: a mask would change the features.
    names = ("input_ids",) if self.full_padding else ("input_ids", "attention_mask")
    return {name: found[name] for name in names}

  def _cased(self, texts: Sequence[str]) -> list[str]:
    return [text.lower() for text in texts] if self.lower else list(texts)


def folder_of(key: str, name: str, hint: str) -> Path | None:
  """The folder that a config key names; None for a hub id.

  Raises UserError, which `hint` ends, if `name` is the path of a folder that does not exist.
  """
  path = Path(name).expanduser()
  if path.is_dir():
    return path
  # A hub id is NAME or OWNER/NAME; anything else is meant as a path.
  if name[0] in "./~" or name.count("/") > 1 or path.exists():
    raise UserError(f"{key}: no folder {str(path)!r}: {hint}")
  return None


def local_folder(encoder: str) -> Path | None:
  """The local folder of an encoder ('tiny_clip' is the shipped one); None for a hub id.

  Raises UserError if `encoder` is empty, or the path of a folder that does not exist.
  """
  if not encoder:
    raise UserError(f"{_KEY} is empty: {_HINT}")
  shipped = Path(__file__).parents[2] / "finches/tiny_clip"
  return folder_of(_KEY, str(shipped) if encoder == "tiny_clip" else encoder, _HINT)


def resolve(encoder: str) -> tuple[Path, str]:
  """(folder with the encoder's files, identity of its content); a hub id is downloaded once.

  The identity is the hub's revision, or for a folder a hash of what decides the features.

  Raises:
    UserError: the language extra is not installed, there is no such folder, or the hub has no such
      model or cannot be reached.
  """
  packages.require("language", "safetensors", "torch", "transformers")
  folder = local_folder(encoder)
  if folder is None:
    problem = f"{_KEY} {encoder!r} cannot be loaded (the hub did not give it: {{}}): {_HINT}"
    patterns = {"allow_patterns": _HUB_FILES, "ignore_patterns": ["onnx/*", "openvino/*"]}
    folder = Path(places.hub_folder(encoder, problem, **patterns))
    return folder, f"{encoder}@{folder.name}"
  paths = [p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".txt", ".model")]
  paths += sorted(folder.glob("*.safetensors"))
  # Names relative to the folder: a copy elsewhere is the same encoder.
  content = [[path.relative_to(folder).as_posix(), path] for path in paths if path.is_file()]
  return folder, files.fingerprint(content)


def content(encoder: str) -> Path | str:
  """What of an encoder decides its features, for a fingerprint: its folder, or id and commit.

  Nothing is downloaded. The commit is empty where neither the hub's cache nor the hub knows it;
  `resolve` fails then, and says why. Raises UserError as `local_folder`.
  """
  return local_folder(encoder) or f"{encoder}@{places.hub_commit(encoder)}"


def load_reader(encoder: str, folder: Path) -> TextReader:
  """The tokenizer of an encoder and how its features are pooled; UserError if it cannot be used."""
  import transformers

  with loading(encoder):
    config = transformers.AutoConfig.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind, lower = _kind(config), False
    pooling = ("tower",) if kind else _pooling(folder)
    # A tokenizer without a limit gives one too large for the tokenizers library.
    limits = [2**20, tokenizer.model_max_length]
    limits += [getattr(getattr(config, "text_config", config), "max_position_embeddings", 0)]
    if not kind:
      settings = _read_json(folder / "sentence_bert_config.json") or {}
      limits.append(settings.get("max_seq_length") or 0)
      lower = bool(settings.get("do_lower_case"))
      logging.info("encoder %s: %s pooling of the last hidden states", encoder, "+".join(pooling))
    # Transformers fills an absent vocabulary with special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
      raise ValueError("it lacks a tokenizer")
  if tokenizer.pad_token is None:
    # Padding is masked out, so any token serves.
    tokenizer.pad_token = tokenizer.eos_token
  if kind == "clip":
    # Its positions count from the left.
    tokenizer.padding_side = "right"
  if kind in ("siglip", "siglip2"):
    lower = tokenizer.init_kwargs.get("do_lower_case", True)
  limit = int(min(limit for limit in limits if limit))
  return TextReader(tokenizer, limit, lower, kind.startswith("siglip"), pooling)


def load_text_model(encoder: str, folder: Path) -> Any:
  """The torch text model in float32; raises UserError, and is placed, as `load_model`."""
  import transformers

  with loading(encoder):
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = _kind(config)
    loader: Any = transformers.AutoModel
    if kind:
      loader = getattr(transformers, _TEXT_TOWERS[kind])
      if kind == "clip" and config.model_type == "clip":
        # The width of the joint space stands at the top level; the text section may disagree.
        config.text_config.projection_dim = config.projection_dim
      config = getattr(config, "text_config", config)
    elif config.is_encoder_decoder:
      loader = transformers.AutoModelForTextEncoding
  return load_model(loader, folder, {"config": config}, encoder)


def load_image_model(encoder: str, folder: Path) -> tuple[Any, Any]:
  """(image processor, torch model with `get_image_features`) of CLIP, SigLIP or SigLIP 2.

  Raises UserError as `load_model`, and if the encoder has no image tower or no preprocessor.
  """
  import transformers

  with loading(encoder):
    config = transformers.AutoConfig.from_pretrained(folder)
    if config.model_type not in _TEXT_TOWERS:
      raise ValueError(
        f"no image encoder but a model of type {config.model_type}; images need CLIP or SigLIP"
      )
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
  return processor, load_model(transformers.AutoModel, folder, {"config": config}, encoder)


def pool(output: Any, mask: Any, pooling: tuple[str, ...]) -> Any:
  """[B, d] from a text model's output and the mask [B, L] of its tokens; torch tensors."""
  import torch

  if pooling == ("tower",):
    return output["text_embeds"] if "text_embeds" in output else output["pooler_output"]
  states = output["last_hidden_state"]
  mask = mask.to(states.dtype)
  weights = mask[..., None]
  place = torch.arange(1, mask.shape[1] + 1, device=mask.device)[:, None]
  rows = torch.arange(len(mask), device=mask.device)
  # With padding on the left the first token is not at 0.
  take = {
    "cls": lambda: states[rows, mask.argmax(dim=1)],
    "max": lambda: states.masked_fill(weights == 0, -torch.inf).amax(dim=1),
    "mean": lambda: (states * weights).sum(dim=1) / weights.sum(dim=1),
    "mean_sqrt_len": lambda: (states * weights).sum(dim=1) / weights.sum(dim=1).sqrt(),
    "weightedmean": lambda: (states * weights * place).sum(dim=1) / (weights * place).sum(dim=1),
    "lasttoken": lambda: states[rows, (weights * place)[..., 0].argmax(dim=1)],
  }
  return torch.cat([take[name]() for name in pooling], dim=1)


@contextlib.contextmanager
def loading(name: str, key: str = _KEY, hint: str = _HINT) -> Iterator[None]:
  """Turns what transformers raises for files that it cannot use into a UserError of one line."""
  import safetensors

  errors = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, AttributeError)
  try:
    yield
  except (*errors, safetensors.SafetensorError) as error:
    reason = str(error).strip().split("\n")[0]
    raise UserError(f"{key} {name!r} cannot be loaded ({reason}): {hint}") from error


def load_model(kind: Any, source: Any, options: dict[str, Any], *names: str) -> Any:
  """The torch model `kind.from_pretrained(source)`, in eval mode, on the GPU where torch has one.

  It is in float32 if `options` have no dtype. Raises UserError, with the `names` of `loading`, if
  the weights are missing, damaged, incomplete, or no safetensors.
  """
  import torch
  import transformers

  # transformers reports unused image weights too; missing weights are checked below.
  verbosity = transformers.logging.get_verbosity()
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  options = {"dtype": torch.float32, "use_safetensors": True} | options
  try:
    with loading(*names):
      model, found = kind.from_pretrained(source, output_loading_info=True, **options)
      # transformers fills missing weights with noise. BERT's pooler is not used.
      lacking = sorted(key for key in found["missing_keys"] if "pooler" not in key)
      if lacking:
        raise ValueError(f"it lacks weights such as {lacking[0]}")
      return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
  finally:
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()


def _kind(config: Any) -> str:
  """'clip', 'siglip' or 'siglip2' for these models and their text towers, '' for any other."""
  kind = config.model_type.removesuffix("_text_model")
  if kind in _TEXT_TOWERS:
    return kind
  if hasattr(config, "vision_config"):
    raise ValueError(f"no text encoder: a model of type {config.model_type}")
  return ""


def _pooling(folder: Path) -> tuple[str, ...]:
  """How a sentence encoder pools according to its files; the mean where they do not say."""
  modules = _read_json(folder / "modules.json") or []
  place = "1_Pooling"
  for module in modules:
    name = module["type"].rsplit(".", 1)[-1]
    if name == "Pooling":
      place = module["path"]
    elif name not in ("Transformer", "Normalize"):
      raise ValueError(f"it ends in a module of type {name}, which is not supported")
  settings = _read_json(folder / place / "config.json")
  if settings is None:
    return ("mean",)
  if "pooling_mode" in settings:
    value = settings["pooling_mode"]
    chosen = {value} if isinstance(value, str) else set(value)
  else:
    flags = "\n".join(key for key, value in settings.items() if value)
    chosen = set(re.findall(r"^pooling_mode_(\w+?)(?:_tokens?)?$", flags, re.MULTILINE))
  if not chosen or not chosen <= set(_POOLINGS):
    raise ValueError(f"{place}/config.json asks for pooling {sorted(chosen)}")
  return tuple(name for name in _POOLINGS if name in chosen)


def _read_json(path: Path) -> Any:
  return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
