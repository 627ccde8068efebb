"""The data stage: data.json, the contact sheet data.png, and the page data.html."""

import html
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from lafg_jax.data import check
from lafg_jax.data.datasets import Dataset
from lafg_jax.report import pictures
from lafg_jax.runtime import remote_workdir
from lafg_jax.utils import files, random_streams
from lafg_jax.utils.counted import counted, plural

FILE, FINDINGS, PICTURE = "data.html", "data.json", "data.png"
NUM_CLASSES, NUM_IMAGES, TILE = 12, 8, 104
# Pairs of near duplicates that are shown of each kind.
NUM_PAIRS = 8
_SPREAD = ("min", "median", "max")
_TITLES = {
  "across_splits": "Across splits: a test image that training sees",
  "across_classes": "In two classes of one split",
  "within_class": "Within a class",
}


def run(config: ConfigDict, workdir: str) -> None:
  """Checks the data set, writes the three files and prints what was found.

  Raises:
    UserError: the data set cannot be loaded at all.
  """
  findings, splits = check.run(config.data)
  sheet = contact_sheet(splits, config.seed)
  picture = pictures.encoded(sheet, "PNG")
  page = _page(findings, splits, sheet)
  text = json.dumps(findings, indent=2, ensure_ascii=False) + "\n"
  for name, content in ((FINDINGS, text.encode()), (PICTURE, picture), (FILE, page.encode())):
    with files.replacing(os.path.join(workdir, name)) as temporary:
      temporary.write_bytes(content)
  print("\n" + summary(findings) + "\n")
  for name in (FILE, FINDINGS, PICTURE):
    print(f"  {remote_workdir.address(os.path.join(workdir, name))}")


def summary(findings: dict[str, Any]) -> str:
  """The findings in a few lines for a terminal."""
  lines = [f"{'split':8}{'images':>9}{'classes':>9}   images a class: least, median, most"]
  for split, counts in findings["splits"].items():
    each = "  ".join(f"{value:g}" for value in counts["per_class"].values())
    lines.append(f"{split:8}{counts['images']:>9,}{counts['classes']:>9,}   {each}")
  sizes = findings["sizes"]
  if sizes["width"]:
    width, height = sizes["width"], sizes["height"]
    lines.append(
      f"sizes: {width['min']:g} x {height['min']:g} to {width['max']:g} x {height['max']:g}, "
      f"median {width['median']:g} x {height['median']:g}; {_kinds(findings)}"
    )
  for noun in ("problem", "remark"):
    found = findings[plural(noun)]
    if found or noun == "problem":
      lines.append(f"{counted(len(found), noun)}:" if found else "no problems found")
    lines += [f"  - {line}" for line in found]
    if noun == "problem":
      lines += [f"    {bad['why']}" for bad in findings["unreadable"]["images"][:10]]
  return "\n".join(lines)


def _kinds(findings: dict[str, Any]) -> str:
  ranked = sorted(findings["kinds"].items(), key=lambda item: -item[1])
  return ", ".join(f"{count:,} {kind}" for kind, count in ranked)


def contact_sheet(splits: dict[str, Dataset], seed: int) -> Image.Image:
  """Random images of random classes, a line a class, from all splits."""
  rng = random_streams.example_pictures(seed)
  classes = [(s, k) for s, dataset in splits.items() for k in range(len(dataset.class_names))]
  chosen = sorted(rng.permutation(len(classes))[:NUM_CLASSES].tolist())
  label, gap = 20, 4
  line = TILE + label + gap
  sheet = Image.new("RGB", (NUM_IMAGES * (TILE + gap) + gap, len(chosen) * line + gap), "white")
  draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
  for y, (split, k) in enumerate(classes[at] for at in chosen):
    dataset = splits[split]
    rows = np.flatnonzero(dataset.labels == k)
    name = f"{dataset.class_names[k]}   ({split}, {counted(len(rows), 'image')})"
    draw.text((gap, y * line + gap), name, fill=(31, 35, 40), font=font)
    for x, row in enumerate(rng.permutation(rows)[:NUM_IMAGES].tolist()):
      left, top = gap + x * (TILE + gap), y * line + label + gap
      sheet.paste(Image.fromarray(pictures.tile(dataset, row, TILE)), (left, top))
  return sheet


def _page(findings: dict[str, Any], splits: dict[str, Dataset], sheet: Image.Image) -> str:
  told = _list(findings["problems"], "problems") or '<p class="well">No problems found.</p>'
  if findings["remarks"]:
    told += f'<p class="note">Remarks:</p>{_list(findings["remarks"], "note")}'
  places = filter(None, dict.fromkeys((findings["source"], findings["root"])))
  place = "; ".join(f"<code>{html.escape(x)}</code>" for x in places)
  body = f"""<p class="note">{place}; {html.escape(_kinds(findings))}</p>{told}
{_splits(findings)}{_sizes(findings)}
{_near(findings, splits)}{_unreadable(findings["unreadable"])}
<h2>Some classes</h2><p class="note">Drawn at random, with random images of each; the same picture
is data.png, and all figures are in data.json.</p>
{pictures.inline(sheet, "images of random classes", "JPEG")}"""
  return pictures.page(f"Data: {findings['dataset']}", body)


