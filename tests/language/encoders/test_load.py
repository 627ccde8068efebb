"""SigLIP, SigLIP 2 and image towers against transformers' own; pooling of sentence encoders."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lafg_jax.language.encoders import by_flax, by_transformers, images, load
from lafg_jax.language.encoders import texts as encode
from lafg_jax.utils.errors import UserError

WORDS = "a photo of red blue car bird with big small wings and roof".split()
TEXTS = ["a RED Car", "a photo of a big blue bird with small wings", "car", "roof and wings"]
CONTEXT = 16


def save_tokenizer(folder, **changes):
  vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", *WORDS, "</s>"])}
  tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.post_processor = processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
  )
  names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, model_max_length=CONTEXT, **(names | changes)
  ).save_pretrained(folder)
  return vocab


TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
TOWER |= {"num_attention_heads": 2}


def save_siglip(folder):
  vocab = save_tokenizer(folder)
  text = TOWER | {"vocab_size": len(vocab), "max_position_embeddings": CONTEXT}
  image = TOWER | {"image_size": 12, "patch_size": 4}
  config = transformers.SiglipConfig(text_config=text, vision_config=image)
  torch.manual_seed(2)
  transformers.SiglipModel(config).save_pretrained(folder)
  size = {"height": 12, "width": 12}
  transformers.SiglipImageProcessor(size=size).save_pretrained(folder)


def save_siglip2(folder):
  vocab = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4, "▁": 5}
  vocab |= {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyzCDER", len(vocab))}
  tokenizer = transformers.Siglip2Tokenizer(
    vocab=vocab, merges=[], model_max_length=CONTEXT, padding_side="right"
  )
  tokenizer.save_pretrained(folder)
  text = TOWER | {"vocab_size": len(vocab), "max_position_embeddings": CONTEXT}
  image = TOWER | {"patch_size": 4, "num_patches": 9}
  config = transformers.Siglip2Config(text_config=text, vision_config=image)
  torch.manual_seed(3)
  transformers.Siglip2Model(config).save_pretrained(folder)
  transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=9).save_pretrained(folder)


def save_clip(folder):
  vocab = save_tokenizer(folder)
  text = TOWER | {"vocab_size": len(vocab), "max_position_embeddings": CONTEXT}
  text |= {"pad_token_id": 0, "eos_token_id": vocab["</s>"]}
  image = TOWER | {"image_size": 12, "patch_size": 4}
  config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=10)
  torch.manual_seed(4)
  transformers.CLIPModel(config).save_pretrained(folder)
  transformers.CLIPImageProcessor(
    size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}
  ).save_pretrained(folder)


SAVERS = {"clip": save_clip, "siglip": save_siglip, "siglip2": save_siglip2}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
  made = {kind: tmp_path_factory.mktemp(kind) for kind in SAVERS}
  for kind, folder in made.items():
    SAVERS[kind](folder)
  return made


def unit(vectors):
  vectors = np.asarray(vectors, np.float64)
  return vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True))


def plain(output):
  return (output if torch.is_tensor(output) else output.pooler_output).detach().numpy()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_text_equals_get_text_features(folders, kind, batch_size):
  folder = folders[kind]
  found = encode.encode_texts(TEXTS, str(folder), batch_size)
  model = transformers.AutoModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  # As the model cards have it: lower case, padded to the whole context, input_ids alone.
  tokens = tokenizer(
    [text.lower() for text in TEXTS],
    padding="max_length",
    max_length=CONTEXT,
    truncation=True,
    return_tensors="pt",
  )
  assert tokens["input_ids"].shape == (len(TEXTS), CONTEXT)
  own = unit(plain(model.get_text_features(input_ids=tokens["input_ids"])))
  np.testing.assert_allclose(found, own, atol=1e-5)
  # The convention matters: with a mask the features are others.
  masked = model.get_text_features(
    input_ids=tokens["input_ids"], attention_mask=(tokens["input_ids"] != 0).long()
  )
  assert np.abs(unit(plain(masked)) - own).max() > 1e-3


def test_siglip_case_follows_the_tokenizer(folders, tmp_path):
  same = encode.encode_texts(["A red car", "a RED Car"], str(folders["siglip"]), 2)
  np.testing.assert_allclose(same[0], same[1], atol=1e-6)
  folder = tmp_path / "cased"
  shutil.copytree(folders["siglip"], folder)
  save_tokenizer(folder, do_lower_case=False)
  cased = encode.encode_texts(["A red car", "a RED Car"], str(folder), 2)
  assert np.abs(cased[0] - cased[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_text_tower_alone_gives_the_same(folders, kind, tmp_path):
  name = {"siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}[kind]
  config = transformers.AutoConfig.from_pretrained(folders[kind]).text_config
  tower = getattr(transformers, name).from_pretrained(folders[kind], config=config)
  folder = tmp_path / "tower"
  shutil.copytree(folders[kind], folder)
  (folder / "model.safetensors").unlink()
  tower.save_pretrained(folder)
  assert json.loads((folder / "config.json").read_text())["model_type"] == f"{kind}_text_model"
  alone = encode.encode_texts(TEXTS, str(folder), 4)
  both = encode.encode_texts(TEXTS, str(folders[kind]), 4)
  np.testing.assert_allclose(alone, both, atol=1e-6)


def test_real_siglip_tokenizer_if_sentencepiece_is_there(folders, tmp_path):
  sentencepiece = pytest.importorskip("sentencepiece")
  (tmp_path / "corpus").write_text("\n".join(text.lower() for text in TEXTS))
  sentencepiece.SentencePieceTrainer.train(
    input=str(tmp_path / "corpus"),
    model_prefix=str(tmp_path / "spiece"),
    vocab_size=len(WORDS) + 3,
    model_type="word",
    minloglevel=2,
  )
  folder = tmp_path / "siglip"
  folder.mkdir()
  for name in ("config.json", "model.safetensors"):
    shutil.copy(folders["siglip"] / name, folder)
  tokenizer = transformers.SiglipTokenizer(
    str(tmp_path / "spiece.model"), model_max_length=CONTEXT, model_input_names=["input_ids"]
  )
  tokenizer.save_pretrained(folder)
  both = ["A red, blue car!", "a red blue car"]
  # A model of whole words, which Flax's way does not read.
  with pytest.raises(UserError, match="no Unigram model"):
    encode.encode_texts(both, str(folder), 2)
  found = encode.encode_texts(both, str(folder), 2, runtime="transformers")
  np.testing.assert_allclose(found[0], found[1], atol=1e-6)
  model = transformers.SiglipModel.from_pretrained(folder).eval()
  tokens = tokenizer(["A red, blue car!"], padding="max_length", return_tensors="pt")
  np.testing.assert_allclose(found[:1], unit(plain(model.get_text_features(**tokens))), atol=1e-5)


def pictures(tmp_path):
  rng = np.random.default_rng(0)
  arrays = rng.integers(0, 256, (5, 20, 26, 3), np.uint8)
  paths = [str(tmp_path / f"{i}.png") for i in range(len(arrays))]
  for path, array in zip(paths, arrays, strict=True):
    Image.fromarray(array).save(path)
  return arrays, paths


@pytest.mark.parametrize("kind", list(SAVERS))
def test_image_features_equal_get_image_features(folders, kind, tmp_path):
  arrays, paths = pictures(tmp_path)
  model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
  processor = transformers.AutoImageProcessor.from_pretrained(folders[kind])
  for found in (
    images.encode_images(arrays, str(folders[kind]), 2),
    images.encode_images(paths, str(folders[kind]), 4),
  ):
    assert found.dtype == np.float32 and len(found) == 5
    for row, path in zip(found, paths, strict=True):
      inputs = processor(images=Image.open(path), return_tensors="pt")
      np.testing.assert_allclose(row, unit(plain(model.get_image_features(**inputs))[0]), atol=1e-5)
  assert np.abs(found[0] - found[1]).max() > 1e-3


def test_images_come_from_the_cache_by_content(folders, tmp_path, monkeypatch):
  arrays, paths = pictures(tmp_path)
  folder, cache = str(folders["clip"]), tmp_path / "cache"
  first = images.encode_images(paths, folder, 2, cache=cache)
  again = [str(Path(path).rename(tmp_path / f"moved-{i}.png")) for i, path in enumerate(paths)]
  monkeypatch.setattr(by_flax, "_loaded", None)
  np.testing.assert_array_equal(images.encode_images(again, folder, 2, cache=cache), first)
  with pytest.raises(TypeError):  # Another image needs the model, which is gone.
    images.encode_images(arrays[:1] // 2, folder, 2, cache=cache)


def test_image_mistakes_are_one_line(folders, tmp_path):
  clip = str(folders["clip"])
  with pytest.raises(UserError, match="cannot read image .*nowhere.png"):
    images.encode_images([str(tmp_path / "nowhere.png")], clip, 2)
  (tmp_path / "broken.png").write_bytes(b"\x89PNG no image")
  with pytest.raises(UserError, match="cannot read image .*broken.png"):
    images.encode_images([str(tmp_path / "broken.png")], clip, 2)
  config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
  transformers.BertModel(config).save_pretrained(tmp_path / "bert")
  with pytest.raises(UserError, match="no image encoder .*bert.*CLIP or SigLIP"):
    images.encode_images(np.zeros((1, 9, 9, 3), np.uint8), str(tmp_path / "bert"), 2)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bert")
  vocab = save_tokenizer(folder)
  config = transformers.BertConfig(vocab_size=len(vocab), max_position_embeddings=CONTEXT, **TOWER)
  torch.manual_seed(5)
  transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
  return folder


def by_hand(states, mode):
  """One text's states [L, d], no padding."""
  count = len(states)
  return {
    "cls": states[0],
    "lasttoken": states[-1],
    "max": states.max(axis=0),
    "mean": sum(states) / count,
    "mean_sqrt_len": sum(states) / np.sqrt(count),
    "weightedmean": sum((i + 1) * state for i, state in enumerate(states))
    / sum(range(1, count + 1)),
  }[mode]


