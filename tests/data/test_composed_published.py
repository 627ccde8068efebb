"""FashionIQ, CIRR and CIRCO: counts of the real annotations, layouts, and missing images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data import composed
from lafg_jax.data.composed_readers import circo, cirr, fashioniq
from lafg_jax.tasks.composed_retrieval import default
from lafg_jax.utils.errors import UserError

SHARED = Path(__file__).parents[2] / "../shared/data/composed"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/composed")
GALLERY = SHARED / "ldre/circo_gallery_ids.npy"


def config_of(**changes):
  config = default.get_config()
  for key, value in changes.items():
    config.composed[key] = str(value) if isinstance(value, Path) else value
  return config


def load(**changes):
  return composed.load(config_of(**changes))


def refused(said, **changes):
  with pytest.raises(UserError, match=said) as error:
    load(**changes)
  assert "\n" not in str(error.value)


def real(source, **changes):
  """A part or more of the real annotations, without images."""
  extra = {"gallery_file": GALLERY} if source == "circo" else {}
  return load(source=source, root=SHARED / source, missing="annotations", **(extra | changes))


# {split: (queries, original gallery, images of queries)}, as §2.1 of the method's description has.
FASHIONIQ = {
  "val": {"dress": (2017, 3817, 2628), "shirt": (2038, 6346, 3089), "toptee": (1961, 5373, 2902)},
  "test": {"dress": (2024, 3818), "shirt": (2038, 6346), "toptee": (2056, 5374)},
}


@needs_shared
@pytest.mark.parametrize("split", FASHIONIQ)
def test_fashioniq_has_the_published_counts(split):
  for part in real("fashioniq", split=split):
    queries, gallery, *few = FASHIONIQ[split][part.name]
    assert (len(part.queries), len(part.gallery), len(part.ids)) == (queries, gallery, gallery)
    assert not part.partial and not part.drop_reference and part.secret == (split == "test")
    assert f"{gallery:,} images" in part.about
  if split == "val":
    for part in real("fashioniq", split=split, gallery="val"):
      few = FASHIONIQ[split][part.name][2]
      asked = {x for query in part.queries for x in (query.reference, *query.targets)}
      assert {part.ids[k] for k in part.gallery} == asked and len(asked) == few
      assert "VAL split" in part.about and not part.partial


@needs_shared
def test_fashioniq_texts_are_joined_and_three_empty_ones_left_out():
  parts = {part.name: part for part in real("fashioniq")}
  assert parts["dress"].queries[0].text == (
    "is shiny and silver with shorter sleeves and fit and flare"
  )
  raw = {
    name: json.loads((SHARED / f"fashioniq/captions/cap.{name}.val.json").read_text())
    for name in parts
  }
  empty = {
    name: [k for k, pair in enumerate(raw[name]) if "" in pair["captions"]] for name in parts
  }
  assert {name: len(rows) for name, rows in empty.items()} == {"dress": 0, "shirt": 1, "toptee": 2}
  for name, rows in empty.items():
    for k in rows:
      said = "".join(raw[name][k]["captions"]).strip(" .,?")
      assert parts[name].queries[k].text == said != ""


@pytest.mark.parametrize(
  ("texts", "said"),
  [
    (("is red.", "has no sleeves?"), "is red and has no sleeves"),
    ((" ,is red, ", "3.5 in. long. "), "is red and 3.5 in. long"),
    (("", "is red"), "is red"),
    ((" .", "?"), ""),
  ],
)
def test_sentences_of_a_pair_become_one(texts, said):
  assert fashioniq.joined(texts) == said


@needs_shared
@pytest.mark.parametrize(("split", "counts"), [("val", (4181, 2297)), ("test", (4148, 2315))])
def test_cirr_has_the_published_counts(split, counts):
  [part] = real("cirr", split=split)
  assert (len(part.queries), len(part.gallery)) == counts == cirr.PUBLISHED[split]
  assert part.drop_reference and part.protocol == "cirr" and part.secret == (split == "test")
  references = {query.reference for query in part.queries}
  assert len(references) == {"val": 2165, "test": 2178}[split] < len(part.gallery)
  # A text that is white space alone is kept as it is.
  blank = [query.id for query in part.queries if not query.text.strip()]
  assert blank == ([] if split == "val" else ["27098"])
  assert all(query.reference in query.members for query in part.queries)
  assert all(set(query.targets) <= set(query.members) for query in part.queries)


@pytest.mark.parametrize(
  ("source", "file"),
  [("fashioniq", "captions/cap.dress.train.json"), ("cirr", "captions/cap.rc2.train.json")],
)
def test_train_splits_have_the_published_counts_where_they_are_there(source, file):
  if not (SHARED / source / file).exists():
    pytest.skip(f"needs {file}")
  module = {"fashioniq": fashioniq, "cirr": cirr}[source]
  for part in real(source, split="train"):
    key = (part.name, "train") if source == "fashioniq" else "train"
    assert (len(part.queries), len(part.gallery)) == module.PUBLISHED[key] and not part.partial


@needs_shared
def test_circo_has_the_published_counts():
  [val], [test] = real("circo"), real("circo", split="test")
  assert (len(val.queries), len(test.queries)) == (220, 800)
  assert len(val.gallery) == len(test.gallery) == 123403 and not val.partial and not test.partial
  answers = [len(query.targets) for query in val.queries]
  assert (min(answers), max(answers), round(np.mean(answers), 2)) == (1, 14, 4.16)
  kinds = {kind for query in val.queries for kind in query.kinds}
  assert len(kinds) == 9 and "viewpoint" in kinds
  assert [query.id for query in test.queries] == [str(k) for k in range(800)]
  assert test.secret and not val.secret and not val.drop_reference
  assert val.ids[0] == "533083" and val.images[0].endswith("unlabeled2017/000000533083.jpg")
  # The concept enters the text on request alone, and the gallery's description says so.
  [joined] = real("circo", shared_concept=True)
  assert (
    joined.queries[0].text == f"a girl with a traditional Chinese umbrella, {val.queries[0].text}"
  )
  assert "shared_concept" in joined.about and "shared_concept" not in val.about
  assert joined.content != val.content


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))


def picture(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (8, 6)).save(path)


@pytest.fixture
def small_fashioniq(tmp_path, monkeypatch):
  """Three categories of four images and two queries each; the first image is a PNG."""
  for name in fashioniq.CATEGORIES:
    ids = [f"{name}{k}" for k in range(4)]
    pairs = [(0, 1), (2, 3)]
    entries = [
      {"candidate": ids[a], "target": ids[b], "captions": ["is red", f"longer {a}"]}
      for a, b in pairs
    ]
    write(tmp_path / f"captions/cap.{name}.val.json", entries)
    write(tmp_path / f"image_splits/split.{name}.val.json", ids)
    for k, image in enumerate(ids):
      folder = "images" if k < 2 else "further/below"
      picture(tmp_path / folder / f"{image}.{'png' if k == 0 else 'jpg'}")
    monkeypatch.setitem(fashioniq.PUBLISHED, (name, "val"), (2, 4))
  return tmp_path


def test_images_of_either_ending_are_found_anywhere(small_fashioniq):
  parts = load(source="fashioniq", root=small_fashioniq)
  assert [part.name for part in parts] == list(fashioniq.CATEGORIES)
  for part in parts:
    assert [Path(path).stem for path in part.images] == list(part.ids)
    assert all(Path(path).is_file() for path in part.images) and not part.partial
  # Where the captions are in Pic2Word's folder.
  (small_fashioniq / "captions").rename(small_fashioniq / "json")
  again = load(source="fashioniq", root=small_fashioniq)
  assert [part.content for part in again] == [part.content for part in parts]


def test_missing_images_are_counted_and_never_skipped_in_silence(small_fashioniq):
  next(small_fashioniq.rglob("shirt3.jpg")).unlink()
  refused(
    "lacks 1 of 4 images of shirt, such as 'shirt3'.*composed.missing=partial",
    source="fashioniq",
    root=small_fashioniq,
  )
  parts = load(source="fashioniq", root=small_fashioniq, missing="partial")
  dress, shirt, _ = parts
  assert not dress.partial and shirt.partial and shirt.missing == ("shirt3",)
  assert shirt.ids == ("shirt0", "shirt1", "shirt2") and len(shirt.queries) == 1
  assert shirt.about == (
    "original split, 3 of 4 images; 1 query of 2 left out, whose images are missing"
  )
  [everything] = {len(x.ids) for x in load(
    source="fashioniq", root=small_fashioniq, missing="annotations"
  )}  # fmt: skip
  assert everything == 4


def test_two_images_of_one_name_are_refused(small_fashioniq):
  picture(small_fashioniq / "copies/dress2.jpg")
  refused("two images 'dress2'.*composed.images", source="fashioniq", root=small_fashioniq)


def test_counts_that_are_not_the_published_ones_are_refused(small_fashioniq, monkeypatch):
  monkeypatch.setitem(fashioniq.PUBLISHED, ("toptee", "val"), (2, 5))
  refused("toptee: 2 queries and 4 images.*not 2 and 5", source="fashioniq", root=small_fashioniq)
  parts = load(source="fashioniq", root=small_fashioniq, missing="partial")
  assert [part.partial for part in parts] == [False, False, True]
  assert parts[2].about == "original split, 4 of 5 images"


@pytest.mark.parametrize("layout", ["official", "searle", "elsewhere"])
def test_cirr_is_read_in_both_layouts(tmp_path, monkeypatch, layout):
  monkeypatch.setitem(cirr.PUBLISHED, "val", (1, 7))
  names = [f"dev-{k}-0-img0" for k in range(7)]
  notes = tmp_path / "cirr" if layout == "searle" else tmp_path
  entry = {"pairid": 5, "reference": names[0], "target_hard": names[2], "caption": "two of them"}
  entry["img_set"] = {"id": 1, "members": names[:6]}
  write(notes / "captions/cap.rc2.val.json", [entry])
  write(notes / "image_splits/split.rc2.val.json", {x: f"./dev/{x}.png" for x in names})
  folder = {"official": "img_raw/dev", "searle": "dev", "elsewhere": "nlvr2/images/dev"}[layout]
  for name in names:
    picture(tmp_path / folder / f"{name}.png")
  [part] = load(source="cirr", root=tmp_path)
  [query] = part.queries
  assert (query.id, query.targets, query.members) == ("5", (names[2],), tuple(names[:6]))
  assert all(Path(path).is_file() for path in part.images) and len(part.gallery) == 7
  refused("branch cirr_dataset", source="cirr", root=tmp_path, split="test")
  entry["img_set"]["members"] = names[1:7]
  write(notes / "captions/cap.rc2.val.json", [entry])
  refused("entry 1: a subset has 6 images", source="cirr", root=tmp_path)


def test_circos_gallery_is_a_file_of_ids_cocos_own_or_a_folder(tmp_path, monkeypatch):
  monkeypatch.setitem(circo.QUERIES, "val", 1)
  monkeypatch.setattr(circo, "GALLERY", 3)
  entry = {"reference_img_id": 7, "target_img_id": 42, "relative_caption": "has two"}
  entry |= {"shared_concept": "a dog", "gt_img_ids": [42, 900], "id": 0, "semantic_aspects": ["x"]}
  write(tmp_path / "annotations/val.json", [entry])
  base = tmp_path / "COCO2017_unlabeled/unlabeled2017"
  for number in (900, 42, 7):
    picture(base / f"{number:012d}.jpg")
  by_folder = load(source="circo", root=tmp_path)[0]
  assert by_folder.ids == ("7", "42", "900") and by_folder.queries[0].targets == ("42", "900")
  info = {"images": [{"id": x, "file_name": f"{x:012d}.jpg"} for x in (900, 7, 42)]}
  write(tmp_path / f"COCO2017_unlabeled/annotations/{circo._INFO}", info)
  assert load(source="circo", root=tmp_path)[0].ids == ("900", "7", "42")
  listed = tmp_path / "ids.txt"
  listed.write_text("42\n000000000007.jpg\n900\n")
  part = load(source="circo", root=tmp_path, gallery_file=listed)[0]
  assert part.ids == ("42", "7", "900") and Path(part.images[1]).name == "000000000007.jpg"
  (base / "000000000900.jpg").unlink()
  refused("lacks 1 of 3 images of circo, such as '900'", source="circo", root=tmp_path)
  # Without a list the published number tells that the folder is not whole.
  (tmp_path / f"COCO2017_unlabeled/annotations/{circo._INFO}").unlink()
  refused("names '900', which is not in the gallery", source="circo", root=tmp_path)
  refused("image_info_unlabeled2017", source="circo", root=tmp_path, missing="annotations")
  refused("CIRCO has val and test", source="circo", root=tmp_path, split="train")


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("names.npy", b"no array"),
    ("names.json", b'{"images": [{"file_name": "1.jpg"}]}'),
    ("names.json", b"[1.5]"),
    ("names.txt", b"\n \n"),
    ("names.txt", b"\xff\xfe"),
    ("names.txt", b"dog.jpg\n"),
  ],
)
def test_a_broken_list_of_the_gallery_is_named(tmp_path, name, content):
  entry = {"reference_img_id": 7, "relative_caption": "has two", "id": 0}
  write(tmp_path / "annotations/test.json", [entry])
  (tmp_path / name).write_bytes(content)
  refused(name, source="circo", root=tmp_path, split="test", gallery_file=tmp_path / name)
  refused("is no file", source="circo", root=tmp_path, split="test", gallery_file=tmp_path / "no")


def test_published_benchmarks_have_nothing_to_train_on():
  for source in ("fashioniq", "cirr", "circo"):
    with pytest.raises(UserError, match="mapping.texts.*mapping.images"):
      composed.training(config_of(source=source))


@pytest.mark.parametrize(
  ("content", "said"),
  [
    ("{", "cannot be read as JSON"),
    ("[]", "holds no list"),
    ('[{"candidate": "a"}]', "entry 1: 'target' is no text"),
    ('[{"candidate": "a", "target": "b", "captions": "red"}]', "'captions' is no list"),
    ('[{"candidate": "a", "target": "b", "captions": [1]}]', "is no list of texts"),
  ],
)
def test_damaged_annotations_are_named(small_fashioniq, content, said):
  (small_fashioniq / "captions/cap.dress.val.json").write_text(content)
  refused(f"cap.dress.val.json.*{said}", source="fashioniq", root=small_fashioniq)


def test_the_root_is_asked_for(tmp_path):
  refused("composed.root is not set.*composed.root=FOLDER", source="cirr")
  refused("is no folder", source="cirr", root=tmp_path / "none")
