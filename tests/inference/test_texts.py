"""Models of image-text retrieval as their user meets them: texts, search both ways, exports."""

import dataclasses
import json
import re
import shutil
import socket
import tarfile

import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

import lafg_jax
from configs.image_text import finches
from lafg_jax import export, tasks
from lafg_jax.data import captions
from lafg_jax.inference import bundle
from lafg_jax.language.encoders import clip_texts
from lafg_jax.models.weights import files
from lafg_jax.tasks.image_text_retrieval import default
from lafg_jax.tasks.image_text_retrieval import model as models
from lafg_jax.utils.errors import UserError

LONG = " and ".join(["a bird with a red crown and olive wings"] * 20)
SAID = ["a finch with a yellow crown", "Slate-grey wings, and a tail.", LONG, "red"]


def small(method, pretrained="tiny_clip"):
  config = finches.get_config()
  config.train.update(steps=1, checkpoint_every=1)
  config.captions.update(batch_size=8, images_per_class=1)
  config.prompts.method = method
  config.model.pretrained = str(pretrained)
  return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """`run(method)`: a workdir, trained for a step and evaluated; its CLIP is not there any more."""
  made = {}

  def make(method):
    if method not in made:
      folder = tmp_path_factory.mktemp(method)
      shutil.copytree(files.local("tiny_clip"), folder / "source")
      config = small(method, folder / "source")
      stages = [name for name in default.default_names(config) if name != "report"]
      default.validate(config, stages)
      tasks.run(config, str(folder / "run"), stages)
      shutil.rmtree(folder / "source")
      models._loaded.cache_clear()
      made[method] = folder / "run"
    return made[method]

  return make


@pytest.fixture(scope="module")
def pixels():
  """The images of the test, in the order of embeddings.npz."""
  split = captions.load_splits(small("dcar"), ("test",))["test"]
  return [split.images[row] for row in captions.one_per_image(split)]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
  """`exported(method)`: an export with all formats, whose index is of the evaluation's images."""
  made = {}

  def make(method):
    if method not in made:
      made[method] = tmp_path_factory.mktemp(f"exported_{method}")
      gallery = str(run(method) / "embeddings.npz")
      export.export(str(run(method)), str(made[method]), export.FORMATS, gallery)
    return made[method]

  return make


@pytest.fixture
def no_network(monkeypatch):
  def refused(*args, **kwargs):
    raise AssertionError("the network was asked")

  monkeypatch.setattr(socket, "create_connection", refused)
  monkeypatch.setattr(socket.socket, "connect", refused)
  monkeypatch.setattr(socket, "getaddrinfo", refused)


def npz(workdir):
  with np.load(workdir / "embeddings.npz", allow_pickle=False) as found:
    return dict(found)


@pytest.mark.parametrize("place", ["workdir", "export", "archive"])
def test_it_gives_what_the_evaluation_gave_without_source_and_network(
  run, exported, pixels, place, tmp_path, no_network
):
  workdir = run("dcar")
  if place == "archive":
    with tarfile.open(tmp_path / "run.tar", "w") as tar:
      tar.add(workdir, "runs/x")
  source = {"workdir": workdir, "export": exported("dcar"), "archive": tmp_path / "run.tar"}[place]
  found, wanted = lafg_jax.load_retriever(source), npz(workdir)
  np.testing.assert_allclose(found.embed_text(wanted["captions"]), wanted["texts"], atol=1e-6)
  np.testing.assert_allclose(found.embed(pixels), wanted["vectors"], atol=1e-5)
  # One by one, in another length of batch.
  one = np.concatenate([found.embed_text(str(text)) for text in wanted["captions"][:2]])
  np.testing.assert_allclose(one, wanted["texts"][:2], atol=1e-5)
  assert found.step == 1 and found.embedding_dim == 64 and len(found.class_names) == 8


