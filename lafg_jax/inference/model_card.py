"""README.md of an exported model, as the hub shows it: what it is, its figures, how to use it."""

import os
from collections.abc import Sequence

from ml_collections import ConfigDict

from lafg_jax.config.table.language import LLM
from lafg_jax.config.table.loss import WORDLESS
from lafg_jax.evaluate import results
from lafg_jax.inference.bundle import Trained, embedding_dim, given_width, identity
from lafg_jax.utils import ground
from lafg_jax.utils.counted import counted

FILE = "README.md"
_TAKES = """It takes lafg_jax, which is on no package index: `pip install .` in a checkout of it, or
`pip wheel --no-deps .` there for a wheel to hand on.
"""
_USE = """
```python
import lafg_jax

retriever = lafg_jax.load_retriever(".")  # this folder; hf://ORG/NAME once it is pushed
gallery = retriever.embed(["a.jpg", "b.jpg"])  # [2, {dim}] float32, unit norm; a folder will do
cosines, rows = retriever.search("query.jpg", gallery, k=1)
```
"""
# Of a model of given features.
_USE_GIVEN = """
```python
import lafg_jax
import numpy as np

retriever = lafg_jax.load_retriever(".")  # this folder; hf://ORG/NAME once it is pushed
features = np.load("features.npz")["features"]  # [n, {width}], of the encoder it was trained on
gallery = retriever.embed(features)  # [n, {dim}] float32, unit norm
cosines, rows = retriever.search(retriever.embed(features[0]), gallery, k=1)
```
"""
_BARE_GIVEN = """
Without lafg_jax, by `model.stablehlo` (`pip install jax flatbuffers`):

```python
import numpy as np
from jax import export

model = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
features = np.load("features.npz")["features"].astype(np.float32)  # [n, {width}]
embeddings = model.call(features)  # [n, {dim}]
```
"""
INDEX = """
`gallery.faiss` is a searchable index of images, and `gallery.json` has their paths (`GALLERY.md`
says how to add to it). It takes `pip install faiss-cpu`:

```python
import json

import faiss

index = faiss.read_index("gallery.faiss")
paths = json.load(open("gallery.json", encoding="utf-8"))
cosines, rows = index.search(retriever.embed("query.jpg"), 1)
print(paths[rows[0, 0]])
```
"""
# language.describer -> who wrote the descriptions.
_DESCRIBERS = {
  "shipped": "those that come with lafg_jax",
  "synthetic": "those of the drawn finches, which come with lafg_jax",
}
# What lafg_jax.data.images does with images of 8 bits, in terms of Pillow alone.
_BARE = """
Without lafg_jax, by `model.stablehlo` (`pip install jax flatbuffers pillow`):

```python
import numpy as np
from jax import export
from PIL import Image, ImageOps

model = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))


def prepare(path, resize={resize}, size={size}):
  image = ImageOps.exif_transpose(Image.open(path))
  if image.has_transparency_data:
    ground = Image.new("RGBA", image.size, {ground})
    image = Image.alpha_composite(ground, image.convert("RGBA"))
  image = image.convert("RGB"){cut}
  width, height = (resize * side // min(image.size) for side in image.size)
  left, top = (width - size) // 2, (height - size) // 2
  x, y = image.width / width, image.height / height
  right, bottom = min((left + size) * x, image.width), min((top + size) * y, image.height)
  box = (left * x, top * y, right, bottom)
  return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


embeddings = model.call(np.stack([prepare(path) for path in ["a.jpg", "b.jpg"]]))  # [2, {dim}]
```
"""


# images.padded, in the same terms.
_PAD = """
  if max(image.size) >= 1.25 * min(image.size):
    bars = (max(int((max(image.size) / 1.25 - side) / 2), 0) for side in image.size)
    image = ImageOps.expand(image, tuple(bars))"""


def text(model: Trained, formats: Sequence[str]) -> str:
  """The card, Markdown with the hub's metadata before it."""
  config, facts = model.config, model.facts
  dim, width = embedding_dim(model), given_width(config)
  taken, size = "Images", f"at {config.data.image_size} px, "
  if width:
    taken, size = f"Features of another encoder, {width} numbers each,", ""
  unlabelled = "the images, without labels, of " if config.data.instances else ""
  parts = [
    "---\nlibrary_name: lafg_jax\npipeline_tag: image-feature-extraction\ntags:\n"
    "- image-retrieval\n- fine-grained\n- jax\n---\n",
    f"# {facts['dataset']}: fine-grained retrieval by lafg_jax\n",
    f"{taken} to embeddings of {dim} numbers, compared by their cosine. Trained for "
    f"{counted(facts['step'], 'step')}{_selection(model)} on {unlabelled}"
    f"{counted(len(facts['class_names']), 'class')} of `{facts['dataset']}`"
    f"{' (a partial copy)' if facts['partial'] else ''}, {size}from "
    f"{'`' + config.model.pretrained + '`' if config.model.pretrained else 'random weights'}, with "
    f"`loss.alignment={config.loss.alignment}`; `config.json` has every setting. Its id is "
    f"`{identity(model)}`, of its parameters.\n",
    _finished(config),
    _words(config),
    _evaluation(model),
    _TAKES + (_USE_GIVEN.format(dim=dim, width=width) if width else _USE.format(dim=dim)),
  ]
  if config.data.box_crop:
    parts.append("It was trained on images cut to their boxes: pass `boxes` to `embed`.\n")
  if "faiss" in formats and not width:
    parts.append(INDEX)
  if "stablehlo" in formats:
    parts.append(bare(model, facts["box"]))
  return "\n".join(parts)