MODES = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")
MODES += ("weightedmean_tokens", "lasttoken")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("modes", [*((mode,) for mode in MODES), ("cls_token", "mean_tokens")])
def test_pooling_follows_the_folder(bert, tmp_path, modes, side):
  folder = tmp_path / "encoder"
  shutil.copytree(bert, folder)
  save_tokenizer(folder, padding_side=side)
  (folder / "1_Pooling").mkdir()
  settings = {f"pooling_mode_{mode}": mode in modes for mode in MODES}
  (folder / "1_Pooling/config.json").write_text(json.dumps(settings))
  # Texts of one length: padding on the left shifts BERT's own positions.
  texts = ["a red car", "small blue wings"] if side == "left" else [text.lower() for text in TEXTS]
  found = encode.encode_texts(texts, str(folder), 4)
  model = transformers.BertModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  names = [mode.replace("_tokens", "").replace("_token", "") for mode in modes]
  for row, text in zip(found, texts, strict=True):
    inputs = tokenizer(text, return_tensors="pt")
    states = model(**inputs).last_hidden_state[0].detach().numpy()
    expected = np.concatenate([by_hand(states, name) for name in names])
    np.testing.assert_allclose(row, unit(expected), atol=1e-5)


def test_left_padding_pools_the_same_tokens():
  states = torch.randn(1, 3, 4, generator=torch.manual_seed(0))
  padded = torch.cat([torch.full((1, 2, 4), 9.0), states], dim=1)
  left = torch.tensor([[0, 0, 1, 1, 1]])
  for mode in ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken"):
    alone = by_transformers.pool({"last_hidden_state": states}, torch.ones(1, 3), (mode,))
    found = by_transformers.pool({"last_hidden_state": padded}, left, (mode,))
    torch.testing.assert_close(found, alone)


