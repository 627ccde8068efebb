"""The table of an evaluation: a row for each method, the config's own first."""

from typing import Any

from lafg_jax.evaluate.results import names_of, percent
from lafg_jax.utils.counted import counted

TITLES = {
  "cvsi": "CVSI",
  "no_edit": "without edited descriptions",
  "no_phi": "without the pseudo word",
  "no_image": "without the reference image",
  "no_captions": "without the gallery's captions",
  "no_added": "without added objects",
  "perfect_edits": "true descriptions (ceiling)",
  "true_captions_edits": "the editor on true captions",
  "noisy_edits": "half of the edits of other queries",
  "image": "image alone",
  "text": "text alone",
  "sum": "image + text",
  "pic2word": "Pic2Word",
  "searle": "SEARLE",
  "lincir": "LinCIR",
  "cirevl": "CIReVL",
}
# Exact-match rates, of `edit_quality.measured`.
_EXACT = {
  "edits": "edited descriptions that state exactly what the truth does:",
  "editor": "the same of the editor alone, on true captions:",
}


def rows_of(result: dict[str, Any]) -> list[list[str]]:
  """Head and rows of the table in percent, with the chance level last."""
  by_method = result["by_method"]
  names = names_of(next(iter(by_method.values()), {}))
  rows = [["%", *(_short(name) for name in names)]]
  for method, found in by_method.items():
    rows.append([TITLES.get(method, method), *(_cell(found, name) for name in names)])
  chance = result.get("chance") or {}
  if any(name in chance for name in names):
    rows.append(["chance", *(_cell(chance, name) for name in names)])
  return rows


def kinds_of(result: dict[str, Any]) -> list[list[str]]:
  """Head and rows of the config's own method for each kind of query; [] where there are none."""
  kinds = result.get("by_kind") or {}
  if not kinds:
    return []
  names = names_of(next(iter(kinds.values())))
  rows = [["%", "queries", *(_short(name) for name in names)]]
  for kind, found in kinds.items():
    count = str(found.get("num_queries", ""))
    rows.append([kind.replace("_", " "), count, *(_cell(found, name) for name in names)])
  return rows


def table(result: dict[str, Any]) -> str:
  """The table as text, with what was measured above it."""
  lines = [heading(result)]
  if not result["by_method"]:
    return "\n".join([*lines, "the right answers are secret: submission files are written"])
  lines += _aligned(rows_of(result))
  lines += exact_of(result)
  if kinds := kinds_of(result):
    lines += ["by kind of query", *_aligned(kinds)]
  return "\n".join(lines)


def exact_of(result: dict[str, Any]) -> list[str]:
  """How often the editor writes what is true, a line each; [] where the truth is not known."""
  exact = result.get("exact_edits", {})
  return [f"{said} {percent(exact[name])} %" for name, said in _EXACT.items() if name in exact]


def heading(result: dict[str, Any]) -> str:
  """What was measured: queries, split and gallery."""
  queries = "query" if result["num_queries"] == 1 else "queries"
  about = "; ".join(result["gallery"].values())
  count = f"{result['num_queries']:,} {queries}"
  text = (
    f"{result['dataset']}, {result['split']}: {count}, {counted(result['num_gallery'], 'image')}"
  )
  return f"{text} ({about})" + (" (partial copy)" if result.get("partial") else "")


def _aligned(rows: list[list[str]]) -> list[str]:
  width = max(len(row[0]) for row in rows) + 2
  wide = max(len(cell) for row in rows for cell in row[1:]) + 2
  return [f"{row[0]:<{width}}" + "".join(f"{cell:>{wide}}" for cell in row[1:]) for row in rows]


def _cell(found: dict[str, Any], name: str) -> str:
  return percent(found[name]) if name in found else ""


def _short(name: str) -> str:
  return name.replace("subset_recall", "R_s").replace("recall", "R").replace("map", "mAP")
