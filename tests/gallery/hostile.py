"""Broken and hostile files for galleries and uploads.

`make(folder)` writes files that must be skipped, and returns {path: what it is}; `readable(folder)`
writes images that are fine, with names or content meant to do harm elsewhere. Paths are as an index
names them. Whoever runs as root reads what forbids it: those files are broken too.
"""

import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

# A tag that runs, in whichever quotes a page has; no '/', which a name cannot hold.
TAG = "<img src=x onerror=alert(1)>"
SCRIPT = "<script>alert(document.domain)</script>"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">{SCRIPT}</svg>'.encode()
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
0 0 40 40 rectfill showpage
%%EOF
"""


def picture(kind: str = "JPEG", size: tuple[int, int] = (48, 40), **options) -> bytes:
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind, **options)
  return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
  """A chunk of a PNG."""
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, before: bytes = b"") -> bytes:
  """A grey PNG of 8 bits; `rows`: what its pixels are said to be."""
  head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
  pixels = chunk(b"IDAT", zlib.compress(rows, 9))
  return b"\x89PNG\r\n\x1a\n" + head + before + pixels + chunk(b"IEND", b"")


def _zipped() -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("../../escape.jpg", bytes(1 << 20))
  return file.getvalue()


def _tiff_of_many_strips() -> bytes:
  """A TIFF whose one strip is said to have 4 GiB, far behind its end."""
  tags = ((256, 40), (257, 40), (258, 8), (259, 1), (262, 1), (273, 1 << 31), (278, 40))
  tags += ((279, (1 << 32) - 1),)
  entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
  return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def _no_numbers() -> bytes:
  file = io.BytesIO()
  Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(file, "TIFF")
  return file.getvalue()


# {name: (what it is, its content or what makes it)}
Made = Callable[[Path], None]
FILES: dict[str, tuple[str, bytes | Callable[[], bytes] | Made]] = {
  "nothing.jpg": ("zero bytes", b""),
  "zeros.jpg": ("bytes that are all zero", bytes(4096)),
  "noise.png": ("random bytes", lambda: np.random.default_rng(1).bytes(2000)),
  "bomb.png": ("a bomb of pixels, PNG", lambda: png(60_000, 60_000, bytes(1000))),
  "unpacked_bomb.png": (
    "a bomb of pixels that are all there, PNG",
    lambda: png(20_000, 20_000, bytes(20_001 * 500)),
  ),
  "bomb.jpg": (
    "a bomb of pixels, JPEG",
    lambda: picture().replace(struct.pack(">HH", 40, 48), b"\xff\xf0\xff\xf0", 1),
  ),
  "bomb.gif": (
    "a bomb of pixels, GIF",
    lambda: (d := picture("GIF"))[:6] + b"\xff\xff\xff\xff" + d[10:],
  ),
  "bomb.bmp": (
    "a bomb of pixels, BMP",
    lambda: (d := picture("BMP"))[:18] + struct.pack("<ii", 90_000, 90_000) + d[26:],
  ),
  "bomb.ppm": ("a bomb of pixels, PPM", b"P6 99999 99999 255\n" + bytes(100)),
  "bomb.qoi": ("a bomb of pixels, QOI", b"qoif" + struct.pack(">IIBB", 90_000, 90_000, 3, 0)),
  "strips.tif": ("a TIFF that points behind its end", _tiff_of_many_strips),
  "nan.tif": ("values that are no numbers", _no_numbers),
  "cut.jpg": ("truncated JPEG", lambda: picture()[:500]),
  "head.jpg": ("a JPEG of a header alone", lambda: picture()[:40]),
  "cut.png": ("truncated PNG", lambda: picture("PNG")[:200]),
  "cut.gif": ("truncated GIF", lambda: picture("GIF")[:-400]),
  "cut.webp": ("truncated WebP", lambda: picture("WEBP", lossless=True)[:300]),
  "cut.tif": ("truncated TIFF", lambda: picture("TIFF")[:-900]),
  "cut.jp2": ("truncated JPEG 2000", lambda: picture("JPEG2000")[:90]),
  "flipped.png": (
    "a PNG with a wrong checksum",
    lambda: (d := picture("PNG"))[:-20] + bytes(4) + d[-16:],
  ),
  "flat.png": ("an image of no height", lambda: png(40, 0, b"")),
  "page.jpg": ("HTML called JPEG", f"<!doctype html>{SCRIPT}".encode()),
  "drawing.svg": ("SVG with a script", SVG),
  "drawing.png": ("SVG with a script, called PNG", SVG),
  "postscript.eps": ("PostScript", EPS),
  "postscript.jpg": ("PostScript, called JPEG: Ghostscript would run it", EPS),
  "archive.jpg": ("a ZIP, called JPEG", _zipped),
  "program.png": ("a program, called PNG", b"\x7fELF\x02\x01\x01" + bytes(60)),
  "script.sh": ("a program", b"#!/bin/sh\ntouch /tmp/hostile\n"),
  "document.pdf": ("a document", b"%PDF-1.7\n%%EOF\n"),
  "pickle.jpg": ("a pickle, called JPEG", b"cos\nsystem\n(S'touch /tmp/hostile'\ntR."),
  "dead.jpg": ("a link that leads nowhere", lambda path: path.symlink_to("nowhere.jpg")),
  "loop.jpg": ("a link to itself", lambda path: path.symlink_to("loop.jpg")),
  "there.jpg": ("one of two links in a circle", lambda path: path.symlink_to("back.jpg")),
  "back.jpg": ("the other of them", lambda path: path.symlink_to("there.jpg")),
  "up": ("a link to the folder that it lies in", lambda path: path.symlink_to(".")),
  "zero.jpg": ("a link to a device without an end", lambda path: path.symlink_to("/dev/zero")),
  "pipe.jpg": ("a pipe that nobody writes", os.mkfifo),
  "socket.jpg": ("a socket", lambda path: _socket(path)),
  "forbidden.jpg": ("a file that may not be read", lambda path: _forbidden(path)),
  "line\nbreak.jpg": ("a name of two lines", b"broken"),
  "\x1b[2Jcleared.jpg": ("a name that clears a terminal", b"broken"),
  f"{TAG}.jpg": ("a tag as a name", b"broken"),
  "'\" onerror='alert(1)' \".jpg": ("quotes as a name", b"broken"),
  "\u202egpj.exe.jpg": ("a name that is written backwards", b"broken"),
  "{{7*7}}${7*7}<%= 7*7 %>.jpg": ("templates as a name", b"broken"),
  "'; drop table images; --.jpg": ("a command of a database as a name", b"broken"),
  "$(touch hostile).jpg": ("a command of a shell as a name", b"broken"),
  f"{'n' * 240}.jpg": ("a name of 244 letters", b"broken"),
}


def _socket(path: Path) -> None:
  # Its name may have 107 bytes, and a folder of tests more.
  here = os.getcwd()
  os.chdir(path.parent)
  try:
    with socket.socket(socket.AF_UNIX) as server:
      server.bind(path.name)
  finally:
    os.chdir(here)


def _forbidden(path: Path) -> None:
  path.write_bytes(b"broken")
  path.chmod(0)


def write(path: Path, made: bytes | Callable) -> None:
  """One file of `FILES`."""
  if isinstance(made, bytes):
    path.write_bytes(made)
  elif made is os.mkfifo or made.__code__.co_argcount:
    made(path)
  else:
    path.write_bytes(made())


def make(folder: str | os.PathLike) -> dict[str, str]:
  """Writes all that must be skipped into a folder; {path: what it is}."""
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  found = {}
  for name, (kind, made) in FILES.items():
    write(folder / name, made)
    found[str(folder / name)] = kind
  # A name that is not UTF-8.
  with open(os.fsencode(folder) + b"/latin\xe9.jpg", "wb") as file:
    file.write(b"broken")
  found[str(folder / "latin\udce9.jpg")] = "a name that is not UTF-8"
  return found


def uploads(folder: str | os.PathLike) -> dict[str, str]:
  """The same without what only a disk can hold: files with content, for forms."""
  return {path: kind for path, kind in make(folder).items() if _is_upload(path)}


def _is_upload(path: str) -> bool:
  return os.path.isfile(path) and not os.path.islink(path) and bool(os.stat(path).st_mode & 0o400)


def readable(folder: str | os.PathLike) -> dict[str, str]:
  """Images that are read and shown, though each is meant to do harm; {path: what it is}."""
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(16 << 20), 9))
  found = {
    f"{TAG} is fine.jpg": ("a tag as a name", picture()),
    "\" onload='alert(1)' is fine.jpg": ("quotes as a name", picture()),
    "{{7*7}} is fine.jpg": ("a template as a name", picture()),
    "-rf.jpg": ("a flag as a name", picture()),
    "both.jpg": ("a JPEG that is a page too", picture(comment=SCRIPT) + SCRIPT.encode()),
    "text bomb.png": ("16 MiB of metadata", png(40, 40, bytes(40 * 41), text)),
    "photo.jpg.exe.jpg": ("a name of several endings", picture()),
  }
  for name, (_, content) in found.items():
    (folder / name).write_bytes(content)
  return {str(folder / name): kind for name, (kind, _) in found.items()}