def _finished(config: ConfigDict) -> str:
  """What stands in place of the trained weights and their plain embeddings."""
  ema, between = config.train.ema, config.train.interpolate != 1
  said = (
    (ema, f"The trained weights are their moving average (`train.ema={ema}`)."),
    (
      between,
      "Its weights lie between those before training and those after it (`train.interpolate`).",
    ),
    (
      config.model.centre,
      "The mean embedding of training images is subtracted from each embedding, which is scaled to "
      "unit norm again (`model.centre`).",
    ),
  )
  return "".join(f"{text}\n" for holds, text in said if holds)


def bare(model: Trained, box: Sequence[float] | None) -> str:
  """How to embed images without lafg_jax, cut to `box` where there is one."""
  data = model.config.data
  if width := given_width(model.config):
    return _BARE_GIVEN.format(width=width, dim=embedding_dim(model))
  return _BARE.format(
    size=data.image_size,
    resize=data.resize_size,
    ground=(*ground.of(data), 255),
    dim=embedding_dim(model),
    cut=_cut(box) + (_PAD if data.pad == "target" else ""),
  )


def _words(config: ConfigDict) -> str:
  """Whether training used words, and whose; and what else language.encoder told it."""
  loss, language = config.loss, config.language
  seen = (
    f" `{language.encoder}`, frozen, also told it how it sees the training images "
    f"(`loss.image_alignment={loss.image_alignment}`)."
    if loss.image_alignment != "none"
    else ""
  )
  if loss.alignment in WORDLESS and loss.image_alignment != "vocabulary":
    return f"No words were used in its training.{seen}\n"
  if language.descriptions:
    source = f"the file `{os.path.basename(language.descriptions)}` (`language.descriptions`)"
  elif language.describer in LLM:
    source = f"the language model `{language.llm}` (`language.describer={language.describer}`)"
  else:
    source = _DESCRIBERS.get(language.describer, "a file")
  other = " Each class was given another class's words, as a control."
  whose = other if language.shuffle in ("all", "prototypes") else ""
  return (
    f"Words were used in its training: descriptions of the training classes, from {source}, "
    f"encoded by `{language.encoder}`.{whose}{seen} An image is embedded without words.\n"
  )


def _cut(box: Sequence[float] | None) -> str:
  """Code that cuts an image to the box, whose right and bottom may count from the far edges."""
  if box is None:
    return ""
  left, top, right, bottom = (int(x) for x in box)
  sides = (("width", right), ("height", bottom))
  far = [f"image.{side}{x:+d}" if x <= 0 else str(x) for side, x in sides]
  return f"\n  image = image.crop(({left}, {top}, {far[0]}, {far[1]}))"


def _selection(model: Trained) -> str:
  """The figures that made a checkpoint the best; nothing for the newest."""
  found = model.facts["validation"]
  return (
    ""
    if found is None
    else (
      f" (the best of those validated, with MAP@R {100 * found['val_map@r']:.1f} % and recall@1 "
      f"{100 * found['val_recall@1']:.1f} % on {model.config.data.num_val_classes} validation "
      "classes)"
    )
  )


def not_evaluated(model: Trained) -> str:
  """What stands in place of figures."""
  best = " --config.evaluate.source=best" if model.facts["checkpoint"] == "best" else ""
  return f"It has not been evaluated (`--stage=evaluate{best}` does).\n"


def _evaluation(model: Trained) -> str:
  result = model.facts["evaluation"]
  if result is None:
    return not_evaluated(model)
  columns = results.columns_of(result)
  if "untrained" not in result:
    columns = {"trained": result, "chance": result["chance"]}
  unseen = "never seen in training" if result["split"] == "test" else "held out of training"
  notes = " A partial copy: not comparable with published figures." if result.get("partial") else ""
  if warning := results.warning_of(result):
    notes += f" **{warning}**"
  lines = [
    f"In %, on {counted(result['num_queries'], 'query')} of "
    f"{counted(result['num_classes'], 'class')} {unseen}; chance is what random rankings give."
    f"{notes}\n",
    "| | " + " | ".join(columns) + " |",
    "|---|" + "---|" * len(columns),
  ]
  for name in results.names_of(result):
    values = (results.percent(column[name]) for column in columns.values())
    lines.append(" | ".join((f"| {name}", *values)) + " |")
  return "\n".join(lines) + "\n"
