"""Phi trains on the tiny CLIP with what finches say, resumes to the bit, and is loaded again."""

import shutil

import numpy as np
import pytest

from lafg_jax.data.composed import Training
from lafg_jax.finches import captions as finches
from lafg_jax.tasks.composed_retrieval import corpus, default, kept, mapping, train
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.training import checkpoints, metrics_log
from lafg_jax.training.best_checkpoint import Validation
from lafg_jax.utils.errors import UserError


def make_config(method="lincir", **changes):
  config = default.get_config()
  config.data.update(image_size=48, resize_size=48)
  config.model.pretrained = "tiny_clip"
  config.mapping.update(method=method, batch_size=16, hidden=64)
  config.train.update(steps=6, log_every=1, checkpoint_every=3, schedule="constant", warmup=0.0)
  for key, value in changes.items():
    config.update_from_flattened_dict({key.replace("__", "."): value})
  return config


@pytest.fixture(scope="module")
def training():
  names = finches.class_names("individuals", "seen")
  birds = [(name, number) for name in names[:4] for number in range(8)]
  texts = tuple(finches.caption("individuals", *bird)[0] for bird in birds)
  images = np.stack([finches.image("individuals", *bird) for bird in birds])
  return Training(images, texts, tuple(f"{name} {number}" for name, number in birds))


def losses(workdir):
  return [x["loss"] for x in metrics_log.read(str(workdir / metrics_log.FILE)) if "loss" in x]


def test_lincir_lowers_its_loss_and_the_frozen_clip_is_saved_once(tmp_path, training):
  config = make_config(train__steps=30, train__learning_rate=5e-3, train__checkpoint_every=15)
  config.train.update(validate_every=10, keep_best=True)
  seen = []

  def measure(params):
    seen.append(set(params))
    # The second of three is the best.
    return {"val_map": {1: 0.1, 2: 0.9}.get(len(seen), 0.5)}

  of = Validation(measure, "val_map")
  assert train.run(config, str(tmp_path), training, of, {"clip": {}}) == (30, False)
  found = losses(tmp_path)
  assert np.mean(found[-10:]) < 0.8 * np.mean(found[:5])
  assert seen == [{"image", "text", "logit_scale", "logit_bias", "mapping"}] * 3
  assert checkpoints.steps(str(tmp_path), checkpoints.BEST) == [20]
  assert len(list((tmp_path / "frozen").iterdir())) == 1
  size = sum(x.stat().st_size for x in (tmp_path / "checkpoints" / "30").rglob("*") if x.is_file())
  assert size < 2e6, "without CLIP's weights"
  # The best one is loaded, by the CLIP that it was trained on alone.
  config.mapping.source = str(tmp_path)
  kind, params = mapping.load(config, models.load(config).clip)
  best, meta = checkpoints.read(str(tmp_path), 20, checkpoints.BEST)
  assert kind == "lincir" and meta["clip"] == {}
  wanted = best["state/params/mapping/layer_1/kernel"]
  np.testing.assert_array_equal(params["layer_1"]["kernel"], wanted)
  config.model.pretrained = "openai/other"
  with pytest.raises(UserError, match="was trained on tiny_clip, other weights"):
    mapping.load(config, None)


@pytest.mark.parametrize("method", ["lincir", pytest.param("searle", marks=pytest.mark.long)])
def test_a_run_that_was_stopped_ends_in_the_same_bits(tmp_path, training, method):
  names = tmp_path / "names.txt"
  names.write_text("crown\nwing\ntail\n")
  config = make_config(method, mapping__inversion_steps=2, mapping__concepts=str(names))
  config.mapping.batch_size = 12
  config.train.update(steps=4, checkpoint_every=2)
  (tmp_path / "a").mkdir()
  assert train.run(config, str(tmp_path / "a"), training) == (4, False)
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  shutil.rmtree(tmp_path / "b" / checkpoints.FOLDER / "4")
  made = {path: path.stat().st_mtime_ns for path in (tmp_path / "b" / kept.FOLDER).rglob("*.npz")}
  assert train.run(config, str(tmp_path / "b"), training) == (4, False)
  whole, again = (checkpoints.read(str(tmp_path / name), 4)[0] for name in "ab")
  for path, x in whole.items():
    np.testing.assert_array_equal(x, again[path], err_msg=path)
  # What is computed once was not computed again.
  assert made == {path: path.stat().st_mtime_ns for path in made}
  assert len(made) == {"lincir": 1, "searle": 2}[method]
  other = training._replace(
    texts=(*training.texts[1:], "another"), images=np.ascontiguousarray(training.images[::-1])
  )
  with pytest.raises(UserError, match="another config .the training texts or images"):
    train.run(config, str(tmp_path / "b"), other)


