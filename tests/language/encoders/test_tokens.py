"""Tokens by the `tokenizers` package alone against transformers' own, id by id."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lafg_jax.language.encoders import load as encoders
from lafg_jax.language.encoders import spiece, tokens

CORPUS = [
  "a photo of a small red bird with blue wings and a long bill.",
  "the car's roof isn't white, it's a 2012 Audi A4; cafés & naïve coöperation",
  "un oiseau à gorge rouge; ein kleiner Vogel mit blauen Flügeln",
  "<b>bold</b> &amp; 100% of 3.14, under_score, e-mail@example.org (yes!)",
] * 3
ODD = [
  *("", " ", "   \t\n", "bird", "A RED Car", "  two   spaces  ", "tab\tand\nline\r\nend"),
  *("Café", "Cafe\u0301 e\u0301clair", "Z\u0330\u0310\u0313a\u0300\u0301l\u0316g\u0317o"),
  *("İstanbul", "ΑΣ ΟΔΟΣ ß ẞ", "中文字符，测试。", "日本語 カタカナ", "한국어 각", "العربية"),
  *("हिन्दी", "ภาษาไทย", "😀", "👩‍👩‍👧‍👦 and 🇩🇪", "a👍🏽b"),
  *("&amp; &lt;b&gt; &#39;", "<b>x</b>", "<br/>", "http://a.b/c?d=e", "don''t 's", "...!!!???"),
  *("it's they're we've I'm he'll she'd", "__a_b__"),
  *("100% 3.14", "a\u200bb\ufeffc\u00a0d", "\u0000\u0001\u001f", "ﬁ ﬂ ①② ½ ￥ ＦＵＬＬ　width"),
  *("¨x ´y", "▁▁x ▁", "—–“quotes”…", "\\ / | ~ ` ^", "{'a': [1, 2]}", "a" * 500, "red bird " * 60),
  *("red " * 20 + "😀" * 30,),
]  # fmt: skip


def _random_texts(count):
  draw = random.Random(0)
  letters = "abceirdABC   \t.,!'<>_-&;éüñàßİσς中文字のカ한😀👍🏽\u0301\u0308\u0316\u200dﬁ①½¨Ａ"
  words = " ".join(CORPUS).split()
  found = ["".join(draw.choices(letters, k=draw.randint(1, 40))) for _ in range(count)]
  return found + [" ".join(draw.choices(words, k=draw.randint(1, 40))) for _ in range(count // 3)]


TEXTS = ODD + _random_texts(300)
# Special tokens inside of a text, each with what stands around it.
SPECIAL = ("{}", "a {} b", "red{}bird", "{}{} x", "end {}")


def write_config(folder, family, positions, **text):
  found = {"model_type": family, "text_config": {"max_position_embeddings": positions, **text}}
  (folder / "config.json").write_text(json.dumps(found | {"vision_config": {}}))


@pytest.fixture(scope="module")
def clip_bpe(tmp_path_factory):
  """vocab.json and merges.txt as CLIP's, of some hundred pieces."""
  folder = tmp_path_factory.mktemp("clip")
  raw = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
  space = normalizers.Replace(Regex(r"\s+"), " ")
  raw.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
  words = pre_tokenizers.Split(Regex(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", True)
  raw.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False)])
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=700, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
  )
  raw.train_from_iterator(CORPUS, trainer)
  found = json.loads(raw.to_str())["model"]
  pieces = {name: i for i, name in enumerate(found["vocab"])}
  # CLIP has each byte also as the end of a word.
  for name in [*(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]:
    pieces.setdefault(name, len(pieces))
  (folder / "vocab.json").write_text(json.dumps(pieces))
  merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in found["merges"]]
  (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
  settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  write_config(folder, "clip", 40, eos_token_id=len(pieces) - 1)
  return folder


@pytest.fixture(scope="module")
def siglip_unigram(tmp_path_factory):
  folder = tmp_path_factory.mktemp("siglip")
  (folder / "corpus").write_text("\n".join(CORPUS).lower())
  sentencepiece.SentencePieceTrainer.train(
    input=str(folder / "corpus"),
    model_prefix=str(folder / "spiece"),
    vocab_size=80,
    model_type="unigram",
    minloglevel=2,
    **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
  )
  transformers.SiglipTokenizer(str(folder / "spiece.model")).save_pretrained(folder)
  write_config(folder, "siglip", 64)
  return folder


@pytest.fixture(scope="module")
def gemma_bpe(tmp_path_factory):
  """Gemma's BPE with bytes for what it lacks, as google/siglip2-base-patch16-224 has it."""
  folder = tmp_path_factory.mktemp("gemma")
  special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
  raw = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
  raw.normalizer = normalizers.Replace(" ", spiece.SPACE)
  raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
  pieces = special + [f"<0x{i:02X}>" for i in range(256)]
  trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=pieces, show_progress=False)
  raw.train_from_iterator([text.lower() for text in CORPUS], trainer)
  found = json.loads(raw.to_str())["model"]
  merges = [tuple(merge) for merge in found["merges"]]
  transformers.GemmaTokenizer(
    vocab=found["vocab"],
    merges=merges,
    **{"add_bos_token": False, "add_eos_token": True, "padding_side": "right"},
    model_max_length=64,
  ).save_pretrained(folder)
  write_config(folder, "siglip", 64)
  return folder


