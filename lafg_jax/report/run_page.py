"""The report stage: retrieval.png and report.html, one static page that works offline."""

import base64
import html
import io
import os

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import datasets, images
from lafg_jax.evaluate import knn, results
from lafg_jax.report import pictures
from lafg_jax.training import metrics_log
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import read_npz

FILE, PICTURE = "report.html", "retrieval.png"
NUM_QUERIES, NUM_NEIGHBOURS, TILE = 8, 8, 96
_CURVES = {
  "loss": "loss",
  "l_aux": "L_aux",
  "l_ali": "L_ali",
  "image_entropy": "entropy of the image side, of 1",
  "image_spread": "spread of the image side",
  "images_per_second": "images per second",
  "val_map@r": "MAP@R of the validation classes",
}
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;
color:#1f2328;background:#fff}table{border-collapse:collapse}td,th{padding:.25rem .9rem;
text-align:right;border-bottom:1px solid #d0d7de}td:first-child,th:first-child{text-align:left}
img{max-width:100%}.curves{display:flex;flex-wrap:wrap;gap:1rem}.note{color:#59636e}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}}"""


def run(config: ConfigDict, workdir: str) -> None:
  """Writes `retrieval.png` and `report.html` from what the other stages left in the workdir.

  Raises:
    UserError: there is no evaluation yet, or it is of something else than the config says.
  """
  result = results.read_result(workdir)
  now = {
    "dataset": config.data.name,
    "split": config.evaluate.split,
    "source": config.evaluate.source,
  }
  changed = [f"{k}: {result.get(k)} -> {v}" for k, v in now.items() if result.get(k) != v]
  if changed:
    raise UserError(
      f"{os.path.join(workdir, results.FILE)} is of another evaluation ({'; '.join(changed)}): "
      "run --stage=evaluate first, with evaluate.source=checkpoint or pretrained"
    )
  picture = _picture(config, workdir)
  with files.replacing(os.path.join(workdir, PICTURE)) as temporary:
    temporary.write_bytes(picture)
  page = _page(workdir, result, picture)
  with files.replacing(os.path.join(workdir, FILE)) as temporary:
    temporary.write_text(page, encoding="utf-8")
  logging.info("report: %s", os.path.join(workdir, FILE))


def _picture(config: ConfigDict, workdir: str) -> bytes:
  path = os.path.join(workdir, results.EMBEDDINGS)
  arrays = read_npz(path, ("vectors", "labels", "paths"), stage="evaluate")
  vectors, labels, paths = arrays["vectors"], arrays["labels"], arrays["paths"]
  split = config.evaluate.split
  dataset = datasets.load_splits(config.data, splits=(split,))[split]
  row_of = {name: row for row, name in enumerate(dataset.ids)}
  if not all(str(name) in row_of for name in paths):
    raise UserError(
      f"{path} is of other images than {dataset.name} has: run --stage=evaluate again"
    )
  # Evenly spaced, not picked: the picture shows failures as often as they are.
  queries = gallery = np.arange(len(vectors))
  if dataset.is_query is not None:
    asks = dataset.is_query[[row_of[str(name)] for name in paths]]
    queries, gallery = queries[asks], gallery[~asks]
  chosen = queries[np.linspace(0, len(queries) - 1, min(NUM_QUERIES, len(queries))).astype(int)]
  _, neighbours = knn.search(vectors[chosen], vectors[gallery], NUM_NEIGHBOURS + 1)
  rows = []
  for query, found in zip(chosen, neighbours, strict=True):
    others = [int(gallery[i]) for i in found if i >= 0 and gallery[i] != query][:NUM_NEIGHBOURS]
    rows.append([int(query), *others])

  def read(index: int) -> np.ndarray:
    try:
      image = images.of_dataset(dataset, row_of[str(paths[index])])
    except images.UnreadableImage as error:
      logging.warning("report: a grey tile stands for an image that is gone: %s", error)
      return np.full((TILE, TILE, 3), 128, np.uint8)
    return images.resize_centre_crop(image, resize=TILE, size=TILE)

  buffer = io.BytesIO()
  pictures.retrieval_grid(rows, labels, read, TILE).save(buffer, "PNG", optimize=True)
  return buffer.getvalue()


def _page(workdir: str, result: dict, picture: bytes) -> str:
  lines = metrics_log.read(os.path.join(workdir, metrics_log.FILE))
  curves = "".join(
    pictures.curve([(line["step"], line[name]) for line in lines if name in line], title)
    for name, title in _CURVES.items()
  )
  notes = [
    f"{result['num_queries']} images of {result['num_classes']} classes that training never saw"
    if result["split"] == "test"
    else f"{result['num_queries']} images of {result['num_classes']} held-out training classes"
  ]
  if result.get("box_crop"):
    notes.append("images cut to their boxes (data.box_crop)")
  if result.get("partial"):
    notes.append("a partial copy of the dataset: not comparable with published figures")
  if result.get("num_unreadable"):
    notes.append(f"{result['num_unreadable']} images could not be read and are left out")
  encoded = base64.b64encode(picture).decode()
  title = f"lafg_jax: {html.escape(result['dataset'])}"
  return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>{title}</h1><p>{"; ".join(notes)}.</p>{_table(result)}
<h2>What is found</h2><p class="note">Evenly spaced queries (grey) and their nearest images: green
is the same class, red another.</p>
<img alt="queries and their nearest images" src="data:image/png;base64,{encoded}">
<h2>Training</h2><div class="curves">{curves or "no metrics.jsonl in this folder"}</div>
</body></html>
"""


def _table(result: dict) -> str:
  head, *rows = results.rows_of(result)
  lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
  lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
  return f"<table><tr>{'</tr><tr>'.join(lines)}</tr></table>"
