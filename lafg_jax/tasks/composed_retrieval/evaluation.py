"""The evaluate stage: features, queries and rankings -> evaluation.json and rankings.jsonl."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lafg_jax.data import composed
from lafg_jax.data.composed import Composed
from lafg_jax.evaluate import results
from lafg_jax.evaluate.target_ranks import Ranked
from lafg_jax.tasks.composed_retrieval import (
  captions,
  edit_quality,
  edits,
  features,
  methods,
  protocol,
  queries,
  ranking,
  submission,
  variants,
  words,
)
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.tasks.composed_retrieval.features import Fixed
from lafg_jax.tasks.composed_retrieval.methods import Method
from lafg_jax.tasks.composed_retrieval.model import Model
from lafg_jax.training import metrics_log
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

# Of a part's figures, what the result has at its top.
_SAID_ONCE = ("chance", "num_queries", "num_gallery", "gallery", "answers", "reference", "split")
_NOT_KEPT = ("source", "step", "by_method", "by_kind", "chance", "weights", "parts", "gallery")
# (template, whose pseudo words) -> q_f [Q, D].
Pseudo = Callable[[str, str], np.ndarray]


class Vectors(NamedTuple):
  """pieces: {term: its part of q [Q, D]}; gallery: t [G, D]."""

  pieces: dict[str, np.ndarray]
  gallery: np.ndarray

  @property
  def query(self) -> np.ndarray:
    """q [Q, D]."""
    return queries.total(self.pieces)


def run(config: ConfigDict, workdir: str) -> None:
  """Evaluates query.method, and what is free beside it; writes all files of the stage."""
  config = methods.resolve(config)
  parts, model = composed.load(config), models.load(config)
  source, texts = words.load(config, workdir, model), read_texts(config, workdir)
  measured: dict[str, dict[str, Any]] = {}
  rankings: list[Ranked] = []
  exact: list[dict[str, float]] = []
  result: dict[str, Any] = {}
  with ranking.writing(workdir) as file:
    for part in parts:
      fixed = features.fixed(config, workdir, model, part, *texts)
      table = methods.beside(config, there(config, fixed, source), fixed.other)
      pseudo = pseudo_of(model, part, fixed, source)
      for name, method in table.items():
        vectors = vectors_of(config, part, fixed, method, pseudo)
        ranked = ranking.rank(part, vectors.query, vectors.gallery, _depth(part))
        measured.setdefault(name, {})[part.name] = figures_of(part, ranked)
        if name == config.query.method:
          rankings.append(ranked)
          ranking.write(file, part, ranked, _shares(part, vectors, ranked))
          result = _about(config, part, fixed, table, result)
          exact.append(edit_quality.measured(config, part, texts[1]))
  if names := set.intersection(*map(set, exact)):
    result["exact_edits"] = {
      name: float(np.mean([x[name] for x in exact])) for name in sorted(names)
    }
  result |= _result(config, parts, measured) | source.about
  _write(workdir, parts, rankings, result)


def figures(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """What the study keeps of an evaluation.

  Returns:
    evaluation.json without the figures of other methods and of kinds; 'steps'; and 'by_class',
    {'num_queries', 'recall@1', ...: [C]}: the queries of each reference image, and their means, so
    that intervals are over images and not over queries that share one. Also 'kinds', {kind: the
    figures of its queries}.

  Raises:
    UserError: evaluation.json or rankings.jsonl is missing or damaged, or has no figures.
  """
  result, parts = results.read_result(workdir), composed.load(config)
  if any(part.secret for part in parts):
    raise UserError(
      f"--config.composed.split={config.composed.split}: its right answers are secret, so that a "
      "study has nothing to compare; pass --config.composed.split=val"
    )
  lines = ranking.read(workdir)
  of = [ranking.of_lines(part, lines) for part in parts]
  measured = [protocol.per_query(part, *ranked) for part, ranked in zip(parts, of, strict=True)]
  references = [(part.name, query.reference) for part in parts for query in part.queries]
  number = {name: k for k, name in enumerate(dict.fromkeys(references))}
  labels = np.array([number[name] for name in references])
  counts = np.bincount(labels)
  by_class: dict[str, Any] = {"num_queries": counts.tolist()}
  for name in (name for name in measured[0] if name in variants.TITLES):
    sums = np.bincount(labels, np.concatenate([one[name] for one in measured]))
    by_class[name] = (sums / counts).round(6).tolist()
  kept = {name: x for name, x in result.items() if name not in _NOT_KEPT}
  kinds = {kind: results.metrics_only(x) for kind, x in (result.get("by_kind") or {}).items()}
  more = {"steps": result["step"], "by_class": by_class, "num_classes": len(counts)}
  gallery = ", ".join(part.about for part in parts)
  said = f"{len(labels)} queries of {len(counts)} reference images ({parts[0].split}); {gallery}"
  return kept | more | {"kinds": kinds, "measured": said, "clusters": "reference images"}


def read_texts(config: ConfigDict, workdir: str) -> tuple[dict[str, Any], dict[Any, Any]]:
  """The captions of the gallery and the edits of queries that the stages before wrote."""
  reads = methods.reads(config)
  # Captions that an editor alone has read are not the gallery's.
  gallery = methods.gallery_captions(config, methods.of(config))
  said = captions.read(workdir, config.captioner.kind) if gallery else {}
  return said, edits.read(workdir, config.editor.kind) if "edit" in reads else {}


def there(config: ConfigDict, fixed: Fixed, source: words.Source) -> set[str]:
  """Which of 'edit', 'phi' and 'captions' are there; what a config asks for beyond is logged."""
  has = {"edit": fixed.edited, "phi": source.of, "captions": fixed.captions}
  found = {name for name, x in has.items() if x is not None}
  found |= {"added"} if any(fixed.added) else set()
  wanted = methods.of(config)
  own = methods.available(wanted, found)
  if (own.weights, own.gamma) != (wanted.weights, wanted.gamma):
    asked = {"edit": wanted.weights.alpha, "phi": wanted.weights.beta, "captions": wanted.gamma}
    lost = sorted(name for name, weight in asked.items() if weight and name not in found)
    shown = ", ".join(f"{name} {x:.3g}" for name, x in own.weights._asdict().items())
    logging.info(
      "evaluate: without %s; weights are %s, gamma %g", ", ".join(lost), shown, own.gamma
    )
  return found


def measured(
  config: ConfigDict, model: Model, part: Composed, fixed: Fixed, source: words.Source
) -> dict[str, Any]:
  """The figures of the config's own method on a part, with the terms that are there."""
  has = {"edit": fixed.edited, "phi": source.of, "captions": fixed.captions}
  found = {name for name, x in has.items() if x is not None}
  method = methods.available(methods.of(config), found)
  vectors = vectors_of(config, part, fixed, method, pseudo_of(model, part, fixed, source))
  return figures_of(part, ranking.rank(part, vectors.query, vectors.gallery, _depth(part)))