def test_pic2word_takes_a_view_of_each_image_after_the_other(tmp_path, training):
  config = make_config("pic2word", mapping__views=2, mapping__batch_size=16)
  config.data.update(train_crop="random_resized", crop_scale=(0.5, 0.6), flip=False)
  few = training._replace(images=training.images[:17], ids=training.ids[:17])
  model = models.load(config)
  found = corpus.prepare(config, str(tmp_path), model, few)
  views = found.arrays["feature"]
  assert views.shape == (17, 2, model.clip.dim)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
  assert np.abs(views[:, 0] - views[:, 1]).max() > 0.1
  # An image's own crops are its nearest.
  nearest = (unit(views[:, 0]) @ unit(views[:, 1]).T).argmax(axis=1)
  assert (nearest == np.arange(17)).mean() > 0.5
  feed = train.make_feed(config, model, few, lambda: found)
  batches = feed.batches(0, {}, None)
  epochs = [next(batches) for _ in range(3)]
  batches.close()
  for number, batch in enumerate(epochs):
    assert len(set(batch["row"].tolist())) == 16
    np.testing.assert_array_equal(batch["feature"], views[batch["row"], number % 2])
  later = next(feed.batches(2, {}, None))
  np.testing.assert_array_equal(later["feature"], epochs[2]["feature"])
  assert feed.names_in(3) == [few.ids[row] for row in later["row"]]
  config.train.update(steps=2, checkpoint_every=2)
  assert train.run(config, str(tmp_path), few) == (2, False)
  moved, start = checkpoints.read(str(tmp_path), 2)[0], train.make_objective(config, model, found)
  before = start.params["mapping"]["layer_2"]["kernel"]
  assert np.abs(moved["state/params/mapping/layer_2/kernel"] - before).max() > 1e-5


def test_an_image_that_cannot_be_read_has_a_stand_in():
  x = np.arange(1.0, 13.0).reshape(4, 1, 3)
  x[[1, 3]] = 0
  found = corpus._standing_in(x)
  assert found[:, 0, 0].tolist() == [1, 7, 7, 1] and corpus._standing_in(found) is found


def test_what_is_kept_of_texts(tmp_path, training):
  """e is CLIP's own feature, not normalised; the key phrases are places; seeds do not matter."""
  import jax

  from lafg_jax.models import clip as clips
  from lafg_jax.tasks.composed_retrieval import pseudo_words

  config = make_config()
  model = models.load(config)
  texts = ("It has a red crown.", "of it", "?", "<PERSON> has $ a red crown")
  found = corpus.prepare(config, str(tmp_path), model, Training((), texts)).arrays
  ids, ends = model.reader.batch(model.reader.ids(["it has a red crown."]), 16)
  whole = jax.jit(
    lambda ids, ends: pseudo_words.plain_features(model.clip, model.params, ids, ends)
  )
  e = np.asarray(whole(ids, ends))[0]
  assert np.linalg.norm(e) > 1.5 or np.linalg.norm(e) < 0.7, "not of unit norm"
  np.testing.assert_allclose(found["target"][0], e, rtol=2e-3, atol=2e-3)
  unit = clips.embed_texts(
    model.clip, model.params, clips.token_embeddings(model.clip, model.params, ids), ends
  )
  np.testing.assert_allclose(e / np.linalg.norm(e), unit[0], atol=1e-5)
  assert found["ids"].shape == found["at"].shape == (4, 16)
  assert found["at"].sum(axis=1).tolist() == [1, 1, 1, 2]


def test_mistakes_are_one_line_before_work_starts(tmp_path, training):
  texts = tmp_path / "texts.txt"
  texts.write_text("a red dog\n\na cat\n")
  table = tmp_path / "texts.csv"
  table.write_text('image,caption\n1.jpg,"a dog, a cat"\n2.jpg,a bird\n')
  config = make_config(mapping__texts=str(texts), mapping__batch_size=2)
  assert corpus.training(config).texts == ("a red dog", "a cat")
  config.mapping.texts = str(table)
  assert corpus.training(config).texts == ("a dog, a cat", "a bird")
  few = corpus._sampled(training, 5)
  assert few.ids == tuple(training.ids[row] for row in (0, 7, 15, 23, 31))
  np.testing.assert_array_equal(few.images, training.images[[0, 7, 15, 23, 31]])
  folder = tmp_path / "images"
  folder.mkdir()
  cases = [
    (
      {"mapping__texts": str(texts), "mapping__batch_size": 3},
      "there are 2 training texts; pass 2",
    ),
    ({"mapping__texts": str(tmp_path / "none")}, "it cannot be read (No such file"),
    ({"mapping__images": str(tmp_path / "none"), "mapping__method": "searle"}, "no such folder"),
    ({"mapping__images": str(folder), "mapping__method": "pic2word"}, "trains on images"),
  ]
  for changes, message in cases:
    with pytest.raises(UserError) as error:
      corpus.training(make_config(**changes))
    assert message in str(error.value) and "\n" not in str(error.value)
  with pytest.raises(UserError, match="spaCy is not installed"):
    train.run(make_config(mapping__phrases="spacy"), str(tmp_path / "w"), training)
  with pytest.raises(UserError, match="there are no concept words"):
    train.run(make_config("searle"), str(tmp_path / "w"), training._replace(texts=()))
  assert not (tmp_path / "w").exists()
