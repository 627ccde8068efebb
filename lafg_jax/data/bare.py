"""Image files without their metadata: the second try at a file that Pillow refuses.

Pillow refuses some files for what stands beside their pixels: a profile cut short, a wrong checksum
of a comment, a text that is too long, a resolution that is no number. The pixels are sound, and
are read without all that. The orientation of EXIF is kept.
"""

import struct
import zlib

from lafg_jax.data import pixels

_PNG = b"\x89PNG\r\n\x1a\n"
# Of a TIFF, what the pixels are decoded by, and the orientation.
_TIFF_TAGS = frozenset(
  [*range(254, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, *range(320, 326)]
  + [332, 338, 339, 347, *range(512, 522), 529, 530, 532]
)


def without_metadata(content: bytes) -> bytes | None:
  """The same JPEG, PNG or TIFF with its pixels and orientation alone; None for any other file."""
  strips = {b"\xff\xd8": _jpeg, _PNG: _png, b"II*\0": _tiff, b"MM\0*": _tiff}
  for start, strip in strips.items():
    if content.startswith(start):
      try:
        return strip(content)
      except (struct.error, IndexError):
        # It ends in the middle of its metadata: there are no pixels.
        return None
  return None


def _jpeg(content: bytes) -> bytes:
  kept, at, turn = [], 2, 1
  while content[at] == 0xFF and content[at + 1] != 0xDA:
    marker = content[at + 1]
    if marker == 0xFF:
      # Any number of these may stand before a marker.
      at += 1
      continue
    (length,) = struct.unpack_from(">H", content, at + 2)
    segment = content[at : at + 2 + length]
    at += 2 + length
    if segment[4:10] == b"Exif\0\0":
      turn = pixels.turn_of_exif(segment[4:])
    # JFIF and Adobe's segment say how the colours are stored.
    says = (marker == 0xE0 and length >= 16) or (marker == 0xEE and length >= 14)
    if says or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
      kept.append(segment)
  exif = pixels.exif_of_turn(turn)
  segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
  return b"".join([content[:2], segment, *kept, content[at:]])


def _png(content: bytes) -> bytes:
  kept, at = [_PNG], len(_PNG)
  while at < len(content):
    (length,) = struct.unpack_from(">I", content, at)
    kind, end = content[at + 4 : at + 8], at + 12 + length
    chunk = content[at:end]
    if kind == b"eXIf":
      # Whatever is wrong with its checksum, the orientation in it can be read.
      chunk = chunk[: 8 + length] + struct.pack(">I", zlib.crc32(chunk[4 : 8 + length]))
    # A kind that begins with a capital is needed for the pixels.
    if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):
      kept.append(chunk)
    at = end
  return b"".join(kept)


def _tiff(content: bytes) -> bytes:
  order = "<" if content[:1] == b"I" else ">"
  (at,) = struct.unpack_from(order + "I", content, 4)
  (count,) = struct.unpack_from(order + "H", content, at)
  entries = [content[at + 2 + 12 * k : at + 14 + 12 * k] for k in range(count)]
  kept = [x for x in entries if struct.unpack_from(order + "H", x)[0] in _TIFF_TAGS]
  # The list becomes shorter at its place, and no second picture follows.
  made = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
  return content[:at] + made + content[at + len(made) :]
