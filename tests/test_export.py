"""What lafg_jax.export writes, used by programs that have none of this package."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

import lafg_jax
from lafg_jax import export
from lafg_jax.data import images
from lafg_jax.evaluate.embed import inference_params, make_embed
from lafg_jax.inference import bundle, index_card, index_files, model_card
from lafg_jax.models import embedder as embedders
from lafg_jax.runtime import interrupts
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
AFTER = """
import importlib.util
assert importlib.util.find_spec("lafg_jax") is None
np.save("found.npy", embeddings)
np.save("one.npy", model.call(np.stack([prepare("a.jpg")])))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """A folder of photographs of several shapes, one of which lies on its side."""
  folder = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  for i, (name, height, width) in enumerate([("a", 40, 61), ("b", 33, 20), ("c", 16, 16)]):
    pixels = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6 if i == 1 else 1
    Image.fromarray(pixels).resize((width, height)).save(folder / f"{name}.jpg", exif=exif)
  (folder / "sub").mkdir()
  Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / "sub/d.png")
  (folder / "sub/broken.png").write_bytes(b"no image")
  (folder / "notes.txt").write_text("not an image")
  return folder


@pytest.fixture(scope="module")
def written(trained_run, photos, tmp_path_factory):
  out = tmp_path_factory.mktemp("out")
  paths = export.export(str(trained_run), str(out), export.FORMATS, str(photos))
  assert sorted(paths) == sorted(str(path) for path in out.iterdir())
  return out


@pytest.fixture(scope="module")
def retriever(trained_run):
  return lafg_jax.load_retriever(trained_run)


def test_stablehlo_runs_without_this_package_as_the_card_says(written, photos, retriever, site_of):
  (code,) = [x for x in re.findall(r"```python\n(.*?)```", (written / model_card.FILE).read_text(),
                                   re.DOTALL) if "deserialize" in x]  # fmt: skip
  for name in ("a.jpg", "b.jpg"):
    (written / name).write_bytes((photos / name).read_bytes())
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": site_of("jax", "flatbuffers", "pillow"),
  }
  command = [sys.executable, "-S", "-c", code + AFTER]
  done = subprocess.run(command, cwd=written, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  ours = retriever.embed([photos / "a.jpg", photos / "b.jpg"])
  np.testing.assert_allclose(np.load(written / "found.npy"), ours, atol=1e-6)
  np.testing.assert_allclose(np.load(written / "one.npy"), ours[:1], atol=1e-6)


@pytest.fixture
def handed_on(written, photos, tmp_path, monkeypatch):
  """A copy of the export in which a reader of its pages is, with photographs of his own."""
  shutil.copytree(written, tmp_path / "copy")
  for name, source in {"a": "a", "b": "b", "query": "a"}.items():
    shutil.copy(photos / f"{source}.jpg", tmp_path / "copy" / f"{name}.jpg")
  shutil.copytree(photos / "sub", tmp_path / "copy/more_photos")
  (tmp_path / "copy/more_photos/broken.png").unlink()
  monkeypatch.chdir(tmp_path / "copy")
  return tmp_path / "copy"


def python_of(page):
  blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
  return "\n".join(block for block in blocks if "deserialize" not in block)


def test_the_python_of_the_card_runs_as_it_stands(handed_on, retriever, capsys):
  found = {}
  exec(python_of(handed_on / model_card.FILE), found)
  # The query is a.jpg: the card's own gallery of two, and the index, have it at row 0.
  assert capsys.readouterr().out == "a.jpg\n" and found["rows"].tolist() == [[0]]
  np.testing.assert_allclose(found["gallery"], retriever.embed(["a.jpg", "b.jpg"]), atol=1e-6)


def test_the_page_of_the_index_says_what_made_it_and_runs_as_it_stands(
  handed_on, trained_run, retriever, capsys
):
  page = (handed_on / index_card.FILE).read_text()
  identity = bundle.identity(bundle.read(str(trained_run)))
  # An export holds the same model as its workdir.
  assert identity == bundle.identity(bundle.read(str(handed_on))) and len(identity) == 16
  about = json.loads((handed_on / index_files.ABOUT).read_text())
  assert (about["model"], about["dim"], about["rows"]) == (identity, 16, 4)
  for said in (f"`{identity}`", "4 images", "[4, 16]", "| step | 1 (newest checkpoint) |"):
    assert said in page
  assert f"`{identity}`" in (handed_on / model_card.FILE).read_text()
  found = {}
  exec(python_of(handed_on / index_card.FILE), found)
  assert capsys.readouterr().out.startswith("['a.jpg', ")
  cosines, rows = retriever.search("query.jpg", found["index"].reconstruct_n(0, 4), k=4)
  np.testing.assert_allclose(found["cosines"], cosines, atol=1e-6)
  np.testing.assert_array_equal(found["rows"], rows)
  # After adding, the files hold one image more, and a search for it finds both copies of it.
  assert json.loads((handed_on / export.PATHS).read_text())[3:] == ["sub/d.png", *found["new"]]
  rows = [json.loads(line) for line in (handed_on / index_files.ROWS).read_text().splitlines()]
  assert [row["path"] for row in rows] == json.loads((handed_on / export.PATHS).read_text())
  assert [row["class"] for row in rows][:4] == ["", "", "", "sub"]
  index = found["faiss"].read_index(str(handed_on / index_files.INDEX))
  assert sorted(index.search(retriever.embed(found["new"]), 2)[1][0]) == [3, 4]


def test_an_index_alone_names_where_its_model_is(trained_run, photos, tmp_path, monkeypatch):
  export.export(str(trained_run), str(tmp_path), ("faiss",), str(photos))
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    index_card.FILE, index_files.INDEX, export.PATHS, index_files.ABOUT, index_files.ROWS
  ]  # fmt: skip
  assert f"load_retriever('{trained_run}')" in (tmp_path / index_card.FILE).read_text()


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"loss.alignment": "none"}, "No words were used in its training.\n"),
    ({"loss.alignment": "orthogonal", "loss.image_alignment": "feature"},
     "No words were used in its training. `tiny_clip`, frozen, also told it"),
    ({"loss.alignment": "onehot", "loss.image_alignment": "vocabulary"}, "Words were used"),
    ({"loss.alignment": "prototype", "language.describer": "synthetic"}, "of the drawn finches"),
    ({"loss.alignment": "prototype", "language.descriptions": "/home/me/words.json"},
     "from the file `words.json`"),
    ({"loss.alignment": "prototype", "language.describer": "openai", "language.llm": "some-model"},
     "the language model `some-model` (`language.describer=openai`), encoded by `tiny_clip`"),
    ({"loss.alignment": "prototype", "language.shuffle": "all"}, "another class's words"),
  ],
)  # fmt: skip
def test_the_card_says_whether_words_were_used_and_whose(config_with, changes, says):
  config = config_with()
  config.update_from_flattened_dict({"loss.image_alignment": "none"} | changes)
  assert says in model_card._words(config)


