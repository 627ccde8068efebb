"""The script that trains a small CLIP, and the configs that adapt it to classes it has not seen."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from configs.image_text import cars, fashion
from lafg_jax import tasks
from lafg_jax.data import captions
from lafg_jax.tasks.image_text_retrieval import default

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data"
FASHION, CARS = SHARED / "fashion/metadata.csv", SHARED / "fdrd/inter_car_train.json"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
TINY = {"IMAGE": (16, 1, 2, 32), "PATCH": 8, "TEXT": (16, 2, 2, 32), "DIM": 16}
SMALL = {"data.image_size": 16, "data.resize_size": 16, "captions.batch_size": 8, "train.steps": 2}
OTHERS = ("Watches", "Belts")  # unseen
TYPES = ("Shirts", "Handbags", *OTHERS)


@pytest.fixture(scope="module")
def some(tmp_path_factory):
  """A metadata.csv with 20 photographs of each of four types."""
  with FASHION.open(encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  path = tmp_path_factory.mktemp("some") / "metadata.csv"
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    for name in TYPES:
      writer.writerows([row for row in rows if row["type"] == name][:20])
  (path.parent / "unseen.txt").write_text("\n".join(OTHERS))
  return path


@pytest.fixture(scope="module")
def trained(some, tmp_path_factory):
  """The script's folder after two steps of a tiny model, and what it printed of its tests."""
  # Flags of the same name may be there, of a command that another test of this process imported.
  names, others = ("of", "file", "root", "out", "steps", "seed"), {}
  for name in names:
    if name in flags.FLAGS:
      others[name] = flags.FLAGS[name]
      delattr(flags.FLAGS, name)
  spec = importlib.util.spec_from_file_location("small_clip", ROOT / "experiments/small_clip.py")
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  config, out = script.config, tmp_path_factory.mktemp("small_clip")

  def small(variant, clip):
    found = config(variant, clip)
    found.update_from_flattened_dict(SMALL | {"data.split_seed": -1})
    found.data.test_classes = str(some.with_name("unseen.txt"))
    return found

  with pytest.MonkeyPatch.context() as patched:
    for name, value in TINY.items():
      patched.setattr(script, name, value)
    patched.setattr(script, "config", small)
    folder = SHARED / "fashion"
    script.flags.FLAGS(["x", f"--file={some}", f"--root={folder}", f"--out={out}"])
    script.main([])
    again = (out / "clip/model.safetensors").read_bytes()
    # Done already: nothing changes.
    script.main([])
    assert (out / "clip/model.safetensors").read_bytes() == again
  yield out
  for name in names:
    delattr(flags.FLAGS, name)
  for name, flag in others.items():
    flags.FLAGS[name] = flag


def small(config, **changes):
  config.update_from_flattened_dict(SMALL | {k.replace("__", "."): x for k, x in changes.items()})
  task = tasks.find(config, "default")
  task.validate(config, default.default_names(config))
  return config


def test_the_trained_clip_is_one_of_transformers(trained):
  import torch
  import transformers

  from lafg_jax.language.encoders import clip_texts
  from lafg_jax.models import clip as clips

  theirs = transformers.CLIPModel.from_pretrained(trained / "clip").eval()
  start = transformers.CLIPModel.from_pretrained(trained / "start")
  both = zip(theirs.parameters(), start.parameters(), strict=True)
  assert all(bool((a != b).any()) for a, b in both)
  tokenizer = transformers.AutoTokenizer.from_pretrained(trained / "clip")
  clip, params = clips.load(str(trained / "clip"))
  reader = clip_texts.tokenizer(clip)
  said = ["Fossil Men Black Watch, Casual Black Watches for Men", "a 2-in-1 belt"]
  ids, ends = reader.batch(reader.ids(said), reader.context)
  given = tokenizer(said, padding="max_length", max_length=reader.context, return_tensors="pt")
  np.testing.assert_array_equal(given["input_ids"].numpy(), ids)
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  pixels = torch.from_numpy((images / 127.5 - 1).transpose(0, 3, 1, 2)).float()
  with torch.no_grad():
    found = theirs(input_ids=given["input_ids"], pixel_values=pixels)
  embedded = clips.token_embeddings(clip, params, ids)
  for ours, wanted in (
    (clips.embed_images(clip, params, images), found.image_embeds),
    (clips.embed_texts(clip, params, embedded, ends), found.text_embeds),
  ):
    np.testing.assert_allclose(ours, wanted.numpy(), atol=1e-5)


