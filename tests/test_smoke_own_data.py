"""Two steps of training and an evaluation by each config for one's own data.

The folder by the command; the others in this process, as it has JAX loaded.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from PIL import Image

from configs import synthetic
from lafg_jax import export, tasks
from lafg_jax.config.table import ROWS
from lafg_jax.config.table.data import SOURCES
from lafg_jax.tasks.class_retrieval import default, stages
from lafg_jax.training import checkpoints
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TINY = {
  "data.image_size": 16,
  "data.resize_size": 16,
  "data.classes_per_batch": 2,
  "data.images_per_class": 2,
  "model.size": "custom",
  "model.width": 16,
  "model.depth": 1,
  "model.num_heads": 2,
  "model.mlp_dim": 32,
  "model.embedding_dim": 16,
  "model.pretrained": "",
  "model.dtype": "float32",
  "loss.alignment": "orthogonal",
  "loss.projector_width": 16,
  "train.steps": 2,
  "evaluate.ks": (1,),
  "evaluate.batch_size": 8,
}
CLASSES = ("ash", "beech", "elm", "fir")


def command(config, *args):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
  }
  start = [sys.executable, "-m", "lafg_jax.main", "--config", f"configs/{config}.py", *args]
  return subprocess.run(start, cwd=ROOT, env=environment, capture_output=True, text=True)


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


def as_manifest(photos, tmp_path):
  file = tmp_path / "images.csv"
  rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in photos.glob("*/*.jpg")]
  file.write_text("\n".join(["path,class", *rows]) + "\n")
  return {"data.manifest": str(file), "data.root": str(photos)}


def as_hf(photos, tmp_path):
  hub = pytest.importorskip("datasets")
  files = sorted(photos.glob("*/*.jpg"))
  columns = {
    "image": [{"bytes": file.read_bytes(), "path": None} for file in files],
    "label": [CLASSES.index(file.parent.name) for file in files],
  }
  features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=list(CLASSES))})
  hub.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "pq" / "train.parquet")
  return {"data.builder": str(tmp_path / "pq"), "data.root": str(tmp_path / "cache")}


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
  return {"data.builder": "trees", "data.root": str(tmp_path)}


def run_here(config, workdir, changes):
  """What the command does once it has parsed its flags."""
  settings = importlib.import_module(f"configs.{config}").get_config()
  settings.update_from_flattened_dict(changes)
  stages = ("train", "evaluate", "report")
  default.validate(settings, stages)
  workdir.mkdir(exist_ok=True)
  tasks.run(settings, str(workdir), stages)


def check(config, workdir):
  result = json.loads((workdir / "evaluation.json").read_text())
  assert (result["dataset"], result["num_queries"], result["num_classes"]) == (config, 6, 2)
  assert result["num_unreadable"] == 0 and "partial" not in result


def test_the_command_on_a_folder(photos, tmp_path):
  flags = [f"--config.{key}={value}" for key, value in TINY.items()]
  flags.append(f"--config.data.root={photos}")
  done = command("folder", f"--workdir={tmp_path / 'run'}", *flags)
  assert done.returncode == 0, done.stderr
  check("folder", tmp_path / "run")


@pytest.mark.parametrize(
  "config, source", [("manifest", as_manifest), ("hf", as_hf), ("tfds", as_tfds)]
)
def test_a_config_trains_and_evaluates(config, source, photos, tmp_path):
  run_here(config, tmp_path / "run", TINY | source(photos, tmp_path))
  check(config, tmp_path / "run")


@pytest.mark.parametrize("config, key", [("folder", "root"), ("hf", "builder")])
def test_without_data_or_words_one_line_says_what_to_pass(config, key, tmp_path):
  done = command(config, f"--workdir={tmp_path}")
  assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
  assert f"--config.data.{key}=" in done.stderr and "language" not in done.stderr
  # Who asks for words is told how to give them.
  done = command(config, f"--workdir={tmp_path}", "--config.loss.alignment=prototype")
  assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
  assert "--config.language.descriptions=FILE" in done.stderr
  assert "without words by --config.loss.alignment=orthogonal" in done.stderr
  # ... and who has no language model at hand, what to do without.
  done = command(config, f"--workdir={tmp_path}", "--config.language.describer=transformers")
  assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
  assert "--config.language.llm=MODEL" in done.stderr and f"--config.data.{key}=" in done.stderr
  assert "loss.alignment=orthogonal: class names alone suffice" in done.stderr


def test_a_folder_above_the_classes_is_one_line(photos, tmp_path):
  (tmp_path / "above").mkdir()
  (tmp_path / "above" / "all").symlink_to(photos / "ash")
  with pytest.raises(UserError, match="1 training class, and two are needed.*data.root point"):
    run_here("folder", tmp_path / "run", TINY | {"data.root": str(tmp_path / "above")})


OWN = ("folder", "manifest", "hf", "tfds")


@pytest.mark.parametrize("config", OWN)
def test_a_config_is_valid_and_locked(config):
  settings = importlib.import_module(f"configs.{config}").get_config()
  assert settings.is_locked and settings.data.name == config
  assert config_keys.keys(settings) == config_keys.keys(default.get_config())
  with pytest.raises(UserError, match="this config needs your data: pass --config.data"):
    default.validate(settings, stages.STAGES)
  source = "root" if config == "folder" else SOURCES[config][0]
  settings.data[source] = settings.language.descriptions = "somewhere"
  default.validate(settings, stages.STAGES)


OF_READERS = [name for name, x in ROWS.items() if x.read_by and x.read_by.key == "data.name"]


@pytest.mark.parametrize("key", OF_READERS)
def test_a_key_of_another_reader_is_refused(key):
  _, names, unset = ROWS[key].read_by
  assert ROWS[key].default == unset
  settings = synthetic.get_config("prototypes")
  value = {bool: True, int: 1, str: "x", float: 0.25}[type(unset)]
  value = "pool" if key == "data.split_folders" else value
  settings.update_from_flattened_dict({key: value})
  with pytest.raises(UserError, match=f"{key}=.*synthetic does not read it, only {names[0]}"):
    default.validate(settings, stages.STAGES)


def test_a_list_of_classes_and_a_fraction_are_one_too_many():
  settings = importlib.import_module("configs.folder").get_config()
  settings.data.root = settings.language.descriptions = "somewhere"
  settings.data.test_classes = "list.txt"
  default.validate(settings, stages.STAGES)
  settings.data.split_seed = 3
  with pytest.raises(UserError, match="data.split_seed=3: data.test_classes already says"):
    default.validate(settings, stages.STAGES)


AUTO = {"data.classes_per_batch": 0, "data.images_per_class": 0}


@pytest.fixture(scope="module")
def for_use(photos, tmp_path_factory):
  """A copy of the photographs, the changes to a config that trains on all of them, its workdir."""
  mine = shutil.copytree(photos, tmp_path_factory.mktemp("mine") / "photos")
  changes = TINY | AUTO | {"data.root": str(mine), "data.train_fraction": 1.0}
  run_here("folder", mine.parent / "run", changes)
  return mine, changes, mine.parent / "run"


def test_where_all_classes_train_nothing_is_evaluated_and_the_model_is_exported(for_use, tmp_path):
  mine, changes, workdir = for_use
  assert not (workdir / "evaluation.json").exists() and not (workdir / "report.html").exists()
  # What 'auto' became is in the checkpoint: all four classes, three images each.
  recorded = checkpoints.recorded_config(str(workdir))
  assert (recorded["data.classes_per_batch"], recorded["data.images_per_class"]) == (4, 3)
  export.export(str(workdir), str(tmp_path), ["safetensors", "faiss"], str(mine))
  assert len(json.loads((tmp_path / "gallery.json").read_text())) == 12
  # Who asks for an evaluation alone is told why there is none.
  settings = importlib.import_module("configs.folder").get_config()
  settings.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=r"evaluate.split=test: .*train_fraction below 1 .*FILE"):
    tasks.run(settings, str(workdir), ["evaluate"])


def test_photographs_that_were_added_are_another_run(for_use):
  mine, changes, workdir = for_use
  shutil.copytree(mine / "ash", mine / "oak")
  (workdir / "stages.json").unlink()
  with pytest.raises(UserError, match="data.classes_per_batch: 4 -> 5; the training images"):
    run_here("folder", workdir, changes)


def test_a_list_of_training_images_alone_only_trains_and_says_so(photos, tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(logging, "warning", lambda text, *args, **kwargs: said.append(text % args))
  rows = [f"{path},{path.parent.name},train" for path in photos.glob("*/*.jpg")]
  (tmp_path / "m.csv").write_text("\n".join(["path,class,split", *rows]) + "\n")
  settings = importlib.import_module("configs.manifest").get_config()
  settings.update_from_flattened_dict(TINY | {"data.manifest": str(tmp_path / "m.csv")})
  _, wanted = stages.plan(settings, str(tmp_path), ["train", "evaluate", "report"])
  assert [stage.name for stage in wanted] == ["train"]
  assert len(said) == 1 and "left out" in said[0]
  # A cell of the study has no report, and needs its figures.
  with pytest.raises(UserError, match="no class is left for evaluate.split=test"):
    stages.plan(settings, str(tmp_path), ["train", "evaluate"])
