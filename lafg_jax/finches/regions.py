"""Where the parts of a drawn finch are in its picture: what explanations are measured against.

A part's region is drawn by the renderer itself: the picture is drawn twice, with the part in black
and in white. What the pictures differ by is the share of each pixel that shows the part, leaves in
front and shapes above it left out.
"""

import numpy as np

from lafg_jax.finches import classes
from lafg_jax.finches.drawing import IMAGE_SIZE, scene
from lafg_jax.utils.errors import UserError

# For each attribute, the colours of its shapes in shapes.json. The pattern is a wing's marks, which
# are part of the wing. An eye without a ring has a dark one.
PARTS = {
  "body": ("body", "belly"),
  "crown": ("crown",),
  "wing": ("wing", "wing_line", "mark"),
  "pattern": ("mark",),
  "bill": ("bill", "bill_line"),
  "tail": ("tail", "tail_line"),
  "ring": ("ring", "eye", "glint"),
}
_EVERY = ("outline", "leg", *dict.fromkeys(colour for part in PARTS.values() for colour in part))


def region(name: str, j: int, part: str, size: int = IMAGE_SIZE) -> np.ndarray:
  """[size, size] float32 in [0, 1]: the share of each pixel of `classes.image` that shows a part.

  Args:
    name: of the class. j: number of the image.
    part: one of `PARTS`, or 'bird' for all of it, its legs included.
    size: side of the picture in pixels.

  Raises:
    UserError: the class or the part is unknown.
  """
  if part != "bird" and part not in PARTS:
    raise UserError(f"a finch has no part {part!r}: it takes one of bird, {', '.join(PARTS)}")
  colours = _EVERY if part == "bird" else PARTS[part]
  black, white = (
    scene(*classes.drawn_from(name, j), size, dict.fromkeys(colours, (level,) * 3))
    for level in (0, 255)
  )
  return (white[..., 0].astype(np.float32) - black[..., 0]) / 255
