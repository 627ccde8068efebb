"""Two steps of training, evaluation and report of each config, on a small copy of its data set.

A row of the table: a config, the function of tests/trees.py that writes its data set, and further
flags. All share one small model, so that it is compiled once.
"""

import json

import pytest

from configs import aircraft, cars, cub, inshop, sop
from lafg_jax import main, validation

TINY = {
  "data.image_size": 16,
  "data.resize_size": 16,
  "data.classes_per_batch": 3,
  "data.images_per_class": 2,
  "data.expect_counts": False,
  "model.size": "custom",
  "model.width": 16,
  "model.depth": 1,
  "model.num_heads": 2,
  "model.mlp_dim": 32,
  "model.patch_size": 8,
  "model.embedding_dim": 16,
  "model.dtype": "float32",
  "model.pretrained": "",
  "train.steps": 2,
  "evaluate.batch_size": 16,
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
  "aircraft": (aircraft.get_config, "aircraft", WORDLESS),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps_and_what_comes_of_them(trees, tmp_path, name):
  get_config, tree, flags = CONFIGS[name]
  config = get_config()
  ks = tuple(config.evaluate.ks)
  root = getattr(trees, tree)(tmp_path / "data")
  config.update_from_flattened_dict({"data.root": str(root), **TINY, **flags})
  stages = main._default_stages(config)
  assert ("describe" in stages) == (flags is WORDS)
  validation.validate(config, stages)
  workdir = tmp_path / "run"
  workdir.mkdir()
  main.run_stages(config, str(workdir), stages)
  result = json.loads((workdir / "evaluation.json").read_text())
  assert result["step"] == 2 and result["partial"] is True
  assert result["dataset"] == config.data.name and result["num_unreadable"] == 0
  for metrics in (result, result["untrained"]):
    assert [key for key in metrics if key.startswith("recall@")] == [f"recall@{k}" for k in ks]
    # Whatever the largest K finds of a gallery this small, a figure is a fraction.
    assert all(0 <= metrics[f"recall@{k}"] <= 1 for k in ks)
  asked = ("num_queries", "num_gallery")
  assert [result[key] for key in asked] == ([3, 6] if tree == "inshop" else [result[asked[0]]] * 2)
  assert config.data.name in (workdir / "report.html").read_text()
  if flags is WORDS:
    records = [json.loads(line) for line in (workdir / "descriptions.jsonl").open()]
    assert {record["source"] for record in records} == {f"shipped:{config.data.name}.json"}
    assert (workdir / "prototypes.npz").exists()
