"""`python -m lafg_jax.search` from a folder of photographs to answers, with real models."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image
from safetensors.numpy import load_file

import lafg_jax
from lafg_jax import search
from lafg_jax.config import command_line
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(capsys):
  """`run(words and flags)`: what search prints, in this process."""

  def call(*words):
    with flagsaver.flagsaver():
      for flag in flags.FLAGS.get_key_flags_for_module(search):
        flag.present = 0
      capsys.readouterr()
      search.main(command_line._parse(["search", *words], False, words=True))
      return capsys.readouterr().out

  return call


@pytest.fixture(scope="module")
def birds(tmp_path_factory, dataset):
  folder = tmp_path_factory.mktemp("birds")
  for row in range(0, len(dataset.images), max(1, len(dataset.images) // 24)):
    name = dataset.class_names[dataset.labels[row]]
    (folder / name).mkdir(exist_ok=True)
    Image.fromarray(np.asarray(dataset.images[row])).save(folder / name / f"{row}.png")
  (folder / "broken.jpg").write_bytes(b"no image")
  return folder


def test_a_model_that_reads_texts_searches_by_image_words_and_both(
  run, birds, text_model, tmp_path
):
  place, page = str(tmp_path / "sub/g.db"), tmp_path / "sheet.html"
  at = f"--gallery={place}"
  said = json.loads(run("index", f"--model={text_model}", f"--images={birds}", at, "--json"))
  files = sorted(str(path) for path in birds.rglob("*.png"))
  assert said["added"] == len(files) and list(said["skipped_images"]) == [str(birds / "broken.jpg")]
  assert f"{len(files):,} kept" in run("index", f"--images={birds}", at)

  retriever = lafg_jax.load_retriever(str(text_model))
  vectors = retriever.embed(files)
  words = "a bird with a red crown"
  queries = {
    "image": (["--image", files[3]], retriever.embed(files[3])),
    "text": ([f"--text={words}"], retriever.embed_text(words)),
    "image and text": (
      ["--image", files[3], "--text", words], retriever.embed_query(files[3], words)
    ),
  }  # fmt: skip
  for of, (given, query) in queries.items():
    for more in ([], ["--exact"]):
      found = json.loads(run("query", at, *given, "-k", "5", "--json", *more))
      wanted = np.sort(vectors @ query[0])[::-1][:5]
      np.testing.assert_allclose([hit["score"] for hit in found["hits"]], wanted, atol=1e-4)
      assert found["query"] == of and (found["floor"] is None) == (of == "image and text")
  label = Path(files[0]).parent.name
  table = run("query", at, f"--text={words}", f"--where=class == '{label}'", f"--html={page}")
  assert table.count(label) >= 1 and page.read_text().count("data:image/jpeg") >= 1

  shown = run("info", at, "--recall", "-k", "3")
  assert (
    "recall@3 against exact search: 1.0000" in shown and "skipped by the last index: 1" in shown
  )
  written = run("export", at, f"--out={tmp_path}/handed on").splitlines()
  vectors_of = np.asarray(load_file(f"{tmp_path}/handed on/gallery.safetensors")["vectors"])
  assert len(written) >= 4 and vectors_of.shape == vectors.shape
  assert "1 image removed" in run("remove", at, files[0])
  gone = run("remove", at, f"--where=class == '{Path(files[5]).parent.name}'", "--json")
  assert json.loads(gone)["removed"] >= 1


def test_models_of_the_two_other_tasks_and_another_model(
  run, birds, text_model, composed_model, trained_run, tmp_path
):
  some = tmp_path / "some"
  some.mkdir()
  for path in sorted(birds.rglob("*.png"))[:3]:
    shutil.copy(path, some)
  first = str(next(some.iterdir()))
  for model, text in ((composed_model, True), (trained_run, False)):
    at = f"--gallery={tmp_path / model.name}.db"
    run("index", f"--model={model}", f"--images={some}", at)
    assert run("query", at, f"--image={first}", "-k", "1").count(first) == 1
    if text:
      assert len(run("query", at, f"--image={first}", "--text=has a red crown").splitlines()) == 4
    else:
      with pytest.raises(UserError, match="embeds no texts"):
        run("query", at, "--text=x")
    with pytest.raises(UserError, match="the gallery is of model .*: pass --model"):
      run("query", at, f"--model={text_model}", f"--image={first}")
    with pytest.raises(UserError, match="the gallery is of model"):
      run("index", at, f"--model={text_model}", f"--images={some}")


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ([], "no subcommand: search takes one of index, query, info, remove, export"),
    (["find"], "no subcommand 'find'"),
    (["info"], "pass --gallery=FILE.db"),
    (["info", "--gallery=/no/g.db"], "does not exist: make it with search index"),
    (["info", "--gallery=/no/g"], "a gallery is a FILE.db"),
    (["info", "--gallery=gs://no/g.db"], "a Milvus server is http://"),
    (["info", "--gallery=/no/g.db", "--text=x"], "--text is of search query, not of info"),
    (["query", "--gallery=/no/g.db"], "no query: pass --image=FILE"),
    (["query", "x", "--gallery=/no/g.db"], "leftover word 'x'"),
    (["index", "--gallery=/no/g.db"], "pass --images=FOLDER"),
    (["index", "--gallery=/no/g.db", "--images=/tmp"], "is new: pass --model"),
    (["index", "--gallery=/no/g.db", "--images=/tmp", "--index_type=IVF_PQ"], "has FLAT, HNSW"),
    (["index", "--gallery=/no/g.db", "--checkpoint=best"], "--checkpoint is of --model"),
    (["remove", "--gallery=/no/g.db"], "nothing to remove"),
    (["export", "--gallery=/no/g.db"], "pass --out=FOLDER"),
    (["query", "--gallery=/no/g.db", "--out=x"], "--out is of search export, not of query"),
    (["query", "--gallery=/no/g.db", "--wher=x"], "did you mean --where"),
  ],
)
def test_a_misuse_is_one_line(run, words, said):
  with pytest.raises(UserError, match=said) as error:
    run(*words)
  assert "\n" not in str(error.value)


def test_what_is_no_gallery_is_one_line(run, tmp_path):
  (tmp_path / "file.db").write_bytes(b"SQLite")
  with pytest.raises(UserError, match="Milvus Lite keeps a gallery as a folder"):
    run("info", f"--gallery={tmp_path}/file.db")
  (tmp_path / "other.db").mkdir()
  (tmp_path / "other.db/notes.txt").write_text("mine")
  with pytest.raises(UserError, match="a folder of something else"):
    run("info", f"--gallery={tmp_path}/other.db")


def test_help_is_quick_and_a_misuse_exits_with_2():
  code = "import sys, runpy; sys.argv = ['lafg_jax/search.py', *sys.argv[1:]]\n"
  code += "try:\n  runpy.run_module('lafg_jax.search', run_name='__main__', alter_sys=True)\n"
  code += "except SystemExit as e:\n  code = e.code\n"
  code += (
    "print({'jax', 'pymilvus', 'torch', 'numpy.random'} & set(sys.modules) - {'numpy.random'})\n"
  )
  code += "sys.exit(code)"
  for words, wanted in ((["--help"], 0), (["info"], 2)):
    done = subprocess.run(
      [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == wanted and done.stdout.strip().endswith("set()"), done
  assert done.stderr == "error: pass --gallery=FILE.db\n"
