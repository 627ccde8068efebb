"""Captions by image-to-text models of transformers, with tiny models that the test makes."""

import hashlib
import json

import numpy as np
import pytest

from lafg_jax.language.captioners import by_transformers
from lafg_jax.tasks.composed_retrieval import default
from lafg_jax.utils.errors import UserError

WORDS = ("a", "photo", "of", *(f"w{i}" for i in range(40)))


def section(**changes):
  captioner = default.get_config().captioner
  captioner.update(kind="transformers", number=3, max_tokens=6)
  captioner.update(changes)
  return captioner


def images(count, seed=0):
  rng = np.random.default_rng(seed)
  sizes = [(12 + 3 * i, 20 - i, 3) for i in range(count)]
  return [rng.integers(0, 256, size).astype(np.uint8) for size in sizes]


def bert_tokenizer(folder):
  import transformers

  vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
  (folder / "vocab.txt").write_text("\n".join(vocab))
  return transformers.BertTokenizerFast(
    vocab={word: i for i, word in enumerate(vocab)}, model_max_length=64
  )


def image_processor(kind="BlipImageProcessor"):
  import transformers

  return getattr(transformers, kind)(size={"height": 16, "width": 16})


def save_blip(folder):
  import torch
  import transformers

  folder.mkdir()
  tokenizer = bert_tokenizer(folder)
  size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
  size |= {"num_attention_heads": 2, "projection_dim": 16}
  config = transformers.BlipConfig(
    vision_config=size | {"image_size": 16, "patch_size": 8},
    text_config=size
    | {"vocab_size": len(tokenizer), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    | {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0},
  )
  torch.manual_seed(0)
  model = transformers.BlipForConditionalGeneration(config)
  with torch.no_grad():
    # Of random weights of the usual scale each word would be as likely as any.
    for weights in model.parameters():
      weights.mul_(8)
  model.save_pretrained(folder)
  transformers.BlipProcessor(image_processor(), tokenizer).save_pretrained(folder)
  return folder


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
  return str(save_blip(tmp_path_factory.mktemp("blip") / "model"))


def test_captions_are_those_of_the_models_own_generate(blip):
  import torch
  import transformers

  shown = images(2)
  found = by_transformers.make(section(model=blip), "Describe it.")(shown)
  processor = transformers.AutoProcessor.from_pretrained(blip)
  model = transformers.BlipForConditionalGeneration.from_pretrained(blip).eval()
  for image, captions in zip(shown, found, strict=True):
    inputs = processor(images=image, text="a photo of", return_tensors="pt")
    digest = hashlib.sha256(repr((0, image.shape)).encode() + image.tobytes()).digest()
    torch.manual_seed(int.from_bytes(digest[:6], "big"))
    rows = model.generate(
      **inputs, do_sample=True, top_p=0.9, temperature=1.0, top_k=0, num_beams=3,
      num_return_sequences=3, max_new_tokens=6, length_penalty=1.0, repetition_penalty=1.0,
    )  # fmt: skip
    texts = processor.batch_decode(rows, skip_special_tokens=True)
    assert all(text.startswith("a photo of") for text in texts)
    assert captions == [text.removeprefix("a photo of").strip() for text in texts]


def test_neither_the_batch_nor_what_came_before_changes_a_caption(blip):
  shown = images(3)
  caption = by_transformers.make(section(model=blip), "")
  found = caption(shown)
  assert all(len(captions) == 3 for captions in found)
  assert len({caption for captions in found for caption in captions}) > 3
  assert caption(shown[::-1]) == found[::-1] and [caption([x])[0] for x in shown] == found
  # A resume is another process: the model is loaded anew.
  assert by_transformers.make(section(model=blip), "")(shown[1:2]) == found[1:2]
  assert by_transformers.make(section(model=blip, seed=1), "")(shown) != found
  plain = by_transformers.make(section(model=blip, temperature=0.0, seed=1), "")(shown)
  assert plain == by_transformers.make(section(model=blip, temperature=0.0), "")(shown) != found
  assert len(by_transformers.make(section(model=blip, number=1), "")(shown[:1])[0]) == 1
  # Fewer beams than captions: each is sampled alone.
  assert len(by_transformers.make(section(model=blip, beams=1), "")(shown[:1])[0]) == 3


def save_blip2(folder):
  import torch
  import transformers

  folder.mkdir()
  tokenizer = bert_tokenizer(folder)
  tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
  size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
  size |= {"num_attention_heads": 2}
  text = transformers.OPTConfig(
    vocab_size=len(tokenizer), hidden_size=16, ffn_dim=32, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=64, word_embed_proj_dim=16, bos_token_id=2,
    eos_token_id=3, pad_token_id=0,
  )  # fmt: skip
  config = transformers.Blip2Config(
    vision_config=size | {"image_size": 16, "patch_size": 8},
    qformer_config=size | {"encoder_hidden_size": 16, "vocab_size": 8},
    text_config=text.to_dict(),
    num_query_tokens=2,
    image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
  )
  torch.manual_seed(0)
  transformers.Blip2ForConditionalGeneration(config).save_pretrained(folder)
  made = transformers.Blip2Processor(image_processor(), tokenizer, num_query_tokens=2)
  made.save_pretrained(folder)
  return folder


def save_llava(folder):
  import torch
  import transformers

  folder.mkdir()
  tokenizer = bert_tokenizer(folder)
  tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
  size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
  size |= {"num_attention_heads": 2}
  config = transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(**size, image_size=16, patch_size=8),
    text_config=transformers.LlamaConfig(
      **size, vocab_size=len(tokenizer), max_position_embeddings=128, bos_token_id=2,
      eos_token_id=3, pad_token_id=0,
    ),
    image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
  )  # fmt: skip
  torch.manual_seed(0)
  transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
  template = (
    "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}"
    "{{ c.text }} {% endif %}{% endfor %}{% endfor %}"
  )
  pictures = transformers.CLIPImageProcessor(
    size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16}
  )
  transformers.LlavaProcessor(
    pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default",
    num_additional_image_tokens=1, chat_template=template,
  ).save_pretrained(folder)  # fmt: skip
  return folder


