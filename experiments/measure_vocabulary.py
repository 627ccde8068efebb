"""Prints the tables of docs/study/language_bases.md for a file of descriptions.

  python experiments/measure_vocabulary.py --descriptions=FILE --encoder=FOLDER [--classes="A;B"]

All classes of the file take part; nothing is written but the cache of features.
"""

import itertools
import json
import tempfile

import numpy as np
from absl import app, flags

from lafg_jax.language import descriptions, prototypes, statistics, vocabulary
from lafg_jax.language.describers import describe
from lafg_jax.language.encoders import texts
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils.files import read_npz

_DESCRIPTIONS = flags.DEFINE_string("descriptions", None, "JSON or JSONL.", required=True)
_ENCODER = flags.DEFINE_string("encoder", None, "Folder, hub id or tiny_clip.", required=True)
_CACHE = flags.DEFINE_string("cache", default.get_config().language.cache, "Of features.")
_CLASSES = flags.DEFINE_string("classes", "", "Classes to show in words, parted by ';'.")
_SIZES = flags.DEFINE_multi_integer("size", [128, 256], "Numbers N of attributes.")
_FRACTIONS = flags.DEFINE_multi_float("drop", [0.0, 0.2], "Values of language.drop_generic.")
_TEMPERATURES = (1.0, 0.1, 0.05)
_HEAD = (
  "| N | dropped | tau_k | inertia a sentence | cluster size | classes an attribute | unused "
  "| effective attributes | pairwise cosine |\n|" + "---|" * 9
)


def features() -> dict[str, np.ndarray]:
  """What the stages describe and encode leave, for every class of the file."""
  config = default.get_config().copy_and_resolve_references()
  language = config.language
  language.descriptions, language.encoder = _DESCRIPTIONS.value, _ENCODER.value
  language.cache = _CACHE.value
  records = descriptions.read_file(language.descriptions)
  names = tuple(dict.fromkeys(record["class"] for record in records))
  with tempfile.TemporaryDirectory() as workdir:
    describe.run(language, workdir, names)
    path = texts.run(language, workdir, names)
    keys = ("class_names", "sentences", "sentence_described", "sentence_features", "queries")
    return read_npz(path, keys, stage="encode")


def spread(values: dict) -> str:
  """min / median / max."""
  return " / ".join(f"{values[key]:g}" for key in ("min", "median", "max"))


def row(stats: dict, fraction: float, tau_k: float) -> str:
  """One line of the table."""
  effective, cosine = stats["effective_attributes"], stats["pairwise_cosine"]
  cells = [
    str(stats["num_attributes"]),
    f"{fraction:.0%}",
    f"{tau_k:g}",
    f"{stats['inertia_per_sentence']:.3f}",
    spread(stats["cluster_size"]),
    spread(stats["classes_per_attribute"]),
    str(stats["unused_attributes"]),
    "{mean:.2f} ({min:.2f} to {max:.2f})".format(**effective),
    "{raw:.3f}, {centred:.3f}".format(**cosine),
  ]
  return "| " + " | ".join(cells) + " |"


def examples(found: dict[str, np.ndarray], size: int, fraction: float, tau_k: float) -> None:
  """The Top-5 attributes of --classes, each by its weight and two nearest sentences."""
  dropped = vocabulary.generic(found["sentence_features"], found["sentence_described"], fraction)
  keep = np.setdiff1d(np.arange(len(found["sentences"])), dropped)
  vectors, sentences = found["sentence_features"][keep], found["sentences"][keep]
  centres = vocabulary.mine(vectors, size, 0, 4).centres
  _, indices, weights = prototypes.attend(found["queries"], centres, 10, tau_k)
  nearest = vocabulary.nearest_sentences(centres, vectors, sentences, 2)
  names = found["class_names"].tolist()
  for name in _CLASSES.value.split(";"):
    c = names.index(name)
    print(f"\n**{name}**\n")
    for n, weight in list(zip(indices[c], weights[c], strict=True))[:5]:
      shared = int((indices == n).any(axis=1).sum())
      print(f"- {weight:.2f} (in {shared} classes): " + " · ".join(nearest[n]))


def main(argv: list[str]) -> None:
  """Prints the table, the sentences that the filter drops first, and the examples."""
  del argv
  found = features()
  vectors, owners = found["sentence_features"], found["sentence_described"]
  print(_HEAD)
  for size, fraction in itertools.product(_SIZES.value, _FRACTIONS.value):
    keep = np.setdiff1d(np.arange(len(vectors)), vocabulary.generic(vectors, owners, fraction))
    mined = vocabulary.mine(vectors[keep], size, 0, 4)
    for tau_k in _TEMPERATURES:
      attended = prototypes.attend(found["queries"], mined.centres, 10, tau_k)
      stats = statistics.compute(mined, *attended, found["queries"], owners[keep])
      print(row(stats, fraction, tau_k), flush=True)
  margin = vocabulary.specificity(vectors, owners)
  order = np.argsort(margin)
  names = found["class_names"][owners]
  for what, rows in (("least", order[:10]), ("most", order[::-1][:5])):
    print(f"\n{what} specific:")
    for i in rows:
      print(f"- {margin[i]:+.3f} {json.dumps(str(found['sentences'][i]))} ({names[i]})")
  quantiles = np.quantile(margin[np.isfinite(margin)], (0, 0.1, 0.2, 0.5, 0.9, 1))
  print("\nmargins at 0, 10, 20, 50, 90, 100 %:", np.round(quantiles, 3).tolist())
  if _CLASSES.value:
    for fraction in _FRACTIONS.value:
      size = _SIZES.value[-1]
      print(f"\n## N = {size}, tau_k = 0.05, {fraction:.0%} dropped")
      examples(found, size, fraction, 0.05)


if __name__ == "__main__":
  app.run(main)
