"""The numbers of the study as Markdown, folded, to be included in a page that people wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from lafg_jax.evaluate.results import TITLES, percent

_HEAD = "<!-- Made from ablation.json by python -m lafg_jax.ablate: change nothing here. -->"
_MEANS = """In %, highest R@1 first. The standard deviation (sd) and the 95% t-interval of the \
mean are over seeds."""
_DIFFERENCES = """A - B in percentage points, over the seeds that both have, paired by seed. The \
95% t-interval is over seeds, for these test classes; the 95% bootstrap interval is over test \
classes, for these seeds. Above 0, A is better."""
_SWEEPS = "One value changes at a time. Each cell is {}, the mean over seeds, in %."

Labels = Mapping[str, str]
Rows = list[list[str]]


def markdown(table: Mapping[str, Any], labels: Labels) -> str:
  """What was measured in one sentence, then means, paired differences and sweeps, each folded.

  `<details markdown="1">` is read by GitHub and, with its extension md_in_html, by MkDocs.

  Args:
    table: one of `ablation.summary.summarise`.
    labels: see `label`.
  """
  parts = [_HEAD, about(table)]
  if table["rows"]:
    parts += _fold(f"Means of {len(table['rows'])} variants", _MEANS, means(table, labels))
  if table["differences"]:
    parts += _fold("Paired differences", _DIFFERENCES, differences(table, labels))
  if table["sweeps"]:
    note = _SWEEPS.format(" / ".join(TITLES.values()))
    parts += _fold("One value at a time", note, *sweeps(table, labels))
  return "\n\n".join(parts) + "\n"


def label(variant: str, labels: Labels) -> str:
  """A variant NAME, NAME@CHANGE or NAME@KEY=VALUE in plain words.

  `labels` has words for NAME, '@CHANGE', '@KEY' or a whole variant; others keep their names.
  """
  if variant in labels:
    return labels[variant]
  name, *changes = variant.split("@")
  parts = [labels.get(name, name)]
  for key, equals, value in (change.partition("=") for change in changes):
    parts.append(labels.get(f"@{key}", key) + (equals and f" = {value}"))
  return ", ".join(parts)


def title(table: Mapping[str, Any]) -> str:
  """'synthetic, from scratch' and the like."""
  start = table["start"]
  return f"{table['dataset']}, {'from scratch' if start == 'scratch' else f'{start} start'}"


def about(table: Mapping[str, Any]) -> str:
  """What was measured, in a sentence."""
  kind = "classes never seen" if table["split"] == "test" else "held-out training classes"
  partial = " A partial copy of the dataset." if table["partial"] else ""
  images = f"{table['num_queries']} images of {table['num_classes']} {kind}"
  return f"{images}; {table['steps']} steps for every variant.{partial}"


def means(table: Mapping[str, Any], labels: Labels) -> Rows:
  """Head and rows of means, standard deviations and intervals, with the name that --only takes."""
  columns = [x for name in TITLES.values() for x in (f"{name} (sd)", "95% t")]
  found = [["variant", "name", "seeds", *columns]]
  for row in table["rows"]:
    name, cells = row["variant"], []
    for x in map(row.get, TITLES):
      sd = f" ({percent(x['sd'])})" if x and x["sd"] is not None else ""
      cells += [percent(x["mean"]) + sd, interval(x["t"])] if x else ["", ""]
    found.append([label(name, labels), f"`{name}`", str(len(row["seeds"])), *cells])
  return found


def differences(table: Mapping[str, Any], labels: Labels) -> Rows:
  """Head and rows of paired differences with both intervals."""
  columns = [f"{x}: {y}" for x in TITLES.values() for y in ("A - B", "95% t", "95% bootstrap")]
  found = [["A", "B", "seeds", *columns]]
  for row in table["differences"]:
    cells = [label(row[side], labels) for side in ("variant", "against")]
    cells.append(str(len(row["seeds"])))
    for x in map(row.get, TITLES):
      intervals = (interval(x[kind], "+") if x else "" for kind in ("t", "bootstrap"))
      cells += [percent(x["mean"], "+") if x else "", *intervals]
    found.append(cells)
  return found


def sweeps(table: Mapping[str, Any], labels: Labels) -> list[Rows]:
  """For each swept key a head and a row for each variant, with a column for each value.

  A cell is '46.0 / 23.0', with the number of seeds where values differ in it.
  """
  found = []
  for sweep in table["sweeps"]:
    counts = {len(row["seeds"]) for line in sweep["lines"].values() for row in line.values()}
    rows = [[f"`{sweep['key']}`", *sweep["values"]]]
    for name, line in sweep["lines"].items():
      rows.append([label(name, labels)])
      for row in map(line.get, sweep["values"]):
        means = (percent(row[m]["mean"]) if m in row else "-" for m in TITLES) if row else ()
        seeds = f" ({len(row['seeds'])} seed{'s' * (len(row['seeds']) > 1)})" if row else ""
        rows[-1].append(" / ".join(means) + seeds * (len(counts) > 1))
    found.append(rows)
  return found


def interval(ends: tuple[float, float] | None, sign: str = "") -> str:
  """'[62.6, 68.4]'; nothing where there is none."""
  return "" if ends is None else f"[{percent(ends[0], sign)}, {percent(ends[1], sign)}]"


def _fold(summary: str, note: str, *tables: Rows) -> list[str]:
  opened = f'<details markdown="1">\n<summary>{summary}</summary>'
  return [opened, note, *map(_table, tables), "</details>"]


def _table(rows: Sequence[Sequence[str]]) -> str:
  rule = ["---:" if k and name not in ("name", "B") else "---" for k, name in enumerate(rows[0])]
  return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