def test_it_comes_whole_from_a_url_and_from_the_hub(run, exported, bucket, tmp_path, monkeypatch):
  wanted = bundle.read(str(run("dcar")))
  shutil.copytree(run("dcar"), bucket / "run")
  shutil.copytree(exported("dcar"), bucket / "export")
  # What the hub's client asked for earlier; no network here.
  repo = tmp_path / "models--me--finches"
  shutil.copytree(exported("dcar"), repo / "snapshots" / ("a" * 40))
  (repo / "refs").mkdir()
  (repo / "refs/main").write_text("a" * 40)
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  for source in ("gs://bucket/run", "gs://bucket/export", "hf://me/finches"):
    found = bundle.read(source)
    assert bundle.identity(found) == bundle.identity(wanted)
    assert found.files == wanted.files and "tokenizer.json" in found.files
    assert found.facts["clip"] == wanted.facts["clip"]
  # Files of the tokenizer are fetched one by one.
  (repo / "snapshots" / ("a" * 40) / "tokenizer.json").unlink()
  with pytest.raises(UserError, match="hf://me/finches: the hub did not give it"):
    bundle.read("hf://me/finches")


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def of_transformers(folder, pixels):
  """Features of SAID and of images by transformers alone, from a folder of a whole CLIP."""
  import torch
  import transformers

  model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
  words = transformers.AutoTokenizer.from_pretrained(folder)
  given = words(SAID, padding=True, truncation=True, max_length=80, return_tensors="pt")
  given = {name: given[name] for name in ("input_ids", "attention_mask")}
  prepare = transformers.AutoImageProcessor.from_pretrained(folder)
  x = prepare(images=pixels, return_tensors="pt")["pixel_values"]
  with torch.no_grad():
    of_images = model.get_image_features(pixel_values=x).pooler_output.numpy()
    return unit(model.get_text_features(**given).pooler_output.numpy()), unit(of_images)


def test_plain_clip_is_that_of_transformers_and_is_written_for_it(text_model, pixels):
  found = lafg_jax.load_retriever(text_model)
  ours = found.embed_text(SAID), found.embed(pixels)
  # The shipped one, and what was written.
  for source in (files.local("tiny_clip"), text_model):
    for theirs, own in zip(of_transformers(source, pixels), ours, strict=True):
      np.testing.assert_allclose(own, theirs, atol=1e-5)
  read, params = bundle.read(str(text_model)), models.load(small("zero_shot")).params
  assert bundle.identity(read) == bundle.identity(read._replace(params=params))


def test_search_both_ways(run, pixels):
  workdir = run("dcar")
  found, arrays = lafg_jax.load_retriever(workdir), npz(workdir)
  said = arrays["captions"].tolist()
  cosines = arrays["texts"].astype(np.float64) @ arrays["vectors"].T
  scores, rows = found.search(text=said, gallery=arrays["vectors"], k=3)
  np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :3], atol=1e-5)
  np.testing.assert_array_equal(rows[:, 0], cosines.argmax(axis=1))
  placed = found.place(found.embed_text(said))
  np.testing.assert_array_equal(found.search(pixels, placed, k=1)[1][:, 0], cosines.argmax(axis=0))
  # The gallery may be images, and the query one text.
  assert found.search(text=said[0], gallery=pixels, k=2)[1].tolist() == [rows[0, :2].tolist()]
  assert found.search(text=[], gallery=pixels[:1], k=2)[0].shape == (0, 2)


def test_texts_in_every_form_and_long_ones_cut(run, caplog):
  found = lafg_jax.load_retriever(run("dcar"))
  wanted = found.embed_text(SAID[:2])
  for given in (tuple(SAID[:2]), np.array(SAID[:2]), (text for text in SAID[:2])):
    np.testing.assert_array_equal(found.embed_text(given), wanted)
  assert found.embed_text([]).shape == (0, 64) and found.embed_text("red").shape == (1, 64)
  caplog.clear()
  with caplog.at_level("WARNING", logger="absl"):
    cut = found.embed_text(LONG)
  assert caplog.messages == [
    "1 of 1 texts are longer than the 76 tokens that the model reads, and were cut"
  ]
  # What is beyond the cut changes nothing.
  np.testing.assert_array_equal(found.embed_text(LONG + " on a twig"), cut)


