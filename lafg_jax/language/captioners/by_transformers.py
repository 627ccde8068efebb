"""Captions by an image-to-text model of transformers: BLIP, BLIP-2, GIT, or one that chats.

The default is CVSI's and LDRE's: sampled beam search, as many beams as captions, top-p 0.9, at most
30 tokens after 'a photo of' (BLIP-2 OPT in LAVIS).
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from lafg_jax.language.captioners.record import Captioner
from lafg_jax.language.describers import thoughts
from lafg_jax.language.describers.thoughts import Unusable
from lafg_jax.language.encoders import by_transformers, load
from lafg_jax.utils import packages, places
from lafg_jax.utils.errors import UserError

KEY = "captioner.model"
HINT = f"pass the folder or hub id of an image-to-text model, --config.{KEY}=MODEL"
PREFIX = "a photo of"


def check(model: str) -> None:
  """Raises UserError where neither this machine nor the hub has the model; nothing is loaded."""
  if not model:
    raise UserError(f"{KEY} is empty: {HINT}")
  if load.folder_of(KEY, model, HINT) is None:
    places.check_hub(
      model, f"{KEY} {model!r} cannot be loaded (the hub did not give it: {{}}): {HINT}"
    )


def make(section: Any, request: str) -> Captioner:
  """The captioner of the config section `captioner`, on the GPU where torch has one.

  Images are captioned one by one, and sampling is seeded by `captioner.seed` and the image's
  pixels: neither the batch nor what came before changes a caption. `request` is what a model that
  chats is told where `captioner.prompt` is 'auto'.

  Raises UserError where the torch extra is not installed or the model cannot be loaded; while
  captioning: too little memory.
  """
  packages.require("torch", "safetensors", "torch", "transformers")
  prepare, decode, model = _load(section.model)
  options = _sampling(section)
  prompt = _prompt(section, request, prepare)

  def caption(images: list[np.ndarray]) -> list[list[str]]:
    return [_captions(section, prepare, decode, model, options, prompt, image) for image in images]

  return caption


def _prompt(section: Any, request: str, prepare: Any) -> str:
  if section.prompt != "auto":
    return str(section.prompt)
  return request if _chats(prepare) else PREFIX


def _chats(prepare: Any) -> bool:
  return bool(getattr(prepare, "chat_template", None))


def _sampling(section: Any) -> dict[str, Any]:
  """Arguments of `generate`."""
  count = section.number
  beams = section.beams or count
  found = {"num_return_sequences": count, "max_new_tokens": section.max_tokens, "num_beams": beams}
  if section.temperature > 0:
    sampled = {"do_sample": True, "top_p": section.top_p, "temperature": section.temperature}
    # Those of the model's own settings would come on top.
    return found | sampled | {"top_k": 0, "repetition_penalty": 1.0, "length_penalty": 1.0}
  return found | {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def _captions(section, prepare, decode, model, options, prompt: str, image) -> list[str]:
  """The captions of one image, uint8 [H, W, 3]."""
  import torch

  inputs = {name: value.to(model.device) for name, value in _inputs(prepare, prompt, image).items()}
  for name, value in inputs.items():
    if value.is_floating_point():
      inputs[name] = value.to(model.dtype)
  torch.manual_seed(_seed(section.seed, image))
  try:
    with torch.inference_mode():
      rows = model.generate(**inputs, **options)
  except torch.OutOfMemoryError as error:
    raise UserError(
      f"--config.captioner.number={section.number}: not enough GPU memory for {KEY} "
      f"{section.model!r}; pass fewer, or --config.captioner.beams=1"
    ) from error
  except (IndexError, ValueError, RuntimeError, TypeError) as error:
    reason = str(error).strip().split("\n")[0]
    raise UserError(f"{KEY} {section.model!r} cannot caption ({reason}): {HINT}") from error
  given = inputs.get("input_ids")
  if given is not None and rows.shape[1] >= given.shape[1]:
    # Decoders alone repeat what they were given.
    repeats = bool((rows[:, : given.shape[1]] == given[:1]).all())
    rows = rows[:, given.shape[1] :] if repeats else rows
  texts = [_clean(text, prompt) for text in decode(rows)]
  return [text for text in texts if text]


def _inputs(prepare: Any, prompt: str, image: np.ndarray) -> Any:
  from PIL import Image

  picture = Image.fromarray(image)
  if not _chats(prepare):
    return prepare(images=picture, text=prompt, return_tensors="pt")
  content = [{"type": "image"}, {"type": "text", "text": prompt}]
  chat = [{"role": "user", "content": content}]
  text = prepare.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
  return prepare(images=[picture], text=[text], return_tensors="pt")


def _clean(text: str, prompt: str) -> str:
  """A caption in one line, without thoughts and without the prompt that it begins with."""
  try:
    text = " ".join(thoughts.answer_in(text).split())
  except Unusable:
    return ""
  for start in (prompt, PREFIX):
    if start and text.casefold().startswith(start.casefold()):
      text = text[len(start) :].strip()
  return text if any(letter.isalnum() for letter in text) else ""


def _seed(seed: int, image: np.ndarray) -> int:
  digest = hashlib.sha256(repr((seed, image.shape)).encode())
  digest.update(np.ascontiguousarray(image).tobytes())
  return int.from_bytes(digest.digest()[:6], "big")


def _load(name: str) -> tuple[Any, Callable[[Any], list[str]], Any]:
  """(image and text -> arguments of the model, token rows -> texts, torch model in eval mode)."""
  import torch
  import transformers

  source, names = load.folder_of(KEY, name, HINT) or name, (name, KEY, HINT)
  with load.loading(*names):
    prepare = _processor(source)
  decode = getattr(prepare, "tokenizer", prepare).batch_decode
  # Half precision is slow on most CPUs; a GPU computes in the precision of the weights.
  options = {"dtype": "auto" if torch.cuda.is_available() else torch.float32}
  kind = transformers.AutoModelForImageTextToText
  model = by_transformers.load_model(kind, source, options, *names)
  return prepare, lambda rows: decode(rows, skip_special_tokens=True), model


def _processor(source: Any) -> Any:
  """The model's own processor; of models without one, its image processor and its tokenizer."""
  import transformers

  safe = {"trust_remote_code": False}
  with by_transformers.quiet():
    found = transformers.AutoProcessor.from_pretrained(source, **safe)
    if hasattr(found, "tokenizer") and hasattr(found, "image_processor"):
      return found
    images = transformers.AutoImageProcessor.from_pretrained(source, **safe)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
  return _Both(images, tokenizer)


class _Both:
  """An image processor and a tokenizer, of an encoder with a decoder: its decoder takes no text."""

  def __init__(self, images: Any, tokenizer: Any) -> None:
    self.images, self.tokenizer = images, tokenizer

  def __call__(self, images: Any, text: str, return_tensors: str) -> Any:
    del text
    return {"pixel_values": self.images(images, return_tensors=return_tensors)["pixel_values"]}
