"""The two ways to encode give the same features; which is taken; what each needs.

SigLIP against transformers: test_load.py.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file

from lafg_jax.finches import classes
from lafg_jax.language.encoders import by_flax, images, load, preprocess, runtimes, texts
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).parents[3]
WORDS = ["", "a", "A Red finch, with a LONG bill!", "blue wings " * 40, "café 中文 😀 &amp;"]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_texts_of_tiny_clip_are_the_same_either_way(batch_size):
  sentences = _sentences()
  found = [
    texts.encode_texts(sentences, "tiny_clip", batch_size, runtime=runtime)
    for runtime in ("flax", "transformers")
  ]
  np.testing.assert_allclose(found[0], found[1], atol=1e-5)
  assert found[0].dtype == np.float32 and np.ptp(found[0], axis=0).max() > 0.1


def _sentences():
  described = classes.describe(classes.class_names("seen")[:12])
  return WORDS + [sentence for sentences in described.values() for sentence in sentences]


def test_finches_look_the_same_either_way(dataset):
  pictures = dataset.images[:9]
  found = [
    images.encode_images(pictures, "tiny_clip", 4, runtime=runtime)
    for runtime in ("flax", "transformers")
  ]
  np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_both_ways_share_what_is_kept(tmp_path, monkeypatch):
  first = texts.encode_texts(WORDS, "tiny_clip", 4, tmp_path, "transformers")
  monkeypatch.setattr(by_flax, "_loaded", None)
  again = texts.encode_texts(WORDS, "tiny_clip", 4, tmp_path, "flax")
  np.testing.assert_array_equal(first, again)


def test_the_encoder_is_loaded_once_and_few_shapes_are_compiled(dataset, monkeypatch):
  loaded, shapes = [], set()
  whole, encoded = by_flax._loaded, by_flax.encoded
  monkeypatch.setattr(by_flax, "_loaded", lambda *args: loaded.append(args) or whole(*args))

  def noted(rows, encoder, embed, params, batch, *rest):
    shapes.add(batch.shape)
    return encoded(rows, encoder, embed, params, batch, *rest)

  monkeypatch.setattr(by_flax, "encoded", noted)
  found = images.encode_versions(dataset.images[:5], "tiny_clip", 4, versions=(None, 0, 1, 2))
  assert found.shape == (5, 4, 64) and len(loaded) == 1 and shapes == {(4, 48, 48, 3)}
  loaded.clear()
  shapes.clear()
  # Twelve lengths, and a last batch that is not full.
  texts.encode_texts([f"red {i} " * i for i in range(1, 14)], "tiny_clip", 3)
  assert len(loaded) == 1 and {shape[0] for shape in shapes} == {3}
  assert {shape[1] for shape in shapes} <= {16, 32, 48, 64, 80} and len(shapes) < 5


PROCESSORS = {
  "clip": (transformers.CLIPImageProcessor, {}),
  "clip, other sizes": (
    transformers.CLIPImageProcessor,
    {"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 28}, "resample": 2},
  ),
  "a crop beyond the image": (
    transformers.CLIPImageProcessor,
    {"size": {"shortest_edge": 9}, "crop_size": {"height": 24, "width": 13}},
  ),
  "siglip": (transformers.SiglipImageProcessor, {"size": {"height": 20, "width": 18}}),
  "siglip, bilinear": (
    transformers.SiglipImageProcessor,
    {"size": {"height": 33, "width": 33}, "resample": 2, "image_mean": [0.1, 0.2, 0.3]},
  ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(40, 57), (57, 40), (13, 13), (300, 7)])
def test_pixels_equal_those_of_transformers(tmp_path, name, shape):
  kind, settings = PROCESSORS[name]
  processor = kind(**settings)
  processor.save_pretrained(tmp_path)
  prepare = preprocess.read(tmp_path)
  pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
  expected = processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
  found = prepare.pixels(Image.fromarray(pixels)).astype(np.float32) / 255
  found = (found - np.float32(prepare.mean)) / np.float32(prepare.std)
  np.testing.assert_allclose(found.transpose(2, 0, 1), expected, atol=1e-5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"image_processor_type": "ViTImageProcessor"}, "prepared by ViTImageProcessor"),
    ({"do_normalize": False}, "prepared with do_normalize"),
    ({"rescale_factor": 1.0}, "another rescale_factor"),
    ({"size": {"shortest_edge": 4, "longest_edge": 9}}, "which is not known"),
    ({"do_center_crop": False}, "resized to 224, which is not known"),
    ({"resample": 9}, "no filter of Pillow"),
  ],
)
def test_other_preprocessing_goes_the_second_way(tmp_path, settings, message):
  given = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}} | settings
  if not given.get("do_center_crop", True):
    given["size"] = {"shortest_edge": 224, "longest_edge": 224}
    message = "which is not known"
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
  with pytest.raises(ValueError, match=message):
    preprocess.read(tmp_path)


def test_open_clips_preprocessing_is_read_from_its_config(tmp_path):
  config = {"model_cfg": {"vision_cfg": {"image_size": 32}}, "preprocess_cfg": {"mean": [0, 0, 1]}}
  (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
  found = preprocess.read(tmp_path)
  assert (found.resize, found.crop, found.resample, found.mean) == (32, (32, 32), 3, (0, 0, 1))
  config["preprocess_cfg"] = {"resize_mode": "squash", "interpolation": "bilinear"}
  (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
  found = preprocess.read(tmp_path)
  assert (found.resize, found.crop, found.resample) == ((32, 32), None, 2)


def test_the_way_is_chosen_by_what_the_folder_holds(save_encoder, tmp_path):
  shipped = load.local_folder("tiny_clip")
  bert = Path(save_encoder(tmp_path / "bert", "bert", {"max_position_embeddings": 20}))
  for folder, asked, way in (
    (shipped, "auto", by_flax),
    (shipped, "flax", by_flax),
    (shipped, "transformers", None),
    (bert, "auto", None),
    (bert, "transformers", None),
  ):
    found = runtimes.of("x", folder, asked).load_reader
    assert (found is by_flax.load_reader) == (way is by_flax)
  with pytest.raises(UserError, match="encoder_runtime=flax: it cannot read 'x' .it is no CLIP"):
    runtimes.of("x", bert, "flax")
  with pytest.raises(UserError, match="encoder_runtime is auto, flax or transformers, not 'torch'"):
    runtimes.of("x", bert, "torch")


def test_open_clips_own_layout_is_for_flax_alone(tmp_path):
  config = {"model_cfg": {"text_cfg": {"context_length": 77}, "vision_cfg": {"image_size": 32}}}
  (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
  (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
  for images_too in (False, True):
    found = runtimes.of("x", tmp_path, "auto", images_too)
    assert found.load_reader is by_flax.load_reader
  with pytest.raises(UserError, match="open_clip's layout, which transformers does not read"):
    runtimes.of("x", tmp_path, "transformers")
  config["preprocess_cfg"] = {"interpolation": "random"}
  (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="resized by random to shortest, which is not known"):
    runtimes.of("x", tmp_path, "auto", images=True)


def test_only_the_second_way_asks_for_torch(save_encoder, tmp_path, monkeypatch):
  bert = save_encoder(tmp_path / "bert", "bert", {"max_position_embeddings": 20})
  monkeypatch.setitem(sys.modules, "torch", None)
  runtimes.check("tiny_clip")
  for encoder, asked in ((bert, "auto"), ("tiny_clip", "transformers")):
    with pytest.raises(UserError, match=r"torch is not installed: pip install 'lafg_jax\[torch\]'"):
      runtimes.check(encoder, asked)


def test_a_hub_encoder_that_needs_torch_is_told_before_it_is_downloaded(
  save_encoder, tmp_path, monkeypatch
):
  import huggingface_hub

  bert = Path(save_encoder(tmp_path / "bert", "bert", {"max_position_embeddings": 20}))
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
  for name, config in (("bert", bert), ("clip", load.local_folder("tiny_clip"))):
    repository = tmp_path / f"hub/models--owner--{name}"
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("a" * 40)
    content = (config / "config.json").read_text()
    (repository / "snapshots" / ("a" * 40) / "config.json").write_text(content)
  runtimes.check("owner/bert")
  monkeypatch.setitem(sys.modules, "torch", None)
  runtimes.check("owner/clip")
  with pytest.raises(UserError, match="torch is not installed"):
    runtimes.check("owner/bert")


def test_a_tokenizer_with_more_words_than_the_model_is_one_line(tmp_path):
  folder = tmp_path / "encoder"
  shutil.copytree(load.local_folder("tiny_clip"), folder)
  config = json.loads((folder / "config.json").read_text())
  config["text_config"]["vocab_size"] = 5
  (folder / "config.json").write_text(json.dumps(config))
  name = "text_model.embeddings.token_embedding.weight"
  weights = load_file(folder / "model.safetensors")
  weights[name] = weights[name][:5].copy()
  save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
  with pytest.raises(UserError, match="has token .*, its weights 5 words.*belong together"):
    texts.encode_texts(["red car"], str(folder), 1)


PLAIN = """
import sys
from lafg_jax.language.encoders import images, runtimes, texts
import numpy as np
runtimes.check("tiny_clip")
texts.encode_texts(["a red finch"], "tiny_clip", 2)
images.encode_images(np.zeros((1, 50, 60, 3), np.uint8), "tiny_clip", 2)
print(sorted({"torch", "transformers", "sentencepiece", "torchvision"} & set(sys.modules)))
"""


def test_encoding_imports_neither_torch_nor_transformers():
  done = subprocess.run(
    [sys.executable, "-c", PLAIN],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.stdout == "[]\n", done.stderr[-2000:]
  assert torch.__version__ and transformers.__version__
