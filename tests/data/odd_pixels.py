"""More or fewer than 8 bits, and transparency; see `odd_files`."""

import struct

import numpy as np
from PIL import Image

from tests.data.odd_files import (
  ALPHA,
  GREY,
  PICTURE,
  case,
  chunk,
  content,
  on_ground,
  png,
  rgb,
  saved,
  tiff,
)

for name, values in {
  "unit.tif": (GREY / 255).astype(np.float32),
  "bytes_as_floats.tif": GREY.astype(np.float32),
  "shorts_as_floats.tif": GREY.astype(np.float32) * 257,
  "bytes_in_32.tif": GREY.astype(np.int32),
  "bytes_in_16.tif": GREY.astype(np.uint16),
  "10_in_16.tif": GREY.astype(np.uint16) * 4,
  "12_in_16.tif": GREY.astype(np.uint16) * 16,
  "12_in_16.png": GREY.astype(np.uint16) * 16,
  "14_in_16.tif": GREY.astype(np.uint16) * 64,
  "16.tif": GREY.astype(np.uint16) * 257,
  "16.png": GREY.astype(np.uint16) * 257,
  "16.jp2": GREY.astype(np.uint16) * 257,
  "16_in_32.tif": GREY.astype(np.int32) * 257,
  "12.pgm": GREY.astype(np.uint16) * 16,
}.items():
  case(f"deep_{name}", saved(values), rgb(GREY), 1)
