"""An embeddings file that cannot be evaluated."""

import numpy as np
import pytest

from lafg_jax.errors import UserError
from lafg_jax.evaluate import stage


@pytest.mark.parametrize("value", [True, False])
def test_queries_without_a_gallery_are_one_line(tmp_path, value):
  path = tmp_path / "some.npz"
  arrays = {"vectors": np.eye(4, dtype=np.float32), "labels": np.array([0, 0, 1, 1])}
  np.savez(path, **arrays, is_query=np.full(4, value))
  with pytest.raises(UserError, match=rf"source=.*some.npz: is_query is {value} for all 4 rows"):
    stage.evaluate_file(str(path), (1,))
  np.savez(path, **arrays, is_query=np.array([True, False, True, False]))
  assert stage.evaluate_file(str(path), (1,))["num_queries"] == 2