def test_the_install_command_of_the_card_is_that_of_the_checkout(written):
  text = (written / model_card.FILE).read_text()
  assert "pip install lafg_jax" not in text and "`pip install .` in a checkout" in text
  assert (ROOT / "setup.py").exists() and "faiss-cpu" in text


def test_stablehlo_is_for_every_platform_and_any_batch(written):
  found = jax_export.deserialize(bytearray((written / export.STABLEHLO).read_bytes()))
  assert found.platforms == ("cpu", "cuda", "tpu")
  assert [(str(x.shape[0]), *x.shape[1:], str(x.dtype)) for x in found.in_avals] == [
    ("b", 16, 16, 3, "uint8")
  ]
  assert [(str(x.shape[0]), *x.shape[1:], str(x.dtype)) for x in found.out_avals] == [
    ("b", 16, "float32")
  ]


def test_stablehlo_of_lora_prompts_registers_and_gem(config_with):
  config = config_with(
    model__options="registers=2", model__pool="gem", model__embedding_dim=0,
    model__num_prompts=2, model__prompts_depth="deep", model__lora_rank=2,
  )  # fmt: skip
  embedder, params = embedders.init_model(config)
  params["lora"]["block_0"]["attention"]["query"]["kernel"]["b"] += 0.3
  model = bundle.Trained(config, inference_params(embedder, params), {}, {}, {})
  assert "lora" not in model.params
  call = jax_export.deserialize(bytearray(export.stablehlo(model))).call
  pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
  ours = make_embed(embedder, params)(pixels)
  np.testing.assert_allclose(call(pixels), ours, atol=1e-5)


