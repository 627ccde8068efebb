"""Charts of a training: a chart a figure of metrics.jsonl, of one run or of several."""

import os
from collections.abc import Mapping, Sequence

from lafg_jax.report import frame
from lafg_jax.report.frame import Chart, Section, Series
from lafg_jax.training import metrics_log


def charts(runs: Sequence[tuple[str, str]], shown: Mapping[str, tuple[str, str]]) -> list[Chart]:
  """A chart for each figure that the first run has at two steps or more.

  Args:
    runs: names and workdirs.
    shown: {figure in metrics.jsonl: (title, unit)}.
  """
  lines = [
    (name, metrics_log.read(os.path.join(workdir, metrics_log.FILE))) for name, workdir in runs
  ]
  found = []
  for number, (figure, (title, unit)) in enumerate(shown.items()):
    series = [
      Series(name, [(line["step"], line[figure]) for line in of if figure in line])
      for name, of in lines
    ]
    if len(series[0].points) > 1:
      drawn = [one for one in series if one.points]
      found.append(Chart(f"training-{number}", title, "training step", unit, drawn))
  return found


def section(found: Sequence[Chart]) -> Section:
  """The section of these charts."""
  places = "".join(frame.place_of(chart) for chart in found)
  body = (
    f'<div class="charts">{places}</div>' if found else "<p>No metrics.jsonl in this folder.</p>"
  )
  return Section("training", "Training", body)
