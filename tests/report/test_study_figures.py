"""Figures of the study, by the numbers of what is drawn."""

from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.collections import LineCollection

from lafg_jax.report import study_figures

LABELS = {"l_aux": "alone", "@loss.beta": "beta"}


def row(variant, *recalls, t=None):
  found = {"variant": variant, "seeds": list(range(len(recalls)))}
  for metric, scale in (("recall@1", 1.0), ("map@r", 0.5)):
    values = [scale * x for x in recalls]
    ends = None if t is None else (scale * t[0], scale * t[1])
    found[metric] = {"values": values, "mean": sum(values) / len(values), "sd": None, "t": ends}
  return found


ROWS = [
  row("default", 0.5, 0.7, t=(0.35, 0.85)),
  row("control", 0.5, 0.52, t=(-0.2, 1.22)),
  row("l_aux", 0.4),
  row("other", 0.2),
]
SWEEPS = [
  {
    "key": "loss.beta", "values": ["0.3", "10", "all"],
    "lines": {"default": {"0.3": row("", 0.4, 0.5, t=(0.0, 0.9)), "10": row("", 0.6)},
              "l_aux": {"10": row("", 0.1), "all": row("", 0.2)}},
  },
  {"key": "n", "values": ["1"], "lines": {"default": {"1": row("", 0.3)}}},
]  # fmt: skip
TITLES = {"recall@1": "R@1", "map@r": "MAP@R"}
TABLE = {"dataset": "finches", "start": "scratch", "rows": ROWS, "sweeps": SWEEPS, "titles": TITLES}
SHOWN = {"shown": ("default", "control", "l_aux"), "reference": "l_aux", "controls": ("control",)}


def means(shown=ROWS):
  return study_figures._draw_means(shown, LABELS, TITLES, "l_aux", ("control",))


def points(axes, marker):
  """[x, y] of the marks of a kind, in percent."""
  lines = [x for x in axes.lines if x.get_marker() == marker]
  return np.concatenate([x.get_xydata() for x in lines]).round(6).tolist() if lines else []


def intervals(axes):
  bars = [x for x in axes.collections if isinstance(x, LineCollection)]
  return [np.round(segment, 6).tolist() for bar in bars for segment in bar.get_segments()]


@pytest.mark.parametrize(("panel", "scale"), [(0, 100), (1, 50)])
def test_means_intervals_and_seeds_are_where_they_belong(panel, scale):
  axes = means().axes[panel]
  assert points(axes, "D") == [[0.4 * scale, 2]], "the reference"
  assert points(axes, "s") == [[0.51 * scale, 1]], "the control"
  drawn = points(axes, "o")
  for x, y in ((0.6, 0), (0.2, 3), (0.5, 0.28), (0.7, 0.28), (0.52, 1.28), (0.4, 2.28)):
    assert [pytest.approx(x * scale), y] in drawn
  dashed = [x for x in axes.lines if x.get_linestyle() == "--"]
  assert [x.get_xdata()[0] for x in dashed] == [pytest.approx(0.4 * scale)]
  # An interval ends where no value can be; one seed has none.
  ends = [[x for x, _ in segment] for segment in intervals(axes)]
  assert ends == [
    pytest.approx([0.35 * scale, 0.85 * scale]), pytest.approx([0, min(1.22 * scale, 100)]),
  ]  # fmt: skip
  told = [x.get_text() for x in axes.texts]
  assert told == [f"{x * scale:.1f}" for x in (0.6, 0.51, 0.4, 0.2)]


def test_variants_stand_in_the_order_of_the_table_by_their_words():
  axes = means().axes[0]
  names = [x.get_text() for x in axes.get_yticklabels()]
  assert names == ["default", "control", "alone", "other"]
  low, high = axes.get_ylim()
  assert low > high, "the first stands above"


def test_sweeps_have_a_panel_for_each_key_and_metric():
  figure = study_figures._draw_sweeps(SWEEPS, LABELS, TITLES)
  beta, beta_map, n, _ = figure.axes
  assert beta.get_title(loc="left").splitlines() == ["beta", "R@1, %"]
  assert beta_map.get_title(loc="left") == "MAP@R, %"
  assert [x.get_text() for x in beta.get_xticklabels()] == ["0.3", "10", "all"]
  lines = {x.get_label(): x.get_xydata().round(6).tolist() for x in beta.lines}
  assert lines["default"] == [[0, 45], [1, 60]] and lines["alone"] == [[1, 10], [2, 20]]
  assert intervals(beta) == [[[0, 0], [0, 90]]] and intervals(beta_map) == [[[0, 0], [0, 45]]]
  seeds = [x.get_xydata().round(6).tolist() for x in beta.lines if x.get_alpha()]
  assert seeds == [[[0, 40], [0, 50]]]
  # On one axis, so that keys can be compared.
  assert beta.get_ylim() == n.get_ylim() and beta.get_ylim()[0] < 10 < 60 < beta.get_ylim()[1]
  [legend] = figure.legends
  assert [x.get_text() for x in legend.get_texts()] == ["default", "alone"]
  shown = {x.get_label(): x.get_color() for x in beta.lines if not x.get_alpha()}
  assert shown["default"] != shown["alone"]


def test_an_odd_number_of_sweeps_leaves_no_empty_panel():
  assert [x.get_visible() for x in study_figures._draw_sweeps(SWEEPS[:1], {}, TITLES).axes] == [
    True, True, False, False,
  ]  # fmt: skip


def test_the_files_are_svg_with_text_in_the_colour_of_the_reader():
  for text in (study_figures.means(TABLE, LABELS, **SHOWN), study_figures.sweeps(TABLE, LABELS)):
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width") == "600pt"
    said = [x.text for x in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "alone" in said and "R@1, %" in said and "finches, from scratch" in root[0].text
    styles = [x.get("style") or "" for x in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all("fill: currentColor" in style for style in styles)
    assert "prefers-color-scheme: dark" in text and study_figures._INK not in text
  assert "other" not in study_figures.means(TABLE, LABELS, **SHOWN), "it is not to be shown"
  every = study_figures.means(TABLE, LABELS, **SHOWN | {"shown": ("nobody",)})
  assert ">other<" in every
  assert study_figures.means(TABLE | {"rows": []}, LABELS, **SHOWN) == ""
  assert study_figures.sweeps(TABLE | {"sweeps": []}, LABELS) == ""


def test_colours_can_be_told_from_white_and_from_black():
  def luminance(colour):
    x = np.array(colors.to_rgb(colour))
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) @ (
      0.2126,
      0.7152,
      0.0722,
    )

  for colour in {*study_figures._LINES} - {study_figures._INK}:
    # WCAG asks 3 of graphics; of the palette's light colours, lines and large marks, less is taken.
    dark = luminance("#0d1117")
    assert 1.05 / (luminance(colour) + 0.05) > 2.1
    assert (luminance(colour) + 0.05) / (dark + 0.05) > 3