def test_weights_beyond_the_format_are_refused(config_with):
  big = {"w": np.broadcast_to(np.float32(0), (1 << 30,))}
  with pytest.raises(UserError, match="--formats=stablehlo: 4.0 GiB of weights"):
    export.stablehlo(bundle.Trained(config_with(), big, {}, {}, {}))


def test_faiss_finds_what_the_retriever_finds(written, photos, retriever):
  import faiss

  index = faiss.read_index(str(written / index_files.INDEX))
  assert type(index) is faiss.IndexFlatIP
  paths = json.loads((written / export.PATHS).read_text())
  assert paths == ["a.jpg", "b.jpg", "c.jpg", "sub/d.png"]
  gallery = retriever.embed([photos / path for path in paths])
  queries = gallery[:2] + 0.1 * gallery[2:]
  queries /= np.linalg.norm(queries, axis=1, keepdims=True)
  scores, rows = retriever.search(queries, gallery, k=3)
  found_scores, found_rows = index.search(queries, 3)
  np.testing.assert_array_equal(found_rows, rows)
  np.testing.assert_allclose(found_scores, scores, atol=1e-6)


def test_a_folder_is_decoded_in_threads_and_what_cannot_be_read_is_counted(
  retriever, photos, tmp_path, monkeypatch, caplog
):
  import faiss

  threads, open_image = set(), images.open_image

  def opened(*args):
    threads.add(threading.current_thread().name.split("_")[0])
    return open_image(*args)

  expected = retriever.embed([images.read_image(photos / f"{x}.jpg") for x in "abc"])
  monkeypatch.setattr(images, "open_image", opened)
  with caplog.at_level("WARNING", logger="absl"):
    assert len(export.write_index(retriever, str(photos), str(tmp_path))) == 4
  assert threads == {"decode"}
  index = faiss.read_index(str(tmp_path / index_files.INDEX))
  np.testing.assert_allclose(index.reconstruct_n(0, 3), expected, atol=1e-6)
  named, counted = caplog.messages[-2:]
  assert str(photos / "sub/broken.png") in named and counted == "gallery: 1 of 5 images left out"
  monkeypatch.setattr(interrupts, "_asked", [2])
  with pytest.raises(KeyboardInterrupt):
    export.write_index(retriever, str(photos), str(tmp_path))


def test_a_gallery_of_embeddings(retriever, tmp_path, photos):
  import faiss

  path = tmp_path / "embeddings.npz"
  vectors = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
  names = np.array([f"{i}.jpg" for i in range(5)])
  np.savez(path, paths=names, vectors=vectors)
  export.write_index(retriever, str(path), str(tmp_path))
  assert json.loads((tmp_path / export.PATHS).read_text()) == names.tolist()
  unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  scores, rows = faiss.read_index(str(tmp_path / index_files.INDEX)).search(unit, 5)
  np.testing.assert_allclose(scores, -np.sort(-unit @ unit.T), atol=1e-6)
  assert rows[:, 0].tolist() == list(range(5))
  for labels, classes in (([1, 0, 0, 1, 1], "yxxyy"), ([1, 0, 0, 1, 2], "10012"), ([1], [""] * 5)):
    np.savez(path, paths=names, vectors=vectors, labels=labels, class_names=["x", "y"])
    rows = export.write_index(retriever, str(path), str(tmp_path))
    assert [row["class"] for row in rows] == list(classes) and rows[2]["path"] == "2.jpg"
  np.savez(path, paths=names, vectors=vectors[:, :7])
  with pytest.raises(UserError, match=r"float32 \(5, 7\), and this model gives .* \[5, 16\]"):
    export.write_index(retriever, str(path), str(tmp_path))
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="no image below it can be read"):
    export.write_index(retriever, str(tmp_path / "empty"), str(tmp_path))


def test_the_card_has_the_evaluation_and_what_to_cut(trained_run):
  model = bundle.read(str(trained_run))
  assert "It has not been evaluated" in model_card.text(model, ("safetensors",))
  assert "deserialize" not in model_card.text(model, ("safetensors",))
  model.facts["evaluation"] = {
    "recall@1": 0.5, "map@r": 0.25, "r_precision": 0.125, "num_queries": 7, "num_classes": 3,
    "split": "test", "source": "checkpoint", "partial": True,
    "untrained": {"recall@1": 0.1, "map@r": 0.1, "r_precision": 0.1},
    "chance": {"recall@1": 0.03, "map@r": 0.02, "r_precision": 0.03},
  }  # fmt: skip
  model.facts["box"] = [0, 0, 0, -20]
  text = model_card.text(model, export.FORMATS)
  assert "| recall@1 | 10.0 | 50.0 | 3.0 |" in text and "| map@r | 10.0 | 25.0 | 2.0 |" in text
  assert "7 queries of 3 classes never seen in training" in text
  assert "not comparable with published figures" in text
  assert "image.crop((0, 0, image.width+0, image.height-20))" in text
  front = text.split("---\n")[1]
  assert "library_name: lafg_jax" in front