@pytest.mark.parametrize(
  ("call", "says"),
  [
    (lambda r: r.embed_text(7), "the input is a int; embed_text takes a sentence"),
    (lambda r: r.embed_text(None), "the input is a NoneType"),
    (lambda r: r.embed_text(b"red"), "the input is a bytes"),
    (lambda r: r.embed_text({"a": 1}), "the input is a dict"),
    (lambda r: r.embed_text(["red", 1.5]), "text 1 is a float"),
    (lambda r: r.embed_text(["red", "  "]), "text 1 is empty"),
    (lambda r: r.embed_text("\ud800"), "text 0 has half a character"),
    (lambda r: r.search(gallery=[[1.0] * 64]), "search takes one kind of queries"),
    (lambda r: r.search([1.0] * 64, [[1.0] * 64], text="red"), "or image=... with text=..."),
    (lambda r: r.search(text="red"), "search lacks gallery="),
    (lambda r: r.search("a red bird", [[1.0] * 64]), r"words are no image .*search\(text=...\)"),
    (lambda r: r.attributes([1.0] * 64), "has no vocabulary of attributes"),
  ],
)
def test_a_misuse_is_one_line(run, call, says):
  with pytest.raises(UserError, match=says) as caught:
    call(lafg_jax.load_retriever(run("dcar")))
  assert "\n" not in str(caught.value)


def test_a_model_of_images_alone_says_so(trained_run, tmp_path):
  found = lafg_jax.load_retriever(trained_run)
  for call in (lambda: found.embed_text("red"), lambda: found.search(text="red", gallery=[[1.0]])):
    with pytest.raises(UserError, match="a model of task=class_retrieval embeds no texts"):
      call()
  (tmp_path / "said.txt").write_text("red\n")
  with pytest.raises(UserError, match="said.txt: a model of task=class_retrieval embeds no capti"):
    export.export(str(trained_run), str(tmp_path / "out"), export.FORMATS, f"{tmp_path}/said.txt")
  assert not (tmp_path / "out").exists()


def same_as_exported(folder, workdir, pixels):
  found, copy = lafg_jax.load_retriever(workdir), lafg_jax.load_retriever(folder)
  np.testing.assert_array_equal(copy.embed_text(SAID), found.embed_text(SAID))
  np.testing.assert_array_equal(copy.embed(pixels), found.embed(pixels))
  assert copy.config.to_dict() == found.config.to_dict()
  identity = bundle.identity(bundle.read(str(folder)))
  assert identity == bundle.identity(bundle.read(str(workdir)))
  assert identity in (folder / "README.md").read_text()
  return copy


def test_an_export_with_prompts_is_the_model_and_says_that_it_is_ours_alone(run, exported, pixels):
  folder = exported("dcar")
  same_as_exported(folder, run("dcar"), pixels)
  card = (folder / "README.md").read_text()
  assert "no model there has a place for what `prompts.method=dcar`" in card
  assert "| image to text | instance | R@1 |" in card
  assert "model_type" not in json.loads((folder / "config.json").read_text())


def test_transformers_reads_the_export_of_a_fine_tuned_model(run, exported, pixels):
  folder = exported("finetune")
  copy = same_as_exported(folder, run("finetune"), pixels)
  assert "`CLIPModel.from_pretrained`, and computes the same" in (folder / "README.md").read_text()
  ours = copy.embed_text(SAID), copy.embed(pixels)
  for theirs, own in zip(of_transformers(folder, pixels), ours, strict=True):
    np.testing.assert_allclose(own, theirs, atol=1e-5)
  # It is not the model that it started from.
  start = of_transformers(files.local("tiny_clip"), pixels)
  assert np.abs(start[1] - ours[1]).max() > 1e-3


def python_of(page, bare):
  blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
  wanted = [x for x in blocks if ("deserialize" in x) is bare]
  return "\n".join(wanted)


