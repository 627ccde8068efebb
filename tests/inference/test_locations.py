"""One model from every place it may lie: the same embeddings, or one line that says why not."""

import io
import json
import os
import shutil
import tarfile

import fsspec
import numpy as np
import pytest

import lafg_jax
from lafg_jax import export
from lafg_jax.inference import bundle, locations
from lafg_jax.training import checkpoints
from lafg_jax.training.frozen_weights import Frozen
from lafg_jax.utils.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 20, 28, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(trained_run):
  return lafg_jax.load_retriever(trained_run).embed(PIXELS)


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
  folder = tmp_path_factory.mktemp("exported")
  export.export(str(trained_run), str(folder), ("safetensors",))
  return folder


def same(source, expected):
  retriever = lafg_jax.load_retriever(source)
  np.testing.assert_allclose(retriever.embed(PIXELS), expected, atol=1e-6)
  assert retriever.step == 1 and len(retriever.class_names) == 40
  # Words came along wherever it came from.
  assert retriever.attributes(PIXELS[:1], k=2)[0][0].sentences[0].startswith("nearest to entry")
  return retriever


def archive(path, folder, inside, mode="w"):
  with tarfile.open(path, mode) as tar:
    tar.add(folder, inside)
  return str(path)


def test_an_export_is_the_model_less_what_only_training_needs(trained_run, exported, expected):
  retriever = same(exported, expected)
  workdir = lafg_jax.load_retriever(trained_run)
  for name, array in workdir.prototypes.items():
    np.testing.assert_array_equal(retriever.prototypes[name], array)
  assert retriever.config.to_dict() == workdir.config.to_dict()
  names = fsspec.filesystem("file").ls(str(exported), detail=False)
  assert {name.rsplit("/", 1)[-1] for name in names} == {
    *("model.safetensors", "config.json", "README.md")
  }


def test_archives_of_a_workdir_and_of_an_export(trained_run, exported, expected, tmp_path):
  deep = archive(tmp_path / "a.tar.gz", trained_run, "home/me/run", "w:gz")
  for path in (deep, archive(tmp_path / "b.tar", exported, ".")):
    same(path, expected)


def test_the_hub(exported, expected, tmp_path, monkeypatch):
  # The hub's client over a cache that it filled earlier; no network here.
  repo = tmp_path / "models--me--finches"
  shutil.copytree(exported, repo / "snapshots" / ("a" * 40))
  for name in ("main", "v1"):
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / name).write_text("a" * 40)
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  same("hf://me/finches", expected)
  same("hf://me/finches@v1", expected)
  for source in ("hf://me/others", "hf://me/finches@v2", "hf://a/b/c", "hf://"):
    with pytest.raises(UserError, match=f"^{source}: the hub"):
      lafg_jax.load_retriever(source)


def test_a_url_and_its_newest_checkpoint_that_reads(bucket, trained_run, exported, expected):
  shutil.copytree(trained_run, bucket / "run")
  # Cut short while it was copied to the bucket.
  shutil.copytree(trained_run / "checkpoints/1", bucket / "run/checkpoints/10")
  (bucket / "run/checkpoints/10/meta/metadata").write_text('{"format": 1')
  shutil.copytree(exported, bucket / "export")
  archive(bucket / "run.tar", trained_run, "run")
  for name in ("run", "run/", "export", "run.tar"):
    same(f"gs://bucket/{name}", expected)
  shutil.move(bucket / "run/frozen", bucket / "frozen")
  with pytest.raises(UserError, match="gs://bucket/run: no checkpoint of 2 reads whole"):
    lafg_jax.load_retriever("gs://bucket/run")
  shutil.move(bucket / "frozen", bucket / "run/frozen")
  shutil.rmtree(bucket / "run/checkpoints/1")
  with pytest.raises(UserError, match="gs://bucket/run: no checkpoint of 1 reads whole"):
    lafg_jax.load_retriever("gs://bucket/run")


def test_urls_that_give_nothing(bucket):
  (bucket / "empty").mkdir(parents=True)
  with pytest.raises(UserError, match="gs://bucket/empty has neither"):
    lafg_jax.load_retriever("gs://bucket/empty")
  for name in ("none", "none.tar"):
    with pytest.raises(UserError, match=f"gs://bucket/{name} does not exist"):
      lafg_jax.load_retriever(f"gs://bucket/{name}")
  with pytest.raises(UserError, match="nothing://x cannot be read"):
    lafg_jax.load_retriever("nothing://x")


