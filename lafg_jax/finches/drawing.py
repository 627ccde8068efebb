"""The renderer of the synthetic finches: Pillow polygons, drawn large and scaled down.

The geometry, in shapes.json, is in units of 1/48 of the picture's side, for a bird that looks to
the right, with the y axis down and the middle of the body near (0, 0). Every shape is a polygon,
moved, turned and mirrored in one step. Random numbers are uniform draws only, whose stream NumPy
keeps stable.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lafg_jax.finches.text import ATTRIBUTES, Attributes, choose

IMAGE_SIZE = 48
_SUPERSAMPLING = 4

RGB = {
  "black": (46, 43, 46), "blue": (52, 104, 196), "crimson": (186, 30, 56), "olive": (116, 122, 48),
  "rufous": (170, 86, 38), "slate": (112, 122, 134), "white": (240, 236, 226),
  "yellow": (238, 202, 46),
}  # fmt: skip
_PALE, _DARK = (246, 238, 214), (40, 30, 26)
_BILLS = ((62, 54, 50), (96, 84, 74), (142, 116, 92))
_BARK = ((92, 74, 60), (70, 58, 50), (122, 104, 84))
_BACKGROUNDS = (
  (150, 196, 236), (196, 214, 226), (226, 226, 220), (112, 150, 84), (58, 92, 52), (128, 104, 72),
  (222, 178, 160), (204, 172, 104), (84, 104, 124), (160, 176, 130),
)  # fmt: skip
_LEAVES = (
  (72, 120, 44), (46, 88, 40), (124, 152, 60), (150, 110, 48), (196, 140, 40), (158, 70, 40),
)  # fmt: skip

Colour = tuple[int, int, int]
Shape = tuple[np.ndarray, str]  # points [P, 2] and the name of their colour

# Shapes as [name of the colour, kind, points of a polygon or a curve, or arguments of `_disc`].
_SHAPES = json.loads(Path(__file__).with_name("shapes.json").read_text(encoding="utf-8"))


def _curve(points: list[list[float]], steps: int = 4) -> np.ndarray:
  """Closed Catmull-Rom curve through points, as a polygon [len(points) * steps, 2]."""
  p1 = np.array(points, float)
  p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
  t = (np.arange(steps) / steps)[:, None, None]
  curve = 0.5 * (
    2 * p1
    + (p2 - p0) * t
    + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
    + (3 * p1 - p0 - 3 * p2 + p3) * t**3
  )
  return curve.transpose(1, 0, 2).reshape(-1, 2)


def _disc(x: float, y: float, radius: float, corners: int) -> np.ndarray:
  turn = 2 * math.pi * np.arange(corners) / corners
  return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1)


def _polygons(shapes: list[list]) -> list[Shape]:
  kinds = {"polygon": lambda x: np.array(x, float), "curve": _curve, "disc": lambda x: _disc(*x)}
  return [(kinds[kind](points), colour) for colour, kind, points in shapes]


def _outlined(shapes: list[list], by: float, colour: str) -> list[Shape]:
  """Shapes, and below them the first one, larger by `by` on every side, in another colour."""
  first, *others = _polygons(shapes)
  middle = first[0].mean(0)
  from_middle = first[0] - middle
  larger = middle + from_middle * (1 + by / np.abs(from_middle).max(0))
  return [(larger, colour), first, *others]


@functools.cache
def _bird(pattern: str, bill: str, tail: str, ring: str) -> tuple[list[Shape], np.ndarray]:
  """A bird's shapes from back to front, and all their points in one array [P, 2]."""
  shapes = _outlined(_SHAPES["tail"][tail], 0.7, "outline") + _polygons(_SHAPES["legs"])
  shapes += _outlined(_SHAPES["trunk"], 0.7, "outline")
  shapes += _outlined(_SHAPES["wing"], 0.6, "wing_line")
  # The outline of a ring keeps a white one visible on a white bird.
  details = _SHAPES["pattern"][pattern] + _SHAPES["bill"][bill] + _SHAPES["ring"][ring]
  shapes += _polygons(details + _SHAPES["eye"])
  return shapes, np.concatenate([points for points, _ in shapes])


