"""Frozen encoders in transformers' format: where their files are, how texts become tokens, pooling.

CLIP, SigLIP and SigLIP 2 (text and image towers), and sentence encoders (any other text encoder),
from a folder or a hub id. torch and transformers are imported only when something is loaded.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from lafg_jax.language.encoders import layout
from lafg_jax.language.encoders.layout import Layout
from lafg_jax.utils import files, packages, places
from lafg_jax.utils.errors import UserError

_KEY = "language.encoder"
_HINT = "pass the folder of a transformers text encoder, --config.language.encoder=FOLDER"
_NOT_ON_HUB = f"{_KEY} [] cannot be loaded (the hub did not give it: {{}}): {_HINT}"
# What is downloaded of a hub repository: no weights in other formats or precisions.
_HUB_FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"]
# Those of sentence-transformers' modules, such as 2_Dense.
_HUB_FILES += ["[0-9]_*/model.safetensors", "[0-9]_*/model-*.safetensors"]
# The text tower of a model of two towers.
_TEXT_TOWERS = {
  "clip": "CLIPTextModelWithProjection",
  "siglip": "SiglipTextModel",
  "siglip2": "Siglip2TextModel",
}
# A folder's own code is not run, and nobody is asked about it.
_SAFE = {"trust_remote_code": False}
# Stands for no limit: a tokenizer without one gives a number too large for its library.
_NO_LIMIT = 2**20


class TextReader(NamedTuple):
  """How one encoder reads text."""

  tokenizer: Any
  limit: int  # tokens in the context, special tokens included
  lower: bool
  full_padding: bool  # to `limit`, without a mask
  # 'tower': the tower's own output; else names as in sentence-transformers, whose vectors are
  # concatenated in this order.
  pooling: tuple[str, ...]
  layout: Layout

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
    problem = _NOT_ON_HUB.replace("[]", repr(encoder))
    patterns = {"allow_patterns": _HUB_FILES, "ignore_patterns": ["onnx/*", "openvino/*"]}
    folder = Path(places.hub_folder(encoder, problem, **patterns))
    return folder, f"{encoder}@{folder.name}"
  paths = [p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".txt", ".model")]
  # Names relative to the folder: a copy elsewhere is the same encoder.
  with loading(encoder):
    paths += layout.weights(layout.read(folder))
  content = [[path.relative_to(folder).as_posix(), path] for path in paths if path.is_file()]
  return folder, files.fingerprint(content)


def check(encoder: str) -> None:
  """Raises UserError, as `resolve`, for an encoder that is not there or cannot be read.

  Nothing is downloaded or loaded.
  """
  packages.require("language", "safetensors", "torch", "transformers")
  folder = local_folder(encoder)
  if folder is None:
    places.check_hub(encoder, _NOT_ON_HUB.replace("[]", repr(encoder)))
    return
  with loading(encoder):
    layout.read(folder)


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
    found = layout.read(folder)
    config = _config(found.folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(found.folder, **_SAFE)
    kind, lower = _kind(config), bool(found.settings.get("do_lower_case"))
    pooling = ("tower",) if kind else found.pooling
    if not kind:
      logging.info("encoder %s: %s pooling of the last hidden states", encoder, "+".join(pooling))
    # Transformers fills an absent vocabulary with special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
      raise ValueError("it lacks a tokenizer")
    limit = _limit(encoder, config, kind, tokenizer, found.settings)
  if tokenizer.pad_token is None:
    # Padding is masked out, so any token serves.
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
  if kind == "clip":
    # Its positions count from the left.
    tokenizer.padding_side = "right"
  if kind in ("siglip", "siglip2"):
    lower = tokenizer.init_kwargs.get("do_lower_case", True)
  return TextReader(tokenizer, limit, lower, kind.startswith("siglip"), pooling, found)


def _limit(encoder: str, config: Any, kind: str, tokenizer: Any, settings: dict[str, Any]) -> int:
  """The most tokens of a text that the model reads, special tokens included.

  The least of what sentence-transformers' settings say, or else the tokenizer, and of the model's
  positions; ValueError where it leaves no room for words.
  """
  asked = settings.get("max_seq_length") or tokenizer.model_max_length
  limits = [limit for limit in (asked, _positions(config, kind)) if 0 < limit < _NO_LIMIT]
  if not limits:
    logging.warning(
      "encoder %s: neither its model nor its tokenizer names a longest text, so texts are read "
      "whole; memory grows with the longest",
      encoder,
    )
    return _NO_LIMIT
  special = tokenizer.num_special_tokens_to_add()
  if min(limits) <= special:
    raise ValueError(f"it reads {min(limits)} tokens of a text, {special} of them special ones")
  return int(min(limits))


def _positions(config: Any, kind: str) -> int:
  """How many tokens the model has positions for; 0 for one that counts none, as T5."""
  import torch
  import transformers

  count = getattr(config.get_text_config(), "max_position_embeddings", None)
  # XLNet says -1.
  count = count if isinstance(count, int) and count > 0 else 0
  if kind or not count:
    return count
  with _quiet(), torch.device("meta"):
    model = transformers.AutoModel.from_config(config, **_SAFE)
  for name, module in model.named_modules():
    # RoBERTa, MPNet, XLM-R and others count from the padding's number on: the table's rows up to
    # that one are no positions.
    first = getattr(module, "padding_idx", None)
    rows = getattr(module, "weight", None)
    if "position" in name and first is not None and rows is not None and len(rows) == count:
      return count - first - 1
  return count


def _config(folder: Path) -> Any:
  import transformers

  return transformers.AutoConfig.from_pretrained(folder, **_SAFE)


def load_text_model(encoder: str, folder: Path) -> Any:
  """The torch text model in float32; raises UserError, and is placed, as `load_model`."""
  import transformers

  with loading(encoder):
    folder = layout.read(folder).folder
    config = _config(folder)
    kind = _kind(config)
    loader: Any = transformers.AutoModel
    if kind:
      loader = getattr(transformers, _TEXT_TOWERS[kind])
      if kind == "clip" and config.model_type == "clip":
        # The width of the joint space stands at the top level; the text section may disagree.
        config.text_config.projection_dim = config.projection_dim
      config = getattr(config, "text_config", config)
    else:
      # An encoder that was saved alone, such as T5EncoderModel, or one to take out of both.
      names = [x for x in config.architectures or () if x.endswith("EncoderModel")]
      if names or config.is_encoder_decoder:
        both = transformers.AutoModelForTextEncoding
        loader = getattr(transformers, names[0], both) if names else both
  return load_model(loader, folder, {"config": config}, encoder)


def load_image_model(encoder: str, folder: Path) -> tuple[Any, Any]:
  """(image processor, torch model with `get_image_features`) of CLIP, SigLIP or SigLIP 2.

  Raises UserError as `load_model`, and if the encoder has no image tower or no preprocessor.
  """
  import transformers

  with loading(encoder):
    folder = layout.read(folder).folder
    config = _config(folder)
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
  # A token's number in its text, from 1 on; padding may stand before it.
  place = mask.cumsum(dim=1)[..., None]
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


def load_steps(encoder: str, found: Layout, device: Any) -> Callable[[Any], Any]:
  """What a layout does with pooled features: torch [B, d] -> [B, D]; raises UserError as others."""
  with loading(encoder):
    return layout.finisher(found.steps, device)


@contextlib.contextmanager
def encoding(encoder: str) -> Iterator[None]:
  """Turns what torch raises while an encoder reads a batch into a UserError of one line."""
  import torch

  try:
    yield
  except torch.OutOfMemoryError as error:
    raise UserError(
      f"{_KEY} {encoder!r} runs out of GPU memory: pass a smaller --config.language.batch_size"
    ) from error
  except (IndexError, RuntimeError) as error:
    # Such as a tokenizer with more words than the model, which came with another one.
    reason = str(error).strip().split("\n")[0]
    raise UserError(
      f"{_KEY} {encoder!r} cannot encode ({reason}): do its tokenizer and its weights belong "
      f"together? {_HINT}"
    ) from error


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

  options = {"dtype": torch.float32, "use_safetensors": True} | _SAFE | options
  # transformers reports unused image weights too; missing weights are checked below.
  with _quiet(), loading(*names):
    model, found = kind.from_pretrained(source, output_loading_info=True, **options)
    # transformers fills missing weights with noise. BERT's pooler is not used.
    lacking = sorted(key for key in found["missing_keys"] if "pooler" not in key)
    if lacking:
      raise ValueError(f"it lacks weights such as {lacking[0]}")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without transformers' warnings and progress bars."""
  import transformers

  verbosity = transformers.logging.get_verbosity()
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  try:
    yield
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
