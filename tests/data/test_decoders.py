"""Decoding for a crop against Pillow's whole decoding, on sound and on damaged files."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lafg_jax.data import decoders, images


def photograph(width, height, seed=0):
  """Smooth, as photographs mostly are, with some edges."""
  rng = np.random.default_rng(seed)
  coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8))
  pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
  pixels[height // 3 : height // 2, width // 4 : width // 2] //= 2
  return Image.fromarray(pixels)


def jpeg(img, **options):
  buffer = io.BytesIO()
  img.save(buffer, "JPEG", **({"quality": 90} | options))
  return buffer.getvalue()


def pixels_of(source):
  return np.asarray(source if isinstance(source, Image.Image) else source.decode())


@pytest.mark.parametrize(
  "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_whole_jpeg_has_pillows_pixels(options, mode):
  content = jpeg(photograph(101, 67).convert(mode), **options)
  got = decoders.opener(scaled=True)(content)
  assert isinstance(got, decoders.Jpeg) and (got.width, got.height) == (101, 67)
  expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
  np.testing.assert_array_equal(pixels_of(got), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_whole_or_reduced(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  content = jpeg(photograph(96, 64), exif=exif)
  source = decoders.opener(scaled=True)(content)
  upright = images.open_image(content)
  assert (source.width, source.height) == upright.size
  np.testing.assert_array_equal(pixels_of(source), np.asarray(upright))
  for factor in (2, 4):
    small = upright.reduce(factor)
    got = source.decode(factor)
    assert got.size == small.size
    assert np.abs(np.asarray(got).astype(int) - np.asarray(small)).mean() < 3


@pytest.mark.parametrize("size", [(512, 400), (403, 517), (1023, 769)])
def test_crops_of_reduced_images_are_those_of_whole_ones_nearly(size):
  content = jpeg(photograph(*size))
  whole = Image.open(io.BytesIO(content)).convert("RGB")
  scaled, full = (decoders.opener(flag)(content) for flag in (True, False))
  changed = 0
  for seed in range(12):
    crop = lambda img, seed=seed: images.random_resized_crop(  # noqa: E731
      img, np.random.default_rng(seed), 48
    )
    expected = crop(whole).astype(int)
    np.testing.assert_array_equal(crop(full), expected)
    difference = np.abs(crop(scaled) - expected)
    assert difference.mean() < 1.0 and difference.max() <= 40
    changed += difference.any()
  assert changed > 6, "most crops of such sizes are shrunk by more than 2"
  centre = np.abs(
    images.resize_centre_crop(scaled, 50, 48) - images.resize_centre_crop(whole, 50, 48).astype(int)
  )
  assert 0 < centre.mean() < 1.0


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(8, 512), st.integers(1, 8))
def test_a_crop_is_never_reduced_below_its_size(width, height, size, turn):
  source = decoders.Jpeg(b"", b"", (width, height), turn)
  factor = source.factor(width, height, size)
  assert factor in (1, 2, 4, 8)
  if factor > 1:
    assert min(width, height) / factor >= size
  elif turn == 1:
    assert min(width, height) / 2 < size


def test_what_is_no_plain_jpeg_is_opened_whole(tmp_path):
  open_ = decoders.opener(scaled=True)
  Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
  (tmp_path / "cmyk.jpg").write_bytes(jpeg(photograph(40, 30).convert("CMYK")))
  photograph(40, 30).convert("P").save(tmp_path / "a.gif")
  for path in tmp_path.iterdir():
    got = open_(str(path))
    assert isinstance(got, Image.Image)
    np.testing.assert_array_equal(np.asarray(got), images.read_image(path))
  whole = jpeg(photograph(64, 64))
  for content in (b"", b"<html>", whole[: len(whole) // 2], whole[:30]):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(images.UnreadableImage, match=r"bad\.jpg"):
      pixels_of(open_(str(path)))
  with pytest.raises(images.UnreadableImage, match=r"none\.jpg"):
    open_(str(tmp_path / "none.jpg"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_files_are_read_or_refused_alike(changes):
  content = bytearray(jpeg(photograph(48, 40)))
  for position, value in changes:
    content[position % len(content)] = value
  results = []
  for scaled in (False, True):
    try:
      results.append(pixels_of(decoders.opener(scaled)(bytes(content))))
    except images.UnreadableImage:
      results.append(None)
  if results[0] is None or results[1] is None:
    assert results[0] is results[1]
  else:
    np.testing.assert_array_equal(*results)