def _list(items: Iterable[str], css: str) -> str:
  lines = "".join(f"<li>{html.escape(item)}</li>" for item in items)
  return f'<ul class="{css}">{lines}</ul>' if lines else ""


def _splits(findings: dict[str, Any]) -> str:
  few = f"classes below {findings['images_per_class']}"
  rows = [["split", "images", "classes", "fewest", "median", "most", few, "queries"]]
  charts = ""
  for split, counts in findings["splits"].items():
    each = counts["per_class"]
    spread = [f"{each[name]:g}" if each else "" for name in _SPREAD]
    sizes = [f"{counts[name]:,}" for name in ("images", "classes", "num_small_classes")]
    rows.append([split, *sizes[:2], *spread, sizes[2], f"{counts['queries'] or 'all'}"])
    charts += bars(counts["histogram"], f"{split}: classes by their number of images")
  return f'{pictures.table(rows)}<div class="row">{charts}</div>'


def _sizes(findings: dict[str, Any]) -> str:
  sizes = findings["sizes"]
  if not sizes["width"]:
    return ""
  rows = [["pixels", "least", "median", "most"]]
  for name in ("width", "height", "aspect"):
    rows.append([name, *(f"{sizes[name][k]:.4g}" for k in _SPREAD)])
  chart = bars(sizes["shorter_side"], "images by their shorter side, in pixels")
  small = (f"{x['image']} {x['width']} x {x['height']}" for x in sizes["smallest"])
  return (
    f'<h2>Sizes</h2><div class="row"><div>{pictures.table(rows)}</div>{chart}</div>'
    f'<p class="note">The smallest:</p>{_list(small, "note")}'
  )


def _near(findings: dict[str, Any], splits: dict[str, Dataset]) -> str:
  near = findings["near_duplicates"]
  text = (
    '<h2>Near duplicates</h2><p class="note">Pairs whose perceptual hashes differ in at most '
    f"{near['within_bits']} of {near['of_bits']} bits: copies in another size or quality. "
    "Mirrored and cropped copies are not found.</p>"
  )
  for name, title in _TITLES.items():
    pairs = near[name]["pairs"][:NUM_PAIRS]
    shown = f", the nearest {counted(len(pairs), 'pair')}:" if pairs else ""
    text += f"<h3>{title}: {counted(near[name]['images'], 'image')}{shown}</h3>"
    text += f'<div class="row">{"".join(_pair(pair, splits) for pair in pairs)}</div>'
  return text


def _pair(pair: dict[str, Any], splits: dict[str, Dataset]) -> str:
  tiles = [pictures.tile(splits[each["split"]], each["row"], 116) for each in pair["images"]]
  gap = np.full((116, 4, 3), 255, np.uint8)
  both = Image.fromarray(np.hstack([tiles[0], gap, tiles[1]]))
  about = f"{pair['bits']} bits apart"
  names = (f"{each['split']}: {each['class']}, {each['image']}" for each in pair["images"])
  caption = "<br>".join(map(html.escape, (about, *names)))
  return (
    f"<figure>{pictures.inline(both, about, 'JPEG')}<figcaption>{caption}</figcaption></figure>"
  )


def _unreadable(bad: dict[str, Any]) -> str:
  more = bad["count"] - len(bad["images"])
  lines = [each["why"] for each in bad["images"]] + [f"and {more:,} more"] * (more > 0)
  title = f"<h2>Unreadable: {counted(bad['count'], 'image')}</h2>"
  return f"{title}{_list(lines, 'note')}" if lines else ""


def bars(histogram: dict[str, Any], title: str, width: int = 420, height: int = 150) -> str:
  """A histogram as inline SVG, with the ends of its axis and its highest count."""
  counts, first = histogram["counts"], histogram["first"]
  if not counts:
    return ""
  last = first + histogram["step"] * len(counts) - 1
  step, most, drawn = (width - 20) / len(counts), max(counts), ""
  for x, y in ((10 + k * step, (height - 50) * count / most) for k, count in enumerate(counts)):
    place = f'x="{x:.1f}" y="{height - 20 - y:.1f}" width="{step - 1:.1f}" height="{y:.1f}"'
    drawn += f'<rect {place} fill="var(--bar)"/>'
  texts = [(10, 14, "start", title), (width - 10, 14, "end", f"highest bar {most:,}")]
  texts += [(10, height - 5, "start", first), (width - 10, height - 5, "end", last)]
  return pictures.plot(drawn, texts, (width, height))
