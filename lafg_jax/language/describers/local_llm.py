"""Asks a causal language model in this process, through its chat template."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lafg_jax.language.describers.answer import Answer, Ask
from lafg_jax.utils.errors import UserError

_HINT = "pass the folder or hub id of a chat model, --config.language.llm=MODEL"


@contextlib.contextmanager
def opened(language: Any) -> Iterator[Ask]:
  """Yields the function that asks `language.llm`, on the GPU where torch has one.

  `language.temperature` 0 is greedy; above, sampling is seeded by `language.llm_seed`, the attempt
  and the number of the batch.

  Raises:
    UserError: the language extra is not installed, the model cannot be loaded or has no chat
      template; while asking: too little memory, or a question longer than the model's context.
  """
  tokenizer, model = _load(language.llm)
  yield lambda questions, attempt: _ask(language, tokenizer, model, questions, attempt)


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
  size = language.llm_batch_size
  for start in range(0, len(texts), size):
    torch.manual_seed(1_000_003 * language.llm_seed + 10_007 * attempt + start)
    # The template writes the special tokens itself.
    tokens = tokenizer(
      texts[start : start + size], padding=True, add_special_tokens=False, return_tensors="pt"
    ).to(model.device)
    try:
      answers = _generate(language, tokenizer, model, tokens)
    except torch.OutOfMemoryError as error:
      raise UserError(
        f"--config.language.llm_batch_size={size}: not enough GPU memory; pass a smaller one"
      ) from error
    yield from enumerate(answers, start)


def _generate(language, tokenizer, model, tokens) -> list[Answer]:
  import torch

  given = tokens["input_ids"].shape[1]
  limit = getattr(model.config, "max_position_embeddings", None) or 2**20
  if given + language.max_tokens > limit:
    raise UserError(
      f"--config.language.max_tokens={language.max_tokens}: with a question of {given} tokens it "
      f"is more than the {limit} that language.llm reads; pass less"
    )
  sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
  if language.temperature > 0:
    sampling = {"do_sample": True, "temperature": language.temperature}
  inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
  with torch.inference_mode():
    output = model.generate(
      **inputs, **sampling, max_new_tokens=language.max_tokens, pad_token_id=tokenizer.pad_token_id
    )
  ends = model.generation_config.eos_token_id
  ends = set(ends if isinstance(ends, list) else [ends, tokenizer.eos_token_id])
  answers = []
  for row in output[:, given:].tolist():
    finish_reason = "stop" if ends & set(row) else "length"
    answers.append(Answer(tokenizer.decode(row, skip_special_tokens=True), finish_reason))
  return answers


def _load(llm: str) -> tuple[Any, Any]:
  """(tokenizer that pads on the left, torch model in eval mode on its device)."""
  try:
    import safetensors
    import torch
    import transformers
  except ImportError as error:
    raise UserError(f"{error.name} is not installed: pip install 'lafg_jax[language]'") from error

  path = Path(llm).expanduser()
  # A hub id is NAME or OWNER/NAME; anything else can only have meant a path.
  if not path.is_dir() and (llm[0] in "./~" or llm.count("/") > 1 or path.exists()):
    raise UserError(f"language.llm: no folder {llm!r}: {_HINT}")
  source = str(path) if path.is_dir() else llm
  gpu = torch.cuda.is_available()
  # Its bar of a second or two says less than our own progress lines.
  transformers.logging.disable_progress_bar()
  failures = (OSError, ValueError, KeyError, ImportError, RuntimeError, safetensors.SafetensorError)
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, padding_side="left")
    kind: Any = transformers.AutoModelForCausalLM
    model, found = kind.from_pretrained(
      source,
      # Half precision is slow on most CPUs; on a GPU the model's own is meant to be used.
      dtype="auto" if gpu else torch.float32,
      use_safetensors=True,
      output_loading_info=True,
    )
    model = model.to("cuda" if gpu else "cpu").eval()
  except failures as error:
    reason = str(error).strip().split("\n")[0]
    raise UserError(f"language.llm {llm!r} cannot be loaded ({reason}): {_HINT}") from error
  finally:
    transformers.logging.enable_progress_bar()
  # Transformers fills absent weights with noise.
  if found["missing_keys"]:
    raise UserError(f"language.llm {llm!r} lacks weights such as {min(found['missing_keys'])}")
  if tokenizer.chat_template is None:
    raise UserError(f"language.llm {llm!r} has no chat template: {_HINT}")
  if tokenizer.pad_token is None:
    # Padding is masked out, so any token serves.
    tokenizer.pad_token = tokenizer.eos_token
  return tokenizer, model
