"""The data stage: data.json, the contact sheet data.png, and data.html, which works offline."""

import base64
import html
import io
import json
import os
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from lafg_jax.data import check, images
from lafg_jax.data.datasets import Dataset
from lafg_jax.runtime import remote_workdir
from lafg_jax.utils import files, random_streams

FILE, FINDINGS, PICTURE = "data.html", "data.json", "data.png"
NUM_CLASSES, NUM_IMAGES, TILE = 12, 8, 104
# Pairs of near duplicates that are shown of each kind.
NUM_PAIRS = 8
_TITLES = {
  "across_splits": "Across splits: a test image that training sees",
  "across_classes": "In two classes of one split",
  "within_class": "Within a class",
}
_STYLE = """:root{color-scheme:light dark;--ink:#1f2328;--paper:#fff;--line:#d0d7de;--note:#59636e;
--bar:#2563eb;--bad:#b42318;--bad-paper:#fdeceb}body{font:15px/1.5 system-ui,sans-serif;
max-width:1040px;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--paper)}
table{border-collapse:collapse}td,th{padding:.25rem .9rem;text-align:right;
border-bottom:1px solid var(--line)}td:first-child,th:first-child{text-align:left}
img{max-width:100%}.note{color:var(--note)}.charts,.pairs{display:flex;flex-wrap:wrap;gap:1.2rem;margin-top:1rem}
ul.problems{background:var(--bad-paper);border-left:4px solid var(--bad);margin:1rem 0;
padding:.6rem 1rem .6rem 2rem}p.well{border-left:4px solid #2ea043;padding:.4rem 1rem}
figure{margin:0;width:236px;font-size:12px;overflow-wrap:anywhere}code{overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--line:#30363d;
--note:#9198a1;--bar:#6ea8fe;--bad:#ff7b72;--bad-paper:#2a1416}}"""


def run(config: ConfigDict, workdir: str) -> None:
  """Checks the data set, writes the three files and prints what was found.

  Raises:
    UserError: the data set cannot be loaded at all.
  """
  findings, splits = check.run(config.data)
  sheet = contact_sheet(splits, config.seed)
  picture = _encoded(sheet, "PNG")
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
  found = findings["problems"]
  lines.append(f"{len(found)} problems:" if found else "no problems found")
  lines += [f"  - {problem}" for problem in found]
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
    name = f"{dataset.class_names[k]}   ({split}, {len(rows)} images)"
    draw.text((gap, y * line + gap), name, fill=(31, 35, 40), font=font)
    for x, row in enumerate(rng.permutation(rows)[:NUM_IMAGES].tolist()):
      left, top = gap + x * (TILE + gap), y * line + label + gap
      sheet.paste(Image.fromarray(_tile(dataset, row, TILE)), (left, top))
  return sheet


def _tile(dataset: Dataset, row: int, side: int) -> np.ndarray:
  """The middle of an image, uint8 [side, side, 3]; grey where it cannot be read."""
  try:
    image = images.of_dataset(dataset, row)
  except images.UnreadableImage as error:
    logging.info("data: a grey tile stands for %s", error)
    return np.full((side, side, 3), 128, np.uint8)
  return images.resize_centre_crop(image, resize=side, size=side)


def _encoded(image: Image.Image, kind: str) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, optimize=True)
  return buffer.getvalue()


def _inline(image: Image.Image, about: str) -> str:
  """A picture inside the page. JPEG: a fifth of PNG's size, for photographs."""
  data = base64.b64encode(_encoded(image, "JPEG")).decode()
  return f'<img alt="{html.escape(about)}" src="data:image/jpeg;base64,{data}">'