def _between(rng: np.random.Generator, low: float, high: float) -> float:
  return low + (high - low) * rng.random()


def _mix(a: Colour, b: Colour, share: float) -> Colour:
  red, green, blue = (int(x + (y - x) * share) for x, y in zip(a, b, strict=True))
  return red, green, blue


def _individual(colour: Colour, rng: np.random.Generator) -> Colour:
  """The colour as it varies between birds of a class."""
  gain = _between(rng, 0.87, 1.13)
  red, green, blue = (min(255, max(0, int(c * gain + _between(rng, -12, 12)))) for c in colour)
  return red, green, blue


def _colours(attributes: Attributes, rng: np.random.Generator) -> dict[str, Colour]:
  of = dict(zip(ATTRIBUTES, attributes, strict=True))
  body, crown, wing = (_individual(RGB[of[part]], rng) for part in ("body", "crown", "wing"))
  mark = _DARK if of["wing"] in ("white", "yellow") else _PALE
  bill = choose(rng, _BILLS)
  tail = _mix(wing, _DARK, 0.25)
  return {
    "body": body,
    "belly": _mix(body, _PALE, _between(rng, 0.1, 0.3)),
    "crown": crown,
    "wing": wing,
    "wing_line": _mix(wing, _DARK, 0.5),
    "mark": _mix(mark, wing, _between(rng, 0.0, 0.15)),
    "tail": tail,
    "tail_line": _mix(tail, _DARK, 0.5),
    "outline": _mix(body, _DARK, 0.65),
    "bill": bill,
    "bill_line": _mix(bill, _DARK, 0.8),
    "leg": _mix(bill, (150, 96, 70), 0.5),
    "ring": {"white": (250, 248, 240), "yellow": (250, 206, 30)}.get(of["ring"], _DARK),
    "eye": (18, 14, 14),
    "glint": (240, 240, 240),
  }


def _fill(draw: ImageDraw.ImageDraw, points: np.ndarray, colour: Colour) -> None:
  draw.polygon(np.rint(points).astype(int).ravel().tolist(), fill=colour)


def _background(side: int, rng: np.random.Generator) -> Image.Image:
  """Out-of-focus scenery: a few random colours, blended from top to bottom and in blotches."""
  top, bottom, blotch = (np.array(choose(rng, _BACKGROUNDS), float) for _ in range(3))
  cells = 5
  down = np.linspace(0, 1, cells)[:, None, None]
  spread = rng.random((cells, cells, 1)) ** 2 * _between(rng, 0, 1.2)
  coarse = top * (1 - down) + bottom * down
  coarse = coarse + np.minimum(spread, 1) * (blotch - coarse)
  coarse += (rng.random((cells, cells, 1)) - 0.5) * _between(rng, 0, 60)
  small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
  return small.resize((side, side), Image.Resampling.BILINEAR)


def _leaf(draw: ImageDraw.ImageDraw, unit: float, rng: np.random.Generator) -> None:
  x, y, turn = _between(rng, 0, 48), _between(rng, 0, 48), _between(rng, 0, 2 * math.pi)
  length, width = _between(rng, 4, 11), _between(rng, 1.6, 4)
  along = np.array([math.cos(turn), math.sin(turn)])
  across = np.array([-along[1], along[0]])
  u = np.array([-1, -0.4, 0.3, 1, 0.3, -0.4])[:, None] * length / 2
  v = np.array([0, 0.9, 0.8, 0, -0.8, -0.9])[:, None] * width / 2
  points = ((x, y) + u * along + v * across) * unit
  colour = _individual(choose(rng, _LEAVES), rng)
  _fill(draw, points, colour)
  _fill(draw, points[[0, 1, 2, 3]], _mix(colour, _DARK, 0.25))


