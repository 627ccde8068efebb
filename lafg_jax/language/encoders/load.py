"""Frozen encoders in transformers' format: which files, how texts become tokens, how to pool.

CLIP, SigLIP and SigLIP 2 (text and image towers), and sentence encoders (any other text encoder),
from a folder or a hub id. torch and transformers are imported only when something is loaded.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lafg_jax.utils import files, places
from lafg_jax.utils.errors import UserError

_HINT = "pass the folder of a transformers text encoder, --config.language.encoder=FOLDER"
# Of a hub repository: no weights in other formats or precisions, no modules that are not read.
_HUB_FILES = {
  "allow_patterns": ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"],
  "ignore_patterns": ["onnx/*", "openvino/*"],
}
# The text tower of a model of two towers.
_TEXT_TOWERS = {
  "clip": "CLIPTextModelWithProjection",
  "siglip": "SiglipTextModel",
  "siglip2": "Siglip2TextModel",
}
_POOLINGS = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")


@dataclasses.dataclass(frozen=True)
class TextReader:
  """How one encoder reads text. `pooling`: 'tower' is the tower's own output, else names as in
  sentence-transformers, whose vectors are concatenated in this order."""

  tokenizer: Any
  limit: int  # tokens in the context, special tokens included
  lower: bool
  full_padding: bool  # to `limit`, without a mask
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
    # SigLIP was trained with its padding in view: a mask would change the features.
    names = ("input_ids",) if self.full_padding else ("input_ids", "attention_mask")
    return {name: found[name] for name in names}

  def _cased(self, texts: Sequence[str]) -> list[str]:
    return [text.lower() for text in texts] if self.lower else list(texts)


def local_folder(encoder: str) -> Path | None:
  """The local folder of an encoder ('tiny_clip' is the shipped one); None for a hub id.

  Raises:
    UserError: empty, or the path of something that is not there.
  """
  if not encoder:
    raise UserError(f"language.encoder is empty: {_HINT}")
  folder = (
    Path(__file__).parents[2] / "finches" / encoder
    if encoder == "tiny_clip"
    else Path(encoder).expanduser()
  )
  if folder.is_dir():
    return folder
  # A hub id is NAME or OWNER/NAME; anything else can only have meant a path.
  if encoder == "tiny_clip" or encoder[0] in "./~" or encoder.count("/") > 1 or folder.exists():
    raise UserError(f"language.encoder: no folder {str(folder)!r}: {_HINT}")
  return None


def resolve(encoder: str) -> tuple[Path, str]:
  """(folder with the encoder's files, identity of its content); a hub id is downloaded once.

  The identity is the hub's revision, or for a folder a hash of what decides the features.

  Raises:
    UserError: no such folder, or the hub has no such model or cannot be reached.
  """
  folder = local_folder(encoder)
  if folder is not None:
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".txt", ".model")]
    paths += sorted(folder.glob("*.safetensors"))
    # Names relative to the folder: a copy elsewhere is the same encoder.
    content = [[path.relative_to(folder).as_posix(), path] for path in paths if path.is_file()]
    return folder, files.fingerprint(content)
  problem = (
    f"language.encoder {encoder!r} cannot be loaded (the hub did not give it: {{}}): {_HINT}"
  )
  found = Path(places.hub_folder(encoder, problem, **_HUB_FILES))
  return found, f"{encoder}@{found.name}"


def content(encoder: str) -> Path | str:
  """What of an encoder decides its features, for a fingerprint: its folder, or id and commit.

  Nothing is downloaded. A hub id without a commit is one that neither the hub's cache nor the hub
  knows now: `resolve` fails, and says why.

  Raises:
    UserError: as `local_folder`.
  """
  return local_folder(encoder) or f"{encoder}@{places.hub_commit(encoder)}"


def load_reader(encoder: str, folder: Path) -> TextReader:
  """The tokenizer of an encoder and how its features are to be taken.

  Raises:
    UserError: the language extra is not installed, or the files cannot be read or used.
  """
  transformers = require_transformers()
  try:
    config = transformers.AutoConfig.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind, limits, lower = _kind(config), [2**20], False
    if not kind:
      pooling = _pooling(folder)
      settings = _read_json(folder / "sentence_bert_config.json") or {}
      limits.append(settings.get("max_seq_length") or 0)
      lower = bool(settings.get("do_lower_case"))
  except failures() as error:
    raise _not_loaded(encoder, error) from error
  # Transformers fills an absent vocabulary with special tokens only.
  if len(tokenizer) <= len(tokenizer.all_special_ids):
    raise UserError(f"language.encoder {encoder!r} lacks a tokenizer: {_HINT}")
  if tokenizer.pad_token is None:
    # Padding is masked out, so any token serves.
    tokenizer.pad_token = tokenizer.eos_token
  if kind == "clip":
    # Its positions count from the left.
    tokenizer.padding_side = "right"
  if kind in ("siglip", "siglip2"):
    lower = tokenizer.init_kwargs.get("do_lower_case", True)
  # A tokenizer without a limit gives one too large for the tokenizers library.
  limits += [tokenizer.model_max_length]
  limits += [getattr(getattr(config, "text_config", config), "max_position_embeddings", 0)]
  if not kind:
    logging.info("encoder %s: %s pooling of the last hidden states", encoder, "+".join(pooling))
  return TextReader(
    tokenizer=tokenizer,
    limit=int(min(limit for limit in limits if limit)),
    lower=lower,
    full_padding=kind.startswith("siglip"),
    pooling=("tower",) if kind else pooling,
  )


def load_text_model(encoder: str, folder: Path) -> Any:
  """The torch text model in float32 and eval mode, on the GPU when torch has one.

  Raises:
    UserError: the weights are missing, damaged or incomplete, or no safetensors.
  """
  transformers = require_transformers()
  try:
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
  except failures() as error:
    raise _not_loaded(encoder, error) from error
  return _load_weights(encoder, folder, loader, config)


def load_image_model(encoder: str, folder: Path) -> tuple[Any, Any]:
  """(image processor, torch model with `get_image_features`) of CLIP, SigLIP or SigLIP 2.

  Raises:
    UserError: as `load_text_model`, or the encoder has no image tower or no preprocessor.
  """
  transformers = require_transformers()
  try:
    config = transformers.AutoConfig.from_pretrained(folder)
    if config.model_type not in _TEXT_TOWERS:
      raise UserError(
        f"language.encoder {encoder!r} is no image encoder (a model of type {config.model_type}): "
        "what reads images takes CLIP or SigLIP, --config.language.encoder=FOLDER"
      )
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
  except failures() as error:
    raise _not_loaded(encoder, error) from error
  return processor, _load_weights(encoder, folder, transformers.AutoModel, config)


def pool(output: Any, mask: Any, pooling: tuple[str, ...]) -> Any:
  """[B, d] from a text model's output and the mask [B, L] of its tokens; torch tensors."""
  import torch

  if pooling == ("tower",):
    return output["text_embeds"] if "text_embeds" in output else output["pooler_output"]
  states = output["last_hidden_state"]
  mask = mask.to(states.dtype)
  weights = mask[..., None]
  places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
  rows = torch.arange(len(mask), device=mask.device)
  # With padding on the left the first token is not at 0.
  take = {
    "cls": lambda: states[rows, mask.argmax(dim=1)],
    "max": lambda: states.masked_fill(weights == 0, -torch.inf).amax(dim=1),
    "mean": lambda: (states * weights).sum(dim=1) / weights.sum(dim=1),
    "mean_sqrt_len": lambda: (states * weights).sum(dim=1) / weights.sum(dim=1).sqrt(),
    "weightedmean": lambda: (
      (states * weights * places[:, None]).sum(dim=1) / (mask * places).sum(dim=1)[:, None]
    ),
    "lasttoken": lambda: states[rows, (mask * places).argmax(dim=1)],
  }
  return torch.cat([take[name]() for name in pooling], dim=1)


def require_transformers() -> Any:
  """The module, if it can work.

  Raises:
    UserError: the language extra is not installed.
  """
  try:
    import safetensors  # noqa: F401
    import torch  # noqa: F401  (transformers imports without it, and fails later, obscurely)
    import transformers
  except ImportError as error:
    raise UserError(f"{error.name} is not installed: pip install 'lafg_jax[language]'") from error
  return transformers


def failures() -> tuple[type[Exception], ...]:
  """What transformers raises for files that it cannot use."""
  import safetensors

  errors = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, AttributeError)
  return (*errors, safetensors.SafetensorError)


