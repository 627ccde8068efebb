"""To how many rows a batch is padded."""

import pytest

from lafg_jax.utils import padding


@pytest.mark.parametrize(
  ("count", "most", "size"),
  [(1, None, 1), (2, None, 2), (3, None, 4), (64, None, 64), (65, None, 128), (65, 96, 96),
   (3, 96, 4), (96, 96, 96)],
)  # fmt: skip
def test_it_is_the_next_power_of_two_or_the_whole_batch(count, most, size):
  assert padding.few_sizes(count, most) == size


def test_any_number_of_rows_takes_few_sizes_and_all_fit():
  sizes = [padding.few_sizes(count, 512) for count in range(1, 513)]
  assert len(set(sizes)) == 10
  assert all(size >= count for count, size in enumerate(sizes, 1))
