"""Axes of the plots."""


def round_ticks(low: float, high: float) -> tuple[float, float, float]:
  """(first, last, step) of round ticks that cover low to high, 3 to 8 of them."""
  span = max(high - low, 1.0)
  step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if span / s <= 6)
  first = step * (low // step)
  return first, step * -(-high // step) if high > first else first + step, step
