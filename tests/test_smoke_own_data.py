"""Two steps of training and an evaluation by each config for one's own data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TINY = (
  "--config.data.image_size=16",
  "--config.data.resize_size=16",
  "--config.data.classes_per_batch=2",
  "--config.data.images_per_class=2",
  "--config.model.size=custom",
  "--config.model.width=16",
  "--config.model.depth=1",
  "--config.model.num_heads=2",
  "--config.model.mlp_dim=32",
  "--config.model.embedding_dim=16",
  "--config.model.pretrained=",
  "--config.model.dtype=float32",
  "--config.loss.alignment=orthogonal",
  "--config.loss.projector_width=16",
  "--config.train.steps=2",
  "--config.evaluate.ks=(1,)",
  "--config.evaluate.batch_size=8",
)
CLASSES = ("ash", "beech", "elm", "fir")


def main(config, *args):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
  }
  command = [sys.executable, "-m", "lafg_jax.main", "--config", f"configs/{config}.py", *args]
  return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  root = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  for name in CLASSES:
    (root / name).mkdir()
    for k in range(3):
      pixels = rng.integers(0, 255, (20, 24, 3), np.uint8)
      Image.fromarray(pixels).save(root / name / f"{k}.jpg")
  return root


def as_folder(photos, tmp_path):
  return [f"--config.data.root={photos}"]


def as_manifest(photos, tmp_path):
  file = tmp_path / "images.csv"
  rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in photos.glob("*/*.jpg")]
  file.write_text("\n".join(["path,class", *rows]) + "\n")
  return [f"--config.data.manifest={file}", f"--config.data.root={photos}"]


def as_hf(photos, tmp_path):
  hub = pytest.importorskip("datasets")
  files = sorted(photos.glob("*/*.jpg"))
  columns = {
    "image": [{"bytes": file.read_bytes(), "path": None} for file in files],
    "label": [CLASSES.index(file.parent.name) for file in files],
  }
  features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=list(CLASSES))})
  hub.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "pq" / "train.parquet")
  return [f"--config.data.builder={tmp_path / 'pq'}", f"--config.data.root={tmp_path / 'cache'}"]


def as_tfds(photos, tmp_path):
  import tensorflow_datasets as tfds

  folder = tmp_path / "trees" / "1.0.0"
  folder.mkdir(parents=True)
  features = tfds.features.FeaturesDict(
    {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=list(CLASSES))}
  )
  identity = tfds.core.dataset_info.DatasetIdentity(
    name="trees", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="trees"
  )
  info = tfds.core.DatasetInfo(builder=identity, features=features)
  writer = tfds.core.SequentialWriter(info, 100, file_format="array_record")
  writer.initialize_splits(["train"])
  files = sorted(photos.glob("*/*.jpg"))
  examples = [{"image": str(f), "label": CLASSES.index(f.parent.name)} for f in files]
  writer.add_examples({"train": examples})
  writer.close_all()
  return ["--config.data.builder=trees", f"--config.data.root={tmp_path}"]


@pytest.mark.parametrize("config", ["folder", "manifest", "hf", "tfds"])
def test_a_config_trains_and_evaluates(config, photos, tmp_path):
  source = {"folder": as_folder, "manifest": as_manifest, "hf": as_hf, "tfds": as_tfds}[config]
  # Worker processes get the images as another process does.
  workers = [] if config in ("folder", "manifest") else ["--config.data.num_workers=1"]
  done = main(config, *source(photos, tmp_path), f"--workdir={tmp_path / 'run'}", *TINY, *workers)
  assert done.returncode == 0, done.stderr
  result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  assert (result["dataset"], result["num_queries"], result["num_classes"]) == (config, 6, 2)
  assert result["num_unreadable"] == 0 and "partial" not in result


@pytest.mark.parametrize("config, key", [("folder", "root"), ("hf", "builder")])
def test_without_data_or_words_one_line_says_what_to_pass(config, key, tmp_path):
  done = main(config, f"--workdir={tmp_path}")
  assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
  assert f"--config.data.{key}=" in done.stderr
  assert "--config.language.descriptions=FILE" in done.stderr
  assert "without words by --config.loss.alignment=orthogonal" in done.stderr