def _branch(draw, unit: float, x: float, y: float, slope: float, rng: np.random.Generator) -> None:
  """A branch over the whole width through (x, y)."""
  width, colour = _between(rng, 1.0, 2.6), choose(rng, _BARK)
  ends = np.array([[-2.0, y - slope * (x + 2)], [50.0, y + slope * (50 - x)]])
  points = np.concatenate([ends, (ends + (0, width))[::-1]]) * unit
  _fill(draw, points, colour)
  _fill(draw, points + (0, 0.6 * width * unit), _mix(colour, _DARK, 0.4))


def _light(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Brightness, warmth, haze, light from one side, and grain: [S, S, 3] uint8 to the same."""
  size = len(picture)
  warmth = _between(rng, -0.15, 0.15)
  tint = _between(rng, 0.66, 1.15) * np.array([1 + warmth, _between(rng, 0.96, 1.04), 1 - warmth])
  ramp = np.linspace(-1, 1, size)
  side = 1 + _between(rng, -0.15, 0.15) * ramp[:, None] + _between(rng, -0.15, 0.15) * ramp
  grain = (rng.random((size, size, 3)) - 0.5) * _between(rng, 2, 32)
  haze = _between(rng, 0, 0.28)
  picture = picture * (1 - haze) + picture.mean((0, 1)) * haze
  lit = picture * (side[..., None] * tint) + _between(rng, -8, 12) + grain
  return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def render(attributes: Attributes, rng: np.random.Generator, size: int = IMAGE_SIZE) -> np.ndarray:
  """Draws one bird: uint8 [size, size, 3] RGB, a pure function of the arguments.

  Args:
    attributes: a value for each of `text.ATTRIBUTES`, in that order.
    rng: draws pose, place, light and scenery.
    size: side of the picture in pixels.
  """
  return _light(scene(attributes, rng, size), rng)


def scene(
  attributes: Attributes,
  rng: np.random.Generator,
  size: int = IMAGE_SIZE,
  repainted: dict[str, Colour] | None = None,
) -> np.ndarray:
  """The picture of `render` before light falls on it: uint8 [size, size, 3] RGB.

  repainted: other colours of shapes, by the names of colours in shapes.json; all else stays.
  """
  side = size * _SUPERSAMPLING
  unit = side / 48
  canvas = _background(side, rng)
  draw = ImageDraw.Draw(canvas)
  for _ in range(int(rng.random() * 8)):
    _leaf(draw, unit, rng)

  x, y = _between(rng, 19, 29), _between(rng, 20, 28)
  facing, scale, tilt = (-1, 1)[rng.random() < 0.5], _between(rng, 0.75, 1.06), 0.28
  turn = _between(rng, -tilt, tilt)
  turned = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
  stretch = np.array([_between(rng, 0.92, 1.05), _between(rng, 0.95, 1.08)])
  to_picture = (scale * turned * (facing, 1)) * unit
  foot = (np.array([0, 10.4]) * stretch) @ to_picture / unit + (x, y)
  if rng.random() < 0.4:
    _branch(draw, unit, x, _between(rng, 0, 48), _between(rng, -0.8, 0.8), rng)
  _branch(draw, unit, foot[0], foot[1], facing * turn * 0.5, rng)

  shapes, points = _bird(*attributes[3:])
  placed = ((points + (2, 0)) * stretch) @ to_picture + np.array((x, y)) * unit
  colours = _colours(attributes, rng) | (repainted or {})
  start = 0
  for shape, part in shapes:
    _fill(draw, placed[start : start + len(shape)], colours[part])
    start += len(shape)
  for _ in range(int(rng.random() * 7)):
    _leaf(draw, unit, rng)
  return np.asarray(canvas.reduce(_SUPERSAMPLING))
