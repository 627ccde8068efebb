"""The report stage: the picture retrieval.png and the page report.html."""

import os

import numpy as np
from absl import logging
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax.data import datasets, images, vectors
from lafg_jax.evaluate import knn, results
from lafg_jax.report import pictures
from lafg_jax.training import metrics_log
from lafg_jax.utils import files
from lafg_jax.utils.counted import counted
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import read_npz

FILE, PICTURE = "report.html", "retrieval.png"
# Of a data set without files of its own: so many classes, and images of each, as files.
EXAMPLES, NUM_CLASSES, NUM_IMAGES = "examples", 4, 3
NUM_QUERIES, NUM_NEIGHBOURS, TILE = 8, 8, 96
_FOUND = (
  '<p class="note">Evenly spaced queries (grey) and their nearest images: green\nis the same '
  "class, red another.</p>\n"
)
_NO_PICTURE = "no picture of what is found: the data set holds features, and no images"
_CURVES = {
  "loss": "loss",
  "l_aux": "L_aux",
  "l_ali": "L_ali",
  "image_entropy": "entropy of the image side, of 1",
  "image_spread": "spread of the image side",
  "images_per_second": "images per second",
  "val_map@r": "MAP@R of the validation classes",
}


def run(config: ConfigDict, workdir: str) -> None:
  """Writes `retrieval.png` and `report.html` from what the other stages left in the workdir.

  Of a data set that is drawn, it also writes a few of the evaluated images, examples/CLASS/*.png:
  files to try the model on. Of one that holds features there is no picture, and the page says so.

  Raises:
    UserError: there is no evaluation yet, or it is of something else than the config says.
  """
  result = results.read_result(workdir)
  now = {"dataset": config.data.name, **{k: config.evaluate[k] for k in ("split", "source")}}
  changed = [f"{k}: {result.get(k)} -> {v}" for k, v in now.items() if result.get(k) != v]
  if changed:
    what = f"{os.path.join(workdir, results.FILE)} is of another evaluation ({'; '.join(changed)})"
    hint = "run --stage=evaluate first, with evaluate.source=checkpoint or pretrained"
    raise UserError(f"{what}: {hint}")
  split = config.evaluate.split
  dataset = datasets.load_splits(config.data, splits=(split,))[split]
  if dataset.drawn:
    _write_examples(dataset, workdir)
  written = {}
  shown = f'<p class="note">{_NO_PICTURE}</p>'
  if vectors.held(dataset):
    logging.info("report: %s", _NO_PICTURE)
  else:
    picture = _picture(dataset, workdir)
    shown = _FOUND + pictures.inline(picture, "queries and their nearest images", "PNG")
    written[PICTURE] = pictures.encoded(picture, "PNG")
  written[FILE] = _page(workdir, result, shown).encode()
  for name, content in written.items():
    with files.replacing(os.path.join(workdir, name)) as temporary:
      temporary.write_bytes(content)
  logging.info("report: %s", os.path.join(workdir, FILE))


def _write_examples(dataset: datasets.Dataset, workdir: str) -> None:
  for label in np.linspace(0, len(dataset.class_names) - 1, NUM_CLASSES).astype(int):
    for row in np.flatnonzero(dataset.labels == label)[:NUM_IMAGES]:
      name = dataset.ids[row].removeprefix(f"{dataset.name}/")
      content = pictures.encoded(images.of_dataset(dataset, int(row)), "PNG")
      with files.replacing(os.path.join(workdir, EXAMPLES, f"{name}.png")) as temporary:
        temporary.write_bytes(content)


def _picture(dataset: datasets.Dataset, workdir: str) -> Image.Image:
  path = os.path.join(workdir, results.EMBEDDINGS)
  arrays = read_npz(path, ("vectors", "labels", "paths"), stage="evaluate")
  vectors, labels, paths = arrays["vectors"], arrays["labels"], arrays["paths"]
  row_of = {name: row for row, name in enumerate(dataset.ids)}
  if not all(str(name) in row_of for name in paths):
    what = f"of other images than {dataset.name} has"
    raise UserError(f"{path} is {what}: run --stage=evaluate again")
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
    return pictures.tile(dataset, row_of[str(paths[index])], TILE)

  return pictures.retrieval_grid(rows, labels, read, TILE)


def _page(workdir: str, result: dict, shown: str) -> str:
  """The page; `shown` is the HTML of what is found."""
  lines = metrics_log.read(os.path.join(workdir, metrics_log.FILE))
  curves = "".join(
    pictures.curve([(line["step"], line[name]) for line in lines if name in line], title)
    for name, title in _CURVES.items()
  )
  unseen = result["split"] == "test"
  kind = "that training never saw" if unseen else "held out of training"
  classes = counted(result["num_classes"], "class")
  notes = [f"{counted(result['num_queries'], 'image')} of {classes} {kind}"]
  if result.get("box_crop"):
    notes.append("images cut to their boxes (data.box_crop)")
  if result.get("partial"):
    notes.append("a partial copy of the dataset: not comparable with published figures")
  if result.get("num_unreadable"):
    notes.append(f"left out: {counted(result['num_unreadable'], 'image')} that could not be read")
  warning = results.warning_of(result)
  told = f'<ul class="problems"><li>{warning}</li></ul>' if warning else ""
  body = f"""<p>{"; ".join(notes)}.</p>{told}{pictures.table(results.rows_of(result))}
<p class="note">chance: what random rankings of these images give.</p>
<h2>What is found</h2>{shown}
<h2>Training</h2><div class="row">{curves or "no metrics.jsonl in this folder"}</div>"""
  return pictures.page(f"lafg_jax: {result['dataset']}", body)