def test_a_url_without_its_package(monkeypatch):
  def missing(*unused):
    raise ImportError("Please install gcsfs")

  monkeypatch.setattr(fsspec, "url_to_fs", missing)
  with pytest.raises(UserError, match="gs://b/run: Please install gcsfs .gs:// takes pip install"):
    lafg_jax.load_retriever("gs://b/run")


def test_local_places_that_hold_no_model(tmp_path, trained_run):
  text = tmp_path / "notes.txt"
  text.write_text("no model")
  cut = tmp_path / "cut.tar.gz"
  whole = tmp_path / "whole.tar.gz"
  archive(whole, trained_run, "run", "w:gz")
  cut.write_bytes(whole.read_bytes()[:3000])
  (tmp_path / "text.tar").write_text("no archive")
  with tarfile.open(tmp_path / "two.tar", "w") as tar:
    tar.add(trained_run, "a")
    tar.add(trained_run, "b")
  archive(tmp_path / "other.tar", text, "notes.txt")
  cases = {
    "": "no trained model",
    None: "a model's place is a NoneType: pass a workdir",
    3: "a model's place is a int",
    os.fsencode(tmp_path / "none"): "a model.s place is a bytes",
    tmp_path / "none": "does not exist: pass a workdir",
    tmp_path / "none.tar": "does not exist: pass a workdir",
    text: "is a file, and no .tar",
    tmp_path: "no readable checkpoint",
    cut: "cannot be unpacked",
    tmp_path / "text.tar": "cannot be unpacked",
    tmp_path / "two.tar": "holds 2 models; one is needed",
    tmp_path / "other.tar": "holds no workdir with checkpoints and no export",
  }
  for source, says in cases.items():
    with pytest.raises(UserError, match=says):
      lafg_jax.load_retriever(source)


@pytest.mark.parametrize(
  "name", ["../checkpoints/1/out", "/checkpoints/1/../../../checkpoints/out"]
)
def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path, name):
  with tarfile.open(tmp_path / "evil.tar", "w") as tar:
    entry = tarfile.TarInfo(name)
    entry.size = 4
    tar.addfile(entry, io.BytesIO(b"evil"))
  with pytest.raises(UserError, match="cannot be unpacked: .*outside"):
    lafg_jax.load_retriever(str(tmp_path / "evil.tar"))


def test_a_link_without_what_it_links_to_is_one_line(tmp_path):
  with tarfile.open(tmp_path / "link.tar", "w") as tar:
    entry = tarfile.TarInfo("run/checkpoints/1/meta")
    entry.type, entry.linkname = tarfile.LNKTYPE, "run/nothing"
    tar.addfile(entry)
  with pytest.raises(UserError, match="cannot be unpacked"):
    lafg_jax.load_retriever(str(tmp_path / "link.tar"))


@pytest.mark.parametrize("name", ["srv/run/../../evil", "/tmp/evil", "srv/run/.."])
def test_a_server_writes_nothing_outside_of_its_folder(tmp_path, name):
  class Server:
    def find(self, remote):
      return [name]

    def get_file(self, remote, local):
      raise AssertionError(local)

  with pytest.raises(UserError, match="outside of its folder"):
    locations._copy(Server(), "srv/run", str(tmp_path / "local"))


@pytest.fixture(scope="module")
def run_with_best(trained_run, tmp_path_factory):
  """A workdir: best/1 is the model of `trained_run`, checkpoints/2 one with other numbers."""
  run = shutil.copytree(trained_run, tmp_path_factory.mktemp("with_best") / "run")
  arrays, meta = checkpoints.read(str(run), 1)
  frozen = Frozen(**meta["frozen"])
  assert frozen.arrays and len(list((run / "frozen").iterdir())) == 1
  arrays = {path: x for path, x in arrays.items() if path not in frozen.arrays}
  validation = {"step": 1, "val_map@r": 0.25, "val_recall@1": 0.5}
  with checkpoints.manager(str(run), 1, checkpoints.BEST) as mngr:
    checkpoints.save(mngr, 1, arrays, meta | {"validation": validation}, frozen)
  changed = {path: x[::-1] if "embedding/kernel" in path else x for path, x in arrays.items()}
  with checkpoints.manager(str(run), 1) as mngr:
    checkpoints.save(mngr, 2, changed, meta, frozen)
  return run


