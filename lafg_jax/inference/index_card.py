"""GALLERY.md beside an exported index: what it is, which model made it, how to search and add."""

import os
import re
from collections.abc import Sequence

from lafg_jax.inference import bundle
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

FILE = "GALLERY.md"
_HEAD = """# A searchable index of {count:,} {kind}s

`gallery.faiss` holds the embedding of each {kind}, [{count}, {dim}] float32 of unit norm, as a
faiss `IndexFlatIP`: exact search, and the inner products are cosines. `gallery.json` is the list of
the {named}, in the order of the rows{where}. `gallery_rows.jsonl` has a line a row with what is
known of it, and `gallery_model.json` the model's id.

| | |
|---|---|
| made by model | `{identity}` |
| trained on | `{dataset}`, {classes} classes |
| step | {step:,} ({checkpoint} checkpoint) |
| backbone | `{pretrained}` |
| images | {size} px, centre of {resize} px |
| `{key}` | `{value}` |
| lafg_jax | {version} |

Embeddings of another model mean something else: only vectors of model `{identity}` belong in this
index or may be searched in it.
"""
_USE = """
It takes faiss (`pip install faiss-cpu`), and lafg_jax to embed {kind}s. lafg_jax is on no package
index: `pip install '.[faiss]'` in a checkout of it installs both.

## Search by an image

```python
import json

import faiss
import lafg_jax

index = faiss.read_index("gallery.faiss")
paths = json.load(open("gallery.json", encoding="utf-8"))
retriever = lafg_jax.load_retriever({model!r})  # {what}
cosines, rows = index.search(retriever.embed("query.jpg"), {k})
print([paths[row] for row in rows[0]])
```

Without faiss's search, `retriever.search("query.jpg", index.reconstruct_n(0, index.ntotal), k={k})`
gives the same.
"""
_BY_TEXT = """
## Search by a sentence

```python
cosines, rows = index.search(retriever.embed_text("a sentence about an image"), {k})
print([paths[row] for row in rows[0]])
```
"""
_ADD = """
## Add images

```python
new = lafg_jax.list_images("more_photos")
index.add(retriever.embed(new))
paths += new  # as this program finds them; those before are below the folder that is named above
faiss.write_index(index, "gallery.faiss")
json.dump(paths, open("gallery.json", "w", encoding="utf-8"))
with open("gallery_rows.jsonl", "a", encoding="utf-8") as file:
  lines = ({{"path": path, "class": "", "metadata": {{}}}} for path in new)
  file.writelines(json.dumps(line) + "\\n" for line in lines)
```
"""


_ADD_CAPTIONS = """
## Add captions

```python
new = ["another caption"]
index.add(retriever.embed_text(new))
faiss.write_index(index, "gallery.faiss")
json.dump(paths + new, open("gallery.json", "w", encoding="utf-8"))
with open("gallery_rows.jsonl", "a", encoding="utf-8") as file:
  file.writelines(json.dumps({{"caption": caption}}) + "\\n" for caption in new)
```
"""


def check(folder: str, model: bundle.Trained) -> None:
  """Raises UserError where a folder has the index of another model, which would stay beside it."""
  path = os.path.join(folder, FILE)
  if not os.path.exists(path):
    return
  with open(path, encoding="utf-8") as file:
    found = re.search(r"made by model \| `(\w+)`", file.read())
  if found and found[1] != bundle.identity(model):
    raise UserError(
      f"{folder} has an index of another model ({found[1]}; this one is {bundle.identity(model)}), "
      "which does not fit this model: pass --gallery to make it anew, or another --out"
    )


def _key(model: bundle.Trained) -> str:
  """The config's key that says most about how a model was trained."""
  if bundle.composes(model):
    return "mapping.method"
  return "prompts.method" if bundle.reads_texts(model) else "loss.alignment"


def text(
  model: bundle.Trained, source: str, gallery: str, count: int, formats: Sequence[str]
) -> str:
  """The page, Markdown.

  Args:
    model: that made the index.
    source: where it was read from, as `load_retriever` takes it.
    gallery: the folder or .npz of the images.
    count: G, of the images.
    formats: what else was exported into the folder.
  """
  config, facts = model.config, model.facts
  below = f", below the folder `{gallery}`" if os.path.isdir(gallery) else f", as `{gallery}` has"
  here, reads_texts = "safetensors" in formats, bundle.reads_texts(model)
  captions, key = gallery.endswith(".txt"), _key(model)
  head = _HEAD.format(
    count=count,
    kind="caption" if captions else "image",
    named="captions" if captions else "images' paths",
    dim=bundle.embedding_dim(model),
    where=below if os.path.isdir(gallery) else f"{below} them",
    identity=bundle.identity(model),
    dataset=facts["dataset"],
    classes=len(facts["class_names"]),
    step=facts["step"],
    checkpoint=facts["checkpoint"],
    pretrained=config.model.pretrained or "random weights",
    size=config.data.image_size,
    resize=config.data.resize_size,
    key=key,
    value=config_keys.flatten(config)[key],
    version=facts["versions"].get("lafg_jax", "of unknown version"),
  )
  use = _USE + (_BY_TEXT if reads_texts else "") + (_ADD_CAPTIONS if captions else _ADD)
  return head + use.format(
    model="." if here else os.fspath(source),
    what="this folder; config.json has every setting" if here else "the model of the table above",
    kind="caption" if captions else "image",
    k=min(5, count),
  )
