"""How many rows a batch is padded to, so that few programs are compiled."""


def few_sizes(count: int, most: int | None = None) -> int:
  """The least power of 2 that holds `count` >= 1 rows, and no more than `most`."""
  size = 1 << (count - 1).bit_length()
  return size if most is None else min(size, most)
