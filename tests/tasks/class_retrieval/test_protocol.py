"""What training does to retrieval, and an embeddings file that cannot be evaluated."""

import functools
import re
import shutil
import socket

import jax
import numpy as np
import pytest
from PIL import Image

import lafg_jax
from lafg_jax import export, tasks
from lafg_jax.data import datasets, pipeline
from lafg_jax.evaluate import results
from lafg_jax.evaluate.embed import unit_embedding
from lafg_jax.models import embedder as embedders
from lafg_jax.models import options
from lafg_jax.tasks.class_retrieval import protocol, restore, train
from lafg_jax.training import metrics_log
from lafg_jax.utils.errors import UserError

# Some seconds of training that show.
LEARNS = {
  "train__steps": 300,
  "train__log_every": 50,
  "train__checkpoint_every": 300,
  "train__learning_rate": 4e-3,
  "data__classes_per_batch": 20,
  "data__images_per_class": 4,
  "model__width": 32,
  "model__embedding_dim": 32,
  "loss__alignment": "onehot",
}


def test_training_finds_more_of_unseen_classes_than_the_model_did_before(
  config_with, dataset, tmp_path, monkeypatch
):
  told = []
  monkeypatch.setattr(metrics_log.logging, "info", lambda _, *args: told.extend(map(str, args)))
  config = config_with(**LEARNS)
  train.run(config, str(tmp_path), dataset, None)
  result = protocol.run(config, str(tmp_path))
  for name in ("recall@1", "map@r"):
    assert result[name] > 2 * result["untrained"][name], (name, result)
  progress = [text for text in told if text.startswith("step 300/300 (100%)")]
  assert len(progress) == 1 and re.search(r"  [1-9]\d* images/s  ETA 0m00s$", progress[0])


@pytest.fixture(scope="module")
def trained_from_the_hub(config_with, trained_run, tmp_path_factory):
  """A finished run whose pretrained weights can be reached no more, with its config."""
  workdir, hub = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("hub")
  snapshot = hub / "models--me--tiny" / "snapshots" / ("a" * 40)
  snapshot.mkdir(parents=True)
  export.export(str(trained_run), str(snapshot), ("safetensors",))
  (hub / "models--me--tiny" / "refs").mkdir()
  (hub / "models--me--tiny" / "refs" / "main").write_text("a" * 40)
  config = config_with(
    model__pretrained="me/tiny", loss__alignment="none", train__steps=2, train__validate_every=1,
    train__keep_best=True, data__num_val_classes=8,
  )  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    tasks.run(config, str(workdir), ["train", "evaluate", "report"])
  return workdir, config


@pytest.fixture
def offline(trained_from_the_hub, tmp_path):
  """`offline(**changes)`: evaluates and reports on a copy of that run; the result and the page."""
  workdir, config = trained_from_the_hub
  copy = shutil.copytree(workdir, tmp_path / "copy")

  def evaluate(**changes):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    tasks.run(changed, str(copy), ["evaluate", "report"])
    return results.read_result(str(copy)), (copy / "report.html").read_text()

  evaluate.workdir = copy
  return evaluate


def test_a_finished_run_is_evaluated_without_the_hub_its_weights_came_from(
  trained_from_the_hub, offline, caplog
):
  workdir, _ = trained_from_the_hub
  before = results.read_result(str(workdir))
  assert before["untrained"]["map@r"] != before["map@r"]
  with pytest.raises(UserError, match="me/tiny: no such file or folder, and the hub did not"):
    offline(evaluate__source="pretrained")
  (offline.workdir / results.FILE).unlink()
  after, page = offline()
  assert after == before and ">before training</th>" in page
  best, _ = offline(evaluate__source="best")
  assert best["source"] == "best" and best["untrained"] == before["untrained"]
  assert not any("left out" in line for line in caplog.messages)


