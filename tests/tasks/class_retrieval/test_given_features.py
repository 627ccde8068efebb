"""Training on features that are given: from the file to figures, and what it excludes."""

import json

import numpy as np
import pytest

import lafg_jax
from lafg_jax import export, stages
from lafg_jax.inference import bundle
from lafg_jax.tasks.class_retrieval import default, given_features
from lafg_jax.tasks.class_retrieval import stages as tasks_stages
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import UserError

CLASSES, IMAGES, WIDTH = 8, 6, 10


def config_of(path, **changes):
  config = default.own_features()
  config.data.manifest = str(path)
  config.model.update(embedding_dim=5, head_init="random", centre=False)
  config.loss.projector_width = 8
  config.train.update(steps=4, checkpoint_every=2, log_every=2)
  config.update_from_flattened_dict({key.replace("__", "."): x for key, x in changes.items()})
  return config


def run(config, workdir, names=None):
  names = names or default.default_names(config)
  default.validate(config, names)
  config, wanted = tasks_stages.plan(config, str(workdir), names)
  assert stages.run_all(wanted, config, str(workdir))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  """Vectors around a centre for each class, float16."""
  rng = np.random.default_rng(1)
  labels = np.repeat(np.arange(CLASSES) * 3 + 1, IMAGES)
  centres = rng.standard_normal((CLASSES, WIDTH))
  x = centres[labels // 3] + rng.standard_normal((len(labels), WIDTH)) + 1
  path = tmp_path_factory.mktemp("file") / "birds.npz"
  np.savez(path, features=x.astype(np.float16), labels=labels)
  return path


def centred(file):
  """Features of the test classes, and the same of unit norm less the mean of the others', anew."""
  stored = np.load(file)
  test = stored["labels"] >= 13
  x = stored["features"].astype(np.float64)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  v = x[test] - x[~test].mean(axis=0)
  return stored["features"][test], v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained")
  run(config_of(file), workdir)
  return workdir


def test_the_figures_are_those_of_the_head_by_numpy(file, trained):
  found = json.loads((trained / "evaluation.json").read_text())
  arrays = checkpoints.require(str(trained), checkpoints.FOLDER)[0]
  kernel, bias = (arrays[f"state/params/embedding/{name}"] for name in ("kernel", "bias"))
  stored = np.load(file)
  test = stored["labels"] >= 13
  v = stored["features"][test].astype(np.float64) @ kernel + bias
  v /= np.linalg.norm(v, axis=1, keepdims=True)
  cosine = v @ v.T
  np.fill_diagonal(cosine, -2)
  labels = stored["labels"][test]
  right = labels[cosine.argmax(axis=1)] == labels
  assert found["recall@1"] == pytest.approx(right.mean())
  assert found["num_classes"] == CLASSES // 2 and found["untrained"]["recall@1"] > 0
  x = stored["features"].astype(np.float64)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  for name, plain in (("backbone", x[test]), ("backbone_centred", x[test] - x[~test].mean(axis=0))):
    cosine = plain @ plain.T / np.outer(*[np.linalg.norm(plain, axis=1)] * 2)
    np.fill_diagonal(cosine, -2)
    assert found[name]["recall@1"] == pytest.approx(
      (labels[cosine.argmax(axis=1)] == labels).mean()
    )
  retriever = lafg_jax.load_retriever(str(trained))
  embedded = retriever.embed(stored["features"][test])
  np.testing.assert_allclose(embedded, v, atol=2e-6)
  np.testing.assert_allclose(embedded, np.load(trained / "embeddings.npz")["vectors"], atol=1e-6)
  np.testing.assert_allclose(
    retriever.embed(list(stored["features"][test][0].tolist())), v[:1], atol=2e-6
  )
  cosines, rows = retriever.search(embedded[:3], embedded, k=2)
  assert rows[:, 0].tolist() == [0, 1, 2] and cosines.shape == (3, 2)


def test_the_default_head_is_as_wide_as_the_features_starts_at_them_and_is_centred(file, tmp_path):
  config = default.own_features()
  config.data.manifest = str(file)
  config.train.update(steps=1, learning_rate=1e-9)
  run(config, tmp_path)
  found = json.loads((tmp_path / "evaluation.json").read_text())
  of_test, expected = centred(file)
  retriever = lafg_jax.load_retriever(str(tmp_path))
  np.testing.assert_allclose(retriever.embed(of_test), expected, atol=1e-5)
  assert found["map@r"] == pytest.approx(found["backbone_centred"]["map@r"])


def test_the_page_says_that_there_is_no_picture(trained):
  assert "the data set holds features and no images" in (trained / "report.html").read_text()
  assert not (trained / "retrieval.png").exists()


def test_the_page_is_made_again_by_itself(file, trained):
  before = (trained / "report.html").read_text()
  (trained / "report.html").unlink()
  run(config_of(file), trained, ["report"])
  assert len((trained / "report.html").read_text()) == len(before)


def test_a_run_that_goes_on_has_the_bits_of_one_that_did_not_stop(file, trained, tmp_path):
  run(config_of(file, train__steps=2, train__schedule="constant"), tmp_path, ["train"])
  whole = tmp_path / "whole"
  run(config_of(file, train__schedule="constant", train__allow_changed=True), tmp_path, ["train"])
  run(config_of(file, train__schedule="constant"), whole, ["train"])
  first, second = (checkpoints.require(str(x), checkpoints.FOLDER)[0] for x in (tmp_path, whole))
  for name in first:
    np.testing.assert_array_equal(first[name], second[name], name)


def test_the_features_as_they_are_are_evaluated_without_training(file, tmp_path):
  run(config_of(file, evaluate__source="pretrained"), tmp_path)
  stored = np.load(file)
  test = stored["labels"] >= 13
  v = stored["features"][test].astype(np.float64)
  v /= np.linalg.norm(v, axis=1, keepdims=True)
  np.testing.assert_allclose(np.load(tmp_path / "embeddings.npz")["vectors"], v, atol=1e-6)


def test_the_start_of_a_study_is_centred_where_the_config_says_so(file, tmp_path):
  head = {"model__head_init": "identity", "model__embedding_dim": -1}
  run(config_of(file, **head, model__centre=True, evaluate__source="untrained"), tmp_path)
  found = np.load(tmp_path / "embeddings.npz")["vectors"]
  np.testing.assert_allclose(found, centred(file)[1], atol=1e-5)


def test_an_export_is_the_same_model_and_its_program_takes_features(trained, tmp_path):
  from jax import export as jax_export

  export.export(str(trained), str(tmp_path), ("safetensors", "stablehlo"))
  x = np.random.default_rng(2).standard_normal((3, WIDTH)).astype(np.float32)
  wanted = lafg_jax.load_retriever(str(trained)).embed(x)
  np.testing.assert_array_equal(lafg_jax.load_retriever(str(tmp_path)).embed(x), wanted)
  program = jax_export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
  np.testing.assert_allclose(program.call(x), wanted, atol=1e-6)
  card = (tmp_path / "README.md").read_text()
  assert f"{WIDTH} numbers each" in card and "PIL" not in card and "a.jpg" not in card
  with pytest.raises(UserError, match="this model embeds features, and the index is of images"):
    export.export(str(trained), str(tmp_path), ("faiss",), gallery=str(tmp_path))


def test_where_an_image_is_needed_one_line_says_so(trained, tmp_path):
  retriever = lafg_jax.load_retriever(str(trained))
  one = np.ones((2, WIDTH), np.float32)
  for call, why in (
    (lambda: retriever.embed("a.jpg"), r"features of another encoder, floats \[10\]"),
    (lambda: retriever.embed(np.zeros((4, 4, 3), np.uint8)), "and no images or texts"),
    (lambda: retriever.embed_readable(iter(["a.jpg"])), "and no images or texts"),
    (lambda: retriever.search("a.jpg", one[:, :5]), "and no images or texts"),
    (lambda: retriever.search(one, one[:, :5]), r"\(2, 10\), and this model's are \[n, 5\]"),
    (lambda: retriever.embed(one[:, :3]), r"features are \(2, 3\)"),
    (lambda: retriever.embed(one * np.nan), "row 0 are not finite"),
    (lambda: retriever.embed(one, boxes=[[0, 0, 1, 1]] * 2), "boxes cut images"),
    (lambda: retriever.embed_text("a bird"), "embeds no texts"),
  ):
    with pytest.raises(UserError, match=why) as error:
      call()
    assert "\n" not in str(error.value)
  assert retriever.embed([]).shape == (0, 5)
  assert bundle.given_width(retriever.config) == WIDTH


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    ({"model__size": "small"}, "data.name=features with --config.model.size=small"),
    ({"data__color_jitter": 0.5}, "color_jitter=0.5: data.name=features has no image"),
    ({"model__pretrained": "tiny_clip"}, "model.pretrained=tiny_clip: .* the features are given"),
    ({"train__frozen_backbone": True}, "train.frozen_backbone=True: .* pass .*=False"),
    ({"model__embedding_dim": 0}, "model.embedding_dim=0: .* nothing else would learn"),
    ({"data__instances": True}, "data.instances=True: .*two crops"),
    ({"loss__image_alignment": "vocabulary"}, "image_alignment=vocabulary: .*takes an image"),
    ({"language__query": "image"}, "language.query=image: .*pass --config.language.query="),
  ],
)
def test_what_takes_an_image_or_a_backbone_is_one_line(file, changes, why):
  config = config_of(file, **changes)
  with pytest.raises(UserError, match=why):
    default.validate(config, ["train"])


