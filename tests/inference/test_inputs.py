"""What people hand to a retriever: every form of one picture, and vectors, and what is neither."""

import io
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import lafg_jax
from lafg_jax.inference import inputs
from lafg_jax.utils.errors import UserError

RNG = np.random.default_rng(0)
# Steps of 1/255 and equal colours where a form is grey: every form holds the same picture.
GREY = RNG.integers(0, 256, (20, 26), dtype=np.uint8)
RGB = np.repeat(GREY[..., None], 3, axis=2)
OPAQUE = np.dstack([RGB, np.full_like(GREY, 255)])


@pytest.fixture(scope="module")
def retriever(trained_run):
  return lafg_jax.load_retriever(trained_run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """A folder of four pictures at two depths, with what is not listed beside them."""
  folder = tmp_path_factory.mktemp("my photos")
  (folder / "b").mkdir()
  for name in ("z.png", "a [1].png", "b/c.PNG", "b/ä.png"):
    pixels = RNG.integers(0, 256, (20, 26, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name, "PNG")
  (folder / ".hidden.png").write_bytes(b"")
  (folder / "notes.txt").write_text("words")
  (folder / "b/loop").symlink_to(folder)
  Image.fromarray(GREY).save(folder.parent / "one.png")
  return folder


def encoded(mode="RGB", **options):
  buffer = io.BytesIO()
  Image.fromarray(RGB).convert(mode).save(buffer, "PNG", **options)
  return buffer


class Reads:
  """An open file that cannot seek."""

  def read(self):
    return encoded().getvalue()


class Sequence:
  """Neither a list nor iterable, but with a length and rows."""

  def __len__(self):
    return 2

  def __getitem__(self, row):
    return [RGB, GREY][row]


ONE = {
  "bytes": lambda path: path.read_bytes(),
  "bytearray": lambda path: bytearray(path.read_bytes()),
  "memoryview": lambda path: memoryview(path.read_bytes()),
  "str": str,
  "Path": lambda path: path,
  "np.str_": lambda path: np.str_(path),
  "URL": lambda path: path.as_uri(),
  "tilde": lambda path: f"~/{path.name}",
  "open file": lambda path: open(path, "rb"),
  # At its end, as after saving into it.
  "buffer": lambda path: encoded(),
  "stream": lambda path: Reads(),
  "PIL RGB": lambda path: Image.fromarray(RGB),
  "PIL L": lambda path: Image.fromarray(GREY),
  "PIL RGBA": lambda path: Image.fromarray(OPAQUE),
  "PIL P": lambda path: Image.fromarray(GREY).convert("P"),
  "PIL I;16": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257),
  "PIL file": Image.open,
  "[H, W]": lambda path: GREY,
  "[H, W, 1]": lambda path: GREY[..., None],
  "[H, W, 3]": lambda path: RGB,
  "[H, W, 4]": lambda path: OPAQUE,
  "float [H, W]": lambda path: GREY / 255,
  "float32": lambda path: np.float32(RGB) / 255,
  "[1, H, W, 3]": lambda path: RGB[None],
  "[1, H, W, 1]": lambda path: GREY[None, ..., None],
  "strided": lambda path: np.asfortranarray(RGB),
  "jax": lambda path: jnp.asarray(RGB),
  "jax float": lambda path: jnp.asarray(OPAQUE) / 255,
  "list": lambda path: [path],
  "tuple": lambda path: (GREY,),
  "generator": lambda path: (x for x in [path]),
  "generator of batches": lambda path: (x for x in [RGB[None]]),
  "paths of an npz": lambda path: np.array([str(path)]),
  "object array": lambda path: np.array([path, None], dtype=object)[:1],
  "bytes of HDF5": lambda path: np.array([os.fsencode(path)]),
}


@pytest.mark.parametrize("form", ONE)
def test_one_picture_in_any_form_is_the_same(retriever, photos, form, monkeypatch):
  monkeypatch.setenv("HOME", str(photos.parent))
  path = photos.parent / "one.png"
  vector = retriever.embed([RGB])
  got = retriever.embed(ONE[form](path))
  assert got.shape == (1, 16) and got.dtype == np.float32
  np.testing.assert_allclose(got, vector, atol=1e-6)
  # [H, W] of floats are vectors to `search`, which says how a grey image goes in.
  if form == "float [H, W]":
    with pytest.raises(UserError, match=r"\(20, 26\), and .* \[n, 16\]; a grey .* \[H, W, 1\]"):
      retriever.search(ONE[form](path), vector)
  else:
    scores, rows = retriever.search(ONE[form](path), np.concatenate([-vector, vector]), k=1)
    assert rows.tolist() == [[1]] and scores[0, 0] == pytest.approx(1, abs=1e-5)


def test_torch_tensors(retriever):
  torch = pytest.importorskip("torch")
  np.testing.assert_array_equal(retriever.embed(torch.from_numpy(RGB)), retriever.embed(RGB))
  with pytest.raises(UserError, match="a Tensor does not become a NumPy array: .*detach"):
    retriever.embed(torch.zeros(20, 20, 3, requires_grad=True))
  with pytest.raises(UserError, match=r"uint8 \(3, 20, 26\): colours come last"):
    retriever.embed(torch.from_numpy(RGB).permute(2, 0, 1))


def test_pillow_images_stay_as_they_were_and_are_turned_as_files_are(retriever):
  exif = Image.Exif()
  exif[0x0112] = 6
  buffer = encoded(exif=exif)
  image = Image.open(buffer)
  got = retriever.embed(image)
  np.testing.assert_array_equal(got, retriever.embed(buffer.getvalue()))
  np.testing.assert_allclose(got, retriever.embed(np.rot90(RGB, -1)), atol=1e-6)
  assert image.size == (26, 20) and image.getexif()[0x0112] == 6


def test_a_folder_is_its_sorted_images(retriever, photos):
  names = ["a [1].png", "b/c.PNG", "b/ä.png", "z.png"]
  paths = lafg_jax.list_images(photos)
  assert paths == [f"{photos}/{name}" for name in names]
  want = retriever.embed(paths)
  for folder in (photos, f"{photos}/", photos.as_uri()):
    np.testing.assert_array_equal(retriever.embed(folder), want)
  # A gallery may be a folder or paths; queries come in any form.
  galleries = [want, photos, paths, (x for x in paths), jnp.asarray(want)]
  one = want[2]
  queries = [
    *(paths[2], one, one[None], one.tolist(), [one], [one[None]], [one.tolist()], iter([one])),
    *(jnp.asarray(one), one.astype(np.float16), 7 * one.astype(np.float64)),
  ]
  pairs = itertools.chain(((one, g) for g in galleries), ((q, want) for q in queries))
  for query, gallery in pairs:
    scores, rows = retriever.search(query, gallery, k=3)
    assert rows.shape == scores.shape == (1, 3) and rows[0, 0] == 2
    assert scores[0, 0] == pytest.approx(1, abs=2e-3)
  by_hand = np.argsort(-(want @ want.T), axis=1, kind="stable")
  np.testing.assert_array_equal(retriever.search([want[:2], want[2:]], photos, 4)[1], by_hand)


def test_an_iterator_is_read_as_it_is_embedded(retriever):
  taken = itertools.count()
  most = []

  def images():
    for _ in range(9):
      next(taken)
      yield RGB

  original = retriever.embed_batch

  def watched(pixels):
    most.append((len(pixels), next(taken)))
    return original(pixels)

  seen = lafg_jax.Retriever(**{f: getattr(retriever, f) for f in retriever.__dataclass_fields__}
                            | {"embed_batch": watched})  # fmt: skip
  assert seen.embed(images(), batch_size=4).shape == (9, 16)
  # `taken` has counted each image, one batch ahead, and one for each batch before.
  assert most == [(4, 8), (4, 10), (4, 11)]
  # Few programs for any number of images.
  most.clear()
  for count in (1, 2, 3, 5, 7, 8):
    seen.embed([RGB] * count, batch_size=16)
  assert [size for size, _ in most] == [1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_what_cannot_be_read_is_left_out_where_that_is_asked_for(retriever, photos, batch_size):
  # Batches of 2: one with a fault, one of faults alone, and whole ones after them.
  given = [photos / "z.png", b"no image", b"", photos / "none.png", RGB, *[encoded()] * 3]
  vectors, rows, reasons = retriever.embed_readable(iter(given), batch_size)
  assert rows.tolist() == [0, 4, 5, 6, 7] and list(reasons) == [1, 2, 3]
  assert str(photos / "none.png") in reasons[3]
  expected = retriever.embed([photos / "z.png", *[RGB] * 4])
  np.testing.assert_allclose(vectors, expected, atol=1e-6)
  vectors, rows, reasons = retriever.embed_readable([b"", b"no image"], batch_size)
  assert vectors.shape == (0, 16) and not len(rows) and list(reasons) == [0, 1]
  with pytest.raises(UserError, match="image 1 is a dict"):
    retriever.embed_readable([RGB, {}], batch_size)


def test_nothing_and_several_in_one(retriever):
  for empty in ([], (), iter(()), np.zeros((0, 20, 26, 3), np.uint8), np.array([])):
    assert retriever.embed(empty).shape == (0, 16)
  vector = retriever.embed(RGB)
  for empty in ([], np.zeros((0, 16), np.float32)):
    assert retriever.search(empty, vector, 3)[1].shape == (0, 3)
    assert retriever.attributes(empty) == []
    with pytest.raises(UserError, match="the gallery is empty"):
      retriever.search(vector, empty)
  several = retriever.embed([np.stack([RGB, RGB]), GREY, Image.fromarray(GREY), encoded()])
  np.testing.assert_allclose(several, np.repeat(vector, 5, axis=0), atol=1e-6)
  np.testing.assert_allclose(retriever.embed(Sequence()), several[:2], atol=1e-6)


def test_attributes_take_what_search_takes(retriever):
  vector = retriever.embed(RGB)
  want = retriever.attributes(vector, k=2)
  for form in (RGB, [GREY], vector[0], vector[0].tolist(), Image.fromarray(RGB), encoded()):
    (got,) = retriever.attributes(form, k=2)
    assert [(x.row, x.sentences) for x in got] == [(x.row, x.sentences) for x in want[0]]


def test_boxes_go_with_any_form(retriever):
  cut = retriever.embed(RGB[2:18, 3:23])
  box = [3, 2, 23, 18]
  for images, boxes in ((RGB, box), (encoded(), [box]), ([GREY], [box]), (iter([RGB]), [box])):
    np.testing.assert_allclose(retriever.embed(images, boxes=boxes), cut, atol=1e-6)
  for images, boxes, says in (
    ([RGB], box, r"\(4,\); embed takes four finite numbers for each of 1"),
    (iter([RGB]), [box] * 2, "there are fewer images"),
    (iter([RGB, RGB]), [box], "there are more images"),
    (RGB, "box", "no array of numbers"),
    (RGB, [0.1, 0.1, 0.5, 0.9], r"the box \(0.1, 0.1, 0.5, 0.9\) is a fraction of the image"),
  ):
    with pytest.raises(UserError, match=says):
      retriever.embed(images, boxes=boxes)


LISTED = "embed takes a path, the bytes or an open file"
NOT_IMAGES = {
  "None": (None, f"a NoneType; {LISTED}"),
  "number": (3.5, f"a float; {LISTED}"),
  "dict": ({"image": RGB}, f"a dict; {LISTED}"),
  "set": ({"a.png", "b.png"}, f"a set; {LISTED}"),
  "None in a list": ([RGB, None], f"image 1 is a NoneType; {LISTED}"),
  "list in a list": ([["a.png"]], f"image 0 is a list; {LISTED}"),
  "empty path": ("", "a path is empty"),
  "missing": ("no/such.png", "no/such.png"),
  "pattern": ("no/*.png", "patterns are not expanded"),
  "URL": ("https://example.org/a.png", "download it first"),
  "text file": (io.StringIO("x"), "mode 'rb'"),
  "empty bytes": (b"", "cannot read image of 0 bytes"),
  "no image": (b"no image", "cannot read image of 8 bytes"),
  "integers": (RGB.astype(np.int64), rf"int64 \(20, 26, 3\): {LISTED}"),
  "vector": (np.zeros(16), rf"float64 \(16,\): {LISTED}"),
  "two channels": (RGB[..., :2], r"uint8 \(20, 26, 2\)"),
  "grey batch": (RGB.transpose(1, 2, 0)[:, :2], r"is \[B, H, W, 1\]|colours come last"),
  "no pixels": (RGB[:0], r"uint8 \(0, 26, 3\)"),
  "no pixels in a batch": (RGB[None, :0], r"uint8 \(1, 0, 26, 3\)"),
  "0 to 255": (RGB.astype(np.float32), "floats are from 0 to 255, .*divide by 255"),
  "normalised": (RGB / 100 - 1, r"floats are from -1 to 1\.55"),
  "NaN": (np.full((4, 4, 3), np.nan), "floats are not finite"),
}


@pytest.mark.parametrize("what", NOT_IMAGES)
def test_anything_else_is_one_line(retriever, what):
  given, says = NOT_IMAGES[what]
  with pytest.raises(UserError, match=says) as error:
    retriever.embed(given)
  assert "\n" not in str(error.value)


def test_more_that_is_one_line(retriever, photos, tmp_path):
  vector = retriever.embed(RGB)
  closed = open(photos / "z.png", "rb")
  closed.close()
  traced = jax.jit(lambda x: retriever.embed(x))
  (tmp_path / "torn.png").write_bytes((photos / "z.png").read_bytes()[:90])
  torn = Image.open(tmp_path / "torn.png")
  for call, says in (
    (lambda: retriever.embed(closed), "cannot be read: .*closed"),
    (lambda: retriever.embed([photos]), r"image 0 is a folder.* list_images\(folder\)"),
    (lambda: retriever.embed(torn), "cannot read .*image of mode RGB"),
    (lambda: traced(RGB), "does not become a NumPy array"),
    (lambda: lafg_jax.list_images(photos / "z.png"), "is not a folder"),
    (lambda: lafg_jax.list_images(tmp_path / "none"), "is not a folder"),
    (lambda: retriever.search("a red bird", vector), "no file a red bird, and words are no image"),
    (lambda: retriever.embed(RGB, batch_size=0), "batch_size is 0"),
    (lambda: retriever.search(vector, vector, k=0), "k is 0"),
    (lambda: retriever.search(vector, vector, k=2.5), "k is 2.5"),
    (lambda: retriever.search(vector, vector, k=True), "k is True"),
    (lambda: retriever.attributes(vector, k="3"), "k is '3'"),
    (
      lambda: retriever.search(vector[:, :5], vector),
      r"queries: vectors are \(1, 5\), .*\[n, 16\]",
    ),
    (lambda: retriever.search(vector, vector[0, :5]), r"gallery: vectors are \(1, 5\)"),
    (lambda: retriever.search([0.5, 0.5], vector), r"queries: vectors are \(1, 2\)"),
    (lambda: retriever.search([vector[0], vector[0, :5]], vector), "of 5, 16 numbers"),
    (lambda: retriever.search([vector[0], RGB], vector), "images and vectors are mixed"),
    (lambda: retriever.search(vector, np.nan * vector), "gallery: a vector has zero length or"),
    (lambda: retriever.search(0 * vector, vector), "queries: a vector has zero length or"),
    (lambda: retriever.attributes(np.inf * vector), "images: a vector has zero length or"),
  ):
    with pytest.raises(UserError, match=says) as error:
      call()
    assert "\n" not in str(error.value)
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="empty holds no image, at any depth"):
    retriever.embed(tmp_path / "empty")


def test_unit_vectors_keep_their_bits_and_others_become_unit():
  rng = np.random.default_rng(1)
  x = rng.standard_normal((50, 16))
  x = np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
  assert inputs.vectors(x, 16, "x")[0] is x
  for scaled in (3 * x, 1e-3 * x.astype(np.float64), x.astype(np.float16), jnp.bfloat16(x)):
    got = inputs.vectors(scaled, 16, "x")[0]
    want = np.asarray(scaled, np.float64)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6)
