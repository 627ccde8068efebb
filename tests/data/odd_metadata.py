"""Sound pixels with every orientation, and with metadata that is broken; see `odd_files`."""

import struct
import zlib

from tests.data.odd_files import (
  LOSSY,
  PICTURE,
  after_jfif,
  case,
  chunk,
  content,
  encoded,
  exif,
  png,
  saved,
  segment,
  stored,
  tiff,
)

for turn in range(1, 9):
  block = exif((0x112, 3, 1, struct.pack("<HH", turn, 0)))
  case(
    f"turn{turn}.jpg", content(lambda t=turn, b=block: encoded(stored(t), exif=b)), tolerance=LOSSY
  )
  case(f"turn{turn}.png", content(lambda t=turn, b=block: encoded(stored(t), "PNG", exif=b)))
  tags = [(274, 3, [turn])]
  case(f"turn{turn}.tif", content(lambda t=turn, s=tags: tiff(stored(t), photometric=2, tags=s)))
case("turn6.webp", saved(stored(6), lossless=True, exif=exif((0x112, 3, 1, b"\6\0\0\0"))))
case(
  "turn6.avif",
  saved(stored(6), quality=100, subsampling="4:4:4", exif=exif((0x112, 3, 1, b"\6\0\0\0"))),
  tolerance=12,
)
case(
  "turn_big_endian.jpg",
  content(lambda: encoded(stored(6), exif=exif((0x112, 3, 1, b"\0\6\0\0"), order=">"))),
  tolerance=LOSSY,
)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
case(
  "turn_xmp.jpg",
  content(
    lambda: after_jfif(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP), pixels=stored(6))
  ),
  tolerance=LOSSY,
)
ODD = {
  "long": (0x112, 4, 1, struct.pack("<I", 6)),
  "byte": (0x112, 1, 1, b"\6\0\0\0"),
  "signed": (0x112, 9, 1, struct.pack("<i", 6)),
  "undefined": (0x112, 7, 1, b"\6\0\0\0"),
  "two": (0x112, 3, 2, struct.pack("<HH", 6, 6)),
  "text": (0x112, 2, 2, b"6\0\0\0"),
  "float": (0x112, 11, 1, struct.pack("<f", 6)),
  "rational": (0x112, 5, 1, struct.pack("<I", 26)),
}
for name, entry in ODD.items():
  block = exif(entry, extra=struct.pack("<II", 6, 1))
  case(f"turn_as_{name}.jpg", content(lambda b=block: encoded(stored(6), exif=b)), tolerance=LOSSY)
  case(f"turn_as_{name}.png", content(lambda b=block: encoded(stored(6), "PNG", exif=b)))
for name, value in {"0": 0, "9": 9, "65535": 65535}.items():
  block = exif((0x112, 3, 1, struct.pack("<HH", value, 0)))
  case(f"turn_is_{name}.jpg", content(lambda b=block: encoded(exif=b)), tolerance=LOSSY)
UPRIGHT = (0x112, 3, 1, struct.pack("<HH", 6, 0))
BROKEN = {
  "signed_unit": exif(UPRIGHT, (0x128, 9, 1, struct.pack("<i", -5))),
  "text_unit": exif(UPRIGHT, (0x128, 2, 3, b"in\0\0")),
  "negative_resolution": exif(
    UPRIGHT, (0x11A, 10, 1, struct.pack("<I", 38)), extra=struct.pack("<ii", -72, 1)
  ),
  "resolution_nowhere": exif(UPRIGHT, (0x11A, 5, 1, struct.pack("<I", 10**9))),
  "zero_denominator": exif(
    UPRIGHT, (0x11A, 5, 1, struct.pack("<I", 38)), extra=struct.pack("<II", 72, 0)
  ),
  "sub_block_nowhere": exif(UPRIGHT, (0x8769, 4, 1, struct.pack("<I", 10**9))),
  "sub_block_is_text": exif(UPRIGHT, (0x8769, 2, 4, b"abc\0")),
  "gps_loop": exif(UPRIGHT, (0x8825, 4, 1, struct.pack("<I", 8))),
  "unknown_type": exif(UPRIGHT, (0x9999, 99, 1, bytes(4))),
  "huge_count": exif(UPRIGHT, (0x9999, 5, 2**31, bytes(4))),
}
for name, block in BROKEN.items():
  case(f"{name}.jpg", content(lambda b=block: encoded(stored(6), exif=b)), tolerance=LOSSY)
  case(f"{name}.png", content(lambda b=block: encoded(stored(6), "PNG", exif=b)))
  case(f"{name}.webp", saved(stored(6), lossless=True, exif=block))
