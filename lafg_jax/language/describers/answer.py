"""What a language model is asked, and what comes back, whichever way it is reached."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Answer(NamedTuple):
  """What came back for one question."""

  text: str
  finish_reason: str = "stop"  # 'length' where it was cut off
  error: str = ""  # why no answer came, after all retries


# Questions in, (position, answer) out in any order; attempt 0, 1, ... varies the seed.
Ask = Callable[[Sequence[str], int], Iterator[tuple[int, Answer]]]
