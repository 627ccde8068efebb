"""Queries of an image with a text, by models of composed and of image-text retrieval."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.special import erf

import lafg_jax
from configs.composed import finches, listed
from configs.image_text import finches as image_text_finches
from lafg_jax import export, tasks
from lafg_jax.config import starts
from lafg_jax.inference import bundle, composed
from lafg_jax.language.encoders import clip_texts, kept_clip
from lafg_jax.models import clip as clips
from lafg_jax.models.weights import files
from lafg_jax.utils.errors import UserError

SAID = ["has a red crown", "has $ and no wing bar", "is larger"]
EDITED = [["a finch with a red crown", "a red-crowned finch"], ["a plain finch"], ["a large finch"]]


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def pixels():
  return np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def made(composed_model):
  return bundle.read(str(composed_model))


@pytest.fixture(scope="module")
def retriever(composed_model):
  return lafg_jax.load_retriever(composed_model)


@pytest.fixture(scope="module")
def of_transformers(made, pixels):
  """q_v, f_v [3, d], and a function of words to put into 'a photo of $ that SAID.' -> q_f."""
  import torch
  import transformers

  folder = files.local("tiny_clip")
  model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
  words = transformers.AutoTokenizer.from_pretrained(folder)
  prepare = transformers.AutoImageProcessor.from_pretrained(folder)
  x = prepare(images=list(pixels), return_tensors="pt")["pixel_values"]

  def features(texts, pseudo=None):
    given = words(texts, padding=True, truncation=True, max_length=80, return_tensors="pt")
    given = {name: given[name] for name in ("input_ids", "attention_mask")}

    def replaced(module, inputs, output):
      # 'a photo of red that ...': the word stands after the start token and three words.
      output[:, 4] = torch.tensor(pseudo)
      return output

    hook = None
    if pseudo is not None:
      hook = model.text_model.embeddings.token_embedding.register_forward_hook(replaced)
    with torch.no_grad():
      found = model.get_text_features(**given).pooler_output.numpy()
    if hook:
      hook.remove()
    return unit(found)

  with torch.no_grad():
    v = model.get_image_features(pixel_values=x).pooler_output.numpy()
  return v, features


def phi_of(params, x):
  """Phi in NumPy: two hidden layers with the exact GELU."""
  for number in range(3):
    layer = params[f"layer_{number}"]
    x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    if number < 2:
      x = x * 0.5 * (1 + erf(x / np.sqrt(2)))
  return x.astype(np.float32)


def test_the_query_is_the_formula_by_transformers_and_numpy(
  made, retriever, of_transformers, pixels
):
  v, features = of_transformers
  words = phi_of(made.params["mapping"], v)
  q_f = features([f"a photo of red that {text}." for text in SAID], words)
  q_m = np.stack([features(of).mean(0) for of in EDITED])
  q_v = unit(v)
  np.testing.assert_allclose(retriever.embed(pixels), q_v, atol=1e-5)
  wanted = unit(0.5 * q_m + 0.3 * q_f + 0.2 * q_v)
  found = retriever.embed_query(pixels, SAID, edited=EDITED)
  np.testing.assert_allclose(found, wanted, atol=2e-5)
  # Without descriptions the other two are scaled up to 1: 0.3 and 0.2 of 0.5.
  plain = unit(0.6 * q_f + 0.4 * q_v)
  np.testing.assert_allclose(retriever.embed_query(pixels, SAID), plain, atol=2e-5)
  some = retriever.embed_query(pixels, SAID, edited=[EDITED[0], [], EDITED[2]])
  np.testing.assert_allclose(some, [wanted[0], plain[1], wanted[2]], atol=2e-5)
  assert np.abs(wanted - plain).max() > 0.05 and np.abs(plain - q_v).max() > 0.05


def test_search_ranks_by_the_query(retriever, pixels):
  gallery = unit(np.random.default_rng(1).normal(size=(20, 64)).astype(np.float32))
  q = retriever.embed_query(pixels[:1], SAID[0], edited=EDITED[0])
  scores, rows = retriever.search(
    image=pixels[0], text=SAID[0], edited=EDITED[0], gallery=gallery, k=4
  )
  wanted = (q @ gallery.T)[0]
  assert rows.tolist() == [np.argsort(-wanted)[:4].tolist()]
  np.testing.assert_allclose(scores[0], -np.sort(-wanted)[:4], atol=1e-6)
  placed = retriever.place(gallery)
  again = retriever.search(image=list(pixels), text=SAID, gallery=placed, k=4)
  q = retriever.embed_query(pixels, SAID)
  np.testing.assert_array_equal(again[1], np.argsort(-(q @ gallery.T), axis=1)[:, :4])


def test_image_alone_and_text_alone(retriever, pixels):
  gallery = pixels[::-1].copy()
  assert retriever.search(image=pixels[0], gallery=gallery, k=1)[1].tolist() == [[2]]
  assert retriever.search(pixels[0], gallery, k=1)[1].tolist() == [[2]]
  texts = retriever.embed_text(SAID)
  assert retriever.search(text=SAID[1], gallery=texts, k=1)[1].tolist() == [[1]]


def test_one_image_goes_with_all_texts_and_one_text_with_all_images(retriever, pixels):
  every = retriever.embed_query([pixels[0]] * 3, SAID)
  np.testing.assert_allclose(retriever.embed_query(pixels[0], SAID), every, atol=1e-6)
  every = retriever.embed_query(pixels, [SAID[0]] * 3)
  np.testing.assert_allclose(retriever.embed_query(pixels, SAID[0]), every, atol=1e-6)
  assert retriever.embed_query(pixels[0], []).shape == (0, 64)
  assert retriever.embed_query([], SAID[0]).shape == (0, 64)
  # A text of its own for each query, in every form.
  forms = ([of[0] for of in EDITED], [[of[0]] for of in EDITED], np.array([of[0] for of in EDITED]))
  first, *others = (retriever.embed_query(pixels, SAID, edited=form) for form in forms)
  for other in others:
    np.testing.assert_array_equal(first, other)
  assert composed.edits(["a", "b"], 1) == [["a", "b"]] == composed.edits([["a", "b"]], 1)
  assert composed.edits(None, 2) == [[], []] and composed.edits("a", 1) == [["a"]]


def test_without_pseudo_words_it_is_the_sum(text_model, pixels):
  found = lafg_jax.load_retriever(text_model)
  wanted = unit(found.embed(pixels) + found.embed_text(SAID))
  np.testing.assert_allclose(found.embed_query(pixels, SAID), wanted, atol=1e-6)
  # Embeddings of images will do.
  np.testing.assert_allclose(found.embed_query(found.embed(pixels), SAID), wanted, atol=1e-6)
  gallery = found.embed(pixels)
  rows = found.search(image=pixels, text=SAID, gallery=gallery, k=1)[1]
  np.testing.assert_array_equal(rows[:, 0], (wanted @ gallery.T).argmax(1))
  with pytest.raises(UserError, match="edited= is for a model of composed retrieval, and this one"):
    found.embed_query(pixels, SAID, edited=EDITED)


@pytest.mark.parametrize(
  ("call", "says"),
  [
    (lambda r, x: r.search(gallery=x), "search takes one kind of queries"),
    (lambda r, x: r.search(x, x, text="red"), "or image=... with text=..., an image that a text"),
    (lambda r, x: r.search(x, x, image=x), "search takes one kind of queries"),
    (lambda r, x: r.search(image=x, text="red"), "search lacks gallery="),
    (lambda r, x: r.search(image=x, gallery=x, edited="a"), "edited= without image= and text="),
    (lambda r, x: r.search(text="a", gallery=x, edited="a"), "edited= without image= and text="),
    (lambda r, x: r.embed_query(x, ["a", "b"]), "search has 3 images and 2 texts"),
    (lambda r, x: r.embed_query(x, []), "search has 3 images and 0 texts"),
    (lambda r, x: r.embed_query(x, ""), "text 0 is empty"),
    (lambda r, x: r.embed_query(x, 7), "the input is a int"),
    (lambda r, x: r.embed_query("nothing.jpg", "a"), "nothing.jpg"),
    (lambda r, x: r.embed_query(r.embed(x), "a"), "a pseudo word is made of the image itself"),
    (lambda r, x: r.embed_query(x, "a", edited=["b", "c"]), "2 descriptions for 3 queries"),
    (lambda r, x: r.embed_query(x, "a", edited="b"), "1 descriptions for 3 queries"),
    (lambda r, x: r.embed_query(x, "a", edited=7), "1 descriptions for 3 queries"),
    (lambda r, x: r.embed_query(x, "a", edited=["b", 7, "c"]), "the input is a int"),
    (lambda r, x: r.embed_query(x[0], "a", edited=[""]), "text 0 is empty"),
  ],
)
def test_a_misuse_is_one_line(retriever, pixels, call, says):
  with pytest.raises(UserError, match=says) as caught:
    call(retriever, pixels)
  assert "\n" not in str(caught.value)


def test_a_model_of_images_alone_says_so_before_it_reads_images(trained_run):
  found = lafg_jax.load_retriever(trained_run)
  for call in (
    lambda: found.embed_query("nothing.jpg", "red"),
    lambda: found.search(image="nothing.jpg", text="red", gallery=[[1.0]]),
  ):
    with pytest.raises(UserError, match="a model of task=class_retrieval embeds no texts"):
      call()


def test_tokens_of_the_query_are_those_of_the_shipped_tokenizer(made):
  clip = clips.load("tiny_clip", 48)[0]
  wanted = clip_texts.tokenizer(clip).ids(SAID)
  assert kept_clip.tokenizer(made.facts, made.files).ids(SAID) == wanted


@pytest.fixture(scope="module")
def exported(composed_model, pixels, tmp_path_factory):
  """An export with all formats of an export, whose index is of three photographs, one long."""
  photos, out = (tmp_path_factory.mktemp(x) for x in ("photos", "out"))
  for name, image in zip("abc", pixels, strict=True):
    wide = Image.fromarray(image[:20] if name == "b" else image)
    wide.save(photos / f"{name}.png")
  export.export(str(composed_model), str(out), export.FORMATS, str(photos))
  return out, photos


def test_an_export_of_an_export_is_the_model(retriever, exported, pixels):
  out, photos = exported
  names = {*export.FORMATS, "model", "text", "query"} & {path.stem for path in out.iterdir()}
  assert names == {"model", "text", "query"} and (out / "query.stablehlo").is_file()
  copy = lafg_jax.load_retriever(out)
  given = (pixels, SAID)
  found = copy.embed_query(*given, edited=EDITED)
  np.testing.assert_array_equal(found, retriever.embed_query(*given, edited=EDITED))
  np.testing.assert_array_equal(copy.embed(pixels), retriever.embed(pixels))
  card = (out / "README.md").read_text()
  assert bundle.identity(bundle.read(str(out))) in card and "kind `lincir`" in card
  assert "| `mapping.method` | `lincir` |" in (out / "GALLERY.md").read_text()


def python_of(page, bare):
  blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
  return "\n".join(x for x in blocks if ("deserialize" in x) is bare)


def test_the_python_of_the_card_runs_as_it_stands(retriever, exported, tmp_path, monkeypatch):
  out, photos = exported
  monkeypatch.chdir(shutil.copytree(out, tmp_path / "copy"))
  for name in "ab":
    Image.open(photos / f"{name}.png").save(f"{name}.jpg", "PNG")
  shutil.copy("a.jpg", "query.jpg")
  found, bare = {}, {}
  exec(python_of(tmp_path / "copy/README.md", bare=False), found)
  assert found["gallery"].shape == (2, 64) and found["rows"].shape == (1, 1)
  exec(python_of(tmp_path / "copy/README.md", bare=True), bare)
  # b.jpg is longer than 1.25 times its height: the programs are given it between black bars.
  np.testing.assert_allclose(bare["embeddings"], found["gallery"], atol=1e-5)
  wanted = retriever.embed_query(["a.jpg", "b.jpg"], ["is red", "is larger"])
  np.testing.assert_allclose(bare["query_embeddings"], wanted, atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A workdir, trained for a step and evaluated on queries of a file; its CLIP is not there now."""
  folder = tmp_path_factory.mktemp("run")
  shutil.copytree(files.local("tiny_clip"), folder / "source")
  (folder / "photos").mkdir()
  rng = np.random.default_rng(2)
  for row in range(12):
    # Some are longer than 1.25 times their other side.
    shape = (30, 48 if row % 3 else 30, 3)
    Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / f"photos/{row}.png")
  asked = [
    {"reference": f"{row}.png", "text": SAID[row], "targets": ["5.png"], "edited": EDITED[row][0]}
    for row in range(3)
  ]
  (folder / "queries.jsonl").write_text("".join(json.dumps(x) + "\n" for x in asked))
  (folder / "texts.txt").write_text("".join(f"a finch with {x} bars\n" for x in "abcdefgh"))
  config = listed.get_config()
  config.model.pretrained = str(folder / "source")
  config.data.update(image_size=48, resize_size=48)
  config.composed.update(file=str(folder / "queries.jsonl"), images=str(folder / "photos"))
  config.editor.kind = "perfect"
  config.mapping.update(texts=str(folder / "texts.txt"), batch_size=8, hidden=16)
  config.train.update(steps=1, checkpoint_every=1)
  tasks.run(config, str(folder / "run"), ("caption", "edit", "train", "evaluate"))
  shutil.rmtree(folder / "source")
  return folder


