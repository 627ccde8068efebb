"""Two steps of training, evaluation and report of each config, on a small copy of its data set.

A row of the table: a config, the function of tests/trees.py that writes its data set, and further
flags. All share one small model, so that it is compiled once.
"""

import json

import numpy as np
import pytest
from PIL import Image

from configs import aircraft, cars, cub, inshop, sop
from lafg_jax import tasks
from lafg_jax.language.encoders import images
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.training import checkpoints

DATA = {
  "data.image_size": 16,
  "data.resize_size": 16,
  "data.classes_per_batch": 3,
  "data.images_per_class": 2,
  "data.expect_counts": False,
  "model.embedding_dim": 16,
  "model.dtype": "float32",
  "train.steps": 2,
  "evaluate.batch_size": 16,
}
TINY = DATA | {
  "model.size": "custom",
  "model.width": 16,
  "model.depth": 1,
  "model.num_heads": 2,
  "model.mlp_dim": 32,
  "model.patch_size": 8,
  "model.pretrained": "",
}
WORDS = {
  "language.encoder": "tiny_clip",
  "language.num_attributes": 16,
  "language.top_k": 4,
  "language.cache": "",
}
WORDLESS = {"loss.alignment": "none"}

CONFIGS = {
  "cub": (cub.get_config, "cub", WORDS),
  "cub:hyp_vit": (lambda: cub.get_config("hyp_vit"), "cub", {}),
  "cars": (cars.get_config, "cars_parquet", WORDLESS),
  "sop": (sop.get_config, "sop", WORDLESS),
  "sop words": (sop.get_config, "sop", WORDS),
  "inshop": (inshop.get_config, "inshop", WORDLESS | {"data.box_crop": True}),
  "inshop words": (
    inshop.get_config,
    "inshop",
    WORDS | {"data.box_crop": True, "language.num_attributes": 4},
  ),
  "aircraft": (aircraft.get_config, "aircraft", WORDLESS),
}


KINDS = {
  "men denim": ["Blue cloth.", "Stitched seams."],
  "men jackets vests": ["A zip in front."],
  "women dresses": ["A long hem."],
  "women rompers jumpsuits": ["One piece."],
  "women tees tanks": ["A cotton top."],
}


def run(config, root, workdir, flags):
  """The stages of a bare run, and its evaluation.json."""
  config.update_from_flattened_dict({"data.root": str(root), **flags})
  names = default.default_names(config)
  default.validate(config, names)
  workdir.mkdir()
  tasks.run(config, str(workdir), names)
  return json.loads((workdir / "evaluation.json").read_text())


def recalls(metrics):
  return {int(key[len("recall@") :]): x for key, x in metrics.items() if key.startswith("recall@")}


def by_hand(path, ks):
  """Recall@K of an embeddings.npz: the share of queries with one of their class among K."""
  with np.load(path, allow_pickle=False) as found:
    vectors, labels = found["vectors"].astype(np.float64), found["labels"]
    asks = found["is_query"] if "is_query" in found else None
  every = np.arange(len(labels))
  queries, gallery = (every, every) if asks is None else (every[asks], every[~asks])
  hits = []
  for query in queries:
    others = gallery[gallery != query]
    nearest = others[np.argsort(-(vectors[others] @ vectors[query]))]
    hits.append([(labels[nearest[:k]] == labels[query]).any() for k in ks])
  return dict(zip(ks, np.mean(hits, axis=0), strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps_and_what_comes_of_them(trees, tmp_path, name):
  get_config, tree, flags = CONFIGS[name]
  config, workdir = get_config(), tmp_path / "run"
  ks = tuple(config.evaluate.ks)
  source = f"shipped:{config.data.name}.json"
  if name == "inshop words":
    source = "file:words.json"
    (tmp_path / "words.json").write_text(json.dumps(KINDS))
    flags = flags | {"language.descriptions": str(tmp_path / "words.json")}
  root = getattr(trees, tree)(tmp_path / "data")
  result = run(config, root, workdir, TINY | flags)
  assert result["step"] == 2 and result["partial"] is True
  assert result["dataset"] == config.data.name and result["num_unreadable"] == 0
  assert recalls(result) == pytest.approx(by_hand(workdir / "embeddings.npz", ks))
  for metrics in (result, result["untrained"]):
    # Images of a class are the same: whatever the model, each finds another.
    assert recalls(metrics) == dict.fromkeys(ks, 1.0)
  asked = ("num_queries", "num_gallery")
  assert [result[key] for key in asked] == ([3, 6] if tree == "inshop" else [result[asked[0]]] * 2)
  assert config.data.name in (workdir / "report.html").read_text()
  words = config.loss.alignment != "none"
  assert words == (workdir / "prototypes.npz").exists() == ("language.encoder" in flags)
  if words:
    records = [json.loads(line) for line in (workdir / "descriptions.jsonl").open()]
    assert {record["source"] for record in records} == {source}
  if name == "inshop words":
    # What its boxes show is one colour, the shade of the class.
    with np.load(workdir / "text_features.npz", allow_pickle=False) as found:
      numbers = [int(item[-8:]) for item in found["class_names"]]
      means = found["image_means"]
    plain = np.zeros((len(numbers), 16, 16, 3), np.uint8)
    plain[..., 0] = np.array([trees.shade(k) for k in numbers])[:, None, None]
    seen = images.encode_images(plain, "tiny_clip", 8)
    np.testing.assert_allclose(means, seen, atol=0.02)


def test_auto_takes_the_model_from_the_weights(trees, tmp_path):
  torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
  torch.manual_seed(0)
  sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
           "intermediate_size": 32, "image_size": 32, "patch_size": 8}  # fmt: skip
  model = transformers.ViTModel(transformers.ViTConfig(**sizes))
  with torch.no_grad():
    for parameter in model.parameters():
      # Fresh norms are 1 and biases 0, as those of random weights here.
      parameter.add_(0.1 * torch.randn_like(parameter))
  weights, workdir = tmp_path / "vit", tmp_path / "run"
  model.save_pretrained(weights)
  preprocessor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
  (weights / "preprocessor_config.json").write_text(json.dumps(preprocessor))
  root = trees.cub(tmp_path / "data")
  # One image of the 124th class shows nearly the shade of the 200th, which has three images; those
  # of its own class are next.
  image = Image.new("RGB", trees.SIZE, trees.GREY)
  image.paste((trees.shade(200) + 2, 0, 0), trees.BOX)
  image.save(next((root / "images").glob("124.*/*")), "JPEG", quality=100, subsampling=0)
  config = cub.get_config()
  ks = tuple(config.evaluate.ks)
  assert (config.model.size, config.model.options, config.model.pool) == ("auto",) * 3
  result = run(config, root, workdir, DATA | WORDLESS | {"model.pretrained": str(weights)})
  found = recalls(result)
  assert found == pytest.approx(by_hand(workdir / "embeddings.npz", ks))
  assert found == pytest.approx({1: 14 / 15, 2: 14 / 15, 4: 1, 8: 1})
  arrays, meta = checkpoints.require(str(workdir))
  kept = {key: meta["config"][f"model.{key}"] for key in ("size", "width", "depth", "patch_size")}
  assert kept == {"size": "custom", "width": 16, "depth": 1, "patch_size": 8}
  assert list(meta["config"]["model.mean"]) == preprocessor["image_mean"]
  scale = checkpoints.subtree(arrays, "state/params")["backbone"]["norm"]["scale"]
  np.testing.assert_allclose(scale, model.layernorm.weight.detach().numpy(), atol=1e-2)
