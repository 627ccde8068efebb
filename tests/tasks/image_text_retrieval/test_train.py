"""Which captions an image trains with, the rules between keys, and what the study compares."""

import numpy as np
import pytest

from configs.image_text import fdrd, finches
from lafg_jax.ablation import plan
from lafg_jax.data import captions
from lafg_jax.tasks.image_text_retrieval import default, methods, train, variants
from lafg_jax.utils.errors import UserError


def with_changes(**changes):
  config = finches.get_config()
  for key, value in changes.items():
    config.update_from_flattened_dict({key.replace("__", "."): value})
  return config


@pytest.mark.parametrize("how", ["images", "classes"])
def test_the_floor_has_captions_of_others(how):
  config = with_changes(captions__images_per_class=3)
  before = captions.load_splits(config, ("train",))["train"]
  assert train.shuffled(config, before) is before
  config.image_text.shuffle_captions = how
  after = train.shuffled(config, before)
  own = {text: label for text, label in zip(before.captions, before.labels, strict=True)}
  dealt = np.array([own[text] for text in after.captions])
  if how == "images":
    assert sorted(after.captions) == sorted(before.captions)
    assert not any(a == b for a, b in zip(after.captions, before.captions, strict=True))
  else:
    assert not (dealt == before.labels).any()
    # Each class has the captions of one other class.
    assert len(set(zip(before.labels.tolist(), dealt.tolist(), strict=True))) == 8
  assert train.shuffled(config, before).captions == after.captions
  config.seed = 1
  assert train.shuffled(config, before).captions != after.captions


def test_batches_bring_words_and_the_images_of_others():
  config = methods.resolve(with_changes(reweighting__weights="other", captions__batch_size=6))
  captioned = captions.load_splits(config, ("train",))["train"]
  stored = train.stored_features.load(with_changes(prompts__method="coop"), "", captioned)
  words = train.texts.Tokens(*(np.arange(3 * len(captioned.captions)).reshape(3, -1, 1)))
  feed = train.make_feed(config, captioned, words._replace(ends=words.ends[:, 0]), stored)
  batches = feed.batches(0, {}, lambda: False)
  for _ in range(2):
    batch = next(batches)
    np.testing.assert_array_equal(batch["words"], words.words[batch["row"]])
    shown = np.stack([np.asarray(captioned.images[int(row)]) for row in batch["row"]])
    # The same crop is not asked for: the nearest picture by its mean colours is.
    of = lambda x: x.reshape(len(x), -1, 3).mean(1)  # noqa: E731
    distance = np.linalg.norm(of(batch["other"])[:, None] - of(shown)[None], axis=-1)
    np.testing.assert_array_equal(distance.argmin(axis=1), np.roll(np.arange(6), 1))
  batches.close()


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"prompts__method": "clip"}, "prompts.method=clip: it takes one of dcar"),
    ({"data__name": "cars"}, "data.name=cars: image-text retrieval does not read it"),
    ({"data__instances": True}, "data.instances=True: image-text retrieval does not read it"),
    ({"model__pretrained": ""}, "model.pretrained=: pass a CLIP"),
    ({"image_text__logit_scale": "learned"}, "prompts.method=dcar does not read it"),
    ({"captions__negatives": "none"}, "L_cate has no candidates then"),
    ({"train__validate_every": 5}, "nothing is held out"),
    ({"train__frozen_backbone": True}, "prompts change what a frozen tower sees"),
    ({"category__alpha": -1.0}, "category.alpha=-1.0: it takes a number of at least 0"),
  ],
)
def test_refused(changes, message):
  config = with_changes(**changes)
  with pytest.raises(UserError) as error:
    default.validate(config, default.STAGES)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_zero_shot_has_nothing_to_train():
  config = with_changes(prompts__method="zero_shot")
  assert default.default_names(config) == ["evaluate", "report"]
  default.validate(config, ["evaluate", "report"])
  with pytest.raises(UserError, match="there is nothing to train"):
    default.validate(config, ["train"])
  assert default.default_names(with_changes(prompts__method="maple"))[0] == "train"
  assert default.default_names(with_changes())[0] == "encode"


def test_the_methods_values_stand_where_a_config_has_none():
  found = methods.resolve(with_changes())
  assert (found.prompts.number, found.prompts.depth) == (4, 1)
  assert (found.prompts.init, found.prompts.coupling) == ("words", "linear")
  found = methods.of(with_changes(prompts__method="maple", prompts__number=5))
  assert (found.number, found.depth, found.coupling) == (5, 9, "linear")
  found = methods.of(with_changes(prompts__method="coop"))
  assert (found.number, found.init, found.image) == (16, "normal", False)


def test_every_variant_of_the_study_is_possible(tmp_path):
  config = with_changes(captions__images_per_class=3, captions__batch_size=4)
  cells = plan.cells(variants, config, str(tmp_path), {}, 2)
  every = {cell.variant for cell in cells}
  groups = variants.groups()
  assert every == {name for of in groups.values() for name in of}
  assert {"zero_shot", "coop", "maple", "default"} <= set(groups["headline"])
  keys = {cell.key for cell in cells if cell.seed == 0}
  assert len(keys) == len(every), "no two variants are the same cell"
  named = {variants.REFERENCE, *variants.CONTROLS, *(x for pair in variants.PAIRS for x in pair)}
  assert named <= every and set(variants.LABELS) <= every and set(variants.ABOUT) <= every


@pytest.mark.parametrize("variant", fdrd.IMAGES)
def test_fdrd_trains_ten_epochs(variant):
  config = fdrd.get_config(variant)
  steps = fdrd.IMAGES[variant] // config.captions.batch_size
  assert config.train.steps == 10 * steps and config.data.image_size == 224
  assert (config.train.optimizer, config.train.learning_rate) == ("sgd", 2e-3)
  config.captions.file = "somewhere.json"
  default.validate(config, default.STAGES)
