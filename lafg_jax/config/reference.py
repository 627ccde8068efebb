"""The reference of config keys, as Markdown: docs/reference/keys.md.

python -m lafg_jax.config.reference > docs/reference/keys.md
"""

import re

from lafg_jax.config.record import KINDS, Key
from lafg_jax.config.table import ROWS

_HEAD = """# Config keys

`--config.KEY=VALUE` overrides any of these. This page is made from the table in
`lafg_jax/config/table/` by `python -m lafg_jax.config.reference`. What a key decides:

"""
_COLUMNS = "| Key | Default | Takes | Decides | What it does |\n|---|---|---|---|---|\n"


def text() -> str:
  """The page: what a key can decide, then a table a section."""
  kinds = "".join(f"- **{kind}**: {said}\n" for kind, said in KINDS.items())
  parts = [_HEAD + kinds]
  sections: dict[str, list[Key]] = {}
  for row in ROWS.values():
    sections.setdefault(row.name.split(".")[0], []).append(row)
  for section, rows in sections.items():
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
  """Words that Markdown shows as they are, in a cell of a table."""
  return re.sub(r"([\\`*_\[\]<>|{}$#])", r"\\\1", words)


if __name__ == "__main__":
  print(text(), end="")
