"""What `python -m lafg_jax.ablate` compares, as plain data; --variants=FILE takes another file.

`lafg_jax/tasks/class_retrieval/variants.py` explains the names.
"""

from pathlib import Path
from typing import Any

from lafg_jax.config import keys
from lafg_jax.tasks.composed_retrieval import methods
from lafg_jax.utils.files import fingerprint

# Nothing is tuned yet: --tune writes a file, --tuned=FILE takes it.
TUNED = ""

# {metric: its title} of the tables; the first one ranks.
TITLES = {"map@10": "mAP@10", "recall@1": "R@1", "map@5": "mAP@5", "recall@10": "R@10"}

# Differences are paired with the sum of image and text, and those of `default` (CVSI) with each
# baseline, and with itself without each term.
REFERENCE = "sum"
CONTROLS = (
  *("image", "text", "pic2word", "searle", "lincir", "cirevl"),
  *("cvsi", "default@no-added"),
  *("default@perfect-edits", "default@wrong-edits", "default@wrong-captions"),
)
# What each term gives, and the pseudo word of the query's own image by a trained Phi.
PAIRS = tuple(
  ("cvsi", f"cvsi@{without}")
  for without in (
    "no-edit",
    "no-phi",
    "no-image",
    "no-captions",
    "untrained-phi",
    "words-of-others",
  )
)

LABELS = {
  "image": "image alone",
  "text": "text alone",
  "sum": "image + text",
  "pic2word": "Pic2Word",
  "searle": "SEARLE",
  "searle_oti": "SEARLE-OTI",
  "lincir": "LinCIR",
  "cirevl": "CIReVL",
  "default": "the config's default",
  "cvsi": "CVSI, all terms",
  "cvsi@no-edit": "CVSI without edited descriptions",
  "cvsi@no-phi": "CVSI without the pseudo word",
  "cvsi@no-image": "CVSI without the reference image",
  "cvsi@no-captions": "CVSI without the gallery's captions",
  "cvsi@untrained-phi": "CVSI, Phi untrained",
  "cvsi@words-of-others": "CVSI, the pseudo word of another image",
  "default@no-added": "the default without added objects",
  "default@perfect-edits": "the default, true descriptions (ceiling)",
  "default@wrong-edits": "the default, half of the edits of other queries",
  "default@wrong-captions": "the default, a third of the captioner's attributes wrong",
  "default@one-caption": "the default, one caption of an image",
}
ABOUT = {
  "default": "CVSI with the terms and weights of the config",
  "cvsi": "the same with all four terms",
  "cirevl": "the first edited description alone",
  "lincir": "the text with the pseudo word alone, Phi trained on texts",
  "sum": "the normalised features of image and text, added",
}
FIGURE_GROUPS = ("headline",)
FIGURE_CONTROLS = ("image", "text", "sum")

# Groups that take fewer seeds than --seeds.
SEEDS = {"sweeps": 2, "forms": 2}

# `--tune`: training classes held out, seeds, and the group whose variants are tuned.
VAL_CLASSES = 0
TUNING_SEEDS = 1
TUNED_GROUP = "headline"
# What of a trial ranks the settings.
TUNED_BY = "map@10"

# A config may leave out a term that does not help it.
ALL: dict[str, object] = {
  f"query.use_{term}": True for term in ("edit", "phi", "image", "captions")
}
SEARLE: dict[str, object] = {"mapping.method": "searle"}


def starts(config):
  """{start: overrides}: one, the CLIP of the config."""
  del config
  return {"pretrained": {}}


