"""Text features of random-weight encoders against transformers' own and a hand-made mean."""

import json
from pathlib import Path

import ml_collections
import numpy as np
import pytest
import torch
import transformers
from absl import logging
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lafg_jax.language.encoders import by_transformers, load, texts
from lafg_jax.utils.errors import UserError

WORDS = "a photo of red blue car bird with big small wings and roof".split()
TEXTS = ["a red car", "a photo of a big blue bird with small wings", "car", "roof and wings"]
CONTEXT = 12


def save_tokenizer(folder, **changes):
  vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", *WORDS, "<s>", "</s>"])}
  tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[(name, vocab[name]) for name in ("<s>", "</s>")]
  )
  names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, model_max_length=CONTEXT, **(names | changes)
  )
  fast.save_pretrained(folder)
  return vocab


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clip")
  vocab = save_tokenizer(folder)
  text = {"vocab_size": len(vocab), "hidden_size": 16, "intermediate_size": 24}
  text |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": CONTEXT}
  text |= {"pad_token_id": 0, "bos_token_id": vocab["<s>"], "eos_token_id": vocab["</s>"]}
  image = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
  image |= {"num_attention_heads": 1, "image_size": 8, "patch_size": 4}
  config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=10)
  torch.manual_seed(0)
  transformers.CLIPModel(config).save_pretrained(folder)
  return str(folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bert")
  config = transformers.BertConfig(
    vocab_size=len(save_tokenizer(folder)),
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=CONTEXT,
  )
  torch.manual_seed(1)
  transformers.BertModel(config, add_pooling_layer=False).half().save_pretrained(folder)
  return str(folder)


def unit(vector):
  return vector / np.sqrt(np.sum(vector.astype(np.float64) ** 2))


def single(encoder, text):
  return transformers.AutoTokenizer.from_pretrained(encoder)(text, return_tensors="pt")


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_clip_features_equal_transformers_own(clip, batch_size):
  found = texts.encode_texts(TEXTS, clip, batch_size)
  model = transformers.CLIPModel.from_pretrained(clip).eval()
  assert found.shape == (len(TEXTS), 10) and found.dtype == np.float32
  for row, text in zip(found, TEXTS, strict=True):
    with torch.no_grad():
      own = model.get_text_features(**single(clip, text))
    own = own if torch.is_tensor(own) else own.pooler_output
    np.testing.assert_allclose(row, unit(own.numpy()[0]), atol=1e-5)


def test_text_tower_alone_gives_the_same(clip, tmp_path):
  config = transformers.CLIPConfig.from_pretrained(clip).text_config
  config.projection_dim = 10
  tower = transformers.CLIPTextModelWithProjection.from_pretrained(clip, config=config)
  tower.save_pretrained(tmp_path)
  save_tokenizer(tmp_path)
  assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "clip_text_model"
  alone = texts.encode_texts(TEXTS, str(tmp_path), 4)
  np.testing.assert_allclose(alone, texts.encode_texts(TEXTS, clip, 4), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_sentence_features_equal_a_masked_mean_by_hand(bert, batch_size):
  found = texts.encode_texts(TEXTS, bert, batch_size)
  model = transformers.BertModel.from_pretrained(bert, dtype=torch.float32).eval()
  for row, text in zip(found, TEXTS, strict=True):
    with torch.no_grad():
      # One text alone has no padding, so the mean over its tokens needs no mask.
      states = model(**single(bert, text)).last_hidden_state[0].numpy()
    np.testing.assert_allclose(row, unit(sum(states) / len(states)), atol=1e-5)


def test_half_precision_weights_are_computed_in_float32(bert):
  assert by_transformers.load_text_model(bert, Path(bert)).dtype == torch.float32


def test_long_text_is_cut_and_counted(bert, caplog):
  logger = logging.get_absl_logger()
  before, logger.propagate = logger.propagate, True
  long = " ".join(["car"] * 30)
  with caplog.at_level("WARNING", logger="absl"):
    found = texts.encode_texts(["car", long, long + " roof"], bert, 2)
    assert f"2 of 3 texts are longer than the {CONTEXT} tokens" in caplog.text
    caplog.clear()
    fitting = texts.encode_texts([" ".join(["car"] * (CONTEXT - 2))], bert, 2)
    assert not caplog.text
  logger.propagate = before
  np.testing.assert_allclose(found[1], fitting[0], atol=1e-6)
  np.testing.assert_allclose(found[2], fitting[0], atol=1e-6)


def test_encoder_without_padding_token_pads_with_its_end(bert, tmp_path):
  transformers.BertModel.from_pretrained(bert).save_pretrained(tmp_path)
  save_tokenizer(tmp_path, pad_token=None)
  found = texts.encode_texts(TEXTS, str(tmp_path), 4)
  np.testing.assert_allclose(found, texts.encode_texts(TEXTS, bert, 4), atol=1e-5)


def section(encoder, **changes):
  values = {"encoder": encoder, "prompt": "a photo of {}", "query": "name", "batch_size": 3}
  values |= {"long_sentences": "split", "cache": "", "num_attributes": 0}
  values |= {"encoder_runtime": "auto"}
  return ml_collections.ConfigDict(values | changes)


def test_run_writes_features_of_sentences_and_prompts(clip, tmp_path):
  rows = [("red car", "a red car"), ("bird", "a bird with wings"), ("bird", "small wings")]
  text = "\n".join(json.dumps({"class": c, "description": d, "source": "x"}) for c, d in rows)
  (tmp_path / "descriptions.jsonl").write_text(text)
  with np.load(texts.run(section(clip), tmp_path, ("bird", "red car"))) as found:
    assert list(found["class_names"]) == ["bird", "red car"]
    assert list(found["sentences"]) == [sentence for _, sentence in rows]
    assert found["sentence_described"].tolist() == [1, 0, 0]
    assert found["sentence_described"].dtype == np.int32
    assert str(found["encoder"]) == clip
    sentences = texts.encode_texts([sentence for _, sentence in rows], clip, 1)
    np.testing.assert_allclose(found["sentence_features"], sentences, atol=1e-6)
    prompts = texts.encode_texts(["a photo of bird", "a photo of red car"], clip, 1)
    np.testing.assert_allclose(found["queries"], prompts, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found["queries"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", ""])
def test_prompt_must_hold_the_name_once(clip, tmp_path, prompt):
  with pytest.raises(UserError, match="language.prompt"):
    texts.run(section(clip, prompt=prompt), tmp_path, ("bird",))


def test_run_needs_descriptions_of_these_classes(clip, tmp_path):
  with pytest.raises(UserError, match="run --stage=describe"):
    texts.run(section(clip), tmp_path, ("bird",))


def test_batch_size_is_checked(clip):
  with pytest.raises(UserError, match="language.batch_size"):
    texts.encode_texts(TEXTS, clip, 0)


@pytest.mark.parametrize("encoder", ["", "./nowhere", "/nowhere/model", "a/b/c"])
def test_encoder_that_can_only_be_a_path_must_exist(encoder):
  with pytest.raises(UserError, match="language.encoder.*--config.language.encoder=FOLDER"):
    texts.encode_texts(TEXTS, encoder, 2)


def test_hub_that_cannot_be_reached_names_the_encoder(monkeypatch):
  def unreachable(source):
    raise OSError(f"We couldn't connect to the hub\nto load {source}")

  monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
  with pytest.raises(UserError, match="'owner/name' cannot be loaded .*encoder=FOLDER") as raised:
    texts.encode_texts(TEXTS, "owner/name", 2)
  assert "\n" not in str(raised.value)


def without_tokenizer(folder):
  for path in folder.glob("tokenizer*"):
    path.unlink()


def without_projection(folder):
  from safetensors.torch import load_file, save_file

  weights = load_file(folder / "model.safetensors")
  del weights["text_projection.weight"]
  save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def as_pickle(folder):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def damaged(folder):
  weights = (folder / "model.safetensors").read_bytes()
  (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def unknown_kind(folder):
  (folder / "config.json").write_text('{"model_type": "unheard of"}')


def no_config(folder):
  (folder / "config.json").unlink()


def image_only(folder):
  config = transformers.SiglipConfig(text_config={"hidden_size": 16})
  config.save_pretrained(folder)


@pytest.mark.parametrize(
  "spoil",
  [
    *(without_tokenizer, without_projection, as_pickle, damaged, unknown_kind, no_config),
    image_only,
  ],
)
def test_spoilt_encoder_folder_is_one_clear_line(clip, tmp_path, spoil):
  import shutil

  folder = tmp_path / "encoder"
  shutil.copytree(clip, folder)
  spoil(folder)
  with pytest.raises(UserError, match="language.encoder .*--config.language.encoder=F") as raised:
    texts.encode_texts(TEXTS, str(folder), 2)
  assert "\n" not in str(raised.value)


def test_missing_library_names_the_extra(bert, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "transformers", None)
  with pytest.raises(UserError, match=r"transformers is not installed: pip install 'lafg_jax\["):
    texts.encode_texts(TEXTS, bert, 2)


def test_shipped_encoder_is_a_folder_of_the_package():
  folder = load.local_folder("tiny_clip")
  assert folder is not None and folder.parts[-3:] == ("lafg_jax", "finches", "tiny_clip")
  assert load.local_folder("openai/clip-vit-base-patch32") is None


@pytest.fixture
def logged(caplog):
  logger = logging.get_absl_logger()
  before, logger.propagate = logger.propagate, True
  with caplog.at_level("WARNING", logger="absl"):
    yield caplog
  logger.propagate = before


def test_run_splits_long_sentences_and_says_so(bert, tmp_path, logged):
  long = "a red car with big wings. a blue bird, a photo of a small roof and small wings"
  endless = " ".join(["roof"] * 20)
  rows = [("bird", long), ("bird", "small wings"), ("bird", "a blue bird, a photo of a small roof")]
  rows += [("car", "a car"), ("car", endless)]
  text = "\n".join(json.dumps({"class": c, "description": d, "source": "x"}) for c, d in rows)
  (tmp_path / "descriptions.jsonl").write_text(text)
  with np.load(texts.run(section(bert), tmp_path, ("car", "bird"))) as found:
    sentences, owners = found["sentences"].tolist(), found["sentence_described"].tolist()
    features = found["sentence_features"]
  assert f"1 of 5 sentences are longer than the {CONTEXT} tokens" in logged.text
  assert f"1 of {len(sentences) + 2} texts are longer than the {CONTEXT} tokens" in logged.text
  tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
  assert [len(tokenizer(s)["input_ids"]) <= CONTEXT for s in sentences].count(False) == 1
  parts = sentences[: sentences.index("small wings")]
  assert len(parts) > 1 and " ".join(parts).split() == long.split()
  assert len(set(zip(sentences, owners, strict=True))) == len(sentences)
  assert owners == [1] * (len(sentences) - 2) + [0, 0]
  np.testing.assert_allclose(features, texts.encode_texts(sentences, bert, 1), atol=1e-6)


def test_run_cuts_long_sentences_if_told_to(bert, tmp_path, logged):
  long = "a red car with big wings. a blue bird, a photo of a small roof"
  row = json.dumps({"class": "bird", "description": long, "source": "x"})
  (tmp_path / "descriptions.jsonl").write_text(row)
  with np.load(texts.run(section(bert, long_sentences="cut"), tmp_path, ("bird",))) as found:
    assert found["sentences"].tolist() == [long]
  assert "1 of 2 texts are longer" in logged.text and "split" not in logged.text
  with pytest.raises(UserError, match="language.long_sentences"):
    texts.run(section(bert, long_sentences="drop"), tmp_path, ("bird",))


def test_more_attributes_than_sentences_are_refused_before_encoding(bert, tmp_path, monkeypatch):
  monkeypatch.setattr(by_transformers, "load_text_model", None)
  records = [{"class": "bird", "description": text, "source": "x"} for text in ("a", "red", "red")]
  with pytest.raises(UserError, match="num_attributes=3: it takes a number in 1..2"):
    texts.compute(section(bert, num_attributes=3), records, ("bird",))
