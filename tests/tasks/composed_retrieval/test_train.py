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
  config = make_config(train__steps=60, train__learning_rate=3e-3, train__checkpoint_every=30)
  config.train.update(validate_every=20, keep_best=True)
  seen = []

  def measure(params):
    seen.append(set(params))
    # The second of three is the best.
    return {"val_map": {1: 0.1, 2: 0.9}.get(len(seen), 0.5)}

  of = Validation(measure, "val_map")
  assert train.run(config, str(tmp_path), training, of, {"clip": {}}) == (60, False)
  found = losses(tmp_path)
  assert np.mean(found[-10:]) < 0.8 * np.mean(found[:5])
  assert seen == [{"image", "text", "logit_scale", "logit_bias", "mapping"}] * 3
  assert checkpoints.steps(str(tmp_path), checkpoints.BEST) == [40]
  assert len(list((tmp_path / "frozen").iterdir())) == 1
  size = sum(x.stat().st_size for x in (tmp_path / "checkpoints" / "60").rglob("*") if x.is_file())
  assert size < 2e6, "without CLIP's weights"
  # The best one is loaded, by the CLIP that it was trained on alone.
  config.mapping.source = str(tmp_path)
  kind, params = mapping.load(config, models.load(config).clip)
  best, meta = checkpoints.read(str(tmp_path), 40, checkpoints.BEST)
  assert kind == "lincir" and meta["clip"] == {}
  wanted = best["state/params/mapping/layer_1/kernel"]
  np.testing.assert_array_equal(params["layer_1"]["kernel"], wanted)
  config.model.pretrained = "openai/other"
  with pytest.raises(UserError, match="was trained on tiny_clip, other weights"):
    mapping.load(config, None)


@pytest.mark.parametrize("method", ["lincir", "searle", "pic2word"])
def test_a_run_that_was_stopped_ends_in_the_same_bits(tmp_path, training, method):
  config = make_config(method, mapping__inversion_steps=3, mapping__views=2)
  config.mapping.batch_size = 12
  assert train.run(config, str(tmp_path / "a"), training) == (6, False)
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  shutil.rmtree(tmp_path / "b" / checkpoints.FOLDER / "6")
  made = {path: path.stat().st_mtime_ns for path in (tmp_path / "b" / kept.FOLDER).rglob("*.npz")}
  assert train.run(config, str(tmp_path / "b"), training) == (6, False)
  whole, again = (checkpoints.read(str(tmp_path / name), 6)[0] for name in "ab")
  for path, x in whole.items():
    np.testing.assert_array_equal(x, again[path], err_msg=path)
  # What is computed once was not computed again.
  assert made == {path: path.stat().st_mtime_ns for path in made}
  assert len(made) == {"lincir": 1, "pic2word": 1, "searle": 2}[method]
  other = training._replace(
    texts=(*training.texts[1:], "another"), images=np.ascontiguousarray(training.images[::-1])
  )
  with pytest.raises(UserError, match="another config .the training texts or images"):
    train.run(config, str(tmp_path / "b"), other)


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