def test_settings_of_sentence_transformers_are_honoured(bert, tmp_path):
  folder = tmp_path / "encoder"
  shutil.copytree(bert, folder)
  (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4, "do_lower_case": true}')
  modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
  modules += [{"path": "pool", "type": "sentence_transformers.models.Pooling"}]
  (folder / "modules.json").write_text(json.dumps(modules))
  (folder / "pool").mkdir()
  (folder / "pool/config.json").write_text('{"pooling_mode": "cls"}')
  reader = by_transformers.load_reader("x", folder)
  assert (reader.context, reader.lower, reader.pooling) == (4, True, ("cls",))
  found = encode.encode_texts(["A RED car", "a red car with a roof"], str(folder), 2)
  np.testing.assert_allclose(found[0], found[1], atol=1e-6)  # both cut after three words


def test_unknown_pooling_is_refused(bert, tmp_path):
  folder = tmp_path / "encoder"
  shutil.copytree(bert, folder)
  (folder / "1_Pooling").mkdir()
  for settings in ('{"pooling_mode_none": true}', "{}", '{"pooling_mode": "attention"}', "["):
    (folder / "1_Pooling/config.json").write_text(settings)
    with pytest.raises(UserError, match="language.encoder .*cannot be loaded"):
      encode.encode_texts(["a red car"], str(folder), 2)