@pytest.mark.parametrize(
  ("formats", "gallery", "chosen"),
  [
    (None, None, ("safetensors", "stablehlo")),
    (None, "g", ("safetensors", "stablehlo", "faiss")),
    ("faiss", "g", ("faiss",)),
    ("stablehlo, safetensors", None, ("stablehlo", "safetensors")),
    ("onnx", None, "not 'onnx'"),
    ("", None, "not ''"),
    ("faiss", None, "needs --gallery"),
    ("safetensors", "g", "add faiss"),
  ],
)
def test_formats(formats, gallery, chosen):
  if isinstance(chosen, tuple):
    assert export._chosen(formats, gallery) == chosen
  else:
    with pytest.raises(UserError, match=chosen):
      export._chosen(formats, gallery)


def command(*args):
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  return subprocess.run([sys.executable, "-m", "lafg_jax.export", *args], cwd=ROOT,
                        env=environment, capture_output=True, text=True)  # fmt: skip


@pytest.mark.parametrize(
  ("args", "says"),
  [
    ((), "pass --workdir"),
    (("--workdir=.", "--out=setup.py/x"), "--out=setup.py/x"),
    (("--workdri=runs/x",), "did you mean --workdir"),
    (("--config=configs/cars.py",), "unknown flag --config"),
    (("--workdir=.", "--out={out}", "--gallery=nowhere"), "--gallery=nowhere does not exist"),
    (("--workdir=.", "--out={out}", "--checkpoint=last"), "--checkpoint=last"),
    (("--workdir=.", "--out={out}", "--checkpoint=best"), "no readable checkpoint in"),
  ],
)
def test_a_misuse_is_one_line(tmp_path, args, says):
  done = command(*[arg.format(out=tmp_path) for arg in args])
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr


def test_the_command_and_its_help(trained_run, tmp_path):
  start = time.monotonic()
  done = command("--help")
  assert time.monotonic() - start < 5 and done.returncode == 0
  assert "--formats" in done.stdout and "--config" not in done.stdout
  done = command(f"--workdir={trained_run}", f"--out={tmp_path}/out", "--formats=safetensors")
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == [
    str(tmp_path / "out" / name) for name in ("model.safetensors", "config.json", "README.md")
  ]
  saved = json.loads((tmp_path / "out/config.json").read_text())
  original = bundle.read(str(trained_run))
  assert saved["config"] == json.loads(json.dumps(config_keys.flatten(original.config)))


def test_the_index_of_another_model_does_not_stay(trained_run, tmp_path, monkeypatch):
  out = tmp_path / "out"
  np.savez(tmp_path / "g.npz", paths=["a", "b"], vectors=np.eye(2, 16, dtype=np.float32))
  export.export(str(trained_run), str(out), ("safetensors", "faiss"), str(tmp_path / "g.npz"))
  # The same model again leaves its index as it is.
  export.export(str(trained_run), str(out), ("safetensors",))
  card = (out / model_card.FILE).read_text()
  monkeypatch.setattr(bundle, "identity", lambda model: "another")
  with pytest.raises(UserError, match="has an index of another model .*--gallery"):
    export.export(str(trained_run), str(out), ("safetensors",))
  assert (out / model_card.FILE).read_text() == card, "nothing was written"
  export.export(str(trained_run), str(out), ("safetensors", "faiss"), str(tmp_path / "g.npz"))
  assert "`another`" in (out / index_card.FILE).read_text()


def test_a_swallowed_signal_ends_an_export(trained_run, tmp_path, monkeypatch):
  monkeypatch.setattr(interrupts, "_asked", [2])
  with pytest.raises(KeyboardInterrupt):
    export.export(str(trained_run), str(tmp_path / "out"), ("safetensors",))
  assert not (tmp_path / "out").exists()
