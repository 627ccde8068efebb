"""README.md of an exported model of images and texts: what it is, its figures, how to use it."""

import json
from collections.abc import Sequence
from typing import Any

from lafg_jax.inference import bundle, model_card
from lafg_jax.inference.bundle import Trained
from lafg_jax.language.encoders import kept_clip
from lafg_jax.tasks.image_text_retrieval import protocol
from lafg_jax.utils.counted import counted

_USE = """It takes lafg_jax, which is on no package index: `pip install .` in a checkout of it, or
`pip wheel --no-deps .` there for a wheel to hand on.

```python
import lafg_jax

retriever = lafg_jax.load_retriever(".")  # this folder; hf://ORG/NAME once it is pushed
gallery = retriever.embed(["a.jpg", "b.jpg"])  # [2, {dim}] float32, unit norm; a folder will do
cosines, rows = retriever.search(text="a sentence about an image", gallery=gallery, k=1)
texts = retriever.embed_text(["a sentence", "another one"])  # [2, {dim}]
cosines, rows = retriever.search("a.jpg", texts, k=1)  # the sentence nearest to the image
```
"""
_BARE = """
Its texts, in the same program (`pip install tokenizers`), to embeddings that are compared with
those of images; what was learned is within:

```python
from tokenizers import Tokenizer

text_model = export.deserialize(bytearray(open("text.stablehlo", "rb").read()))
words = Tokenizer.from_file("tokenizer.json")
words.no_truncation()
words.no_padding()


def read(text, length={length}, before={before}, after={after}, pad={pad}):
  most = length - len(before) - len(after)
  ids = [*before, *words.encode(text, add_special_tokens=False).ids[:most], *after]
  return ids + [pad] * (length - len(ids))


ids = np.array([read(text) for text in ["a sentence", "another one"]], np.int32)
ends = (ids == {end}).argmax(axis=1).astype(np.int32)  # where the first end token stands
text_embeddings = text_model.call(ids, ends)  # [2, {dim}]
```
"""


def text(model: Trained, formats: Sequence[str]) -> str:
  """The card, Markdown with the hub's metadata before it."""
  config, facts = model.config, model.facts
  dim, size = bundle.embedding_dim(model), config.data.image_size
  classes = len(facts["class_names"])
  of = f"{counted(classes, 'class')} of " if classes else ""
  parts = [
    "---\nlibrary_name: lafg_jax\npipeline_tag: zero-shot-image-classification\ntags:\n"
    "- image-text-retrieval\n- fine-grained\n- jax\n---\n",
    f"# {facts['dataset']}: image-text retrieval by lafg_jax\n",
    f"Images and sentences to embeddings of {dim} numbers, compared by their cosine. "
    f"`{config.model.pretrained}`, adapted by `prompts.method={config.prompts.method}` for "
    f"{counted(facts['step'], 'step')}{_selection(model)} on captions of {of}"
    f"`{facts['dataset']}`{' (a partial copy)' if facts['partial'] else ''}, at {size} px; "
    f"`config.json` has every setting. Its id is `{bundle.identity(model)}`, of its parameters.\n",
    _transformers(model),
    _evaluation(model),
    _USE.format(dim=dim),
  ]
  if "faiss" in formats:
    parts.append(model_card.INDEX)
  if "stablehlo" in formats:
    parts += [model_card.bare(model, None), bare_texts(model, dim)]
  return "\n".join(parts)


def _selection(model: Trained) -> str:
  found = model.facts["validation"]
  if found is None:
    return ""
  return f" (the best of those validated, with R@1 {100 * found['val_recall@1']:.1f} %)"


def _transformers(model: Trained) -> str:
  """Whether transformers computes the same."""
  found = bundle.in_transformers(model)
  if found is None:
    method = model.config.prompts.method
    return (
      f"transformers cannot load it: no model there has a place for what `prompts.method={method}` "
      "learns, so that `model.safetensors` has lafg_jax's own names.\n"
    )
  (name,) = found[1]["architectures"]
  return f"transformers loads this folder too, `{name}.from_pretrained`, and computes the same.\n"


def _evaluation(model: Trained) -> str:
  result = model.facts["evaluation"]
  if result is None:
    return model_card.not_evaluated(model)
  head, *rows = protocol.rows_of(result)
  notes = " A partial copy: not comparable with published figures." if result.get("partial") else ""
  lines = [
    f"In %, on {counted(result['num_images'], 'image')} and "
    f"{counted(result['num_texts'], 'caption')} (`{result['split']}`). A match under `instance` is "
    f"an image's own caption, under `class` any of its class; chance is what random rankings "
    f"give.{notes}\n",
    "| " + " | ".join(head) + " |",
    "|---|---|---|" + "---|" * (len(head) - 3),
    *("| " + " | ".join(row) + " |" for row in rows),
  ]
  return "\n".join(lines) + "\n"


def bare_texts(model: Trained, dim: int) -> str:
  """How to embed texts without lafg_jax."""
  length = bundle.task_of(model.config).length(model.config, model.facts)
  if found := of_tokenizer(model):
    return _BARE.format(length=length, dim=dim, **found)
  pad = kept_clip.tokenizer(model.facts, model.files).pad
  return (
    f"`text.stablehlo` takes ids [b, {length}] of the tokenizer beside it, with "
    f"{json.dumps(pad)} as padding, and the place that each text is read at [b].\n"
  )


def of_tokenizer(model: Trained) -> dict[str, Any] | None:
  """The special tokens of a tokenizer that is one file which does all; None of any other."""
  reader = kept_clip.tokenizer(model.facts, model.files)
  if "tokenizer.json" not in model.files or reader.fixed or model.facts["reading"]["clean"]:
    return None
  return {name: getattr(reader, name) for name in ("before", "after", "pad", "end")}