def _kind(config: Any) -> str:
  """'clip', 'siglip' or 'siglip2' for these models and their text towers, '' for any other."""
  kind = config.model_type.removesuffix("_text_model")
  if kind in _TEXT_TOWERS:
    return kind
  if hasattr(config, "vision_config"):
    raise ValueError(f"no text encoder: a model of type {config.model_type}")
  return ""


def _pooling(folder: Path) -> tuple[str, ...]:
  """How a sentence encoder pools, by its own files; the mean if it has none that says so."""
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
    flags = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value]
    names = (key.removeprefix("pooling_mode_") for key in flags)
    chosen = {name.removesuffix("_tokens").removesuffix("_token") for name in names}
  if not chosen or not chosen <= set(_POOLINGS):
    raise ValueError(f"{place}/config.json asks for pooling {sorted(chosen)}")
  return tuple(name for name in _POOLINGS if name in chosen)


def _load_weights(encoder: str, folder: Path, loader: Any, config: Any) -> Any:
  import torch
  import transformers

  # Its report of unused image weights would alarm; what matters of it is checked below.
  verbosity = transformers.logging.get_verbosity()
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  try:
    model, loaded = loader.from_pretrained(
      folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
  except failures() as error:
    raise _not_loaded(encoder, error) from error
  finally:
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()
  # Transformers fills absent weights with noise.
  lacking = sorted(key for key in loaded["missing_keys"] if "pooler" not in key)
  if lacking:
    raise UserError(f"language.encoder {encoder!r} lacks weights such as {lacking[0]}: {_HINT}")
  return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _read_json(path: Path) -> Any:
  return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _not_loaded(encoder: str, error: Exception) -> UserError:
  reason = str(error).strip().split("\n")[0]
  return UserError(f"language.encoder {encoder!r} cannot be loaded ({reason}): {_HINT}")


def check_batch_size(batch_size: int) -> None:
  """Raises UserError below 1."""
  if batch_size < 1:
    raise UserError(f"language.batch_size must be at least 1, not {batch_size}")
