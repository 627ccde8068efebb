"""The second way to encode: transformers and torch, which read every text encoder.

CLIP, SigLIP and SigLIP 2 (text and image towers), and sentence encoders (any other text encoder).
torch and transformers are imported only when something is loaded.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from lafg_jax.language.encoders import layout
from lafg_jax.language.encoders.cache import Encode
from lafg_jax.language.encoders.layout import Layout
from lafg_jax.language.encoders.load import HINT, KEY, loading
from lafg_jax.utils.errors import UserError

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
  context: int  # tokens at most, special tokens included
  lower: bool
  full_padding: bool  # to `context`, without a mask
  # 'tower': the tower's own output; else names as in sentence-transformers, whose vectors are
  # concatenated in this order.
  pooling: tuple[str, ...]
  layout: Layout

  def lengths(self, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before any cut, special tokens included."""
    return [len(ids) for ids in self.tokenizer(self._cased(texts), verbose=False)["input_ids"]]

  def tokens(self, texts: Sequence[str]) -> dict[str, Any]:
    """Arguments [B, L] of the model, cut to `context`."""
    found = self.tokenizer(
      self._cased(texts),
      padding="max_length" if self.full_padding else True,
      truncation=True,
      max_length=self.context,
      return_attention_mask=True,
      return_tensors="pt",
    )
    # SigLIP was trained without a mask over its padding: a mask would change the features.
    names = ("input_ids",) if self.full_padding else ("input_ids", "attention_mask")
    return {name: found[name] for name in names}

  def _cased(self, texts: Sequence[str]) -> list[str]:
    return [text.lower() for text in texts] if self.lower else list(texts)


def text_encoder(encoder: str, folder: Path, reader: TextReader, texts: Sequence[str]) -> Encode:
  """The function that encodes rows of `texts`; raises UserError as `load_model`."""
  import torch

  model = load_text_model(encoder, folder)
  finish = load_steps(encoder, reader.layout, model.device)

  def encode(rows: Sequence[int]) -> tuple[Sequence[int], np.ndarray]:
    tokens = reader.tokens([texts[row] for row in rows])
    tokens = {name: values.to(model.device) for name, values in tokens.items()}
    with encoding(encoder), torch.inference_mode():
      output = model(**tokens)
      found = finish(pool(output, tokens.get("attention_mask"), reader.pooling))
    return rows, found.float().cpu().numpy()

  return encode


def image_encoder(encoder: str, folder: Path, shown: Callable[[int], Image.Image | None]) -> Encode:
  """The function that encodes images; `shown` gives one by its row, None for one to leave out.

  Raises UserError as `load_image_model`.
  """
  import torch

  processor, model = load_image_model(encoder, folder)
  # A Dense after CLIP changes texts and images alike.
  finish = load_steps(encoder, layout.read(folder), model.device)

  def encode(rows: Sequence[int]) -> tuple[Sequence[int], np.ndarray]:
    pictures = {at: picture for at in rows if (picture := shown(at)) is not None}
    if not pictures:
      return [], np.empty((0, 0), np.float32)
    inputs = processor(images=list(pictures.values()), return_tensors="pt")
    with encoding(encoder), torch.inference_mode():
      found = model.get_image_features(**inputs.to(model.device))
      # Before transformers 5 this was the array itself.
      found = finish(getattr(found, "pooler_output", found))
    return list(pictures), found.float().cpu().numpy()

  return encode


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
  with quiet(), torch.device("meta"):
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
      f"{KEY} {encoder!r} runs out of GPU memory: pass a smaller --config.language.batch_size"
    ) from error
  except (IndexError, RuntimeError) as error:
    # Such as a tokenizer with more words than the model, which came with another one.
    reason = str(error).strip().split("\n")[0]
    raise UserError(
      f"{KEY} {encoder!r} cannot encode ({reason}): do its tokenizer and its weights belong "
      f"together? {HINT}"
    ) from error


def load_model(kind: Any, source: Any, options: dict[str, Any], *names: str) -> Any:
  """The torch model `kind.from_pretrained(source)`, in eval mode, on the GPU where torch has one.

  It is in float32 if `options` have no dtype. Raises UserError, with the `names` of `loading`, if
  the weights are missing, damaged, incomplete, or no safetensors.
  """
  import torch

  options = {"dtype": torch.float32, "use_safetensors": True} | _SAFE | options
  # transformers reports unused image weights too; missing weights are checked below.
  with quiet(), loading(*names):
    model, found = kind.from_pretrained(source, output_loading_info=True, **options)
    # transformers fills missing weights with noise. BERT's pooler is not used.
    lacking = sorted(key for key in found["missing_keys"] if "pooler" not in key)
    if lacking:
      raise ValueError(f"it lacks weights such as {lacking[0]}")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
