"""Reading and cropping against Pillow's own operations and constructed images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lafg_jax.data import images

RNG = np.random.default_rng


def gradient(width, height):
  """Every pixel tells where it is: red grows to the right, green downwards."""
  y, x = np.mgrid[:height, :width]
  blue = 128 + 100 * np.sin(x / 5 + y / 3)
  red, green = x * 255 // max(1, width - 1), y * 255 // max(1, height - 1)
  return np.stack([red, green, blue], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"])
def test_modes_become_rgb(tmp_path, mode):
  path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
  image = Image.fromarray(gradient(32, 20)).convert(mode)
  image.save(path)
  got = images.read_image(path)
  assert got.dtype == np.uint8 and got.shape == (20, 32, 3)
  np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
  Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
  got = images.read_image(tmp_path / "a.jpg").astype(int)
  assert np.abs(got - [200, 40, 90]).max() <= 6


def test_palette_with_transparency(tmp_path):
  colours = Image.new("RGB", (8, 8), (10, 200, 30)).convert("P")
  colours.save(tmp_path / "a.png", transparency=bytes([0] * 256))
  expected = np.asarray(colours.convert("RGB"))
  np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), expected)


def test_16_bit_greyscale_is_scaled_not_clipped(tmp_path):
  values = np.array([[0, 256, 32768, 65535]], np.uint16)
  Image.fromarray(values).save(tmp_path / "a.png")
  got = images.read_image(tmp_path / "a.png")
  np.testing.assert_array_equal(got[0], np.repeat([[0], [1], [128], [255]], 3, axis=1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
  upright = gradient(24, 16)
  # How the camera stored the upright image, for each orientation tag of the EXIF standard.
  stored = {
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.transpose(1, 0, 2),
    6: np.rot90(upright),
    7: upright[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(upright, -1),
  }[orientation]
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
  np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), upright)


def _jpeg(path, **kwargs):
  Image.fromarray(RNG(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path, "JPEG", **kwargs)
  return path.read_bytes()


def test_damaged_files_are_unreadable_and_named(tmp_path, monkeypatch):
  whole = _jpeg(tmp_path / "whole.jpg")
  Image.fromarray(gradient(64, 64)).save(tmp_path / "whole.png")
  png = bytearray((tmp_path / "whole.png").read_bytes())
  png[60:80] = bytes(20)
  contents = {
    "empty.jpg": b"",
    "text.jpg": b"<html>404 not found</html>",
    "truncated.jpg": whole[: len(whole) // 2],
    "header_only.jpg": whole[:30],
    "chunk.png": bytes(png),
  }
  for name, content in contents.items():
    (tmp_path / name).write_bytes(content)
  (tmp_path / "folder.jpg").mkdir()
  for name in [*contents, "folder.jpg", "missing.jpg"]:
    with pytest.raises(images.UnreadableImage, match=name):
      images.read_image(tmp_path / name)
  assert images.read_image(tmp_path / "whole.jpg").shape == (64, 64, 3)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with pytest.raises(images.UnreadableImage, match="whole.jpg"):
    images.read_image(tmp_path / "whole.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_with_flipped_bytes_is_read_or_unreadable(tmp_path_factory, data):
  path = tmp_path_factory.mktemp("bytes") / "a.jpg"
  exif = Image.Exif()
  exif[0x0112] = 6
  content = bytearray(_jpeg(path, exif=exif))
  for _ in range(data.draw(st.integers(1, 8))):
    position = data.draw(st.integers(0, min(300, len(content) - 1)))
    content[position] = data.draw(st.integers(0, 255))
  path.write_bytes(bytes(content))
  try:
    got = images.read_image(path)
  except images.UnreadableImage as error:
    assert str(path) in str(error)
  else:
    assert got.dtype == np.uint8 and got.ndim == 3 and got.shape[2] == 3


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (64, 64), (257, 191), (500, 30)])
def test_resize_centre_crop_equals_resize_then_crop(size):
  img = Image.fromarray(gradient(*size))
  scale = 40 / min(size)
  resized = img.resize((int(size[0] * scale + 1e-9), int(size[1] * scale + 1e-9)), Image.BICUBIC)
  left, top = (resized.width - 32) // 2, (resized.height - 32) // 2
  expected = np.asarray(resized.crop((left, top, left + 32, top + 32))).astype(int)
  got = images.resize_centre_crop(img, 40, 32)
  assert got.shape == (32, 32, 3) and got.dtype == np.uint8
  # Pillow rounds to 8 bits between its two passes, and orders them by the size of the output.
  assert np.abs(got - expected).max() <= 2


def test_resize_random_crop_is_some_crop_of_the_resized_image():
  img = Image.fromarray(RNG(1).integers(0, 255, (50, 80, 3), np.uint8))
  resized = np.asarray(img.resize((64, 40), Image.BICUBIC)).astype(int)
  offsets = set()
  for seed in range(20):
    got = images.resize_random_crop(img, RNG(seed), 40, 32)
    distance = {
      (x, y): np.abs(resized[y : y + 32, x : x + 32] - got).max()
      for y in range(9)
      for x in range(33)
    }
    best = min(distance, key=lambda offset: distance[offset])
    assert distance[best] <= 2
    offsets.add(best)
  assert len({x for x, _ in offsets}) > 5 and len({y for _, y in offsets}) > 3


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_random_box_is_inside_with_allowed_area_and_ratio(width, height, seed):
  scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
  x, y, w, h = images._random_box(width, height, RNG(seed), scale, ratio)
  assert 0 <= x and 0 <= y and 0 < w and 0 < h and x + w <= width and y + h <= height
  # Sides are rounded to whole pixels: half a pixel either way.
  assert (w - 0.5) / (h + 0.5) <= 4 / 3 + 1e-9 and (w + 0.5) / (h - 0.5) >= 3 / 4 - 1e-9
  if 3 / 4 <= width / height <= 4 / 3:
    assert (w + 0.5) * (h + 0.5) >= 0.2 * width * height


def test_random_box_matches_torchvisions_distribution():
  boxes = np.array(
    [images._random_box(400, 400, RNG(seed), (0.2, 0.5), (3 / 4, 4 / 3)) for seed in range(4000)]
  )
  x, y, w, h = boxes.T
  area = w * h / 400**2
  assert abs(area.mean() - 0.35) < 0.005 and area.min() > 0.19 and area.max() < 0.51
  assert abs(np.log(w / h).mean()) < 0.01
  # Log-uniform between -log(4/3) and log(4/3): the standard deviation is the half width / sqrt(3).
  assert abs(np.log(w / h).std() - np.log(4 / 3) / np.sqrt(3)) < 0.005
  assert abs((x / (400 - w)).mean() - 0.5) < 0.02 and abs((y / (400 - h)).mean() - 0.5) < 0.02


@pytest.mark.parametrize(
  ("size", "expected"), [((1000, 10), (493, 0, 13, 10)), ((10, 1000), (0, 493, 10, 13))]
)
def test_random_box_falls_back_to_the_centre(size, expected):
  assert images._random_box(*size, RNG(0), (0.9, 1.0), (3 / 4, 4 / 3)) == expected


def test_random_resized_crop_equals_pillows_crop_then_resize_inside():
  img = Image.fromarray(RNG(2).integers(0, 255, (120, 160, 3), np.uint8))
  for seed in range(10):
    x, y, w, h = images._random_box(160, 120, RNG(seed), (0.3, 1.0), (3 / 4, 4 / 3))
    expected = np.asarray(img.crop((x, y, x + w, y + h)).resize((32, 32), Image.BICUBIC))
    got = images.random_resized_crop(img, RNG(seed), 32, (0.3, 1.0), (3 / 4, 4 / 3))
    assert got.shape == (32, 32, 3) and got.dtype == np.uint8
    # At the rim the filter sees what is outside of the crop.
    assert np.abs(got[3:-3, 3:-3].astype(int) - expected[3:-3, 3:-3]).max() <= 2


def test_arrays_and_pillow_images_give_the_same():
  array = gradient(70, 50)
  img = Image.fromarray(array)
  for crop in (
    lambda x: images.random_resized_crop(x, RNG(3), 24),
    lambda x: images.resize_random_crop(x, RNG(3), 30, 24),
    lambda x: images.resize_centre_crop(x, 30, 24),
  ):
    np.testing.assert_array_equal(crop(array), crop(img))


def test_flip_mirrors_about_half():
  array = gradient(8, 6)
  flipped = 0
  for seed in range(400):
    got = images.flip(array, RNG(seed))
    mirrored = np.array_equal(got, np.fliplr(array))
    assert mirrored or np.array_equal(got, array)
    flipped += mirrored
  assert 160 < flipped < 240


def targetpad(img, size):
  """Padding, resizing and cropping step by step, as CLIP4Cir's preprocessing has them."""
  width, height = img.size
  if max(img.size) / min(img.size) >= 1.25:
    scaled = max(img.size) / 1.25
    across, down = (max(int((scaled - side) / 2), 0) for side in img.size)
    whole = Image.new("RGB", (width + 2 * across, height + 2 * down))
    whole.paste(img, (across, down))
    img = whole
  short = min(img.size)
  img = img.resize((size * img.width // short, size * img.height // short), Image.BICUBIC)
  left, top = (img.width - size) // 2, (img.height - size) // 2
  return np.asarray(img.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("shape", [(200, 400), (400, 200), (100, 120), (64, 64), (90, 333)])
def test_images_that_are_longer_than_a_quarter_more_are_padded(shape):
  # A smooth picture: the one call that crops and resizes rounds at its edges alone.
  y, x = np.mgrid[: shape[0], : shape[1]]
  picture = np.stack([x % 251, y % 241, (x + y) % 239], axis=2).astype(np.uint8)
  picture[::7] = 255
  img = Image.fromarray(picture)
  for source in (img, picture):
    found = images.resize_centre_crop(source, 64, 64, pad="target")
    difference = np.abs(found.astype(int) - targetpad(img, 64))
    assert difference.mean() < 0.5 and np.median(difference) == 0


def test_the_documents_example_of_padding():
  wide = images.padded(Image.new("RGB", (400, 200), (9, 9, 9)))
  assert wide.size == (400, 320)
  assert np.asarray(wide)[:60].max() == 0 and np.asarray(wide)[60:260].min() == 9
  tall = images.padded(np.full((401, 200, 3), 9, np.uint8))
  assert tall.size == (200 + 2 * int((401 / 1.25 - 200) / 2), 401)
  almost = Image.new("RGB", (124, 100))
  assert images.padded(almost) is almost
  assert images.padded(Image.new("RGB", (125, 100))).size == (125, 100)


def test_an_image_that_was_shrunk_is_padded_in_the_sizes_of_the_original():
  img = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 400, 3), np.uint8))
  small = images.Shrunk(np.asarray(img.resize((100, 50))), 400, 200)
  found = images.padded(small)
  assert (found.width, found.height) == (400, 320) and found.pixels.shape == (80, 100, 3)
  crop = images.resize_centre_crop(small, 32, 32, pad="target")
  assert crop.shape == (32, 32, 3) and crop[:5].max() == 0 and crop[8:24].mean() > 60