@pytest.fixture(scope="module")
def folders(clip_bpe, siglip_unigram, gemma_bpe):
  shipped = encoders.local_folder("tiny_clip")
  return {"tiny": shipped, "clip": clip_bpe, "siglip": siglip_unigram, "gemma": gemma_bpe}


def own(folder, texts, lower, **options):
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  texts = [text.lower() for text in texts] if lower else texts
  return tokenizer(texts, verbose=False, **options)["input_ids"], tokenizer


KINDS = ("tiny", "clip", "siglip", "gemma")


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_transformers_own(folders, kind):
  found = tokens.load(folders[kind])
  lower = kind in ("siglip", "gemma")
  whole, tokenizer = own(folders[kind], TEXTS, lower)
  assert [len(ids) for ids in whole] == found.lengths(TEXTS)
  context = {"tiny": 80, "clip": 40, "siglip": 64, "gemma": 64}[kind]
  assert found.context == context
  cut, _ = own(folders[kind], TEXTS, lower, truncation=True, max_length=context)
  for text, ours, theirs in zip(TEXTS, found.ids(TEXTS), cut, strict=True):
    assert ours == theirs, text
  assert sum(len(ids) > context for ids in whole) > 3
  ends = [tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token]
  texts = [place.format(*[end] * 2) for end in ends for place in SPECIAL]
  for text, theirs in zip(texts, own(folders[kind], texts, lower)[0], strict=True):
    assert found.ids([text]) == [theirs], text


@pytest.mark.parametrize("kind", KINDS)
def test_batches_equal_transformers_padding(folders, kind):
  found = tokens.load(folders[kind])
  fixed = kind in ("siglip", "gemma")
  texts = TEXTS[:60] + [f"red {own(folders[kind], [''], False)[1].eos_token} bird"]
  ids = found.ids(texts)
  rows, ends = found.batch(ids, max(map(len, ids)))
  expected, tokenizer = own(
    *(folders[kind], texts, fixed),
    **{"padding": "max_length" if fixed else True, "truncation": True},
    max_length=found.context,
  )
  assert rows.dtype == ends.dtype == np.int32
  np.testing.assert_array_equal(rows, expected)
  if fixed:
    assert set(ends) == {found.context - 1} and rows.shape[1] == found.context
  else:
    first = [row.index(tokenizer.eos_token_id) for row in expected]
    assert ends.tolist() == first and first[-1] < len(ids[-1]) - 1
  assert (found.end, found.pad) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
  # Room for more than the longest changes no place.
  if not fixed:
    np.testing.assert_array_equal(found.batch(ids, found.context)[1], ends)


def test_a_tokenizer_json_gives_what_vocab_and_merges_give(clip_bpe, tmp_path):
  transformers.CLIPTokenizer.from_pretrained(clip_bpe).save_pretrained(tmp_path)
  shutil.copy(clip_bpe / "config.json", tmp_path)
  assert (tmp_path / "tokenizer.json").is_file() and not (tmp_path / "vocab.json").exists()
  assert tokens.load(tmp_path).ids(TEXTS) == tokens.load(clip_bpe).ids(TEXTS)


def test_siglip_2_is_told_by_its_config_and_pads_where_its_files_say(gemma_bpe, tmp_path):
  shutil.copytree(gemma_bpe, tmp_path / "a")
  write_config(tmp_path / "a", "siglip2", 20)
  path = tmp_path / "a/tokenizer_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
  found = tokens.load(tmp_path / "a")
  assert found.context == 20
  expected, _ = own(
    tmp_path / "a", TEXTS[:40], True, padding="max_length", truncation=True, max_length=20
  )
  np.testing.assert_array_equal(found.batch(found.ids(TEXTS[:40]), 5)[0], expected)