@pytest.fixture
def no_network(monkeypatch):
  """Names and addresses that somebody asks for: none is reached, and nothing says "offline"."""
  asked = []

  def refuse(*args, **unused):
    asked.append(args[-1] if isinstance(args[0], socket.socket) else args[0])
    raise OSError("no network in this test")

  for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
  for name in ("connect", "connect_ex", "sendto"):
    monkeypatch.setattr(socket.socket, name, refuse)
  for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    monkeypatch.setattr(socket, name, refuse)
  return asked


def test_a_finished_run_is_evaluated_exported_and_restored_without_network(
  trained_from_the_hub, offline, no_network, tmp_path
):
  (offline.workdir / results.FILE).unlink()
  assert offline()[0] == results.read_result(str(trained_from_the_hub[0]))
  out = tmp_path / "exported"
  export.export(str(offline.workdir), str(out), ("safetensors", "stablehlo"))
  pixels = np.zeros((1, 16, 16, 3), np.uint8)
  found = [lafg_jax.load_retriever(x).embed(pixels) for x in (offline.workdir, out)]
  np.testing.assert_array_equal(*found)
  assert not no_network
  # The guard sees what a source of weights asks for.
  with pytest.raises(UserError, match="me/tiny"):
    offline(evaluate__source="pretrained")
  assert "huggingface.co" in str(no_network)


@pytest.mark.parametrize("size", [*options.SIZES, "resnet50"])
def test_a_checkpoint_of_any_size_is_built_without_network(config_with, no_network, size):
  # As in a checkpoint, which holds no 'auto' and names weights that cannot be reached.
  config = config_with(model__pretrained="me/no-such", model__size=size, model__embedding_dim=0)
  config.model.update(options="", pool="mean", patch_size=8, layer_norm_eps=1e-6)
  config.model.update(mean=(0.5,) * 3, std=(0.5,) * 3)
  embedder = embedders.build(config.model)
  images = jax.ShapeDtypeStruct((1, 16, 16, 3), "uint8")
  params = jax.eval_shape(embedder.init, jax.random.key(0), images)["params"]
  found = jax.eval_shape(functools.partial(unit_embedding, embedder), params, images)
  assert found.shape == (1, restore.embedding_dim(config, {})) and not no_network


@pytest.mark.parametrize("lost", ["nothing", "its content"])
def test_figures_before_training_that_cannot_be_measured_are_left_out_with_a_warning(
  trained_from_the_hub, offline, caplog, lost
):
  before = results.read_result(str(trained_from_the_hub[0]))
  kept, changes = offline.workdir / protocol.UNTRAINED, {}
  if lost == "nothing":
    # It was measured with other cut-offs.
    changes["evaluate__ks"] = (1, 3)
  else:
    kept.write_text("[1]")
  (offline.workdir / results.FILE).unlink()
  with caplog.at_level("WARNING", logger="absl"):
    result, page = offline(**changes)
  assert "untrained" not in result and result["map@r"] == before["map@r"]
  assert ">before training</th>" not in page and ">checkpoint</th>" in page
  assert "before training" not in results.table(result)
  said = [line for line in caplog.messages if "figures before training are left out" in line]
  assert len(said) == 1 and "me/tiny" in said[0] and "\n" not in said[0]
  assert str(offline.workdir / results.FILE) in said[0]
  assert any("is damaged" in line for line in caplog.messages) == (lost == "its content")


def test_the_model_before_training_is_measured_once(
  trained_run, config_with, tmp_path, monkeypatch
):
  workdir = shutil.copytree(trained_run, tmp_path / "run")
  config, init, made = config_with(train__steps=1), protocol.embedders.init_model, []
  monkeypatch.setattr(
    protocol.embedders, "init_model", lambda config: made.append(1) or init(config)
  )
  batches, passes = pipeline.eval_batches, []
  monkeypatch.setattr(
    pipeline, "eval_batches", lambda *args, **kwargs: passes.append(1) or batches(*args, **kwargs)
  )
  first = protocol.run(config, str(workdir))
  assert len(passes) == 1, "images are decoded once for the checkpoint and the untrained model"
  assert protocol.run(config, str(workdir)) == first and len(made) == 1
  # Whatever decides the figures measures them again.
  config.evaluate.ks = (1,)
  assert list(protocol.run(config, str(workdir))["untrained"]) == [
    "recall@1",
    "map@r",
    "r_precision",
  ]
  assert len(made) == 2


