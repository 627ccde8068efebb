"""The stage `caption`: which images, in which order, and what outlives a stop."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data.composed import Composed, Query
from lafg_jax.language.captioners import by_transformers, store
from lafg_jax.tasks.composed_retrieval import captions, default
from lafg_jax.utils.errors import Incomplete, UserError

LDRE = Path(__file__).resolve().parents[4] / "shared/data/composed/ldre"


def part_of(folder, references=("r1", "r0", "r1"), count=4, name="part"):
  """A part with images r0.. (references, outside of the gallery) and g0.. (the gallery)."""
  ids = ("r0", "r1", *(f"g{i}" for i in range(count)))
  paths = []
  for i, each in enumerate(ids):
    paths.append(str(folder / f"{each}.png"))
    Image.fromarray(np.full((8, 8, 3), 3 * i, np.uint8)).save(paths[-1])
  queries = tuple(Query(str(i), x, "is red") for i, x in enumerate(references))
  gallery = np.arange(2, len(ids), dtype=np.int32)
  return Composed(name, "val", queries, ids, paths, gallery, "", True, "targets", "content")


def config_of(**changes):
  config = default.get_config()
  config.composed.source = "listed"
  config.captioner.update(kind="transformers", model="m", number=2)
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return config


@pytest.fixture
def captioner(monkeypatch):
  """A captioner of grey levels; the list of those that it was shown."""
  seen = []

  def caption(images):
    seen.extend(int(image[0, 0, 0]) // 3 for image in images)
    return [[f"grey {int(image.mean())}", "a square"] for image in images]

  monkeypatch.setattr(by_transformers, "make", lambda section, request: caption)
  return seen


def lines(path):
  return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


def test_references_come_first_and_each_image_once(tmp_path, captioner):
  part = part_of(tmp_path)
  path = captions.run(config_of(), tmp_path, [part, part._replace(name="other")])
  assert [row["id"] for row in lines(path)] == ["r1", "r0", "g0", "g1", "g2", "g3"]
  assert captioner == [1, 0, 2, 3, 4, 5]
  row = lines(path)[0]
  assert row == {"id": "r1", "captions": ["grey 3", "a square"], "captioner": "transformers:m"}
  assert captions.read(tmp_path)["g3"] == ["grey 15", "a square"]
  # Without the gallery nothing new is captioned, and other settings caption again.
  captions.run(config_of(captioner__gallery=False), tmp_path, [part])
  assert set(captions.read(tmp_path)) == {"r0", "r1"} and len(captioner) == 6
  captions.run(config_of(captioner__gallery=False, captioner__seed=1), tmp_path, [part])
  assert captioner[6:] == [1, 0]


def test_another_file_of_that_name_is_captioned_anew(tmp_path, captioner):
  part = part_of(tmp_path)
  captions.run(config_of(), tmp_path, [part])
  Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(part.images[3])
  captions.run(config_of(), tmp_path, [part])
  assert captioner[6:] == [33] and captions.read(tmp_path)["g1"] == ["grey 99", "a square"]


def test_twenty_stops_caption_no_image_twice(tmp_path, captioner, monkeypatch):
  part, rng = part_of(tmp_path, count=70), random.Random(0)
  config = config_of(captioner__batch_size=1)

  class Stop(Exception):
    pass

  append, left = store.jsonl.append, [0]

  def stopping(file, row):
    append(file, row)
    left[0] -= 1
    if left[0] == 0:
      raise Stop

  monkeypatch.setattr(store.jsonl, "append", stopping)
  for _ in range(20):
    left[0] = rng.randrange(1, 5)
    with pytest.raises(Stop):
      captions.run(config, tmp_path, [part])
    assert not (tmp_path / captions.FILE).exists()
  left[0] = -1
  captions.run(config, tmp_path, [part])
  assert sorted(captioner) == list(range(72)) and len(captions.read(tmp_path)) == 72


def test_unreadable_images_are_refused_or_counted(tmp_path, captioner, caplog):
  part = part_of(tmp_path)
  Path(part.images[3]).write_bytes(b"no image")
  Path(part.images[5]).unlink()
  with pytest.raises(UserError, match="2 images of 6 cannot be read .*'g1'.*composed.missing"):
    captions.run(config_of(), tmp_path, [part])
  assert not (tmp_path / captions.FILE).exists() and captioner == [1, 0, 2, 4]
  captions.run(config_of(composed__missing="partial"), tmp_path, [part])
  assert set(captions.read(tmp_path)) == {"r0", "r1", "g0", "g2"}
  # What was captioned under 'refuse' is kept.
  assert captioner == [1, 0, 2, 4]


def test_an_endpoint_in_trouble_leaves_the_command_to_repeat(tmp_path, chat_endpoint, monkeypatch):
  from lafg_jax.language.describers import openai_api

  monkeypatch.setattr(openai_api, "_FIRST_DELAY", 0.01)
  broken = [True]

  def answer(request, earlier):
    number = len(endpoint.requests)
    return (503, {"error": {"message": "busy"}}) if broken[0] and number > 4 else ["a b", "c d"]

  endpoint = chat_endpoint(answer)
  config = config_of(captioner__kind="openai", captioner__base_url=endpoint.url)
  config.captioner.update(concurrency=1, retries=1)
  with pytest.raises(Incomplete, match="4 of 6 images are captioned; .* 2 .'g2', 'g3'.*HTTP 503"):
    captions.run(config, tmp_path, [part_of(tmp_path)])
  assert [row["id"] for row in lines(tmp_path / store.FAILED)] == ["g2", "g3"]
  broken[0] = False
  before = len(endpoint.requests)
  captions.run(config, tmp_path, [part_of(tmp_path)])
  assert len(endpoint.requests) - before == 2 and not (tmp_path / store.FAILED).exists()
  assert lines(tmp_path / captions.FILE)[5]["captioner"] == "openai:m"


def test_an_image_with_some_of_its_captions_is_asked_for_the_others(tmp_path, chat_endpoint):
  left = [7]

  def answer(request, earlier):
    left[0] -= 1
    return "a b" if left[0] >= 0 else (400, {"error": {"message": "no more today"}})

  endpoint, part = chat_endpoint(answer), part_of(tmp_path)
  config = config_of(captioner__kind="openai", captioner__base_url=endpoint.url)
  config.captioner.update(concurrency=1, number=3, retries=0)
  with pytest.raises(Incomplete, match="0 of 6 images"):
    captions.run(config, tmp_path, [part])
  before, left[0] = len(endpoint.requests), 100
  captions.run(config, tmp_path, [part])
  # Six images by three, less the seven that were there.
  assert len(endpoint.requests) - before == 11
  assert {len(texts) for texts in captions.read(tmp_path).values()} == {3}


def test_a_file_of_ours_is_read_and_what_it_lacks_is_named(tmp_path):
  part, path = part_of(tmp_path), tmp_path / "given.jsonl"
  rows = [{"id": name, "captions": [f"of {name}", " "]} for name in part.ids]
  config = config_of(captioner__kind="file", captioner__file=str(path))

  def write(rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")

  write(rows)
  captions.run(config, tmp_path, [part])
  assert captions.read(tmp_path) == {name: [f"of {name}"] for name in part.ids}
  # Our own captions.jsonl is such a file.
  config.captioner.file = str(tmp_path / captions.FILE)
  captions.run(config, tmp_path / "other", [part])
  assert captions.read(tmp_path / "other") == captions.read(tmp_path)
  config.captioner.file = str(path)
  write(rows[:4])
  with pytest.raises(UserError, match="2 gallery images.*'g2', 'g3'.*captioner.gallery=False"):
    captions.run(config, tmp_path, [part])
  config.composed.missing = "partial"
  captions.run(config, tmp_path, [part])
  assert len(captions.read(tmp_path)) == 4
  write(rows[1:])
  with pytest.raises(UserError, match="1 reference image .*'r0'"):
    captions.run(config, tmp_path, [part])
  for text in ("[", '{"id": 1}', '{"captions": ["a"]}', '{"id": 1, "captions": "" }', "[3]"):
    path.write_text(text)
    with pytest.raises(UserError, match="given.jsonl"):
      captions.check(config)
  config.captioner.file = "none.jsonl"
  with pytest.raises(UserError, match="captioner.file=none.jsonl"):
    captions.check(config)


def test_without_a_captioner_there_are_no_captions(tmp_path):
  assert captions.read(tmp_path) == {}
  with pytest.raises(UserError, match="run --stage=caption first"):
    captions.read(tmp_path, "file")
  captions.run(config_of(captioner__kind="none"), tmp_path, [part_of(tmp_path)])
  assert captions.read(tmp_path, "none") == {}
  (tmp_path / captions.FILE).write_text('{"id": "a"}\n')
  with pytest.raises(UserError, match="line 1 is damaged"):
    captions.read(tmp_path)


@pytest.mark.skipif(not LDRE.is_dir(), reason="needs ../shared")
def test_ldres_json_has_the_captions_of_all_circo_references(tmp_path):
  path = LDRE / "circo_test_captions_and_edits.json"
  given = json.loads(path.read_text())
  # COCO's file names, which are padded.
  names = [f"{row['reference_img_id']:012d}" for row in given]
  queries = tuple(
    Query(str(row["id"]), n, row["relative_caption"]) for row, n in zip(given, names, strict=True)
  )
  ids = tuple(dict.fromkeys(names))
  none = np.zeros(0, np.int32)
  part = Composed("circo", "test", queries, ids, [""] * len(ids), none, "", False, "circo", "")
  config = config_of(captioner__kind="file", captioner__file=str(path))
  captions.run(config, tmp_path, [part])
  found = captions.read(tmp_path)
  assert len(found) == 798 and {len(x) for x in found.values()} == {15}
  first = {}
  for name, row in zip(names, given, strict=True):
    first.setdefault(name, [" ".join(text.split()) for text in row["multi_caption_opt"]])
  assert found == first
