"""A gallery as files that any program reads: vectors, rows, the model's id, a page about them."""

import os
from importlib.util import find_spec

import numpy as np

from lafg_jax.data import listing
from lafg_jax.gallery import store
from lafg_jax.gallery.store import Facts, Gallery
from lafg_jax.inference import index_card, index_files
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import replacing

VECTORS = "gallery.safetensors"

_HEAD = """# A gallery of {count:,} images

| file | |
|---|---|
| `gallery.safetensors` | `vectors` [{count}, {dim}] float32 of unit norm, an image a row |
| `gallery_rows.jsonl` | a line a row, in the same order: `path`, `class` and `metadata`{columns} |
| `gallery_model.json` | the model's id, and what else the gallery knows of itself |
{faiss}
| | |
|---|---|
| made by model | `{model}` |
| task | `{task}` |
| step | {step:,} ({checkpoint} checkpoint) |
| read from | `{source}` |

Embeddings of another model mean something else: only vectors of model `{model}` belong here or may
be searched here. The product of two vectors is their cosine. The images themselves are not here;
paths are those of the machine that indexed them.

## Read and search

It takes lafg_jax, to embed what is looked for: on no package index, `pip install .` in a checkout.

```python
import json

import lafg_jax
from safetensors.numpy import load_file

vectors = load_file("gallery.safetensors")["vectors"]
rows = [json.loads(line) for line in open("gallery_rows.jsonl", encoding="utf-8")]
retriever = lafg_jax.load_retriever({given!r})
cosines, found = retriever.search("query.jpg", vectors, k={k})
print([rows[row]["path"] for row in found[0]])
```
"""
_FAISS_ROW = "| `gallery.faiss` | the same vectors as a faiss `IndexFlatIP` |\n"
_BY_TEXT = """
By a sentence:

```python
cosines, found = retriever.search(text="a sentence about an image", gallery=vectors, k={k})
print([rows[row]["path"] for row in found[0]])
```
"""
_BY_FAISS = """
By faiss (`pip install faiss-cpu`):

```python
import faiss

index = faiss.read_index("gallery.faiss")
cosines, found = index.search(retriever.embed("query.jpg"), {k})
```
"""
_ADD = """
## Add images

```python
import numpy as np
from safetensors.numpy import save_file

new = lafg_jax.list_images("more_photos")
vectors = np.concatenate([vectors, retriever.embed(new)])
rows += [{"path": path, "class": "", "metadata": {}} for path in new]
save_file({"vectors": vectors}, "gallery.safetensors")
with open("gallery_rows.jsonl", "w", encoding="utf-8") as file:
  file.writelines(json.dumps(row) + "\\n" for row in rows)
```
"""
_ADD_FAISS = """
```python
index.add(vectors[index.ntotal :])
faiss.write_index(index, "gallery.faiss")
```
"""


def export(gallery: Gallery, out: str) -> list[str]:
  """Writes all of a gallery into a folder that is there; returns the files' paths.

  The vectors are in memory meanwhile. `gallery.faiss` is written where faiss is installed. Raises
  UserError where the gallery is empty, or the folder has one of another model.
  """
  from safetensors.numpy import save_file

  facts = gallery.facts
  index_files.check(out, facts.model)
  hits, vectors = store.everything(gallery)
  if not hits:
    raise UserError(f"{gallery.place} is empty: there is nothing to export")
  vectors = np.ascontiguousarray(vectors)
  about = {"model": facts.model, "task": facts.task, "dim": facts.dim, "step": facts.step}
  about |= {"source": facts.source, "checkpoint": facts.checkpoint, "floors": facts.floors}
  rows = (index_files.row(hit.path, hit.label, hit.metadata) for hit in hits)
  names = index_files.write(out, rows, about | {"columns": facts.own_columns()})
  with replacing(os.path.join(out, VECTORS)) as temporary:
    save_file({"vectors": vectors}, temporary, {"model": facts.model})
  names.append(VECTORS)
  with_faiss = find_spec("faiss") is not None
  if with_faiss:
    index_files.write_faiss(out, vectors)
    names.append(index_files.INDEX)
  with replacing(os.path.join(out, index_card.FILE)) as temporary:
    temporary.write_text(card(facts, len(hits), with_faiss), encoding="utf-8")
  return [os.path.join(out, name) for name in [*names, index_card.FILE]]


def card(facts: Facts, count: int, with_faiss: bool) -> str:
  """The page, Markdown."""
  own = ", ".join(f"`{name}`" for name in facts.own_columns())
  head = _HEAD.format(
    count=count,
    dim=facts.dim,
    columns=f" ({own})" if own else "",
    faiss=_FAISS_ROW if with_faiss else "",
    model=facts.model,
    task=facts.task,
    step=facts.step,
    checkpoint=facts.checkpoint,
    source=listing.shown(facts.source).replace("`", "'"),
    given=facts.source,
    k=min(5, count),
  )
  use = _BY_TEXT if facts.task != "class_retrieval" else ""
  use += _BY_FAISS if with_faiss else ""
  return head + use.format(k=min(5, count)) + _ADD + (_ADD_FAISS if with_faiss else "")