def pseudo_of(model: Model, part: Composed, fixed: Fixed, source: words.Source) -> Pseudo:
  """q_f of a part by template and by whose words, each computed once."""
  kept: dict[tuple[str, str], np.ndarray] = {}

  def of(template: str, whose: str) -> np.ndarray:
    asked = (template, whose)
    if asked not in kept:
      assert source.of is not None
      kept[asked] = features.pseudo(model, part, fixed, source.of, template, whose)
    return kept[asked]

  return of


def vectors_of(
  config: ConfigDict, part: Composed, fixed: Fixed, method: Method, pseudo: Pseudo
) -> Vectors:
  """The queries and the gallery of a method on one part."""
  weights, options = method.weights, config.query
  q_m = {"all": fixed.edited, "first": fixed.first, **fixed.other}[method.edits]
  pieces = queries.pieces(
    q_m if weights.alpha else None,
    pseudo(method.template, method.words) if weights.beta else None,
    queries.unit(fixed.images[fixed.references]),
    weights,
    fixed.text,
    fixed.has_edit if method.edits in ("all", "first", "noisy") else None,
  )
  gallery = queries.gallery(
    queries.unit(fixed.images[part.gallery]),
    fixed.captions,
    method.gamma,
    captioned=fixed.captioned,
    normalize_captions=options.normalize_captions,
    normalize_fused=options.normalize_fused,
  )
  return Vectors(pieces, gallery)


