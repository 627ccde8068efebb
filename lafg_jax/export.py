"""Writes a trained model for the hub, for programs without this package, or for faiss.

  python -m lafg_jax.export --workdir=runs/cars --out=cars_model [--formats=safetensors,stablehlo]
  python -m lafg_jax.export --workdir=runs/cars --out=cars_model --gallery=photos/
  python -m lafg_jax.export --workdir=runs/cars --out=cars_model --checkpoint=best

safetensors: model.safetensors and config.json, which load_retriever reads, and README.md, a model
card with the evaluation. A model of image-text retrieval has its tokenizer beside it, and where it
has no prompts, transformers' CLIPModel loads the folder too. stablehlo: model.stablehlo, uint8
images [b, S, S, 3] -> unit-norm float32 [b, D] for any b, weights within; jax.export.deserialize
runs it without this package; text.stablehlo, of a model that reads texts, int32 ids [b, L] and the
place of each end token [b] -> [b, D]; query.stablehlo, of a model of composed retrieval, both and
the place of the pseudo word [b] -> [b, D]. faiss: gallery.faiss and gallery.json, the index and the
paths of a gallery's images (or its captions), gallery_rows.jsonl and gallery_model.json (classes,
the model's id), and GALLERY.md, how to use them.
--push=hf://org/name pushes what was written to the hub, with the token in HF_TOKEN, and is the
model's place from then on.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags, logging

from lafg_jax.config import command_line
from lafg_jax.runtime import interrupts
from lafg_jax.utils import packages, places
from lafg_jax.utils.errors import UserError

FORMATS = ("safetensors", "stablehlo", "faiss")
STABLEHLO, TEXT_STABLEHLO = "model.stablehlo", "text.stablehlo"
QUERY_STABLEHLO = "query.stablehlo"
PATHS, CAPTIONS = "gallery.json", ".txt"
# Devices that model.stablehlo runs on.
PLATFORMS = ("cpu", "cuda", "tpu")

# allow_override: other commands have flags of these names, and a process may import several.
_WORKDIR = flags.DEFINE(
  command_line.PATH,
  "workdir",
  None,
  "A workdir, or another source that load_retriever takes.",
  allow_override=True,
)
_OUT = flags.DEFINE(
  command_line.PATH, "out", None, "Folder to write; other files stay.", allow_override=True
)
_CHECKPOINT = flags.DEFINE_enum(
  "checkpoint",
  "newest",
  ["newest", "best", "auto"],
  "Of a workdir: the newest, the best of train.keep_best, or auto: the best where there is one.",
)
_FORMATS = flags.DEFINE_string(
  "formats", None, f"Some of {','.join(FORMATS)} (default: two; with --gallery all three)."
)
_GALLERY = flags.DEFINE(
  command_line.PATH,
  "gallery",
  None,
  "Images of the faiss index, an npz or a folder; or captions, a .txt with one a line.",
)

_PUSH = flags.DEFINE_string("push", None, "hf://org/name: push what was written to the hub.")


def main(argv: Sequence[str]) -> None:
  """Checks the flags, then writes each format; prints what was written."""
  del argv
  workdir, out, gallery = _WORKDIR.value, _OUT.value, _GALLERY.value
  if not workdir or not out:
    raise UserError(f"pass --{'out' if workdir else 'workdir'}; see --help")
  if places.is_url(out):
    raise UserError(f"--out={out}: it takes a folder of this machine")
  formats = _chosen(_FORMATS.value, gallery)
  if "faiss" in formats:
    packages.require("faiss", "faiss")
  if gallery and not os.path.exists(gallery):
    raise UserError(f"--gallery={gallery} does not exist")
  from lafg_jax.inference import pushing

  if _PUSH.value:
    pushing.begin(_PUSH.value)
  command_line.make_folder("out", out)
  written = export(workdir, out, formats, gallery, _CHECKPOINT.value)
  print(*written, sep="\n")
  if _PUSH.value:
    print(pushing.push(_PUSH.value, places.expanded(out), written))


def _chosen(text: str | None, gallery: str | None) -> tuple[str, ...]:
  if text is None:
    return FORMATS if gallery else FORMATS[:2]
  formats = tuple(name.strip() for name in text.split(","))
  unknown = [name for name in formats if name not in FORMATS]
  if unknown:
    raise UserError(f"--formats={text}: it takes some of {','.join(FORMATS)}, not {unknown[0]!r}")
  if "faiss" in formats and not gallery:
    raise UserError(
      "--formats=faiss needs --gallery: an embeddings.npz, a folder of images or a .txt of captions"
    )
  if gallery and "faiss" not in formats:
    raise UserError(f"--gallery is of the faiss index: add faiss to --formats={text}")
  return formats


def export(
  source: str,
  out: str,
  formats: Sequence[str],
  gallery: str | None = None,
  checkpoint: str = "newest",
) -> list[str]:
  """Writes `formats` of the model in `source` into the folder `out`; returns the paths written.

  `source` and `checkpoint` are as `load_retriever` takes them. Raises UserError where the model or
  the gallery cannot be read, or does not fit a format.
  """
  from lafg_jax.runtime import jax_settings

  jax_settings.check()
  from lafg_jax.inference import bundle, index_card, index_files, model_card, retriever
  from lafg_jax.utils.files import replacing

  out, gallery = places.expanded(out), gallery and places.expanded(gallery)
  model = bundle.read(source, checkpoint)
  if "safetensors" in formats and not gallery:
    index_card.check(out, model)
  if gallery and gallery.endswith(CAPTIONS) and not bundle.reads_texts(model):
    raise UserError(f"--gallery={gallery}: a model of task={model.config.task} embeds no captions")
  if gallery and bundle.given_width(model.config):
    raise UserError(
      f"--gallery={gallery}: this model embeds features, and the index is of images; leave it out, "
      "and index what retriever.embed(features) gives"
    )
  written = []
  # A library may have swallowed Ctrl-C before each of them.
  interrupts.check()
  if "safetensors" in formats:
    written += bundle.write(model, out)
    with replacing(os.path.join(out, model_card.FILE)) as temporary:
      temporary.write_text(card_of(model).text(model, formats), encoding="utf-8")
    written.append(model_card.FILE)
  interrupts.check()
  if "stablehlo" in formats:
    programs = {STABLEHLO: stablehlo}
    programs |= {TEXT_STABLEHLO: text_stablehlo} if bundle.reads_texts(model) else {}
    programs |= {QUERY_STABLEHLO: query_stablehlo} if bundle.composes(model) else {}
    for name, make in programs.items():
      with replacing(os.path.join(out, name)) as temporary:
        temporary.write_bytes(make(model))
      written.append(name)
  interrupts.check()
  if "faiss" in formats and gallery:
    rows = write_index(retriever.of(model), gallery, out)
    with replacing(os.path.join(out, index_card.FILE)) as temporary:
      temporary.write_text(index_card.text(model, source, gallery, len(rows), formats), "utf-8")
    written += [
      index_files.INDEX,
      PATHS,
      index_card.FILE,
      *index_files.write(out, rows, _about(model)),
    ]
  return [os.path.join(out, name) for name in written]


def card_of(model: Any) -> Any:
  """The module that writes the card of a `bundle.Trained`."""
  from lafg_jax.inference import bundle, composed_card, model_card, text_card

  if bundle.composes(model):
    return composed_card
  return text_card if bundle.reads_texts(model) else model_card


def stablehlo(model: Any) -> bytes:
  """How a `bundle.Trained` embeds images, as a serialised jax.export.Exported, weights within.

  uint8 [b, S, S, 3] -> float32 [b, D] of unit norm, for any b >= 1, on any of PLATFORMS. A model of
  given features takes them, float32 [b, width].

  Raises UserError where the weights are too large for one file of the format.
  """
  import jax
  import jax.numpy as jnp
  from jax import export as jax_export

  from lafg_jax.inference import bundle

  side, task = model.config.data.image_size, bundle.task_of(model.config)
  width = bundle.given_width(model.config)
  row, dtype = ((width,), jnp.float32) if width else ((side, side, 3), jnp.uint8)
  images = jax.ShapeDtypeStruct((*jax_export.symbolic_shape("b"), *row), dtype)
  return _program(
    task.of_images(model.config, model.facts), model.params, ("text", "mapping"), images
  )


def text_stablehlo(model: Any) -> bytes:
  """The embedding of texts, as `stablehlo`: int32 ids [b, L], ends [b] -> float32 [b, D].

  L is the context less the learned prompts, which the program inserts; texts are padded to it. ends
  are the places of the end tokens.
  """
  import jax
  import jax.numpy as jnp
  from jax import export as jax_export

  from lafg_jax.inference import bundle

  task, (b,) = bundle.task_of(model.config), jax_export.symbolic_shape("b")
  length = task.length(model.config, model.facts)
  given = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((b, length), (b,))]
  return _program(
    task.of_texts(model.config, model.facts), model.params, ("image", "mapping"), *given
  )


def query_stablehlo(model: Any) -> bytes:
  """The query of an image with a text, as `stablehlo`.

  uint8 images [b, S, S, 3], int32 ids [b, L], ends [b] and at [b] -> float32 [b, D]: `at` is the
  place of the pseudo word among the tokens.
  """
  import jax
  import jax.numpy as jnp
  from jax import export as jax_export

  from lafg_jax.inference import bundle

  side, task = model.config.data.image_size, bundle.task_of(model.config)
  (b,), length = jax_export.symbolic_shape("b"), task.length(model.config, model.facts)
  given = [jax.ShapeDtypeStruct((b, side, side, 3), jnp.uint8)]
  given += [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((b, length), (b,), (b,))]
  return _program(task.of_queries(model.config, model.facts), model.params, (), *given)


def _program(function: Any, params: dict[str, Any], unread: Sequence[str], *given: Any) -> bytes:
  """`function(params, *given)`, exported; the parts `unread` of the parameters are left out."""
  import jax
  from jax import export as jax_export

  from lafg_jax.runtime import jax_settings

  params = {name: x for name, x in params.items() if name not in unread}
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  if size >= 2**31 - 2**24:
    problem = (
      f"--formats=stablehlo: {size / 2**30:.1f} GiB of weights, and a file of it holds 2 GiB"
    )
    raise UserError(f"{problem}; pass --formats=safetensors")
  with jax_settings.ours():
    embed = jax.jit(lambda *rows: function(params, *rows))
    return bytes(jax_export.export(embed, platforms=PLATFORMS)(*given).serialize())


def _about(model: Any) -> dict[str, Any]:
  """What gallery_model.json says of a `bundle.Trained`."""
  from lafg_jax.inference import bundle

  facts = {"model": bundle.identity(model), "task": str(model.config.task)}
  return facts | {"dim": bundle.embedding_dim(model), "step": model.facts["step"]}


def write_index(retriever: Any, gallery: str, out: str) -> list[dict[str, Any]]:
  """Writes gallery.faiss (IndexFlatIP: exact inner products) and gallery.json (paths, in order).

  Returns the rows of gallery_rows.jsonl (`inference.index_files`), one an image or caption.

  `gallery` is an npz with `paths` [G] and `vectors` [G, D], as --stage=evaluate writes it; a folder
  with images at any depth; or a .txt with a caption a line, which gallery.json then has.
  """
  from lafg_jax.inference import index_files
  from lafg_jax.utils.files import read_npz, replacing
  from lafg_jax.utils.vectors import l2_normalise

  names: list[str] | None = None
  if os.path.isdir(gallery):
    paths, vectors = _embedded(retriever, gallery)
    names = [os.path.basename(os.path.dirname(path)) for path in paths]
  elif gallery.endswith(CAPTIONS):
    paths = _lines(gallery)
    vectors = retriever.embed_text(paths)
  else:
    optional = ("labels", "class_names")
    arrays = read_npz(gallery, ("paths", "vectors"), stage=None, optional=optional)
    paths, vectors = [str(path) for path in arrays["paths"]], arrays["vectors"]
    if vectors.shape != (len(paths), retriever.embedding_dim) or vectors.dtype.kind != "f":
      shape = f"[{len(paths)}, {retriever.embedding_dim}]"
      problem = f"--gallery={gallery}: vectors are {vectors.dtype} {vectors.shape}"
      raise UserError(f"{problem}, and this model gives {len(paths)} images {shape}")
    vectors = l2_normalise(vectors, f"--gallery={gallery}")
    names = _classes(arrays, len(paths))
  index_files.write_faiss(out, vectors)
  with replacing(os.path.join(out, PATHS)) as temporary:
    temporary.write_text(json.dumps(paths, indent=0) + "\n", encoding="utf-8")
  if names is None:
    return [{"caption": caption} for caption in paths]
  return [index_files.row(*pair, {}) for pair in zip(paths, names, strict=True)]


def _classes(arrays: dict[str, Any], count: int) -> list[str]:
  """The class of each row of an embeddings.npz; '' where it does not say."""
  labels, names = arrays.get("labels"), arrays.get("class_names")
  if labels is None or labels.shape != (count,):
    return [""] * count
  whole = names is not None and labels.dtype.kind in "iu"
  if whole and names is not None and ((labels >= 0) & (labels < len(names))).all():
    return [str(names[label]) for label in labels]
  return [str(label) for label in labels]


def _lines(path: str) -> list[str]:
  """The captions of a text file, empty lines left out."""
  from pathlib import Path

  try:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
  except ValueError as error:
    raise UserError(f"--gallery={path} is no text in UTF-8: {error}") from error
  found = [line.strip() for line in lines if line.strip()]
  if not found:
    raise UserError(f"--gallery={path}: it has no caption")
  return found


def _embedded(retriever: Any, folder: str) -> tuple[list[str], Any]:
  """Sorted paths of the readable images below a folder, and their embeddings [G, D]."""
  from lafg_jax.data import listing

  names, others = listing.images_below(folder)
  for line in listing.said(others):
    logging.warning("gallery: %s", line)

  def paths() -> Iterator[str]:
    for name in names:
      interrupts.check()
      yield os.path.join(folder, name)

  vectors, rows, reasons = retriever.embed_readable(paths())
  for reason in reasons.values():
    logging.warning("gallery: left out: %s", reason)
  if not len(rows):
    raise UserError(f"--gallery={folder}: no image below it can be read")
  if reasons:
    logging.warning("gallery: %d of %d images left out", len(reasons), len(names))
  return [names[row] for row in rows], vectors


if __name__ == "__main__":
  command_line.run(main, __doc__ or "", with_config=False)