def test_the_check_of_images_is_refused_and_the_width_is_the_files(file):
  config = config_of(file)
  assert given_features.sized(config).model.width == WIDTH
  with pytest.raises(UserError, match="--stage=data looks at images"):
    tasks_stages.plan(config, "nowhere", ["data"])


def test_the_study_of_features_has_its_own_variants_and_every_one_of_them_can_train(file, tmp_path):
  from lafg_jax.ablation import plan
  from lafg_jax.tasks.class_retrieval import feature_variants, variants

  config = config_of(file, data__last_train_label=13)
  config.language.describer = "shipped"
  assert (
    variants.file_of(config) == "feature_variants" and variants.dataset(config) == "birds_features"
  )
  every = plan.cells(feature_variants, config, str(tmp_path), {}, 2)
  names = {(one.start, one.variant) for one in every}
  planned = [name for of in feature_variants.groups().values() for name in of]
  # Ten and twenty classes are more than there are: the log names what is left out.
  planned = [name for name in planned if not name.endswith(("classes=10", "classes=20"))]
  assert names == {(start, name) for start in ("random", "identity", "pca") for name in planned}
  keys = {(one.start, one.variant): one.key for one in every if one.seed == 0}
  assert keys["pca", "l_aux@images=all"] == keys["pca", "l_aux@classes=all"] == keys["pca", "l_aux"]
  assert keys["pca", "l_aux@images=1"] != keys["pca", "l_aux"] != keys["identity", "l_aux"]
  for variant, overrides in feature_variants.groups()["headline"].items():
    one = next(x for x in every if (x.start, x.variant) == ("pca", variant))
    assert one.trains == (overrides is not None)
    assert not one.trains or len(feature_variants.grid(one.config)) == 4