@pytest.mark.parametrize(
  ("family", "config", "settings", "limit", "context"),
  [
    ("clip", {}, {"model_max_length": 77}, 0, 77),
    ("clip", {}, {"model_max_length": int(1e30)}, 0, 77),
    ("clip", {"max_position_embeddings": 32}, {}, 0, 32),
    ("clip", {"max_position_embeddings": 32}, {"model_max_length": 20}, 0, 20),
    # sentence-transformers' setting stands before the tokenizer's, and no model reads more.
    ("clip", {"max_position_embeddings": 32}, {"model_max_length": 20}, 24, 24),
    ("clip", {"max_position_embeddings": 32}, {}, 64, 32),
  ],
)
def test_the_least_of_positions_and_settings_is_the_context(
  clip_bpe, tmp_path, family, config, settings, limit, context
):
  shutil.copytree(clip_bpe, tmp_path, dirs_exist_ok=True)
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
  end = json.loads((clip_bpe / "config.json").read_text())["text_config"]["eos_token_id"]
  text = {"model_type": family, "text_config": {"eos_token_id": end} | config}
  (tmp_path / "config.json").write_text(json.dumps(text))
  found = tokens.load(tmp_path, limit)
  assert found.context == context and max(map(len, found.ids(TEXTS))) == context


def test_open_clips_layout_reads_a_tokenizer_json_in_canonical_form(gemma_bpe, clip_bpe, tmp_path):
  text = {"context_length": 16, "pool_type": "last", "tokenizer_kwargs": {"clean": "canonicalize"}}
  shutil.copytree(gemma_bpe, tmp_path / "a")
  (tmp_path / "a/config.json").unlink()
  config = tmp_path / "a/open_clip_config.json"
  config.write_text(json.dumps({"model_cfg": {"text_cfg": text}}))
  found = tokens.load(tmp_path / "a")
  assert found.context == 16 and found.fixed
  assert found.ids(["A Red_bird,  &x!"]) == found.ids(["a red bird x"])
  transformers.CLIPTokenizer.from_pretrained(clip_bpe).save_pretrained(tmp_path / "b")
  (tmp_path / "b/open_clip_config.json").write_text('{"model_cfg": {"text_cfg": {}}}')
  found = tokens.load(tmp_path / "b")
  assert found.context == 77 and not found.fixed and len(found.ids(["a" * 900])[0]) <= 77
  (tmp_path / "b/tokenizer.json").unlink()
  with pytest.raises(ValueError, match="it lacks a tokenizer: no tokenizer.json"):
    tokens.load(tmp_path / "b")


def _word_model(folder):
  (folder / "corpus").write_text("\n".join(CORPUS).lower())
  sentencepiece.SentencePieceTrainer.train(
    input=str(folder / "corpus"),
    model_prefix=str(folder / "spiece"),
    **{"vocab_size": 20, "model_type": "word", "minloglevel": 2},
  )


def _changed(name, **changes):
  def change(folder):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  return change


def _gone(*names):
  return lambda folder: [(folder / name).unlink() for name in names]


def _bytes(name, content):
  return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
  ("kind", "spoil", "message"),
  [
    ("clip", _gone("merges.txt"), "lacks a tokenizer: no tokenizer.json; .*save_pretrained"),
    ("clip", _bytes("vocab.json", b"{"), "vocab.json and merges.txt cannot be read"),
    ("clip", _changed("tokenizer_config.json", model_max_length=2), "reads 2 tokens .* 2 of them"),
    ("clip", _bytes("config.json", b"["), "config.json is no JSON"),
    ("clip", _bytes("config.json", b"[]"), "config.json is no JSON object"),
    ("clip", lambda f: write_config(f, "clip", 40, eos_token_id=7), "config.json names 7"),
    ("gemma", _bytes("tokenizer.json", b"{}"), "tokenizer.json cannot be read"),
    ("siglip", _bytes("spiece.model", b"\x0a\x7f"), "no SentencePiece model, or a damaged one"),
    ("siglip", _bytes("spiece.model", b""), "no SentencePiece model, or a damaged one"),
    ("siglip", _word_model, "no Unigram model; let transformers save"),
    ("siglip", _gone("tokenizer_config.json", "spiece.model"), "lacks a tokenizer"),
  ],
)
def test_what_cannot_be_read_is_one_line(folders, tmp_path, kind, spoil, message):
  shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
  spoil(tmp_path)
  with pytest.raises(ValueError, match=message) as raised:
    tokens.load(tmp_path)
  assert "\n" not in str(raised.value)


def test_old_files_of_openai_are_read_at_the_end_of_the_tokenizer(clip_bpe, tmp_path):
  shutil.copytree(clip_bpe, tmp_path, dirs_exist_ok=True)
  write_config(tmp_path, "clip", 40, eos_token_id=2)
  assert tokens.load(tmp_path).end == tokens.load(clip_bpe).end != 2


def test_a_family_is_told_by_its_config(tmp_path):
  for kind, family in (("clip_text_model", "clip"), ("siglip2", "siglip2"), ("bert", "")):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert tokens.reading(tmp_path).family == family
  assert tokens.reading(Path(tmp_path / "nowhere")).family == ""
