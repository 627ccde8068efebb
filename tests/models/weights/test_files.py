"""Where weights may lie: whole, in shards, in the hub's cache, behind a URL, and nowhere."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from lafg_jax.models.weights import files
from lafg_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_model):
  folder = tmp_path_factory.mktemp("vit")
  save_model("vit", folder)
  return folder


@pytest.fixture
def sharded(tmp_path, save_model):
  save_model("vit", tmp_path / "sharded", max_shard_size="20KB")
  return tmp_path / "sharded"


def everything(source):
  with files.opened(str(source)) as tensors:
    return {name: tensor.read() for name, tensor in tensors.items()}


def assert_whole(source, folder):
  expected, got = load_file(folder / "model.safetensors"), everything(source)
  assert set(got) == set(expected)
  assert all(np.array_equal(got[name], x) for name, x in expected.items())


def test_shards_are_one_model(folder, sharded):
  assert not (sharded / "model.safetensors").exists()
  assert len(files.find(str(sharded))) > 2
  assert_whole(sharded, folder)
  next(sharded.glob("model-*.safetensors")).unlink()
  with pytest.raises(UserError, match="shards are missing, first model-0000"):
    files.find(str(sharded))
  (sharded / "model.safetensors.index.json").write_text("{}")
  with pytest.raises(UserError, match="has no weight_map"):
    files.find(str(sharded))


def test_only_the_shape_is_read_until_more_is_asked_for(folder):
  with files.opened(str(folder)) as tensors:
    tensor = tensors["embeddings.position_embeddings"]
    assert tensor.shape == (1, 17, 32) == tensor.read().shape


def test_a_file_has_its_folder_beside_it(folder, tmp_path, monkeypatch):
  shutil.copytree(folder, tmp_path / "here")
  path = tmp_path / "here" / "model.safetensors"
  assert files.find(str(path)) == [str(path)]
  assert files.read_json(str(path), "config.json")["model_type"] == "vit"
  assert files.read_json(str(path), "preprocessor_config.json") is None
  monkeypatch.chdir(tmp_path / "here")
  assert files.find("model.safetensors") == ["model.safetensors"]
  assert files.read_json("model.safetensors", "config.json")["model_type"] == "vit"


def test_what_is_not_there_or_not_readable_is_one_line(tmp_path):
  for source in ("no/such.safetensors", "such.npz"):
    with pytest.raises(UserError, match=f"model.pretrained={source}: no such file"):
      files.find(source)
  with pytest.raises(UserError, match="the folder has no model.safetensors"):
    files.find(str(tmp_path))
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match="config.json cannot be read"):
    files.read_json(str(tmp_path), "config.json")
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(UserError, match="config.json is no JSON object"):
    files.read_json(str(tmp_path), "config.json")
  (tmp_path / "model.safetensors").write_bytes(b"nothing")
  with pytest.raises(UserError, match="cannot be read"):
    everything(tmp_path)


def test_a_url_is_read_as_a_folder_or_a_file_is(folder, tmp_path):
  import fsspec

  memory = fsspec.filesystem("memory")
  memory.put(str(folder / "model.safetensors"), "/bucket/vit/model.safetensors")
  memory.put(str(folder / "config.json"), "/bucket/vit/config.json")
  assert_whole("memory://bucket/vit", folder)
  assert_whole("memory://bucket/vit/model.safetensors", folder)
  assert files.read_json("memory://bucket/vit/", "config.json")["model_type"] == "vit"
  assert files.read_json("memory://bucket/vit", "preprocessor_config.json") is None
  with pytest.raises(UserError, match="memory://bucket/other: the folder has no model.safe"):
    files.find("memory://bucket/other")
  with pytest.raises(UserError, match="no://such/config.json cannot be read: Protocol not known"):
    files.read_json("no://such", "config.json")
  if not importlib.util.find_spec("gcsfs"):
    with pytest.raises(UserError, match="pretrained=gs://bucket/vit/model.safetensors: .*gcsfs"):
      files.find("gs://bucket/vit")


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """An offline cache of the hub; returns a function that puts a folder there under an id."""
  from huggingface_hub import constants

  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

  def put(name, folder, absent=()):
    repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(folder, repository / "snapshots" / "abc")
    for file in absent:
      (repository / ".no_exist" / "abc").mkdir(parents=True, exist_ok=True)
      (repository / ".no_exist" / "abc" / file).touch()

  return put


def test_a_hub_id_is_read_from_the_cache(folder, sharded, hub):
  hub("someone/vit", folder, absent=["preprocessor_config.json"])
  assert_whole("someone/vit", folder)
  assert files.read_json("someone/vit", "config.json")["model_type"] == "vit"
  assert files.read_json("someone/vit", "preprocessor_config.json") is None
  # Offline, that a file was never asked for does not say that there is none.
  with pytest.raises(UserError, match="the hub did not give it"):
    files.read_json("someone/vit", "processor_config.json")
  hub("someone/sharded", sharded, absent=["model.safetensors"])
  assert_whole("someone/sharded", folder)


def test_a_hub_id_without_safetensors_says_so(folder, tmp_path, hub):
  (tmp_path / "old").mkdir()
  (tmp_path / "old" / "config.json").write_text(json.dumps({"model_type": "vit"}))
  hub("someone/old", tmp_path / "old", absent=["model.safetensors", "model.safetensors.index.json"])
  with pytest.raises(UserError, match="someone/old: it has no model.safetensors"):
    files.find("someone/old")
