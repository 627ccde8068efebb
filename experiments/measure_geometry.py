"""How far prototypes of finches follow what their classes look like: a table in docs/study.

  python experiments/measure_geometry.py

The finches' attributes are known, so the cosines between seen classes can be held against them:
Pearson's r between the off-diagonal cosines of centred prototypes and those of centred attribute
values (one-hot, all attributes alike). Seen classes alone; no test class, no training.
"""

import tempfile

import numpy as np
from absl import app, flags

from lafg_jax.config import shipped
from lafg_jax.data import datasets
from lafg_jax.finches import classes, text
from lafg_jax.language import prototypes
from lafg_jax.language.describers import describe
from lafg_jax.language.encoders import images as image_features
from lafg_jax.language.encoders import texts
from lafg_jax.tasks.class_retrieval.language_base import KINDS
from lafg_jax.utils.vectors import l2_normalise

_CACHE = flags.DEFINE_string(
  "cache", shipped.get_config("synthetic").language.cache, "Of features."
)
_SAID = {
  "profile": "profiles of the sentences' attributes (`profile`)",
  "descriptions": "mean of the descriptions (`descriptions`)",
  "query": "class query t_c, prompt and descriptions (`query`)",
  "attention": "T_c, the default (`attention`)",
}


def cosines(vectors: np.ndarray) -> np.ndarray:
  """Of each pair of different rows of [C, d], centred."""
  units = l2_normalise(vectors - vectors.mean(axis=0), "prototypes")
  return (units @ units.T)[np.triu_indices(len(units), 1)]


def looks(names: tuple[str, ...]) -> np.ndarray:
  """[C, values] what each class looks like, one-hot for each attribute."""
  finch = {x.name: x.attributes for x in classes.SEEN}
  columns = [
    [float(finch[name][a] == value) for name in names]
    for a, values in enumerate(text.ATTRIBUTES.values())
    for value in values
  ]
  return np.array(columns).T


def claims(names: tuple[str, ...]) -> np.ndarray:
  """[C, values] how often a class's text claims each value, rightly or wrongly."""
  values = [(a, value) for a, of in text.ATTRIBUTES.items() for value in of]
  counts = np.zeros((len(names), len(values)))
  for row, name in enumerate(names):
    for _, said in classes.statements(name):
      for claim in said:
        counts[row, values.index(claim)] += 1
  return counts


def measured(language) -> dict[str, np.ndarray]:
  """{what: prototypes [C, d]} of the seen classes."""
  data = datasets.load_splits(shipped.get_config("synthetic").data, ("train",))["train"]
  names = data.class_names
  with tempfile.TemporaryDirectory() as workdir:
    describe.run(language, workdir, names)
    texts.run(language, workdir, names)
    with np.load(prototypes.run(language, workdir, names)) as arrays:
      found = {_SAID[kind]: arrays[array] for kind, array in KINDS.items()}
  images = image_features.class_image_means(data, language.encoder, 256, language.cache)
  return {
    "what the sentences claim, counted": claims(names),
    "mean image features, without words (`images`)": images,
    **found,
  }


def main(argv) -> None:
  """Prints the table."""
  del argv
  language = shipped.get_config("synthetic").language
  language.cache = _CACHE.value
  found = measured(language)
  truth = cosines(looks(classes.class_names("seen")))
  print("| prototypes | r with the true attributes |\n|---|---:|")
  rows = {name: np.corrcoef(cosines(x), truth)[0, 1] for name, x in found.items()}
  for name, r in sorted(rows.items(), key=lambda item: -item[1]):
    print(f"| {name} | {r:.2f} |")


if __name__ == "__main__":
  app.run(main)
