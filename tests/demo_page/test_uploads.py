"""What the demo takes as an upload, and how it refuses the rest."""

import importlib.util
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafg_jax.data import images
from lafg_jax.demo_page import uploads
from lafg_jax.utils.errors import UserError

HOSTILE = Path(__file__).resolve().parents[1] / "gallery/hostile.py"


def encoded(kind, size=(40, 30), **more):
  buffer = io.BytesIO()
  rng = np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(buffer, kind, **more)
  return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_an_image_is_what_everybody_else_reads(kind):
  content = encoded(kind)
  found = uploads.checked(content, uploads.Limits())
  np.testing.assert_array_equal(np.asarray(found), images.read_image(content))


def bomb(width, height):
  """A PNG whose header tells of more pixels than its data has."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  pixels = zlib.compress(bytes(1000))
  parts = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b"", "no image that can be read"),
    (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "no image that can be read"),
    (b"%PDF-1.7 and more", "no image that can be read"),
    (encoded("JPEG")[:300], "no image that can be read"),
    (bytes(2_000_001), "2,000,001 bytes, and 2,000,000 are allowed"),
    (bomb(3000, 2000), "3,000 x 2,000 pixels, and 1,000,000 in all are allowed"),
    (bomb(60_000, 60_000), "no image that can be read: Image size"),
  ],
)
def test_what_is_none_is_refused_in_one_line(content, said):
  with pytest.raises(UserError, match=said) as error:
    uploads.checked(content, uploads.Limits(2_000_000, 1_000_000))
  assert "\n" not in str(error.value) and "0x" not in str(error.value)


@pytest.mark.skipif(not HOSTILE.exists(), reason="tests/gallery/hostile.py is not there")
def test_every_hostile_file_is_refused(tmp_path):
  spec = importlib.util.spec_from_file_location("hostile", HOSTILE)
  hostile = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(hostile)
  found = hostile.uploads(tmp_path)
  assert len(found) > 20
  for path in found:
    with pytest.raises(UserError) as error:
      uploads.checked(Path(path).read_bytes(), uploads.Limits())
    assert "\n" not in str(error.value)