def test_it_saw_photographs_of_some_types_and_its_tests_say_what_stands_beside(trained):
  seen, unseen = (
    json.loads((trained / name / "evaluation.json").read_text()) for name in ("run", "unseen")
  )
  for found in (seen, unseen):
    # Every fifth of 20 photographs of two types, 4 of each.
    assert (found["num_images"], found["num_classes"]) == (8, 2)
    assert found["chance"]["image_to_text/recall@1"] == pytest.approx(1 / 8)
    assert found["class_oracle"]["text_to_image/recall@1"] == pytest.approx(1 / 4)
  names = [np.load(trained / x / "embeddings.npz")["class_names"] for x in ("run", "unseen")]
  assert [sorted(x) for x in names] == [["Handbags", "Shirts"], ["Belts", "Watches"]]


ADAPTED = {
  "fashion": lambda some: (
    fashion.get_config(),
    {"captions__file": str(some), "data__root": str(SHARED / "fashion"), "data__split_seed": -1,
     "data__test_classes": str(some.with_name("unseen.txt"))},
  ),
  "cars": lambda some: (
    cars.get_config("unseen"),
    {"captions__file": str(CARS), "data__root": str(SHARED / "stanford_cars"),
     "data__test_classes": str(some.with_name("cars.txt")), "data__split_seed": -1,
     "prompts__method": "coop", "prompts__number": 4},
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["fashion", pytest.param("cars", marks=pytest.mark.long)])
def test_prompts_adapt_the_frozen_clip_to_classes_it_has_not_seen(name, trained, some, tmp_path):
  kinds = ("2012 Audi A5 Coupe", "2012 BMW Z4 Convertible")
  some.with_name("cars.txt").write_text("\n".join(kinds))
  config, changes = ADAPTED[name](some)
  config = small(config, model__pretrained=str(trained / "clip"), **changes)
  assert tasks.run(config, str(tmp_path), ["encode"] * (name == "fashion") + ["train", "evaluate"])
  found = json.loads((tmp_path / "evaluation.json").read_text())
  names = np.load(tmp_path / "embeddings.npz")["class_names"]
  assert sorted(names) == sorted(OTHERS if name == "fashion" else kinds)
  assert found["step"] == 2 and found["num_images"] == (8 if name == "fashion" else 16)
  # The small CLIP without prompts, beside it.
  assert found["untrained"] and found["untrained"] != found


def of_cars(variant, split):
  config = cars.get_config(variant)
  config.captions.file, config.data.root = str(CARS), str(SHARED / "stanford_cars")
  return captions.load_splits(config, (split,))[split]


def test_no_variant_of_cars_tests_what_the_small_clip_was_trained_on():
  seen, unseen, every = (of_cars(name, "test") for name in ("seen", "unseen", "images"))
  assert (len(every.captions), len(every.class_names)) == (1159, 147)
  assert (len(seen.class_names), len(unseen.class_names)) == (74, 73)
  # One rule for the photographs of a class, whichever classes take part.
  assert sorted(seen.ids + unseen.ids) == sorted(every.ids)
  trained, apart = set(of_cars("seen", "train").ids), of_cars("classes", "test")
  assert not trained & {*every.ids, *apart.ids} and apart.class_names == unseen.class_names
  assert set(of_cars("classes", "train").class_names) == set(seen.class_names)


def test_types_are_halved_by_a_seed_into_about_as_many_photographs():
  found = {}
  for variant in fashion.VARIANTS:
    config = fashion.get_config(variant)
    config.captions.file = str(FASHION)
    found[variant] = captions.load_splits(config)
  sizes = {name: [len(x.captions) for x in splits.values()] for name, splits in found.items()}
  assert {name: sum(x) for name, x in sizes.items()} == {"seen": 4091, "unseen": 4268}
  assert not {*found["seen"]["train"].class_names} & {*found["unseen"]["train"].class_names}
  said = found["unseen"]["train"].captions
  assert "Black Watches for Men" in "".join(said) and not any("NA" in x.split() for x in said)
