"""Descriptions and class names -> unit text features: `<workdir>/text_features.npz`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lafg_jax.data.prototypes import l2_normalise
from lafg_jax.errors import UserError
from lafg_jax.language import describe
from lafg_jax.progress import Progress
from lafg_jax.stages import replacing

_HINT = "pass the folder of a transformers text encoder, --config.language.encoder=FOLDER"


def run(language: Any, workdir: str | os.PathLike, class_names: Sequence[str]) -> Path:
  """Encodes `<workdir>/descriptions.jsonl` and the class names with one frozen text encoder.

  Writes `<workdir>/text_features.npz`, with S sentences, C classes, width d: class_names [C],
  sentences [S], sentence_class [S] int32, sentence_features [S, d] and queries [C, d] (of
  `language.prompt` with the class name in it), both float32 and L2-normalised, encoder (its id).

  Raises:
    UserError: descriptions missing or of other classes, encoder not loadable, bad prompt.
  """
  if language.prompt.count("{}") != 1:
    raise UserError(f"language.prompt needs one {{}} for the class name, not {language.prompt!r}")
  records = describe.read(workdir, class_names)
  number = {name: i for i, name in enumerate(class_names)}
  sentences = [record["description"] for record in records]
  prompts = [language.prompt.replace("{}", name) for name in class_names]
  features = encode_texts(sentences + prompts, language.encoder, language.batch_size)
  path = Path(workdir) / "text_features.npz"
  with replacing(path) as temporary, open(temporary, "wb") as file:
    np.savez(
      file,
      class_names=np.array(class_names),
      sentences=np.array(sentences),
      sentence_class=np.array([number[record["class"]] for record in records], np.int32),
      sentence_features=features[: len(sentences)],
      queries=features[len(sentences) :],
      encoder=np.array(language.encoder),
    )
  return path


def encoder_folder(encoder: str) -> Path | None:
  """The local folder of an encoder ('tiny_clip' is the shipped one); None for a hub id.

  Raises:
    UserError: empty, or the path of something that is not there.
  """
  if not encoder:
    raise UserError(f"language.encoder is empty: {_HINT}")
  folder = Path(__file__).parent / encoder if encoder == "tiny_clip" else Path(encoder).expanduser()
  if folder.is_dir():
    return folder
  # A hub id is NAME or OWNER/NAME; anything else can only have meant a path.
  if encoder == "tiny_clip" or encoder[0] in "./~" or encoder.count("/") > 1 or folder.exists():
    raise UserError(f"language.encoder: no folder {str(folder)!r}: {_HINT}")
  return None


def encode_texts(texts: Sequence[str], encoder: str, batch_size: int) -> np.ndarray:
  """L2-normalised float32 features [S, d] of `texts`, in their order.

  A CLIP encoder gives the projected text embedding; any other text encoder its last hidden states,
  averaged over the tokens that are not padding (a sentence encoder). Texts longer than the
  encoder's context are cut, and their count is logged as a warning.

  Args:
    texts: S >= 1 strings.
    encoder: a folder, a hub id, or 'tiny_clip'.
    batch_size: texts encoded at once.

  Raises:
    UserError: the language extra is not installed, or the encoder cannot be loaded.
  """
  if batch_size < 1:
    raise UserError(f"language.batch_size must be at least 1, not {batch_size}")
  tokenizer, model, limit = load_encoder(encoder)
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  model.to(device)
  lengths = [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
  cut = sum(length > limit for length in lengths)
  if cut:
    logging.warning(
      "%d of %d texts are longer than the %d tokens that %s reads, and were cut",
      *(cut, len(texts), limit, encoder),
    )
  # Texts of like length share a batch, which saves most of the padding.
  order = np.argsort(lengths, kind="stable")
  features = None
  with torch.inference_mode(), Progress("encode", len(texts), "texts") as progress:
    for start in range(0, len(texts), batch_size):
      rows = order[start : start + batch_size]
      chosen = [texts[row] for row in rows]
      tokens = tokenizer(
        chosen, padding=True, truncation=True, max_length=limit, return_tensors="pt"
      ).to(device)
      vectors = _pool(model, tokens).float().cpu().numpy()
      if features is None:
        features = np.empty((len(texts), vectors.shape[1]), np.float32)
      features[rows] = vectors
      progress.add(len(rows))
  assert features is not None, "no texts to encode"
  return l2_normalise(features, f"features of {encoder}")


def _pool(model, tokens):
  """[B, d] from a batch of tokens: CLIP's projected embedding, or a masked mean."""
  inputs = {key: tokens[key] for key in ("input_ids", "attention_mask")}
  output = model(**inputs)
  if "text_embeds" in output:
    return output.text_embeds
  mask = inputs["attention_mask"][..., None].to(output.last_hidden_state.dtype)
  return (output.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)


def load_encoder(encoder: str) -> tuple[Any, Any, int]:
  """(tokenizer, torch model in eval mode on the CPU, context length in tokens) of an encoder.

  Raises:
    UserError: as `encode_texts`.
  """
  source = str(encoder_folder(encoder) or encoder)
  try:
    import safetensors
    import torch  # noqa: F401  (transformers imports without it, and fails later, obscurely)
    import transformers
  except ImportError as error:
    raise UserError(f"{error.name} is not installed: pip install 'lafg_jax[language]'") from error

  failures = (OSError, ValueError, KeyError, ImportError, RuntimeError, safetensors.SafetensorError)
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model, loaded = _load_model(source)
  except failures as error:
    reason = str(error).strip().split("\n")[0]
    raise UserError(f"language.encoder {encoder!r} cannot be loaded ({reason}): {_HINT}") from error
  # Transformers fills absent weights with noise and an absent vocabulary with special tokens only.
  lacking = sorted(key for key in loaded["missing_keys"] if "pooler" not in key)
  if lacking or len(tokenizer) <= len(tokenizer.all_special_ids):
    what = f"weights such as {lacking[0]}" if lacking else "a tokenizer"
    raise UserError(f"language.encoder {encoder!r} lacks {what}: {_HINT}")
  if tokenizer.pad_token is None:
    # Padding is masked out, so any token serves.
    tokenizer.pad_token = tokenizer.eos_token
  # A tokenizer without a limit gives one too large for the tokenizers library.
  limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 0), 2**20)
  return tokenizer, model.eval(), int(min(limit for limit in limits if limit))


def _load_model(source: str) -> tuple[Any, dict]:
  """The text model of a folder or hub id, and transformers' account of what it found there."""
  import torch
  import transformers

  config = transformers.AutoConfig.from_pretrained(source)
  kind: Any = transformers.AutoModel
  if config.model_type in ("clip", "clip_text_model"):
    kind = transformers.CLIPTextModelWithProjection
    if config.model_type == "clip":
      # The width of the joint space stands at the top level; the text section may disagree.
      config.text_config.projection_dim = config.projection_dim
      config = config.text_config
  elif config.is_encoder_decoder:
    kind = transformers.AutoModelForTextEncoding
  elif hasattr(config, "vision_config"):
    raise ValueError(f"no text encoder: a model of type {config.model_type}")
  # Its report of unused image weights would alarm; what matters of it is checked by the caller.
  verbosity = transformers.logging.get_verbosity()
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  try:
    return kind.from_pretrained(
      source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
  finally:
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()
