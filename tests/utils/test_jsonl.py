"""Files of rows that are written whole: half a character is kept, a damaged line is named."""

import pytest

from lafg_jax.utils import jsonl
from lafg_jax.utils.errors import UserError


def test_rows_come_back_and_half_a_character_is_no_error(tmp_path):
  path = tmp_path / "rows.jsonl"
  rows = [{"id": "a", "text": "one\u2028two"}, {"id": "b", "text": "half \ud83d"}]
  jsonl.write(path, iter(rows))
  found = jsonl.read(path, lambda row: (row["id"], row["text"]), "caption")
  assert found == [("a", "one\u2028two"), ("b", "half \ud83d")]
  with open(path, "ab") as file:
    file.write(b'{"id": 3}\n')
  with pytest.raises(UserError, match="line 3 is damaged: run --stage=caption again"):
    jsonl.read(path, lambda row: (row["id"], row["text"]), "caption")