for order, word in (("<", "little"), (">", "big")):
  for bits in (12, 16):
    grey16 = GREY.astype(np.uint16) << bits - 8
    case(f"{word}_{bits}.tif", content(lambda o=order, v=grey16: tiff(v, o)), rgb(GREY))
    deep = PICTURE.astype(np.uint16) << bits - 8
    case(f"{word}_{bits}_rgb.tif", content(lambda o=order, v=deep: tiff(v, o, 2)))
    clear = np.dstack([deep, ALPHA.astype(np.uint16) << bits - 8])
    extra = [(338, 3, [2])]
    case(
      f"{word}_{bits}_rgba.tif",
      content(lambda o=order, v=clear, t=extra: tiff(v, o, 2, tags=t)),
      on_ground(PICTURE, ALPHA),
      1,
    )
  case(
    f"{word}_signed.tif",
    content(lambda o=order: tiff(GREY.astype(np.int16) * 100, o, kind=2)),
    rgb((GREY.astype(int) * 100) // 256),
    1,
  )
  case(
    f"{word}_float.tif",
    content(lambda o=order: tiff((GREY / 255).astype(np.float32), o, kind=3)),
    rgb(GREY),
  )
  case(
    f"{word}_white_is_zero.tif",
    content(lambda o=order: tiff((65535 - GREY.astype(np.uint16) * 257), "<", 0)),
    rgb(GREY),
  )
for bits in (12, 16):
  deep = PICTURE.astype(np.uint16) << bits - 8
  grey16 = GREY.astype(np.uint16) << bits - 8
  alpha = ALPHA.astype(np.uint16) << bits - 8
  case(f"rgb_{bits}.png", content(lambda v=deep: png(v, 2, 16)))
  case(
    f"rgba_{bits}.png",
    content(lambda v=deep, a=alpha: png(np.dstack([v, a]), 6, 16)),
    on_ground(PICTURE, ALPHA),
    1,
  )
  case(
    f"la_{bits}.png",
    content(lambda v=grey16, a=alpha: png(np.dstack([v, a]), 4, 16)),
    on_ground(rgb(GREY), ALPHA),
    1,
  )
for name, values in {
  "nan": np.where(GREY > 9, GREY / 255, np.nan).astype(np.float32),
  "infinite": np.where(GREY > 9, GREY / 255, np.inf).astype(np.float32),
  "negative": (GREY / 127.5 - 1).astype(np.float32),
  "negative_ints": GREY.astype(np.int32) - 9,
  "wide": GREY.astype(np.int32) * 2**20,
  "huge": GREY.astype(np.float32) * 1e30,
}.items():
  case(f"refused_{name}.tif", saved(values), None)
for name, values, shown in (
  ("overshoot", GREY / 255 * 1.02, GREY * 0.34),
  ("dim", GREY / 255 / 16, GREY),
  ("mask", (GREY > 99).astype(np.float64), np.where(GREY > 99, 255, 0)),
  ("black", GREY * 0.0, GREY * 0),
):
  case(
    f"floats_{name}.tif", saved(values.astype(np.float32)), rgb(np.rint(shown).astype(np.uint8)), 1
  )
case("mask_in_32.tif", saved((GREY > 99).astype(np.int32)), rgb(np.where(GREY > 99, 255, 0)))
# Transparency.
RGBA = np.dstack([PICTURE, ALPHA])
OPEN = np.repeat([0, 255], 24)[None].repeat(40, 0).astype(np.uint8)
for ending in ("png", "tif", "tga", "webp", "jp2", "qoi", "sgi", "dds"):
  options = {"webp": {"lossless": True, "exact": True}}.get(ending, {})
  case(f"rgba.{ending}", saved(RGBA, **options), on_ground(PICTURE, ALPHA), 1)
case(
  "rgba.ico",
  saved(np.ascontiguousarray(RGBA[:32, :32]), sizes=[(32, 32)]),
  on_ground(PICTURE, ALPHA)[:32, :32],
  1,
)
case("rgba.avif", saved(RGBA, quality=100, subsampling="4:4:4"), on_ground(PICTURE, ALPHA), 14)
case("la.png", saved(np.dstack([GREY, ALPHA])), on_ground(rgb(GREY), ALPHA), 1)
case("la.tif", saved(np.dstack([GREY, ALPHA])), on_ground(rgb(GREY), ALPHA), 1)
case(
  "premultiplied.tif",
  content(
    lambda: tiff(
      np.dstack([np.rint(PICTURE * (ALPHA[..., None] / 255)).astype(np.uint8), ALPHA]),
      photometric=2,
      tags=[(338, 3, [1])],
    )
  ),
  on_ground(PICTURE, ALPHA),
  2,
)
case("unused_alpha.png", saved(np.dstack([PICTURE, ALPHA * 0])))
case("opaque.png", saved(np.dstack([PICTURE, ALPHA * 0 + 255])))
INDEX = np.where(OPEN > 0, GREY, 0).astype(np.uint8)


def palette(**options):
  def write(path):
    img = Image.fromarray(INDEX, mode="P")
    img.putpalette(bytes(np.repeat(np.arange(256), 3).astype(np.uint8)))
    img.save(path, **options)

  return write


SHOWN = on_ground(rgb(INDEX), np.where(INDEX == 0, 0, 255))
case("palette.png", palette(transparency=0), SHOWN)
case("palette_alphas.png", palette(transparency=bytes(range(256))), on_ground(rgb(INDEX), INDEX), 1)
case("palette.gif", palette(transparency=0), SHOWN)
case("palette_opaque.png", palette(), rgb(INDEX))
case("key_l.png", content(lambda: png(INDEX, 0, before=chunk(b"tRNS", b"\0\0"))), SHOWN)
case("key_rgb.png", content(lambda: png(rgb(INDEX), 2, before=chunk(b"tRNS", bytes(6)))), SHOWN)
case(
  "key_16.png",
  content(lambda: png(INDEX.astype(np.uint16) * 257, 0, 16, chunk(b"tRNS", b"\0\0"))),
  SHOWN,
)
case(
  "key_16_rgb.png",
  content(lambda: png(rgb(INDEX).astype(np.uint16) * 257, 2, 16, chunk(b"tRNS", bytes(6)))),
  SHOWN,
)
case(
  "key_16_lower.png",
  content(lambda: png(INDEX.astype(np.uint16) + 65280, 0, 16, chunk(b"tRNS", b"\xff\0"))),
  on_ground(rgb(INDEX * 0 + 255), np.where(INDEX == 0, 0, 255)),
)
case("key_1.png", saved(OPEN > 0, convert="1", transparency=0), on_ground(rgb(OPEN), OPEN))
for bits, step in ((2, 85), (4, 17)):
  few = INDEX // step
  packed = (few.reshape(40, -1, 8 // bits) << np.arange(8 - bits, -1, -bits)).sum(-1)
  key = chunk(b"tRNS", struct.pack(">H", 2**bits - 1))
  case(
    f"key_{bits}.png",
    content(lambda p=packed, b=bits, k=key: png(p, 0, b, k, sides=(40, 48))),
    on_ground(rgb(few * step), np.where(few == 2**bits - 1, 0, 255)),
  )
case("key_beyond.png", content(lambda: png(INDEX, 0, before=chunk(b"tRNS", b"\x7f\x7f"))), ...)
FRAMES = [Image.fromarray(x) for x in (RGBA, RGBA[::-1].copy(), RGBA[:, ::-1].copy())]
for ending in ("png", "webp"):
  options = {"lossless": True, "exact": True} if ending == "webp" else {}
  case(
    f"animated.{ending}",
    saved(FRAMES[0], save_all=True, append_images=FRAMES[1:], **options),
    on_ground(PICTURE, ALPHA),
    1,
  )


def animated_gif(path):
  frames = [Image.fromarray(np.roll(INDEX, k, 0), mode="P") for k in range(3)]
  for frame in frames:
    frame.putpalette(bytes(np.repeat(np.arange(256), 3).astype(np.uint8)))
  frames[0].save(
    path, save_all=True, append_images=frames[1:], transparency=0, disposal=2, optimize=False
  )


case("animated.gif", animated_gif, SHOWN)
for name, value in (("dark", 10), ("white", 255), ("middle", 128)):
  thing = np.full((40, 48, 3), value, np.uint8)
  case(
    f"cut_out_{name}.png",
    saved(np.dstack([thing * (OPEN > 0)[..., None], OPEN])),
    on_ground(thing, OPEN),
  )
