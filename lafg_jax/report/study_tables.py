"""The numbers of the study as Markdown, folded, to be included in a page that people wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from lafg_jax.evaluate.results import percent

_HEAD = "<!-- Made by python -m lafg_jax.ablate, of the JSON beside it: change nothing here. -->"
_MEANS = "In %, highest {} first."
_OF_SEEDS = "The standard deviation (sd) and the 95% t-interval of the mean are over seeds."
_DIFFERENCES = """A - B in percentage points, over the seeds that both have, paired by seed. Above \
0, A is better."""
# Of each interval its column, and what it is over.
_INTERVALS = {
  "t": ("95% t", "The 95% t-interval is over seeds, for these test classes."),
  "bootstrap": (
    "95% bootstrap",
    "The 95% bootstrap interval is over test classes, for these seeds.",
  ),
}
_ONE_SEED = "One seed each: that is no evidence of a small difference."
_LEGEND = """What each name stands for, and what it changes in the config. L_aux is the \
contrastive loss of images alone, L_ali the alignment with class targets, L_img the alignment with \
teacher features; R@1 is Recall@1."""
_SWEEPS = "One value changes at a time. Each cell is {}, the mean over seeds, in %."

# Columns of words.
_LEFT = ("name", "B", "what it is", "changes")

Labels = Mapping[str, str]
Rows = list[list[str]]
# {variant: what it changes in the config}; None is the model before training.
Changes = Mapping[str, Mapping[str, Any] | None]


def markdown(
  table: Mapping[str, Any],
  labels: Labels,
  about: Labels | None = None,
  changes: Changes | None = None,
) -> str:
  """What was measured in one sentence, then means, paired differences and sweeps, each folded.

  `<details markdown="1">` is read by GitHub and, with its extension md_in_html, by MkDocs.

  Args:
    table: one of `ablation.summary.summarise`.
    labels: see `label`.
    about: {NAME, '@CHANGE' or a whole variant: a sentence}, for the legend.
    changes: of each variant, for the legend.
  """
  parts, titles = [_HEAD, measured(table)], table["titles"]
  if table["rows"]:
    seeds = _OF_SEEDS if _known(table["rows"], "t", titles) else _ONE_SEED
    note = f"{_MEANS.format(next(iter(titles.values())))} {seeds}"
    parts += _fold(f"Means of {len(table['rows'])} variants", note, means(table, labels))
  if table["differences"]:
    clusters = table["clusters"] or "test classes"
    known = [
      said.replace("test classes", clusters)
      for kind, (_, said) in _INTERVALS.items()
      if _known(table["differences"], kind, titles)
    ]
    note = " ".join([_DIFFERENCES, *known])
    parts += _fold("Paired differences", note, differences(table, labels))
  if table["sweeps"]:
    note = _SWEEPS.format(" / ".join(titles.values()))
    parts += _fold("One value at a time", note, *sweeps(table, labels))
  if named := legend(table, labels, about or {}, changes or {}):
    parts += _fold("What the names mean", _LEGEND, named)
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


def measured(table: Mapping[str, Any]) -> str:
  """What was measured, in a sentence."""
  kind = "classes never seen" if table["split"] == "test" else "held-out training classes"
  images = f"{table['num_queries']} images of {table['num_classes']} {kind}"
  partial = " A partial copy of the dataset." if table["partial"] else ""
  return f"{table['measured'] or images}; {table['steps']} steps for every variant.{partial}"


def means(table: Mapping[str, Any], labels: Labels) -> Rows:
  """Head and rows of means, with the name that --only takes.

  Standard deviations and intervals have their places where any row has several seeds.
  """
  titles = table["titles"]
  several = _known(table["rows"], "t", titles)
  columns = [(f"{name} (sd)", "95% t") if several else (name,) for name in titles.values()]
  found = [["variant", "name", "seeds", *(x for pair in columns for x in pair)]]
  for row in table["rows"]:
    name, cells = row["variant"], []
    for x in map(row.get, titles):
      sd = f" ({percent(x['sd'])})" if x and x["sd"] is not None else ""
      figures = [percent(x["mean"]) + sd, interval(x["t"])] if x else ["", ""]
      cells += figures[: 1 + several]
    found.append([label(name, labels), f"`{name}`", str(len(row["seeds"])), *cells])
  return found


def legend(table: Mapping[str, Any], labels: Labels, about: Labels, changes: Changes) -> Rows:
  """Head and a row for each variant that the tables name, in their order; [] without any."""
  rows = [row["variant"] for row in table["rows"]]
  rows += [row[side] for row in table["differences"] for side in ("variant", "against")]
  rows += [
    row["variant"] for x in table["sweeps"] for of in x["lines"].values() for row in of.values()
  ]
  found = []
  for name in dict.fromkeys(rows):
    # A variant of cells that were measured before need not be in the variants file any more.
    of = changes.get(name, "-")
    if isinstance(of, Mapping):
      of = ", ".join(f"`{key}={x}`" for key, x in of.items()) or "nothing"
    found.append([f"`{name}`", _sentence(name, labels, about), of or "nothing is trained"])
  return [["name", "what it is", "changes"], *found] if found else []


def _sentence(name: str, labels: Labels, about: Labels) -> str:
  """What is said of the whole variant, else of its NAME and then of its changes."""
  if name in about:
    return about[name]
  base, *changed = name.split("@")
  parts = [about.get(base) or label(base, labels)]
  for change in changed:
    said = about.get(f"@{change}") or label(f"@{change}", labels)
    parts.append(said.removeprefix(", "))
  return "; ".join(parts)


def _known(rows: Sequence[Mapping[str, Any]], what: str, titles: Labels) -> bool:
  """Whether any metric of any row has this figure."""
  return any(row[m].get(what) is not None for row in rows for m in titles if m in row)


def differences(table: Mapping[str, Any], labels: Labels) -> Rows:
  """Head and rows of paired differences, with the intervals that any row has."""
  metrics = table["titles"]
  kinds = [kind for kind in _INTERVALS if _known(table["differences"], kind, metrics)]
  titles = ["A - B", *(_INTERVALS[kind][0] for kind in kinds)]
  found = [["A", "B", "seeds", *(f"{x}: {y}" for x in metrics.values() for y in titles)]]
  for row in table["differences"]:
    cells = [label(row[side], labels) for side in ("variant", "against")]
    cells.append(str(len(row["seeds"])))
    for x in map(row.get, metrics):
      intervals = (interval(x[kind], "+") if x else "" for kind in kinds)
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
        means = (
          (percent(row[m]["mean"]) if m in row else "-" for m in table["titles"]) if row else ()
        )
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
  rule = ["---:" if k and name not in _LEFT else "---" for k, name in enumerate(rows[0])]
  return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