def test_hub_id_is_read_from_the_hub_cache_and_known_by_its_revision(bert, tmp_path, monkeypatch):
  import huggingface_hub

  commit = "0123456789abcdef0123456789abcdef01234567"
  repository = tmp_path / "models--owner--name"
  shutil.copytree(bert, repository / "snapshots" / commit)
  (repository / "refs").mkdir()
  (repository / "refs/main").write_text(commit)
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  folder, identity = load.resolve("owner/name")
  assert folder.samefile(repository / "snapshots" / commit)
  assert identity == f"owner/name@{commit}"
  found = encode.encode_texts(TEXTS, "owner/name", 2)
  np.testing.assert_allclose(found, encode.encode_texts(TEXTS, str(bert), 2), atol=1e-6)
  with pytest.raises(UserError, match="'owner/other' cannot be loaded .*encoder=FOLDER"):
    encode.encode_texts(TEXTS, "owner/other", 2)


def test_identity_of_a_folder_is_its_content(bert, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(bert, folder)
  identity = load.resolve(str(bert))[1]
  (folder / "README.md").write_text("no matter")
  assert load.resolve(str(folder))[1] == identity
  weights = (folder / "model.safetensors").read_bytes()
  (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
  changed = load.resolve(str(folder))[1]
  assert changed != identity
  (folder / "1_Pooling").mkdir()
  (folder / "1_Pooling/config.json").write_text('{"pooling_mode": "cls"}')
  assert load.resolve(str(folder))[1] not in (identity, changed)


def test_a_new_revision_in_the_hub_cache_changes_what_is_fingerprinted(bert, tmp_path, monkeypatch):
  import huggingface_hub

  from lafg_jax.utils import files

  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  repository, seen = tmp_path / "models--owner--name", [load.content("owner/name")]
  assert seen == ["owner/name@"]
  (repository / "refs").mkdir(parents=True)
  for commit in ("a" * 40, "b" * 40):
    shutil.copytree(bert, repository / "snapshots" / commit)
    (repository / "refs/main").write_text(commit)
    assert load.content("owner/name") == load.resolve("owner/name")[1] == f"owner/name@{commit}"
    seen.append(load.content("owner/name"))
  assert len(set(map(files.fingerprint, seen))) == 3
  # A folder counts by its content.
  assert load.content(str(bert)) == bert


def test_a_new_revision_of_a_hub_encoder_makes_the_stage_encode_run_again(
  forked, tmp_path, monkeypatch
):
  monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
  repository, workdir = tmp_path / "hub/models--owner--clip", tmp_path / "run"
  (repository / "refs").mkdir(parents=True)
  for commit in ("a" * 40, "b" * 40):
    shutil.copytree(load.local_folder("tiny_clip"), repository / "snapshots" / commit)
  line = ["--config", "configs/synthetic.py:prototypes", f"--workdir={workdir}"]
  line += ["--config.language.encoder=owner/clip", "--config.language.cache="]
  said = []
  for commit, stages in (("a" * 40, ["describe", "encode", "encode"]), ("b" * 40, ["encode"])):
    (repository / "refs/main").write_text(commit)
    done = forked("main", [[*line, f"--stage={stage}"] for stage in stages], tmp_path)
    assert not any(code for code, _ in done), done
    said += [re.findall(r"stage encode \[.*\]: (.*)", stderr) for _, stderr in done]
  assert said == [
    *([], ["running (first run)"], ["skipped (up to date)"]),
    ["running (config or inputs changed)"],
  ]
