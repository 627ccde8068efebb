"""Tiny encoders that tests share."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

VOCAB = {x: i for i, x in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "red", "wing"])}
SIZES = {"vocab_size": 7, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 16, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


@pytest.fixture(scope="session")
def save_encoder():
  """`save_encoder(folder, family, changes of its config, **tokenizer)` -> the folder, as text."""
  return save


def save(folder, family, changes=(), **tokenizer_changes):
  """A tiny model of random weights, with a tokenizer of two words."""
  raw = Tokenizer(models.WordLevel(VOCAB, unk_token="<unk>"))
  raw.pre_tokenizer = pre_tokenizers.Whitespace()
  ends = [("<s>", 0), ("</s>", 2)]
  raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
  names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=raw, **names, **tokenizer_changes
  ).save_pretrained(folder)
  torch.manual_seed(0)
  config = transformers.AutoConfig.for_model(family, **(SIZES | dict(changes)))
  kind = transformers.AutoModel
  if config.is_encoder_decoder:
    kind = transformers.AutoModelForTextEncoding
  kind.from_config(config).save_pretrained(folder)
  return str(folder)