@pytest.fixture
def places(bucket, run_with_best, tmp_path):
  """That workdir everywhere: {where: source}."""
  shutil.copytree(run_with_best, bucket / "run")
  # A folder that is called as the checkpoints are, and more than one of these.
  archive(bucket / "run.tar", run_with_best, "best/run")
  return {
    "folder": str(run_with_best),
    "archive": archive(tmp_path / "run.tar.gz", run_with_best, "best/7th/run", "w:gz"),
    "url": "gs://bucket/run",
    "archive behind a url": "gs://bucket/run.tar",
  }


def test_the_newest_or_the_best_of_a_workdir_wherever_it_lies(places, expected):
  for place, source in places.items():
    newest, default = (lafg_jax.load_retriever(source, *x) for x in (["newest"], []))
    assert (newest.step, newest.checkpoint) == (default.step, default.checkpoint) == (2, "newest")
    np.testing.assert_array_equal(newest.embed(PIXELS), default.embed(PIXELS), err_msg=place)
    assert np.abs(newest.embed(PIXELS) - expected).max() > 0.01
    for checkpoint in ("best", "auto"):
      best = lafg_jax.load_retriever(source, checkpoint)
      assert (best.step, best.checkpoint) == (1, "best"), place
      np.testing.assert_allclose(best.embed(PIXELS), expected, atol=1e-6, err_msg=place)
    assert "step=1" in repr(best) and "checkpoint='best'" in repr(best)


def test_only_the_checkpoints_that_are_asked_for_are_brought(places):
  del places["folder"]
  for source in places.values():
    for checkpoint, kind, step in (("newest", "checkpoints", "2"), ("best", "best", "1")):
      with locations.opened(source, checkpoint) as (folder, where):
        assert where == kind
        brought = fsspec.filesystem("file").find(folder)
        of_step = [path for path in brought if f"/{kind}/{step}/" in path]
        others = [path for path in brought if path not in of_step]
        assert of_step and len(others) == 1 and "/frozen/" in others[0]


def test_a_line_says_that_there_is_a_best_one_of_another_step(places, trained_run, caplog):
  with caplog.at_level("INFO", logger="absl"):
    for source in places.values():
      with locations.opened(source):
        assert [line for line in caplog.messages if "taken" in line] == [
          f"{source}: step 2 is taken, the newest; the best on the validation classes was step 1 "
          "(checkpoint=best takes it)"
        ]
      caplog.clear()
      with locations.opened(source, "auto"), locations.opened(trained_run):
        assert not any("taken" in line for line in caplog.messages)


def test_a_source_without_the_checkpoint_that_is_asked_for(
  bucket, trained_run, exported, run_with_best, tmp_path
):
  shutil.copytree(trained_run, bucket / "run")
  sources = [str(trained_run), "gs://bucket/run", archive(tmp_path / "a.tar", trained_run, "run")]
  for source in sources:
    with pytest.raises(UserError, match=f"^{source} has no best checkpoint: take the newest, or"):
      lafg_jax.load_retriever(source, "best")
    assert lafg_jax.load_retriever(source, "auto").checkpoint == "newest"
  with pytest.raises(UserError, match="is an export of the newest checkpoint, of step 1: export"):
    lafg_jax.load_retriever(exported, "best")
  with pytest.raises(UserError, match="checkpoint='last': it takes one of newest, best, auto"):
    lafg_jax.load_retriever(trained_run, "last")
  alone = shutil.copytree(run_with_best, tmp_path / "alone")
  shutil.rmtree(alone / "checkpoints")
  with pytest.raises(UserError, match="alone has no checkpoint but the best: pass checkpoint=best"):
    lafg_jax.load_retriever(alone)
  assert lafg_jax.load_retriever(alone, "auto").step == 1
  (alone / "best/1/meta/metadata").write_text("{")
  with pytest.raises(UserError, match="best/1 is damaged .* to choose the best anew"):
    lafg_jax.load_retriever(alone, "best")
  shutil.copytree(alone, bucket / "alone")
  with pytest.raises(UserError, match="gs://bucket/alone: no checkpoint of 1 reads whole"):
    lafg_jax.load_retriever("gs://bucket/alone", "best")


