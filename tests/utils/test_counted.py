"""Counts with their nouns."""

import pytest

from lafg_jax.utils.counted import counted


@pytest.mark.parametrize(
  ("count", "noun", "said"),
  [
    (1, "problem", "1 problem"),
    (0, "problem", "0 problems"),
    (2, "training class", "2 training classes"),
    (1, "training class", "1 training class"),
    (1200, "query", "1,200 queries"),
    (3, "key", "3 keys"),
    (2, "box", "2 boxes"),
    (2, "entry", "2 entries"),
  ],
)
def test_one_is_singular_and_all_else_plural(count, noun, said):
  assert counted(count, noun) == said