def test_a_workdir_and_its_export_give_the_scores_of_the_evaluation(run, tmp_path):
  workdir = run / "run"
  lines = [json.loads(line) for line in (workdir / "rankings.jsonl").read_text().splitlines()]
  export.export(str(workdir), str(tmp_path / "out"), ("safetensors",))
  first, second = (lafg_jax.load_retriever(source) for source in (workdir, tmp_path / "out"))
  queries = []
  for line, edited in zip(lines, EDITED, strict=True):
    image = run / "photos" / line["reference"]
    gallery = [run / "photos" / name for name in line["ranked"]]
    scores, rows = first.search(
      image=image, text=line["text"], edited=edited[0], gallery=gallery, k=20
    )
    # All but the reference, in the order of the evaluation. Its query is not scaled to unit norm.
    assert len(gallery) == 11 and rows[0, :11].tolist() == list(range(11))
    factor = np.array(line["scores"]) / scores[0, :11]
    np.testing.assert_allclose(factor, factor[0], rtol=1e-3)
    parts = np.array([line["terms"][name][:10] for name in ("edit", "phi", "image")])
    np.testing.assert_allclose(parts.sum(0), line["scores"][:10], atol=3e-5)
    queries.append([x.embed_query(image, line["text"]) for x in (first, second)])
  np.testing.assert_array_equal(*np.array(queries).transpose(1, 0, 2, 3))
  assert first.step == second.step == 1 and first.class_names == ()
  assert "3 queries, 12 images" in (tmp_path / "out/README.md").read_text()