def test_an_export_of_the_best_says_so_with_its_figures(run_with_best, expected, tmp_path):
  run = shutil.copytree(run_with_best, tmp_path / "run")
  figures = {"recall@1": 0.5, "map@r": 0.25, "r_precision": 0.125, "num_queries": 7}
  figures |= {"num_classes": 3, "split": "test", "chance": dict.fromkeys(figures, 0.1)}
  for source, step, card, other in (
    ("best", 1, "| recall@1 | 50.0 |", "It has not been evaluated (`--stage=evaluate` does)"),
    ("checkpoint", 2, "(`--stage=evaluate --config.evaluate.source=best` does)", "| 50.0 |"),
    # The best step was evaluated as the newest of some other run.
    ("checkpoint", 1, "(`--stage=evaluate --config.evaluate.source=best` does)", "has not been"),
  ):
    (run / locations.EVALUATION).write_text(json.dumps(figures | {"source": source, "step": step}))
    for checkpoint, text in (("best", card), ("newest", other)):
      out = tmp_path / f"{source}{step}{checkpoint}"
      export.export(str(run), str(out), ("safetensors",), checkpoint=checkpoint)
      assert text in (out / "README.md").read_text(), (source, step, checkpoint)
  best, newest = tmp_path / "best1best", tmp_path / "best1newest"
  chosen = "1 step (the best of those validated, with MAP@R 25.0 % and recall@1 50.0 % on"
  assert chosen in (best / "README.md").read_text()
  assert "Trained for 2 steps on 40 classes" in (newest / "README.md").read_text()
  # It holds one checkpoint, whichever is asked for.
  for checkpoint in locations.CHECKPOINTS:
    retriever = lafg_jax.load_retriever(best, checkpoint)
    assert (retriever.step, retriever.checkpoint) == (1, "best")
    np.testing.assert_allclose(retriever.embed(PIXELS), expected, atol=1e-6)
  facts = bundle.read(str(best)).facts
  assert facts["validation"]["val_map@r"] == 0.25 and facts["evaluation"]["source"] == "best"
  assert bundle.read(str(newest)).facts["validation"] is None


def edit(**changes):
  def damage(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  return damage


def flip(folder):
  weights = bytearray((folder / "model.safetensors").read_bytes())
  weights[-5] ^= 1
  (folder / "model.safetensors").write_bytes(weights)


@pytest.mark.parametrize(
  ("damage", "says"),
  [
    (flip, "is not the file that .*config.json was written with"),
    (edit(library="transformers"), "of another library"),
    (edit(format=1), "has format 1, this version reads 2"),
    (edit(facts={}), "is damaged: 'step'; export it again"),
    (edit(config={}), "is damaged: .*; export it again"),
    (lambda folder: (folder / "config.json").write_text("[1]"), "is damaged or no config"),
    (lambda folder: (folder / "config.json").write_text("{"), "is damaged or no config"),
  ],
)
def test_a_damaged_export_is_one_line(exported, tmp_path, damage, says):
  folder = shutil.copytree(exported, tmp_path / "copy")
  damage(folder)
  with pytest.raises(UserError, match=says):
    lafg_jax.load_retriever(str(folder))


def test_an_evaluation_goes_along_where_it_is_of_this_checkpoint(trained_run, tmp_path):
  run = shutil.copytree(trained_run, tmp_path / "run")
  for content, kept in (
    ({"source": "checkpoint", "step": 1, "recall@1": 0.5, "chance": {}}, True),
    ({"source": "checkpoint", "step": 2, "recall@1": 0.5, "chance": {}}, False),
    ({"source": "pretrained", "step": 0, "recall@1": 0.5, "chance": {}}, False),
    # Of an evaluation before there was a chance level beside each figure.
    ({"source": "checkpoint", "step": 1, "recall@1": 0.5}, False),
    ([], False),
  ):
    (run / locations.EVALUATION).write_text(json.dumps(content))
    assert bundle.read(str(run)).facts["evaluation"] == (content if kept else None)


def test_what_was_brought_is_deleted_again(trained_run, tmp_path, monkeypatch):
  path = archive(tmp_path / "run.tar", trained_run, "run")
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
  (tmp_path / "temporary").mkdir()
  with locations.opened(path) as (folder, _):
    assert checkpoints.steps(folder) == [1]
  assert not list((tmp_path / "temporary").iterdir())