for name, block in {
  "exif_empty": b"Exif\0\0",
  "exif_short": b"Exif\0\0II*\0\x08",
  "exif_noise": b"Exif\0\0" + bytes(range(99)),
}.items():
  case(f"{name}.jpg", content(lambda b=block: encoded(exif=b)), tolerance=LOSSY)
  case(f"{name}.png", content(lambda b=block: png(PICTURE, 2, before=chunk(b"eXIf", b[6:]))))
for name, tag in {
  "unit": (296, 2, b"in\0\0\0\0"),
  "resolution": (282, 2, b"72dpi\0"),
  "sub_block": (34665, 2, b"abc\0de"),
  "count": (34665, 4, [10**9]),
  "turn_text": (274, 2, b"6\0"),
}.items():
  turned = stored(6) if name == "turn_text" else PICTURE
  case(f"odd_{name}.tif", content(lambda t=tag, p=turned: tiff(p, photometric=2, tags=[t])))
case(
  "odd_both.tif",
  content(
    lambda: tiff(
      stored(6),
      photometric=2,
      tags=[(274, 3, [6]), (296, 3, [3]), (282, 2, b"72dpi\0"), (283, 2, b"72dpi\0")],
    )
  ),
)
ICC = {
  "none": b"",
  "short": b"\x01",
  "noise": b"\x01\x01" + bytes(range(200)),
  "wrong_count": b"\x07\x02abc",
}
for name, data in ICC.items():
  case(
    f"icc_{name}.jpg",
    content(lambda d=data: after_jfif(segment(0xE2, b"ICC_PROFILE\0" + d))),
    tolerance=LOSSY,
  )
case("icc_noise.png", content(lambda: png(PICTURE, 2, before=chunk(b"iCCP", b"a\0\0" + b"noise"))))
case(
  "icc_checksum.png",
  content(lambda: png(PICTURE, 2, before=chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x"), 7))),
)
case(
  "icc_large.png",
  content(lambda: png(PICTURE, 2, before=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**21))))),
)
case(
  "text_large.png",
  content(lambda: png(PICTURE, 2, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))))),
)
case(
  "text_after.png",
  content(lambda: png(PICTURE, 2, after=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))))),
)
case(
  "exif_checksum.png",
  content(lambda: png(stored(6), 2, before=chunk(b"eXIf", BROKEN["text_unit"][6:], 7))),
)
case("resolution.png", content(lambda: png(PICTURE, 2, before=chunk(b"pHYs", b"abc"))))
case(
  "gamma.png",
  content(
    lambda: png(
      PICTURE, 2, before=chunk(b"gAMA", b"a") + chunk(b"sRGB", b"") + chunk(b"cHRM", b"abc")
    )
  ),
)
SEGMENTS = {
  "mpf": segment(0xE2, b"MPF\0noise"),
  "mpf_block": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0"),
  "photoshop": segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed\0\0\0\0\0\x02ab"),
  "photoshop_end": segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed"),
  "jfif": segment(0xE0, b"JFIF\0"),
  "fpxr": segment(0xE2, b"FPXR\0"),
  "comment": segment(0xFE, bytes(range(256))),
}
for name, data in SEGMENTS.items():
  case(f"segment_{name}.jpg", content(lambda d=data: after_jfif(d)), tolerance=LOSSY)
  case(
    f"segment_{name}_turned.jpg",
    content(lambda d=data: after_jfif(segment(0xE1, exif(UPRIGHT)), d, pixels=stored(6))),
    tolerance=LOSSY,
  )
