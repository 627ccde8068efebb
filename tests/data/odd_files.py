"""How tests write files as people have them; `odd_formats`, `odd_metadata`, `odd_pixels` list them.

`CASES` maps the name of a file to (write, shown, tolerance). write(path) makes it. shown is uint8
[H, W, 3], the array that was written; None for a file that must be refused; ... for one of which
only the agreement of all readers is asked. tolerance is the largest difference.
"""

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

GROUND = 0xC0
RNG = np.random.default_rng(0)
# Blocks of 8 pixels: what a JPEG loses of them is little.
PICTURE = np.kron(RNG.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
GREY = np.kron(RNG.permutation(np.linspace(0, 255, 30)).reshape(5, 6), np.ones((8, 8)))
GREY = GREY.astype(np.uint8)
# What is seen through at the left, half at the middle, and not at the right.
ALPHA = np.repeat([0, 128, 255], 16)[None].repeat(40, 0).astype(np.uint8)
CASES = {}
# A JPEG of the picture is as near as this; GREY is as colours.
LOSSY = 24


def rgb(grey):
  return np.repeat(np.asarray(grey)[..., None], 3, axis=2)


def on_ground(colours, alpha):
  part = alpha[..., None].astype(float) / 255
  return np.rint(colours * part + GROUND * (1 - part)).astype(np.uint8)


def case(name, write, shown=PICTURE, tolerance=0):
  assert name not in CASES, name
  CASES[name] = write, shown, tolerance


def saved(pixels, mode=None, convert=None, **options):
  """A function that saves an array, or a Pillow image, as options say."""

  def write(path):
    img = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (img.convert(convert) if convert else img).save(path, **options)

  return write


def content(data):
  """A function that writes bytes, or the bytes that data() makes."""
  return lambda path: path.write_bytes(data() if callable(data) else data)


def encoded(pixels=PICTURE, kind="JPEG", **options):
  file = io.BytesIO()
  options = {"quality": 95, "subsampling": 0} | options if kind == "JPEG" else options
  (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(
    file, kind, **options
  )
  return file.getvalue()


def chunk(kind, data, checksum=None):
  crc = zlib.crc32(kind + data) if checksum is None else checksum
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(pixels, colour, bits=8, before=b"", after=b"", sides=None):
  """A PNG of an array [H, W] or [H, W, C] of any depth, written without Pillow."""
  pixels = np.asarray(pixels)
  height, width = sides or pixels.shape[:2]
  head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
  rows = pixels.astype(">u2" if bits == 16 else "u1")
  lines = b"".join(b"\0" + row.tobytes() for row in rows)
  body = chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(lines)) + after
  return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def tiff(pixels, order="<", photometric=1, kind=1, tags=()):
  """An uncompressed TIFF of an array of whole numbers or floats, written without Pillow."""
  pixels = np.asarray(pixels)
  pixels = pixels.astype(pixels.dtype.newbyteorder(order))
  height, width = pixels.shape[:2]
  channels = pixels.shape[2] if pixels.ndim == 3 else 1
  bits = 8 * pixels.dtype.itemsize
  entries, extra = [], b""
  start = 8 + 2 + 12 * (10 + len(tags)) + 4
  values = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [1])]
  values += [(262, 3, [photometric]), (273, 4, None), (277, 3, [channels]), (278, 4, [height])]
  values += [(279, 4, [pixels.nbytes]), (339, 3, [kind] * channels)]
  for tag, of, items in sorted([*values, *tags], key=lambda x: x[0]):
    if items is None:
      entries.append((tag, of, 1, None))
      continue
    code = {2: "s", 3: "H", 4: "I", 9: "i"}[of]
    data = items if of == 2 else struct.pack(f"{order}{len(items)}{code}", *items)
    if len(data) > 4:
      place = struct.pack(order + "I", start + len(extra))
      extra, data = extra + data + b"\0" * (len(data) % 2), place
    entries.append((tag, of, len(items), data.ljust(4, b"\0")))
  at = struct.pack(order + "I", start + len(extra))
  body = b"".join(
    struct.pack(order + "HHI", tag, of, n) + (at if data is None else data)
    for tag, of, n, data in entries
  )
  head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
  return head + body + bytes(4) + extra + pixels.tobytes()


def exif(*entries, extra=b"", order="<"):
  """A block of (tag, type, count, 4 bytes of value) entries."""
  body = b"".join(struct.pack(order + "HHI", *x[:3]) + x[3] for x in entries)
  head = b"Exif\0\0" + (b"II*\0" if order == "<" else b"MM\0*")
  return head + struct.pack(order + "IH", 8, len(entries)) + body + bytes(4) + extra


def stored(turn, upright=PICTURE):
  """How a camera stores an upright picture, for each orientation of the EXIF standard."""
  how = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
  }
  return np.ascontiguousarray(how[turn](upright))


def segment(marker, data):
  return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(*segments, pixels=PICTURE, **options):
  """A JPEG with these segments after its first two bytes."""
  data = encoded(pixels, **options)
  return data[:2] + b"".join(segments) + data[2:]


def after_jfif(*segments, **options):
  data = encoded(**options)
  return data[:20] + b"".join(segments) + data[20:]


def link(to):
  return lambda path: os.symlink(to, path)