def groups():
  """{group: {variant: overrides}}; `default` is what the config has."""
  baselines = ("image", "text", "sum")
  return {
    "headline": {
      **{name: {"query.method": name} for name in baselines},
      "lincir": {"query.method": "lincir", "mapping.method": "lincir"},
      "cirevl": {"query.method": "cirevl"},
      "pic2word": {"query.method": "pic2word", "mapping.method": "pic2word"},
      "searle": {"query.method": "searle"} | SEARLE,
      "default": {},
      "cvsi": ALL,
      "cvsi@no-edit": ALL | {"query.use_edit": False},
      "cvsi@no-phi": ALL | {"query.use_phi": False},
      "cvsi@no-image": ALL | {"query.use_image": False},
      "cvsi@no-captions": ALL | {"query.use_captions": False},
    },
    "controls": {
      "cvsi@untrained-phi": ALL | {"evaluate.source": "untrained"},
      "cvsi@words-of-others": ALL | {"query.words": "other"},
      "default@perfect-edits": {"editor.kind": "perfect"},
      "default@wrong-edits": {"editor.wrong": 0.5},
      "default@wrong-captions": {"captioner.wrong": 0.33},
      "default@no-added": {"query.use_added": False},
    },
    "forms": {
      "searle_oti": {"query.method": "searle", "query.oti": True},
      "default@searle": SEARLE,
      "default@pic2word": {"mapping.method": "pic2word"},
      "default@per-caption": {"editor.form": "per_caption"},
      "default@cosine": {"query.normalize_fused": True},
      "default@unit-captions": {"query.normalize_captions": True},
      "default@one-caption": {"captioner.number": 1},
    },
    "sweeps": sweeps(),
  }


def sweeps():
  """One weight of CVSI at a time; the image has what alpha and beta leave."""
  swept: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("query.alpha", (0.0, 0.2, 0.6)),
    ("query.beta", (0.0, 0.2, 0.4)),
    ("query.gamma", (0.0, 0.1, 0.4)),
  )
  return {f"default@{key}={x}": {key: x} for key, tried in swept for x in tried}


def grid(config):
  """The settings that `--tune` tries, equally many for all variants."""
  return [{"train.learning_rate": config.train.learning_rate * x} for x in (0.3, 1.0, 3.0)]


def dataset(config):
  """What the study calls the data of a config."""
  of = config.composed
  if of.source == "attributes":
    # A table is often called metadata.csv: its folder says of what.
    return f"composed_{Path(of.file).absolute().parent.name}_{of.types}"
  return f"composed_{Path(of.file).stem if of.file else of.source}"


def hold_out(config, count):
  """The validation queries are apart from those of the test already, for --tune."""
  del count
  config.composed.split = "val"


def decided_by(config, trains, remembered):
  """What decides a cell's figures: kinds of keys, keys that name files, and hashes of all files."""
  from lafg_jax.data import composed
  from lafg_jax.tasks.composed_retrieval import corpus
  from lafg_jax.tasks.composed_retrieval import model as models

  config = methods.resolve(config)
  trains = trains and methods.trains(config)
  reads = methods.reads(config)
  kinds = ["embedding", "evaluation"]
  kinds += ["words"] * bool(reads & {"captions", "edit"}) + ["training"] * trains
  asked = (*sorted(config.composed.items()), *sorted(config.data.items()))
  content: list[Any] = [
    remembered(("composed", *asked), lambda: [part.content for part in composed.load(config)])
  ]
  if trains:
    of = tuple(sorted(config.mapping.items()))
    content.append(
      remembered(("corpus", *of, *asked), lambda: corpus.content(config, corpus.training(config)))
    )
  source = config.model.pretrained
  weights = remembered(("clip", source), lambda: fingerprint(models.weights(config)))
  read = {
    "captioner.file": config.captioner.file if "captions" in reads else "",
    "editor.file": config.editor.file if "edit" in reads else "",
    "mapping.source": config.mapping.source if "phi" in reads else "",
    "composed.features": config.composed.features,
  }
  named = [
    remembered(("file", path), lambda path=path: fingerprint(Path(path)))
    for path in read.values()
    if path
  ]
  # Figures without a Phi, or with a published one, are the same for each seed.
  drawn = config.seed if "phi" in reads and not config.mapping.source else None
  if methods.inverts(config):
    # Of values off their defaults, as those of the other keys.
    settings = [x for key, x in _inversion(config) if not keys.is_default(key, x)]
    content += [fingerprint(*settings)] if settings else []
  return kinds, ("seed", "model.pretrained", *read), (weights, content, named, drawn)


def _inversion(config):
  """(key, value) of what decides inversions; a file is a Path."""
  files = ("concepts", "concept_phrases", "texts")
  for name in ("inversion_steps", "inversion_rate", *files):
    value = config.mapping[name]
    yield f"mapping.{name}", Path(value) if name in files and value else value
