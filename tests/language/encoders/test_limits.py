"""How much of a text each family of encoders reads, against the model itself and the cut text."""

import json

import numpy as np
import pytest
import torch
import transformers

from lafg_jax.language.encoders import by_transformers
from lafg_jax.language.encoders import texts as encode
from lafg_jax.utils.errors import UserError

LONG = "red wing wing " * 30
# Positions that a config gives.
COUNT = 20


POSITIONS = {"max_position_embeddings": COUNT}
# Family, what its config says, the most tokens that it reads.
ABSOLUTE = [
  *((name, POSITIONS, COUNT - 2) for name in ("roberta", "mpnet", "xlm-roberta", "camembert")),
  # Its padding has number 1, whatever the config says, and RoBERTa's the config's.
  ("mpnet", POSITIONS | {"pad_token_id": 4}, COUNT - 2),
  ("roberta", POSITIONS | {"pad_token_id": 4}, COUNT - 5),
  ("data2vec-text", POSITIONS, COUNT - 2),
  ("longformer", POSITIONS | {"attention_window": [4]}, COUNT - 2),
  ("bert", POSITIONS, COUNT),
  ("distilbert", POSITIONS | {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}, COUNT),
  ("albert", POSITIONS, COUNT),
  ("nystromformer", POSITIONS, COUNT),
  ("gpt2", {"n_positions": COUNT, "n_embd": 16, "n_layer": 1, "n_head": 2}, COUNT),
]


@pytest.mark.parametrize(("family", "changes", "limit"), ABSOLUTE)
def test_a_long_text_is_cut_to_the_models_positions(save_encoder, tmp_path, family, changes, limit):
  folder = save_encoder(tmp_path, family, changes)
  assert by_transformers.load_reader(folder, tmp_path).context == limit
  model = transformers.AutoModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  ids = tokenizer(LONG, truncation=True, max_length=limit, return_tensors="pt")
  ids.pop("token_type_ids", None)
  with torch.inference_mode():
    states = model(**ids).last_hidden_state[0].numpy()
    # The model itself reads no token more.
    more = torch.full((1, limit + 1), 6)
    with pytest.raises((IndexError, RuntimeError)):
      model(input_ids=more, attention_mask=torch.ones_like(more))
  mean = states.mean(axis=0)
  found = encode.encode_texts([LONG, "red"], folder, 2)
  np.testing.assert_allclose(found[0], mean / np.sqrt(mean @ mean), atol=1e-5)


MODERN = POSITIONS | {"cls_token_id": 0, "sep_token_id": 2}
ROPE = POSITIONS | {"num_key_value_heads": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
XLNET = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}


@pytest.mark.parametrize(
  ("family", "changes", "tokenizer", "settings", "limit"),
  [
    ("modernbert", MODERN, {}, None, COUNT),
    ("qwen2", ROPE, {}, None, COUNT),
    # What counts no positions reads what its tokenizer says.
    ("t5", T5, {"model_max_length": 9}, None, 9),
    ("t5", T5, {}, {"max_seq_length": 8}, 8),
    ("xlnet", XLNET, {"model_max_length": 9}, None, 9),
    ("bert", POSITIONS, {"model_max_length": int(1e30)}, None, COUNT),
    ("bert", POSITIONS, {"model_max_length": 512}, None, COUNT),
    ("bert", POSITIONS, {"model_max_length": 9}, None, 9),
    # sentence-transformers' setting stands before the tokenizer's, and no model reads more.
    ("bert", POSITIONS, {"model_max_length": 9}, {"max_seq_length": 12}, 12),
    ("roberta", POSITIONS, {}, {"max_seq_length": 64}, COUNT - 2),
    ("roberta", POSITIONS, {}, {"max_seq_length": None}, COUNT - 2),
  ],
)
def test_the_least_of_model_tokenizer_and_settings_counts(
  save_encoder, tmp_path, family, changes, tokenizer, settings, limit
):
  folder = save_encoder(tmp_path, family, changes, **tokenizer)
  if settings is not None:
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(settings))
  reader = by_transformers.load_reader(folder, tmp_path)
  assert reader.context == limit
  # Qwen's tokenizer is its own.
  assert family == "qwen2" or reader.tokens([LONG, "red"])["input_ids"].shape == (2, limit)


def test_a_model_without_any_limit_says_so_and_reads_all(save_encoder, tmp_path, logged):
  folder = save_encoder(tmp_path, "t5", T5)
  model = transformers.T5EncoderModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  found = encode.encode_texts([LONG], folder, 1)[0]
  assert "names a longest text, so texts are read whole" in logged.text
  with torch.inference_mode():
    ids = tokenizer(LONG, return_tensors="pt")
    assert ids["input_ids"].shape == (1, 92)
    mean = model(input_ids=ids["input_ids"]).last_hidden_state[0].mean(dim=0).numpy()
  np.testing.assert_allclose(found, mean / np.sqrt(mean @ mean), atol=1e-5)


def test_no_room_and_other_words_are_one_line(save_encoder, tmp_path):
  folder = save_encoder(tmp_path / "a", "bert", POSITIONS, model_max_length=2)
  with pytest.raises(UserError, match="reads 2 tokens of a text, 2 of them special"):
    by_transformers.load_reader(folder, tmp_path / "a")
  # A tokenizer with more words than the model.
  folder = save_encoder(tmp_path / "b", "bert", POSITIONS | {"vocab_size": 6})
  with pytest.raises(UserError, match="cannot encode .*tokenizer and its weights belong together"):
    encode.encode_texts(["red wing"], folder, 1)
