"""Folders as sentence-transformers, open_clip and older libraries write them."""

import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from lafg_jax.language.encoders import images, layout, load, runtimes
from lafg_jax.language.encoders import texts as encode
from lafg_jax.utils.errors import UserError

TEXTS = ["red wing", "wing", "red red wing wing red"]
OLD, NEW = "sentence_transformers.models", "sentence_transformers.base.modules.dense"
TORCH = "torch.nn.modules"


def unit(vectors):
  return vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True))


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def bert(save_encoder, tmp_path_factory):
  folder = tmp_path_factory.mktemp("bert")
  save_encoder(folder, "bert", {"max_position_embeddings": 20})
  return folder


@pytest.fixture(scope="module")
def states(bert):
  """[[L, 16], ...] the last hidden states of each text, by transformers."""
  model = transformers.AutoModel.from_pretrained(bert).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
  with torch.inference_mode():
    found = [model(**tokenizer(text, return_tensors="pt")) for text in TEXTS]
  return [output.last_hidden_state[0].numpy().astype(np.float64) for output in found]


def with_modules(folder, bert, modules, inner=""):
  """A folder of modules (kind, path, config, tensors); the transformer lies in `inner`."""
  shutil.copytree(bert, folder / inner)
  listed = [{"idx": 0, "name": "0", "path": inner, "type": f"{OLD}.Transformer"}]
  for i, (kind, config, tensors) in enumerate(modules, 1):
    path = f"{i}_{kind}"
    listed.append({"idx": i, "name": str(i), "path": path, "type": f"{OLD}.{kind}"})
    if config is not None:
      write(folder / path / "config.json", config)
    if tensors is not None:
      save_file({name: torch.tensor(x) for name, x in tensors.items()}, folder / path / WEIGHTS)
  write(folder / "modules.json", listed)
  return str(folder)


WEIGHTS = "model.safetensors"
RNG = np.random.default_rng(0)
W, V = (RNG.normal(size=shape).astype(np.float32) for shape in ((6, 16), (5, 6)))
B, R = (RNG.normal(size=shape).astype(np.float32) for shape in ((6,), (6, 16)))
MEAN = ("Pooling", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, None)
LINEAR = {"linear.weight": W, "linear.bias": B}
ROOT = np.sqrt(2)


def dense(activation, tensors=LINEAR, **more):
  config = {"in_features": 16, "out_features": 6, "bias": True} | more
  return "Dense", config | ({"activation_function": activation} if activation else {}), tensors


def mean(states):
  return np.stack([state.mean(axis=0) for state in states])


def gelu(x):
  return np.vectorize(lambda v: 0.5 * v * (1 + torch.erf(torch.tensor(v / ROOT)).item()))(x)


# Modules, and what sentence-transformers documents that they do to the pooled vectors [n, 16].
FORMULAS = {
  "tanh": ([dense(f"{TORCH}.activation.Tanh")], lambda x: np.tanh(x @ W.T + B)),
  "tanh is the default": ([dense("")], lambda x: np.tanh(x @ W.T + B)),
  "identity": ([dense(f"{TORCH}.linear.Identity")], lambda x: x @ W.T + B),
  "gelu": ([dense("torch.nn.GELU")], lambda x: gelu(x @ W.T + B)),
  "without bias": (
    [dense(f"{TORCH}.linear.Identity", {"linear.weight": W}, bias=False)],
    lambda x: x @ W.T,
  ),
  "two, as EmbeddingGemma": (
    [
      dense(f"{TORCH}.linear.Identity", {"linear.weight": W}),
      dense(f"{TORCH}.activation.ReLU", {"linear.weight": V}),
      ("Normalize", None, None),
    ],
    lambda x: np.maximum(x @ W.T @ V.T, 0),
  ),
  "normalised before": (
    [("Normalize", None, None), ("Dropout", {"dropout": 0.5}, None), dense("torch.nn.Tanh")],
    lambda x: np.tanh(unit(x) @ W.T + B),
  ),
  "residual": (
    [dense("torch.nn.Tanh", LINEAR | {"residual.weight": R}, use_residual=True)],
    lambda x: np.tanh(x @ W.T + B) + x @ R.T,
  ),
}


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
@pytest.mark.parametrize("name", FORMULAS)
def test_modules_follow_their_formulas(tmp_path, bert, states, name, inner):
  modules, formula = FORMULAS[name]
  folder = with_modules(tmp_path / "encoder", bert, [MEAN, *modules], inner)
  found = encode.encode_texts(TEXTS, folder, 3)
  np.testing.assert_allclose(found, unit(formula(mean(states))), atol=1e-5)


