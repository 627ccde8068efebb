"""Asks a causal language model in this process, through its chat template."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from lafg_jax.language.describers import thoughts
from lafg_jax.language.describers.chat import Answer, Ask, Chat, Question
from lafg_jax.language.encoders import by_transformers, load
from lafg_jax.utils import packages, places
from lafg_jax.utils.errors import UserError


@contextlib.contextmanager
def opened(chat: Chat) -> Iterator[Ask]:
  """Yields the function that asks a chat model, on the GPU where torch has one.

  Decoding is greedy where `temperature` is 0; else sampling is seeded by
  `seed`, the attempt and the first question's number in the batch.

  Raises:
    UserError: the torch extra is not installed, the model cannot be loaded or has no chat
      template; while asking: too little memory, or a question longer than the model's context.
  """
  tokenizer, model = _load(chat)
  yield lambda questions, attempt: _ask(chat, tokenizer, model, questions, attempt)


def check(chat: Chat) -> None:
  """Raises UserError where neither this machine nor the hub has the model; nothing is loaded."""
  key, model, hint = chat.model_key, chat.model, _hint(chat)
  if not model:
    raise UserError(f"{key} is empty: {hint}")
  if load.folder_of(key, model, hint) is None:
    problem = f"{key} {model!r} cannot be loaded (the hub did not give it: {{}}): {hint}"
    places.check_hub(model, problem)


def _hint(chat: Chat) -> str:
  return f"pass the folder or hub id of a chat model, --config.{chat.model_key}=MODEL"


def _ask(
  chat: Chat, tokenizer: Any, model: Any, questions: Sequence[Question], attempt: int
) -> Iterator[tuple[int, Answer]]:
  import torch

  sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
  if chat.temperature > 0:
    sampling = {"do_sample": True, "temperature": chat.temperature}
  sampling |= {"max_new_tokens": chat.max_tokens, "pad_token_id": tokenizer.pad_token_id}
  ends = model.generation_config.eos_token_id
  ends = set(ends if isinstance(ends, list) else [ends, tokenizer.eos_token_id])
  silent = {
    token
    for token in tokenizer.all_special_ids
    if token in ends or not thoughts.is_mark(tokenizer.decode([token]))
  }
  limit = getattr(model.config, "max_position_embeddings", None) or 2**20
  size = chat.batch_size
  for start in range(0, len(questions), size):
    texts = [
      tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
      )
      for text in questions[start : start + size]
    ]
    torch.manual_seed(1_000_003 * chat.seed + 10_007 * attempt + start)
    # The template writes the special tokens itself.
    options = {"padding": True, "add_special_tokens": False, "return_tensors": "pt"}
    tokens = tokenizer(texts, **options).to(model.device)
    given = tokens["input_ids"].shape[1]
    if given + chat.max_tokens > limit:
      raise UserError(
        f"--config.{chat.section}.max_tokens={chat.max_tokens}: with a question of {given} tokens "
        f"it is more than the {limit} that {chat.model_key} reads; pass less"
      )
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    try:
      with torch.inference_mode():
        output = model.generate(**inputs, **sampling)
    except torch.OutOfMemoryError as error:
      raise UserError(
        f"--config.{chat.batch_key}={size}: not enough GPU memory; pass a smaller one"
      ) from error
    for i, row in enumerate(output[:, given:].tolist()):
      reason = "stop" if ends & set(row) else "length"
      # Marks of thoughts are special tokens of some models: `thoughts.answer_in` needs them.
      said = [token for token in row if token not in silent]
      opened = thoughts.opening_in(texts[i])
      yield start + i, Answer(opened + tokenizer.decode(said, skip_special_tokens=False), reason)


def _load(chat: Chat) -> tuple[Any, Any]:
  """(tokenizer that pads on the left, torch model in eval mode on its device)."""
  packages.require("torch", "safetensors", "torch", "transformers")
  import torch
  import transformers

  key, hint = (chat.model_key, chat.model), _hint(chat)
  source, names = load.folder_of(*key, hint) or chat.model, (chat.model, chat.model_key, hint)
  with load.loading(*names):
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, padding_side="left")
    if tokenizer.chat_template is None:
      raise ValueError("it has no chat template")
  # Half precision is slow on most CPUs; a GPU computes in the precision of the weights.
  options = {"dtype": "auto" if torch.cuda.is_available() else torch.float32}
  model = by_transformers.load_model(transformers.AutoModelForCausalLM, source, options, *names)
  if tokenizer.pad_token is None:
    # Padding is masked out, so any token serves.
    tokenizer.pad_token = tokenizer.eos_token
  return tokenizer, model
