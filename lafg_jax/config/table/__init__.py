"""The table of config keys: each a row, with all that is known of it (`record.Key`)."""

from lafg_jax.config.record import Key
from lafg_jax.config.table import data, language, loss, model, train

ROWS: dict[str, Key] = {
  row.name: row
  for row in (*train.OF_ALL, *data.ROWS, *language.ROWS, *model.ROWS, *loss.ROWS, *train.ROWS)
}
