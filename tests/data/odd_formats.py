"""All formats that Pillow reads and writes, and what is no picture; see `odd_files`."""

import os
import struct

import numpy as np
import PIL
from PIL import Image, ImageCms

from tests.data.odd_files import (
  GREY,
  LOSSY,
  PICTURE,
  RNG,
  case,
  content,
  encoded,
  link,
  png,
  rgb,
  saved,
)

for ending in "bmp dib im jp2 pcx png ppm qoi sgi tga tif webp avif".split():
  options = {"jp2": {"irreversible": False}, "webp": {"lossless": True}}.get(ending, {})
  options |= {"quality": 100, "subsampling": "4:4:4"} if ending == "avif" else {}
  case(f"plain.{ending}", saved(PICTURE, **options), tolerance=12 if ending == "avif" else 0)
case("plain.jpg", saved(PICTURE, quality=95, subsampling=0), tolerance=LOSSY)
case("plain.gif", saved(rgb(GREY)), rgb(GREY))
case(
  "icon.ico", saved(np.ascontiguousarray(PICTURE[:32, :32]), sizes=[(32, 32)]), PICTURE[:32, :32]
)
ICON = np.kron(RNG.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
case("icon.icns", saved(ICON, sizes=[(128, 128, 1)]), ...)
case("bits.xbm", saved((GREY > 99), convert="1"), rgb(np.where(GREY > 99, 255, 0)))
case("bits.msp", saved((GREY > 99), convert="1"), rgb(np.where(GREY > 99, 255, 0)))
case("bits.pbm", saved((GREY > 99), convert="1"), rgb(np.where(GREY > 99, 255, 0)))
case("bits.png", saved((GREY > 99), convert="1"), rgb(np.where(GREY > 99, 255, 0)))
case("bits_g4.tif", saved(GREY > 99, convert="1", compression="group4"), rgb((GREY > 99) * 255))
for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"):
  case(f"{compression}.tif", saved(PICTURE, compression=compression))
case("jpeg.tif", saved(PICTURE, compression="jpeg", quality=95), tolerance=90)
case("bc1.dds", saved(np.dstack([PICTURE, np.full((40, 48), 255, np.uint8)])))
case("plain.blp", saved(Image.fromarray(PICTURE).quantize(30)), PICTURE, 8)
case("plain.eps", saved(PICTURE), ...)
case("floats.spider", saved(GREY.astype(np.float32), format="SPIDER"), rgb(GREY))
case("progressive.jpg", content(lambda: encoded(progressive=True)), tolerance=LOSSY)
case("arithmetic.jpg", content(lambda: encoded().replace(b"\xff\xc0", b"\xff\xc9", 1)), ...)
case("grey.jpg", content(lambda: encoded(GREY)), rgb(GREY), LOSSY)
case(
  "cmyk.jpg", content(lambda: encoded(Image.fromarray(PICTURE).convert("CMYK"))), tolerance=LOSSY
)
case("cmyk.tif", saved(PICTURE, convert="CMYK"), tolerance=1)
# Pillow before 13 calls such a file cut short.
NEWER = int(PIL.__version__.split(".")[0]) >= 13
case("ycbcr.tif", saved(PICTURE, convert="YCbCr"), PICTURE if NEWER else None, tolerance=4)
LAB = ImageCms.buildTransform(
  ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
)
case(
  "lab.tif",
  lambda path: ImageCms.applyTransform(Image.fromarray(PICTURE), LAB).save(path),
  tolerance=30,
)
case(
  "two.mpo",
  content(
    lambda: encoded(
      Image.fromarray(PICTURE),
      "MPO",
      quality=95,
      subsampling=0,
      save_all=True,
      append_images=[Image.new("RGB", (48, 40))],
    )
  ),
  tolerance=LOSSY,
)
case("pages.tif", saved(PICTURE, save_all=True, append_images=[Image.new("RGB", (9, 9))]))
case("wrong_ending.jpg", content(lambda: encoded(kind="PNG")))
case("no_ending", content(lambda: encoded(kind="PNG")))
case("png_as.gif", content(lambda: encoded(kind="PNG")))
case("one.png", saved(np.full((1, 1, 3), 77, np.uint8)), np.full((1, 1, 3), 77, np.uint8))
case("one.jpg", saved(np.full((1, 1, 3), 77, np.uint8)), np.full((1, 1, 3), 77, np.uint8), 2)
case(
  "long.jpg", saved(np.full((10000, 1, 3), 77, np.uint8)), np.full((10000, 1, 3), 77, np.uint8), 2
)
case("long.png", saved(np.full((1, 10000, 3), 77, np.uint8)), np.full((1, 10000, 3), 77, np.uint8))
# What is no picture.
case("empty.jpg", content(b""), None)
case("text.jpg", content(b"<html>404 not found</html>"), None)
case("truncated.jpg", content(lambda: encoded()[:500]), None)
case("head_only.jpg", content(lambda: encoded()[:40]), None)
case("truncated.png", content(lambda: encoded(kind="PNG")[:60]), None)
case("truncated.gif", content(lambda: encoded(rgb(GREY), "GIF")[:-200]), None)
case("truncated.tif", content(lambda: encoded(kind="TIFF")[:-900]), None)
case("truncated.webp", content(lambda: encoded(kind="WEBP", lossless=True)[:80]), None)
case("crc.png", content(lambda: (d := encoded(kind="PNG"))[:-20] + bytes(4) + d[-16:]), None)
case("zero.png", content(lambda: png(np.zeros((0, 0, 3)), 2)), None)
case("zero.ppm", content(b"P6 0 0 255\n"), None)
case("bomb.png", content(lambda: png(PICTURE, 2, sides=(60000, 60000))), None)
case(
  "bomb.jpg",
  content(lambda: encoded().replace(struct.pack(">HH", 40, 48), b"\xff\xf0\xff\xf0", 1)),
  None,
)
case("folder.jpg", lambda path: path.mkdir(), None)
case("dead_link.jpg", link("nowhere.jpg"), None)
case("loop_link.jpg", link("loop_link.jpg"), None)
case("live_link.png", link("plain.png"))
case("pipe.jpg", os.mkfifo, None)
case("device.jpg", link("/dev/zero"), None)
case("missing.jpg", lambda path: None, None)