def test_a_config_gives_a_published_clip_with_a_published_phi(made, retriever, pixels, tmp_path):
  import torch

  state = {}
  for number in range(3):
    layer = made.params["mapping"][f"layer_{number}"]
    kernel, bias = (torch.tensor(np.array(layer[name])) for name in ("kernel", "bias"))
    state |= {f"layers.{3 * number}.weight": kernel.T, f"layers.{3 * number}.bias": bias}
  torch.save({"epoch": 1, "Phi": state}, tmp_path / "phi.pt")
  config = made.config.copy_and_resolve_references()
  with pytest.raises(UserError, match="--config.mapping.source=: pass a trained Phi, or train one"):
    lafg_jax.load_retriever(config)
  config.mapping.source = str(tmp_path / "phi.pt")
  found = lafg_jax.load_retriever(config)
  wanted = retriever.embed_query(pixels, SAID, edited=EDITED)
  np.testing.assert_array_equal(found.embed_query(pixels, SAID, edited=EDITED), wanted)
  assert found.step == 0 and found.text_batch is not None


def test_a_config_of_image_text_retrieval_gives_its_clip(text_model, trained_run, pixels):
  wanted = lafg_jax.load_retriever(text_model)
  found = lafg_jax.load_retriever(image_text_finches.get_config())
  np.testing.assert_array_equal(found.embed_query(pixels, SAID), wanted.embed_query(pixels, SAID))
  with pytest.raises(UserError, match="a model of task=class_retrieval is trained first"):
    lafg_jax.load_retriever(lafg_jax.load_retriever(trained_run).config)


def test_a_run_without_phi_says_how_to_get_one(tmp_path):

  config = finches.get_config()
  config.query.use_phi = False
  starts.record(str(tmp_path), config, [], ["evaluate"], {})
  with pytest.raises(UserError, match="use_phi=True, or load a config of image-text") as error:
    lafg_jax.load_retriever(str(tmp_path))
  assert "\n" not in str(error.value)