def figures_of(part: Composed, ranked: Ranked) -> dict[str, Any]:
  """What `protocol.figures` measures of a ranking; {} where the answers are secret."""
  found: dict[str, Any] = protocol.figures(part, ranked.rows, subset_of(ranked))
  return found


def subset_of(ranked: Ranked) -> np.ndarray | None:
  """The ranking of each query's subset, where the benchmark has them."""
  return ranked.members if ranked.members.shape[1] else None


def _depth(part: Composed) -> int:
  return max(protocol.depth(part), ranking.NAMES)


def _shares(part: Composed, vectors: Vectors, ranked: Ranked) -> Mapping[str, np.ndarray]:
  places = ranking.in_gallery(part, ranked.rows[:, : ranking.SHARES])
  return ranking.shares(vectors.pieces, vectors.gallery, places)


def _about(
  config: ConfigDict,
  part: Composed,
  fixed: Fixed,
  table: dict[str, Method],
  before: dict[str, Any],
) -> dict[str, Any]:
  """What stands in the result of how queries and gallery were made.

  before: the same of the parts before, whose counts are added.
  """
  weights = {
    name: {**method.weights._asdict(), "gamma": method.gamma, "template": method.template}
    for name, method in table.items()
  }
  found: dict[str, Any] = {"method": config.query.method, "weights": weights}
  found["clip"] = {"name": config.model.pretrained, "image_size": config.data.image_size}
  has = {"num_without_edit": fixed.has_edit, "num_without_caption": fixed.captioned}
  for name, x in (has | {"num_unreadable": fixed.readable}).items():
    if count := before.get(name, 0) + (0 if x is None else int((~x).sum())):
      found[name] = count
  # A gallery that lacks images is another one.
  return found | ({"partial": True} if "num_unreadable" in found else {})


def _result(
  config: ConfigDict, parts: list[Composed], measured: dict[str, dict[str, Any]]
) -> dict[str, Any]:
  """The figures of the config's method, and of each other one beside it."""
  merged = {name: protocol.merged(of) for name, of in measured.items()}
  own = merged[config.query.method]
  result: dict[str, Any] = {"chance": {}} | own
  result["by_method"] = {
    name: {key: x for key, x in of.items() if key not in _SAID_ONCE}
    for name, of in merged.items()
    if of
  }
  first = parts[0]
  result |= {"dataset": first.name if len(parts) == 1 else config.composed.source}
  result |= {"split": first.split, "source": config.evaluate.source, "num_classes": 0}
  result["num_queries"] = sum(len(part.queries) for part in parts)
  result["num_gallery"] = sum(len(part.gallery) for part in parts)
  result["gallery"] = {part.name: part.about for part in parts}
  result["drop_reference"] = first.drop_reference
  if any(part.partial for part in parts):
    missing = {part.name: len(part.missing) for part in parts}
    result |= {"partial": True, "missing": missing}
  return result


def _write(
  workdir: str, parts: list[Composed], rankings: list[Ranked], result: dict[str, Any]
) -> None:
  if jax.process_index() == 0:
    _forget_submissions(workdir)
    with files.replacing(os.path.join(workdir, results.FILE)) as temporary:
      temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for part, ranked in zip(parts, rankings, strict=True):
      if not part.secret or part.protocol not in submission.FILES:
        continue
      if result.get("partial"):
        text = "%s: no submission is written: images are missing, and its server takes all queries"
        logging.warning(text, part.name)
        continue
      for path in submission.write(part, ranked.rows, subset_of(ranked), workdir):
        logging.info("submission: %s", path)
  metrics_log.evaluated(workdir, result)


def _forget_submissions(workdir: str) -> None:
  """Removes those of an earlier evaluation, which may be of other weights or another split."""
  for name in submission.names():
    Path(workdir, name).unlink(missing_ok=True)