POOLINGS = {
  "cls": lambda x: x[0],
  "max": lambda x: x.max(axis=0),
  "mean": lambda x: x.mean(axis=0),
  "mean_sqrt_len_tokens": lambda x: x.sum(axis=0) / np.sqrt(len(x)),
  "weightedmean": lambda x: np.arange(1, len(x) + 1) @ x / np.arange(1, len(x) + 1).sum(),
  "lasttoken": lambda x: x[-1],
}


@pytest.mark.parametrize("modes", [*POOLINGS, ["mean", "cls"], ["lasttoken", "weightedmean"]])
def test_pooling_modes_in_the_order_that_is_asked_for(tmp_path, bert, states, modes):
  """The newer config names modes, and concatenates a list in its own order."""
  pooling = ("Pooling", {"pooling_mode": modes, "embedding_dimension": 16}, None)
  folder = with_modules(tmp_path / "encoder", bert, [pooling])
  names = [modes] if isinstance(modes, str) else modes
  expected = [np.concatenate([POOLINGS[name](state) for name in names]) for state in states]
  np.testing.assert_allclose(
    encode.encode_texts(TEXTS, folder, 3), unit(np.stack(expected)), atol=1e-5
  )


CLIP = load.local_folder("tiny_clip")
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 14, 12, 3), np.uint8)
ROWS = ((encode.encode_texts, ["a red finch", "a small bird"]), (images.encode_images, PICTURES))


@pytest.mark.parametrize("listed", [True, False])
def test_clip_in_a_folder_of_its_own(tmp_path, listed):
  shutil.copytree(CLIP, tmp_path / "0_CLIPModel")
  if listed:
    write(tmp_path / "modules.json", [{"path": "0_CLIPModel", "type": f"{OLD}.CLIPModel"}])
  for kind, rows in ROWS:
    np.testing.assert_allclose(kind(rows, str(tmp_path), 2), kind(rows, str(CLIP), 2), atol=1e-6)
  # Its identity, which names the cache, follows the weights below.
  before = load.resolve(str(tmp_path))[1]
  weights = tmp_path / "0_CLIPModel" / WEIGHTS
  content = weights.read_bytes()
  weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  assert load.resolve(str(tmp_path))[1] != before


def test_a_dense_after_clip_changes_texts_and_images(tmp_path):
  shutil.copytree(CLIP, tmp_path / "0_CLIPModel")
  plain = [kind(rows, str(tmp_path), 2) for kind, rows in ROWS]
  matrix = np.random.default_rng(1).normal(size=(4, plain[0].shape[1])).astype(np.float32)
  modules = [{"path": "0_CLIPModel", "type": f"{OLD}.CLIPModel"}]
  modules += [
    {"path": f"{i}_{k}", "type": f"{NEW}.{k}"} for i, k in ((1, "Normalize"), (2, "Dense"))
  ]
  write(tmp_path / "modules.json", modules)
  write(tmp_path / "2_Dense/config.json", {"activation_function": f"{TORCH}.linear.Identity"})
  save_file({"linear.weight": torch.tensor(matrix)}, tmp_path / "2_Dense" / WEIGHTS)
  for (kind, rows), before in zip(ROWS, plain, strict=True):
    np.testing.assert_allclose(kind(rows, str(tmp_path), 2), unit(before @ matrix.T), atol=1e-5)


def test_shards_are_read_and_a_missing_one_is_named(tmp_path, bert):
  folder = tmp_path / "encoder"
  model = transformers.AutoModel.from_pretrained(bert)
  model.save_pretrained(folder, max_shard_size="4KB")
  for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(bert / name, folder)
  assert len(list(folder.glob("model-*.safetensors"))) > 1 and not (folder / WEIGHTS).exists()
  found = encode.encode_texts(TEXTS, str(folder), 3)
  np.testing.assert_allclose(found, encode.encode_texts(TEXTS, str(bert), 3), atol=1e-6)
  min(folder.glob("model-*.safetensors")).unlink()
  with pytest.raises(UserError, match="lacks 1 of its shards, first model-00001-of"):
    runtimes.check(str(folder))