def folders(root, **seeds):
  """root/CLASS/*.png of random images; equal seeds are equal files."""
  for name, numbers in seeds.items():
    (root / name).mkdir(parents=True)
    for k in numbers:
      pixels = np.random.default_rng(k).integers(0, 255, (8, 8, 3), np.uint8)
      Image.fromarray(pixels).save(root / name / f"{k}.bmp")
  return root


@pytest.fixture
def trained(tmp_path, config_with):
  """(meta of a checkpoint that was trained on classes 0 and 1 of a folder, evaluate(root, ...))."""
  root = folders(tmp_path / "a", **{"0": (1, 2), "1": (3, 4), "2": (5, 6), "3": (7, 8)})
  changes = {"data__name": "folder", "loss__alignment": "none", "data__num_val_classes": 0}
  config = config_with(data__root=str(root), **changes)
  meta = train.meta(config, datasets.load_splits(config.data, ("train",))["train"], None)

  def evaluate(where, **other):
    new = config_with(**changes | {"data__root": str(where)} | other)
    protocol._check_checkpoint(new, meta, "run", "checkpoints")

  return root, evaluate


def test_an_equal_generic_name_in_another_folder_is_another_class(trained, tmp_path):
  root, evaluate = trained
  evaluate(root)
  with pytest.raises(
    UserError, match=r"on 1 of the 3 classes of evaluate.split=test \('class 1'\)"
  ):
    evaluate(root, data__train_fraction=0.25)
  # 'class 0' and 'class 1' of another folder, which hold other images.
  other = folders(tmp_path / "b", **{"a": (9,), "b": (10,), "0": (11, 12), "1": (13, 14)})
  (tmp_path / "test").write_text("0\n1\n")
  evaluate(other, data__test_classes=str(tmp_path / "test"))


@pytest.mark.parametrize("name", ["folder", "manifest"])
def test_training_images_under_another_generic_name_are_found(trained, tmp_path, name):
  _, evaluate = trained
  other = folders(tmp_path / "b", **{"5": (9,), "6": (10,), "7": (3, 4), "8": (5, 15)})
  rows = [f"{p.relative_to(other)},{p.parent.name}" for p in sorted(other.rglob("*.bmp"))]
  (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows]) + "\n")
  changes = {"data__manifest": str(tmp_path / "m.csv")} if name == "manifest" else {}
  with pytest.raises(UserError, match=r"was trained on 1 of the 2 .*\('class 7'\)") as error:
    evaluate(other, data__name=name, **changes)
  assert "\n" not in str(error.value)


def test_without_the_training_images_names_are_compared_with_a_warning(trained, tmp_path, caplog):
  root, evaluate = trained
  root.rename(tmp_path / "moved")
  evaluate(tmp_path / "moved")
  assert "Names alone were compared" in caplog.text
  with pytest.raises(UserError, match="was trained on 1 of the 3"):
    evaluate(tmp_path / "moved", data__train_fraction=0.25)


@pytest.mark.parametrize("value", [True, False])
def test_queries_without_a_gallery_are_one_line(tmp_path, value):
  path = tmp_path / "some.npz"
  arrays = {"vectors": np.eye(4, dtype=np.float32), "labels": np.array([0, 0, 1, 1])}
  np.savez(path, **arrays, is_query=np.full(4, value))
  with pytest.raises(UserError, match=rf"source=.*some.npz: is_query is {value} for all 4 rows"):
    results.evaluate_file(str(path), (1,))
  np.savez(path, **arrays, is_query=np.array([True, False, True, False]))
  assert results.evaluate_file(str(path), (1,))["num_queries"] == 2
