"""What train.validate_every measures: the queries of the val split, with Phi as it is."""

from typing import Any

from ml_collections import ConfigDict

from lafg_jax.data import composed
from lafg_jax.runtime import distributed
from lafg_jax.tasks.composed_retrieval import evaluation, features, protocol, words
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.tasks.composed_retrieval.words import Source
from lafg_jax.training.best_checkpoint import Validation

# The figure that chooses the best checkpoint, by protocol: the one that papers are compared by.
_BEST_BY = {"fashioniq": "recall@10", "cirr": "recall@1", "circo": "map@5", "targets": "map@10"}


def of(config: ConfigDict, workdir: str) -> Validation:
  """Measures a resolved config's method on the queries of composed.split=val.

  Where the run evaluates another split, only that one has captions and edits: the others' terms are
  left out then, and the weights of the rest are scaled up. Features of CLIP alone are made once.

  Raises UserError: the source has no val split.
  """
  texts = evaluation.read_texts(config, workdir) if config.composed.split == "val" else ({}, {})
  config = config.copy_and_resolve_references()
  config.composed.split = "val"
  parts, model = composed.load(config), models.load(config)
  made: list[features.Fixed] = []

  def measure(params: dict[str, Any]) -> dict[str, float]:
    with distributed.unhurried("validation"):
      if not made:
        made.extend(features.fixed(config, workdir, model, part, *texts) for part in parts)
      source = Source(words.of_params(config.mapping.method, params["mapping"]), {})
      merged = protocol.merged(
        {
          part.name: evaluation.measured(config, model, part, fixed, source)
          for part, fixed in zip(parts, made, strict=True)
        }
      )
    return {f"val_{name}": x for name, x in merged.items() if isinstance(x, float)}

  return Validation(measure, f"val_{_BEST_BY[parts[0].protocol]}")
