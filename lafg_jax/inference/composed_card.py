"""README.md of an exported model of composed retrieval: what it is, its figures, how to use it."""

from collections.abc import Sequence

from lafg_jax.inference import bundle, model_card, text_card
from lafg_jax.inference.bundle import Trained
from lafg_jax.tasks.composed_retrieval import tables
from lafg_jax.utils.counted import counted

_USE = """It takes lafg_jax, which is on no package index: `pip install .` in a checkout of it, or
`pip wheel --no-deps .` there for a wheel to hand on.

```python
import lafg_jax

retriever = lafg_jax.load_retriever(".")  # this folder; hf://ORG/NAME once it is pushed
gallery = retriever.embed(["a.jpg", "b.jpg"])  # [2, {dim}] float32, unit norm; a folder will do
cosines, rows = retriever.search(image="a.jpg", text="is red", gallery=gallery, k=1)
# With a description of what is looked for, which a language model or you write:
cosines, rows = retriever.search(
  image="a.jpg", text="is red", edited="a photo of a red one", gallery=gallery, k=1
)
cosines, rows = retriever.search(text="a sentence about an image", gallery=gallery, k=1)
```
"""
_BARE = """
An image with a text, in the same program, to the query {weights}: the image's pseudo word stands at
the place `at` of its tokens.

```python
query_model = export.deserialize(bytearray(open("query.stablehlo", "rb").read()))


def phrase(text):
  first = [*{before}, *words.encode("{first}", add_special_tokens=False).ids]
  then = words.encode("{then}".format(text=text), add_special_tokens=False).ids
  most = {length} - len({after})
  ids = [*[*first, {filler}, *then][:most], *{after}]
  return ids + [{pad}] * ({length} - len(ids)), len(first)


ids, at = (np.array(x, np.int32) for x in zip(*map(phrase, ["is red", "is larger"])))
ends = (ids == {end}).argmax(axis=1).astype(np.int32)
images = np.stack([prepare(path) for path in ["a.jpg", "b.jpg"]])
query_embeddings = query_model.call(images, ids, ends, at)  # [2, {dim}]
```
"""


def text(model: Trained, formats: Sequence[str]) -> str:
  """The card, Markdown with the hub's metadata before it."""
  config, facts, dim = model.config, model.facts, bundle.embedding_dim(model)
  of = f"`{facts['dataset']}`{' (a partial copy)' if facts['partial'] else ''}"
  parts = [
    "---\nlibrary_name: lafg_jax\npipeline_tag: image-feature-extraction\ntags:\n"
    "- composed-image-retrieval\n- fine-grained\n- jax\n---\n",
    f"# {facts['dataset']}: composed retrieval by lafg_jax\n",
    "An image with a sentence that changes it finds an image. "
    f"`{config.model.pretrained}`, frozen, with a mapping network of kind `{facts['mapping']}`, "
    f"which makes a word of an image; it was trained for {counted(facts['step'], 'step')} on {of}, "
    f"at {config.data.image_size} px. Embeddings have {dim} numbers. `config.json` has every "
    f"setting. Its id is `{bundle.identity(model)}`, of its parameters.\n",
    "transformers cannot load it: no model there has a place for the mapping network.\n",
    _evaluation(model),
    _USE.format(dim=dim),
  ]
  if "faiss" in formats:
    parts.append(model_card.INDEX)
  if "stablehlo" in formats:
    parts += [model_card.bare(model, None), text_card.bare_texts(model, dim), _bare(model, dim)]
  return "\n".join(parts)


def _evaluation(model: Trained) -> str:
  result = model.facts["evaluation"]
  if result is None:
    return model_card.not_evaluated(model)
  head, *rows = tables.rows_of(result)
  lines = [
    f"In %. {tables.heading(result)}. The first row is this model's own method.\n",
    "| " + " | ".join(head) + " |",
    "|---|" + "---|" * (len(head) - 1),
    *("| " + " | ".join(row) + " |" for row in rows),
  ]
  return "\n".join(lines) + "\n"


def _bare(model: Trained, dim: int) -> str:
  """How to embed an image with a text without lafg_jax."""
  task = bundle.task_of(model.config)
  first, then, weights = task.spoken(model.config)
  if (found := text_card.of_tokenizer(model)) is None:
    return (
      "`query.stablehlo` takes images, ids, ends and the place [b] of the pseudo word, a token of "
      f'any kind between "{first}" and "{then}".\n'
    )
  length = task.length(model.config, model.facts)
  filler = int(found["end"] == 0)
  return _BARE.format(
    **found, first=first, then=then, weights=weights, filler=filler, length=length, dim=dim
  )
