"""The reference of config keys: python -m lafg_jax.config.reference > docs/reference/keys.md"""

import itertools
import re

from lafg_jax.config.record import KINDS, Key
from lafg_jax.config.table import ROWS
from lafg_jax.utils import output

_HEAD = """# Config keys

`--config.KEY=VALUE` overrides any of these; in a path, `~` is the home folder.
This page is made from the table in `lafg_jax/config/table/` by
`python -m lafg_jax.config.reference`. What a key decides:

"""
_COLUMNS = "| Key | Default | Takes | Decides | What it does |\n|---|---|---|---|---|\n"


def text() -> str:
  """The page: what a key can decide, then one table per section."""
  kinds = "".join(f"- **{kind}**: {said}\n" for kind, said in KINDS.items())
  parts = [_HEAD + kinds]
  for section, rows in itertools.groupby(ROWS.values(), lambda row: row.name.split(".")[0]):
    parts.append(f"## {section}\n\n{_COLUMNS}" + "".join(map(_line, rows)))
  return "\n".join(parts)


def _line(row: Key) -> str:
  comment = _escaped(row.comment)
  if row.read_by is not None:
    values = ", ".join(f"`{value}`" for value in row.read_by.values)
    comment += f" Only read with `{row.read_by.key}` {values}."
  default = repr(row.default).replace("|", "\\|")
  cells = (f"`{row.name}`", f"`{default}`", _escaped(row.rule.wanted), row.decides, comment)
  return f"| {' | '.join(cells)} |\n"


def _escaped(words: str) -> str:
  """Words with Markdown's special characters escaped."""
  return re.sub(r"([\\`*_\[\]<>|{}$#])", r"\\\1", words)


if __name__ == "__main__":
  with output.quiet():
    print(text(), end="")