def save_encoder_decoder(folder):
  import torch
  import transformers

  folder.mkdir()
  tokenizer = bert_tokenizer(folder)
  size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
  size |= {"num_attention_heads": 2}
  config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
    transformers.ViTConfig(**size, image_size=16, patch_size=8),
    transformers.BertConfig(**size, vocab_size=len(tokenizer), max_position_embeddings=64),
  )
  config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
  torch.manual_seed(0)
  model = transformers.VisionEncoderDecoderModel(config)
  model.generation_config.update(decoder_start_token_id=2, eos_token_id=3, pad_token_id=0)
  model.save_pretrained(folder)
  image_processor("ViTImageProcessor").save_pretrained(folder)
  tokenizer.save_pretrained(folder)
  return folder


@pytest.mark.parametrize("save", [save_blip2, save_llava, save_encoder_decoder])
def test_other_image_to_text_models_caption_too(save, tmp_path):
  folder = save(tmp_path / "model")
  caption = by_transformers.make(section(model=str(folder), max_tokens=20), "w1 w2 w3")
  shown = images(2)
  found = caption(shown)
  assert len(found) == 2 and all(1 <= len(captions) <= 3 for captions in found)
  # Neither the request nor the prefix is part of a caption.
  assert not any(text.startswith(("w1 w2 w3", "a photo of")) for x in found for text in x)
  assert caption(shown[1:]) == found[1:]


def test_models_that_cannot_caption_are_one_line(blip, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "text").mkdir()
  (tmp_path / "text" / "config.json").write_text(json.dumps({"model_type": "bert"}))
  for model, says in ((tmp_path / "empty", "cannot be loaded"), (tmp_path / "text", "loaded")):
    with pytest.raises(UserError, match=rf"captioner\.model.*{says}") as raised:
      by_transformers.make(section(model=str(model)), "")
    assert "\n" not in str(raised.value)
  for model, says in (("", "is empty"), ("./no", "no folder")):
    with pytest.raises(UserError, match=rf"captioner\.model.*{says}"):
      by_transformers.check(model)
  by_transformers.check(blip)