def _page(findings: dict[str, Any], splits: dict[str, Dataset], sheet: Image.Image) -> str:
  title = f"Data: {html.escape(findings['dataset'])}"
  found = findings["problems"]
  listed = "".join(f"<li>{html.escape(problem)}</li>" for problem in found)
  told = (
    f'<ul class="problems">{listed}</ul>' if found else '<p class="well">No problems found.</p>'
  )
  places = [findings["source"], findings["root"]]
  place = "; ".join(f"<code>{html.escape(x)}</code>" for x in dict.fromkeys(places) if x)
  return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>{title}</h1><p class="note">{place}; {html.escape(_kinds(findings))}</p>{told}
{_splits(findings)}{_sizes(findings)}
{_near(findings, splits)}{_unreadable(findings)}
<h2>Some classes</h2><p class="note">Drawn at random, with random images of each; the same picture
is data.png, and all figures are in data.json.</p>{_inline(sheet, "images of random classes")}
</body></html>
"""


def _splits(findings: dict[str, Any]) -> str:
  body, charts = "", ""
  for split, counts in findings["splits"].items():
    each = counts["per_class"]
    cells = [f"{counts['images']:,}", f"{counts['classes']:,}"]
    cells += [f"{each[name]:g}" if each else "" for name in ("min", "median", "max")]
    cells += [f"{counts['num_small_classes']:,}", f"{counts['queries'] or 'all'}"]
    body += f"<tr><td>{split}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    charts += bars(counts["histogram"], f"{split}: classes by their number of images")
  few = f"classes below {findings['images_per_class']}"
  head = "".join(
    f"<th>{name}</th>"
    for name in ("split", "images", "classes", "fewest", "median", "most", few, "queries")
  )
  return f'<table><tr>{head}</tr>{body}</table><div class="charts">{charts}</div>'


def _sizes(findings: dict[str, Any]) -> str:
  sizes = findings["sizes"]
  if not sizes["width"]:
    return ""
  body = "".join(
    f"<tr><td>{name}</td>"
    + "".join(f"<td>{sizes[name][k]:.4g}</td>" for k in ("min", "median", "max"))
    + "</tr>"
    for name in ("width", "height", "aspect")
  )
  small = "".join(
    f"<li><code>{html.escape(each['image'])}</code> {each['width']} x {each['height']}</li>"
    for each in sizes["smallest"]
  )
  chart = bars(sizes["shorter_side"], "images by their shorter side, in pixels")
  return (
    '<h2>Sizes</h2><div class="charts"><div><table><tr><th>pixels</th><th>least</th>'
    f"<th>median</th><th>most</th></tr>{body}</table></div>{chart}</div>"
    f'<p class="note">The smallest:</p><ul class="note">{small}</ul>'
  )


def _near(findings: dict[str, Any], splits: dict[str, Dataset]) -> str:
  near = findings["near_duplicates"]
  parts = [
    f'<h2>Near duplicates</h2><p class="note">Pairs whose perceptual hashes differ in at most '
    f"{near['within_bits']} of {near['of_bits']} bits: copies in another size or quality. "
    "Mirrored and cropped copies are not found.</p>"
  ]
  for name, title in _TITLES.items():
    group = near[name]
    pairs = group["pairs"][:NUM_PAIRS]
    shown = f", the nearest {len(pairs)} pairs:" if pairs else ""
    parts.append(f"<h3>{title}: {group['images']:,} images{shown}</h3>")
    parts.append(f'<div class="pairs">{"".join(_pair(pair, splits) for pair in pairs)}</div>')
  return "".join(parts)


def _pair(pair: dict[str, Any], splits: dict[str, Dataset]) -> str:
  side = 116
  both = Image.new("RGB", (2 * side + 4, side), "white")
  for x, each in enumerate(pair["images"]):
    tile = _tile(splits[each["split"]], each["row"], side)
    both.paste(Image.fromarray(tile), (x * (side + 4), 0))
  names = "<br>".join(
    f"{each['split']}: {html.escape(each['class'])}, <code>{html.escape(each['image'])}</code>"
    for each in pair["images"]
  )
  about = f"{pair['bits']} bits apart"
  return f"<figure>{_inline(both, about)}<figcaption>{about}<br>{names}</figcaption></figure>"


def _unreadable(findings: dict[str, Any]) -> str:
  bad = findings["unreadable"]
  if not bad["count"]:
    return ""
  listed = "".join(f"<li><code>{html.escape(each['why'])}</code></li>" for each in bad["images"])
  more = bad["count"] - len(bad["images"])
  rest = f"<p>and {more:,} more</p>" if more else ""
  return f"<h2>Unreadable: {bad['count']:,} images</h2><ul>{listed}</ul>{rest}"


def bars(histogram: dict[str, Any], title: str, width: int = 420, height: int = 150) -> str:
  """A histogram as inline SVG, with the ends of its axis and its highest count."""
  counts, first = histogram["counts"], histogram["first"]
  if not counts:
    return ""
  last = first + histogram["step"] * len(counts) - 1
  step, most = (width - 20) / len(counts), max(counts)
  drawn = "".join(
    f'<rect x="{10 + k * step:.1f}" y="{height - 20 - (height - 50) * count / most:.1f}" '
    f'width="{step - 1:.1f}" height="{(height - 50) * count / most:.1f}" fill="var(--bar)"/>'
    for k, count in enumerate(counts)
  )
  text = 'font-size="11" fill="currentColor"'
  return (
    f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">'
    f'<text x="10" y="14" {text} font-weight="bold">{title}</text>{drawn}'
    f'<text x="10" y="{height - 5}" {text}>{first}</text>'
    f'<text x="{width - 10}" y="{height - 5}" {text} text-anchor="end">{last}</text>'
    f'<text x="{width - 10}" y="14" {text} text-anchor="end">highest bar {most:,}</text></svg>'
  )
