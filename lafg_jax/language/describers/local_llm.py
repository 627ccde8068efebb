"""Asks a causal language model in this process, through its chat template."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from lafg_jax.language.describers import thoughts
from lafg_jax.language.describers.prompt import Answer, Ask
from lafg_jax.language.encoders import by_transformers, load
from lafg_jax.utils import packages, places
from lafg_jax.utils.errors import UserError

_HINT = "pass the folder or hub id of a chat model, --config.language.llm=MODEL"


@contextlib.contextmanager
def opened(language: Any) -> Iterator[Ask]:
  """Yields the function that asks `language.llm`, on the GPU where torch has one.

  Decoding is greedy where `language.temperature` is 0; else sampling is seeded by
  `language.llm_seed`, the attempt and the first question's number in the batch.

  Raises:
    UserError: the torch extra is not installed, the model cannot be loaded or has no chat
      template; while asking: too little memory, or a question longer than the model's context.
  """
  tokenizer, model = _load(language.llm)
  yield lambda questions, attempt: _ask(language, tokenizer, model, questions, attempt)


def check(llm: str) -> None:
  """Raises UserError where neither this machine nor the hub has the model; nothing is loaded."""
  if load.folder_of("language.llm", llm, _HINT) is None:
    problem = f"language.llm {llm!r} cannot be loaded (the hub did not give it: {{}}): {_HINT}"
    places.check_hub(llm, problem)


def _ask(
  language, tokenizer, model, questions: Sequence[str], attempt: int
) -> Iterator[tuple[int, Answer]]:
  import torch

  texts = [
    tokenizer.apply_chat_template(
      [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    for text in questions
  ]
  sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
  if language.temperature > 0:
    sampling = {"do_sample": True, "temperature": language.temperature}
  sampling |= {"max_new_tokens": language.max_tokens, "pad_token_id": tokenizer.pad_token_id}
  ends = model.generation_config.eos_token_id
  ends = set(ends if isinstance(ends, list) else [ends, tokenizer.eos_token_id])
  silent = {
    token
    for token in tokenizer.all_special_ids
    if token in ends or not thoughts.is_mark(tokenizer.decode([token]))
  }
  limit = getattr(model.config, "max_position_embeddings", None) or 2**20
  size = language.llm_batch_size
  for start in range(0, len(texts), size):
    torch.manual_seed(1_000_003 * language.llm_seed + 10_007 * attempt + start)
    # The template writes the special tokens itself.
    tokens = tokenizer(
      texts[start : start + size], padding=True, add_special_tokens=False, return_tensors="pt"
    ).to(model.device)
    given = tokens["input_ids"].shape[1]
    if given + language.max_tokens > limit:
      raise UserError(
        f"--config.language.max_tokens={language.max_tokens}: with a question of {given} tokens it "
        f"is more than the {limit} that language.llm reads; pass less"
      )
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    try:
      with torch.inference_mode():
        output = model.generate(**inputs, **sampling)
    except torch.OutOfMemoryError as error:
      raise UserError(
        f"--config.language.llm_batch_size={size}: not enough GPU memory; pass a smaller one"
      ) from error
    for i, row in enumerate(output[:, given:].tolist(), start):
      reason = "stop" if ends & set(row) else "length"
      # Marks of thoughts are special tokens of some models: `thoughts.answer_in` needs them.
      said = [token for token in row if token not in silent]
      opened = thoughts.opening_in(texts[i])
      yield i, Answer(opened + tokenizer.decode(said, skip_special_tokens=False), reason)


def _load(llm: str) -> tuple[Any, Any]:
  """(tokenizer that pads on the left, torch model in eval mode on its device)."""
  packages.require("torch", "safetensors", "torch", "transformers")
  import torch
  import transformers

  source, names = load.folder_of("language.llm", llm, _HINT) or llm, (llm, "language.llm", _HINT)
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