def test_old_weights_are_converted_by_the_command_that_the_error_gives(tmp_path, bert):
  modules = [MEAN, dense(f"{TORCH}.linear.Identity")]
  folder = tmp_path / "an encoder"
  with_modules(folder, bert, modules)
  before = encode.encode_texts(TEXTS, str(folder), 3)
  model = transformers.AutoModel.from_pretrained(folder)
  torch.save(model.state_dict(), folder / "pytorch_model.bin")
  torch.save(
    {name: torch.tensor(x) for name, x in LINEAR.items()}, folder / "2_Dense/pytorch_model.bin"
  )
  (folder / WEIGHTS).unlink()
  (folder / "2_Dense" / WEIGHTS).unlink()
  for _ in range(2):
    with pytest.raises(UserError, match="pytorch_model.bin, and only model.safetensors") as error:
      runtimes.check(str(folder))
    command = re.search(r"with: (python -c .*?)\): ", str(error.value))
    assert command and "\n" not in str(error.value)
    words = shlex.split(command[1])
    # In this process: torch and transformers are imported already.
    arguments, sys.argv = sys.argv, ["-c", *words[3:]]
    try:
      exec(compile(words[2], "command", "exec"), {})
    finally:
      sys.argv = arguments
  np.testing.assert_allclose(encode.encode_texts(TEXTS, str(folder), 3), before, atol=1e-6)


SAFE = {"activation_function": f"{TORCH}.activation.Tanh"}
CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors")


@pytest.mark.parametrize(
  ("kinds", "config", "message"),
  [
    (["WeightedLayerPooling"], {}, "module of type WeightedLayerPooling at 1_"),
    (["Pooling", "LSTM"], {"pooling_mode": "cls"}, "module of type LSTM at 2_LSTM"),
    (["Pooling", "Pooling"], {"pooling_mode": "cls"}, "Pooling .once, at the beginning"),
    (["Dense"], SAFE | {"module_input_name": "token_embeddings"}, "only sentence_embedding"),
    (["Normalize"], {"module_input_name": "token_embeddings"}, "only sentence_embedding"),
    (["Dense"], {"activation_function": "os.system"}, "os.system, which is none of torch.nn"),
    (["Dense"], {"activation_function": "torch.nn.modules.rnn.LSTM"}, "none of torch.nn"),
    (["Dense"], SAFE, "1_Dense lacks model.safetensors"),
    (["Pooling"], {"pooling_mode": "attention"}, "asks for pooling .'attention'"),
    (["Pooling"], {"pooling_mode": None}, "cannot be loaded"),
    (["Pooling"], [], "is no JSON object"),
  ],
)
def test_what_cannot_be_followed_is_one_line(tmp_path, bert, kinds, config, message):
  folder = with_modules(tmp_path / "encoder", bert, [(kind, config, None) for kind in kinds])
  with pytest.raises(UserError, match=message) as error:
    runtimes.check(folder)
  assert "\n" not in str(error.value) and "--config.language.encoder" in str(error.value)


@pytest.mark.parametrize(
  ("files", "message"),
  [
    ({name: {"a": {}} for name in CLIP_FILES}, "no text_cfg"),
    ({"open_clip_pytorch_model.bin": {}}, "open_clip's layout .open_clip_pytorch_model.bin"),
    ({"README.md": {}}, "has no config.json"),
    ({"config.json": {}}, "no model.safetensors"),
    ({"config.json": {}, "tf_model.h5": {}}, "only tf_model.h5"),
    ({"config.json": {}, "model.safetensors.index.json": {}}, "has no weight_map"),
    ({"config.json": {}, WEIGHTS: {}, "modules.json": {}}, "first module is of type none"),
    ({"config.json": {}, WEIGHTS: {}, "modules.json": [1]}, "no list of modules"),
    (
      {"modules.json": [{"type": f"{OLD}.StaticEmbedding", "path": ""}]},
      "first module is of type StaticEmbedding",
    ),
    ({"modules.json": [{"type": "a.Transformer", "path": "../x"}]}, "a folder outside of it"),
    (
      {"config.json": {}, WEIGHTS: {}, "sentence_bert_config.json": {"max_seq_length": "x"}},
      "max_seq_length 'x', which is no length",
    ),
  ],
)
def test_other_layouts_are_one_line(tmp_path, files, message):
  for name, value in files.items():
    write(tmp_path / name, value)
  with pytest.raises(UserError, match=message) as error:
    runtimes.check(str(tmp_path))
  assert "\n" not in str(error.value)


def test_activations_are_torchs_own_and_take_nothing(tmp_path, bert):
  for name in ("Linear", "MultiheadAttention", "NoSuch"):
    modules = [MEAN, dense(f"torch.nn.{name}")]
    folder = with_modules(tmp_path / name, bert, modules)
    with pytest.raises(UserError, match="cannot be loaded"):
      encode.encode_texts(TEXTS, folder, 3)


def test_weights_of_a_layout_are_listed(tmp_path, bert):
  with_modules(tmp_path / "encoder", bert, [MEAN, dense("torch.nn.Tanh")], "0_Transformer")
  found = layout.weights(layout.read(tmp_path / "encoder"))
  assert [path.parent.name for path in found] == ["0_Transformer", "2_Dense"]
