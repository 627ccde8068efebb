"""The table of config keys: one row (`record.Key`) has all facts about a key."""

from lafg_jax.config.record import NAMED, Key, Rule
from lafg_jax.config.table import (
  captions,
  composed,
  data,
  image_text,
  language,
  loss,
  model,
  train,
)

# fmt: off
_OF_ALL = (
  Key("task", "class_retrieval", NAMED, "training",
      "What is trained and how it is judged: a folder of lafg_jax/tasks/."),
  Key("seed", 0, Rule(lambda x: 0 <= x < 2**31, "between 0 and 2147483647"), "embedding",
      "Seeds initialisation, sampling and augmentation. Same seed, same result."),
)
# fmt: on

_SECTIONS = (data, captions, composed, language, model, loss, image_text, train)
ROWS: dict[str, Key] = {
  row.name: row for row in (*_OF_ALL, *(row for section in _SECTIONS for row in section.ROWS))
}
