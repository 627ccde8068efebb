"""Links that lead nowhere, pipes, sockets and what systems leave in folders, in every reader."""

import os
import socket

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax import export
from lafg_jax.data import datasets, listing
from lafg_jax.utils.errors import UserError

LOOP, UP, PIPE = "a link that leads nowhere", "a link to a folder that it lies in", "a pipe, socket"
SYSTEM = ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".ipynb_checkpoints")
SYSTEM += ("__pycache__", "#recycle", "__MACOSX", ".Trash-1000")


def photo(path, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
  Image.fromarray(pixels).save(path)


def spoil(folder, monkeypatch):
  """Puts one of each odd entry into a folder; returns {name: how what it is begins}."""
  for name, target in (
    *(("dead.jpg", "nowhere.jpg"), ("loop.jpg", "loop.jpg"), ("one.jpg", "two.jpg")),
    *(
      ("two.jpg", "one.jpg"),
      ("far.jpg", "dead.jpg"),
      ("circle", "circle"),
      ("null.jpg", "/dev/null"),
    ),
    *(("up", ".."), ("self", "."), ("through.jpg", "loop.jpg/x.jpg"), ("tty.jpg", "pipe.jpg")),
  ):
    (folder / name).symlink_to(target)
  os.mkfifo(folder / "pipe.jpg")
  monkeypatch.chdir(folder)
  with socket.socket(socket.AF_UNIX) as server:
    server.bind("socket.jpg")
  (folder / "two\nlines.jpg").write_bytes(b"")
  (folder / "notes.txt").write_bytes(b"")
  (folder / "phone.HEIC").write_bytes(b"")
  dead = ("dead.jpg", "loop.jpg", "one.jpg", "two.jpg", "far.jpg", "circle", "through.jpg")
  return {
    **dict.fromkeys(dead, LOOP),
    **dict.fromkeys(("up", "self"), UP),
    **dict.fromkeys(("pipe.jpg", "tty.jpg", "socket.jpg", "null.jpg"), PIPE),
    "two\nlines.jpg": "a name with a line break",
    "notes.txt": listing.NO_IMAGE,
    "phone.HEIC": "a picture of a format that is not read",
  }


@pytest.fixture
def tree(tmp_path):
  for k, name in enumerate("abcd"):
    for n in range(2):
      photo(tmp_path / "data" / name / f"{n}.png", 10 * k + n)
  return tmp_path / "data"


def test_each_kind_is_told_without_opening_anything(tree, monkeypatch):
  expected = spoil(tree / "a", monkeypatch)
  found = listing.of(tree / "a")
  assert found.images == ["0.png", "1.png"] and found.folders == []
  assert found.others.keys() == expected.keys()
  assert all(found.others[name].startswith(what) for name, what in expected.items())
  assert all("\n" not in line for line in listing.said(found.others))
  assert f"7 entries left out, each {LOOP}, such as circle" in listing.said(found.others)


def test_folders_that_may_not_be_read_are_left_out(tree, monkeypatch):
  # The user root may read every folder.
  monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("/b"))
  found = listing.of(tree)
  assert found.folders == ["a", "c", "d"] and "permission" in found.others["b"]


def test_a_folder_of_classes(tree, monkeypatch, section):
  before = datasets.load_splits(section("folder", root=str(tree)))
  spoil(tree / "a", monkeypatch)
  (tree / "all").symlink_to(".")
  (tree / "gone").symlink_to("nowhere")
  for name in SYSTEM:
    photo(tree / name / "x" / "SYNO_THUMB.jpg")
    photo(tree / "b" / name / "0.jpg")
  for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
    (tree / name).write_bytes(b"")
  photo(tree / "loose.png")
  photo(tree.parent / "elsewhere" / "e" / "0.png")
  (tree / "linked").symlink_to(tree.parent / "elsewhere" / "e")
  after = datasets.load_splits(section("folder", root=str(tree), train_fraction=0.6))
  # A link to a folder elsewhere is a class.
  assert after["test"].class_names == ("d", "linked")
  assert after["train"].class_names == ("a", "b", "c")
  assert after["train"].ids[:4] == before["train"].ids
  said = " | ".join(after["train"].left_out)
  assert "1 image left out, beside the class folders, such as loose.png" in said
  assert "7 entries left out, each a link that leads nowhere, such as a/circle" in said
  assert "1 entry left out, a link to a folder that it lies in, such as all" in said
  assert not any(name in said for name in (*SYSTEM, "Thumbs"))


@pytest.mark.parametrize("name", ["dead.jpg", "loop.jpg", "pipe.jpg", "null.jpg", "through.jpg"])
def test_a_listed_image_that_is_no_file_is_missing(tree, monkeypatch, section, one_line, name):
  spoil(tree / "a", monkeypatch)
  rows = [f"{k}/{n}.png,{k}" for k in "abcd" for n in (0, 1)]
  (tree / "m.csv").write_text("\n".join(["path,class", *rows, f"a/{name},a"]) + "\n")
  one_line(section("manifest", manifest=str(tree / "m.csv")), "is listed but (missing|a link)")
  data = section("manifest", manifest=str(tree / "m.csv"), expect_counts=False)
  assert len(datasets.load_splits(data)["train"]) == 4


def test_cars_in_folders_and_products_of_a_list(trees, tmp_path, monkeypatch, section):
  cars = trees.cars_folders(tmp_path / "cars")
  data = section("cars", root=str(cars), expect_counts=False)
  before = datasets.load_splits(data)["train"].ids
  spoil(next((cars / "train").iterdir()), monkeypatch)
  (cars / "train" / "circle").symlink_to("circle")
  photo(cars / "train" / "@eaDir" / "x.jpg")
  assert datasets.load_splits(data)["train"].ids == before
  sop = trees.sop(tmp_path / "sop")
  image = next((sop / "kettle_final").iterdir())
  image.unlink()
  os.mkfifo(image)
  splits = datasets.load_splits(section("sop", root=str(sop), expect_counts=False))
  assert sum(map(len, splits.values())) == 29


def test_a_gallery_of_links(tree, tmp_path, monkeypatch):
  spoil(tree / "a", monkeypatch)
  photo(tmp_path / "elsewhere" / "deep" / "e.png")
  (tmp_path / "elsewhere" / "back").symlink_to(tree)
  (tree / "elsewhere").symlink_to(tmp_path / "elsewhere")
  photo(tree / "@eaDir" / "thumb.jpg")

  class Retriever:
    config = ConfigDict({"data": {}})

    def embed_readable(self, images):
      count = len(list(images))
      return np.zeros((count, 3), np.float32), np.arange(count), {}

  paths, vectors = export._embedded(Retriever(), str(tree))
  inner = [f"{k}/{n}.png" for k in "abcd" for n in (0, 1)]
  assert paths == [*inner, "elsewhere/deep/e.png"] and vectors.shape == (9, 3)


def test_what_cannot_be_listed_is_one_line(tmp_path):
  with pytest.raises(UserError, match="cannot be listed: No such file"):
    listing.of(tmp_path / "none")
  assert listing.files_in(tmp_path / "none") == []