def test_the_python_of_the_card_runs_as_it_stands(exported, pixels, tmp_path, monkeypatch):
  monkeypatch.chdir(shutil.copytree(exported("dcar"), tmp_path / "copy"))
  for name, image in {"a": pixels[0], "b": pixels[1], "query": pixels[0]}.items():
    Image.fromarray(image).save(f"{name}.jpg")
  found, bare = {}, {}
  exec(python_of(tmp_path / "copy/README.md", bare=False), found)
  assert found["gallery"].shape == found["texts"].shape == (2, 64)
  exec(python_of(tmp_path / "copy/README.md", bare=True), bare)
  np.testing.assert_allclose(bare["embeddings"], found["gallery"], atol=1e-5)
  np.testing.assert_allclose(bare["text_embeddings"], found["texts"], atol=1e-5)
  # Texts that are longer than the program reads are cut as ours are.
  ids = np.array([bare["read"](text) for text in SAID], np.int32)
  ends = (ids == 3).argmax(axis=1).astype(np.int32)
  wanted = found["retriever"].embed_text(SAID)
  np.testing.assert_allclose(bare["text_model"].call(ids, ends), wanted, atol=1e-5)
  program = jax_export.deserialize(bytearray(open("text.stablehlo", "rb").read()))
  assert program.platforms == export.PLATFORMS
  assert [str(x.shape) for x in program.in_avals] == ["(b, 76)", "(b,)"]


def test_an_index_of_captions(run, tmp_path, monkeypatch):
  (tmp_path / "said.txt").write_text("\n".join([*SAID[:2], "", "a bird"]))
  export.export(str(run("dcar")), str(tmp_path / "out"), ("faiss",), str(tmp_path / "said.txt"))
  monkeypatch.chdir(tmp_path / "out")
  Image.new("RGB", (48, 48)).save("query.jpg")
  found, page = {}, tmp_path / "out/GALLERY.md"
  exec(python_of(page, bare=False), found)
  assert "# A searchable index of 3 captions" in page.read_text()
  assert "| `prompts.method` | `dcar` |" in page.read_text()
  paths = json.loads((tmp_path / "out/gallery.json").read_text())
  assert paths == [*SAID[:2], "a bird", "another caption"] and found["index"].ntotal == 4
  query = found["retriever"].embed_text(SAID[1])
  assert found["index"].search(query, 1)[1].tolist() == [[1]]


@pytest.mark.parametrize("place", ["workdir", "export"])
def test_a_tokenizer_that_is_missing_or_another_is_one_line(run, exported, place, tmp_path):
  folder = run("dcar") if place == "workdir" else exported("dcar")
  shutil.copytree(folder, tmp_path / "copy")
  path = next((tmp_path / "copy").rglob("tokenizer.json"))
  path.write_text(path.read_text() + " ")
  for says in ("tokenizer.json is not the file that", "tokenizer.json is missing"):
    with pytest.raises(UserError, match=says):
      lafg_jax.load_retriever(tmp_path / "copy")
    path.unlink(missing_ok=True)


def test_few_shapes_are_compiled():
  reader = clip_texts.tokenizer(models.load(small("zero_shot")).clip)
  shapes = []

  def embed(rows):
    shapes.append(rows.shape)
    return rows[:, :1].astype(np.float32)

  for count in (1, 3, 128, 300):
    said = ["red " * (1 + row % 40) for row in range(count)]
    assert clip_texts.encoded(embed, reader, reader.ids(said), "test").shape == (count, 1)
  assert {rows for rows, _ in shapes} == {1, 4, 128}
  assert {length - 1 for _, length in shapes} <= {16, 32, 48, 64, 80}


def test_a_retriever_stays_a_record(run):
  found = lafg_jax.load_retriever(run("dcar"))
  assert "text_batch" not in repr(found)
  with pytest.raises(dataclasses.FrozenInstanceError):
    found.step = 2


def test_a_workdir_without_training_gives_clip_itself(tmp_path):
  config = small("zero_shot")
  tasks.run(config, str(tmp_path), default.default_names(config)[:1])
  plain = lafg_jax.load_retriever(config)
  restored = lafg_jax.load_retriever(str(tmp_path))
  np.testing.assert_array_equal(restored.embed_text(SAID[:2]), plain.embed_text(SAID[:2]))
  (tmp_path / "run.json").unlink()
  with pytest.raises(UserError, match="no readable checkpoint"):
    lafg_jax.load_retriever(str(tmp_path))
