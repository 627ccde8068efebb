"""The evaluation of image-text retrieval: embeddings of a split -> evaluation.json.

`recalls` measures, `bounds` says what stands beside each figure. Neither needs a model.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lafg_jax.data import captions
from lafg_jax.data.captions import Captioned
from lafg_jax.evaluate import results
from lafg_jax.evaluate.results import EMBEDDINGS, FILE
from lafg_jax.runtime import distributed
from lafg_jax.tasks.image_text_retrieval import bounds, recalls
from lafg_jax.tasks.image_text_retrieval.bounds import DIRECTIONS, PROTOCOLS
from lafg_jax.tasks.image_text_retrieval.recalls import Embedded
from lafg_jax.training import metrics_log
from lafg_jax.utils import files
from lafg_jax.utils.counted import counted, listed
from lafg_jax.utils.errors import UserError

KS = (1, 5, 10)
HEADLINE = "instance"
# Ways of reweighting.at_test, in words.
AT_TEST = {
  "mean": "each token by its mean weight in training",
  "rerank": "the 50 nearest ranked anew by the weights of each pair",
}
# Unreplicated parameters -> (images [n, D], texts [m, D]) of one split.
EmbedSplit = Callable[[Any], tuple[np.ndarray, np.ndarray]]
_BOUNDS = ("ceiling", "class_oracle", "chance")
_NOT_KEPT = ("source", "untrained", "step", "protocols", "with_negatives", "at_test", *_BOUNDS)
_ARRAYS = ("vectors", "texts", "owner", "captions", "labels")


def of_captioned(
  captioned: Captioned,
  images: np.ndarray,
  texts: np.ndarray,
  distractors: np.ndarray | None = None,
) -> Embedded:
  """The embeddings of a split, as `recalls` takes them.

  images: [N, D] of the N distinct images by their number, or [n, D], one for each row. texts:
  [n, D]. distractors: [r, D] of further texts, all different, none of them a caption of the split
  (`negatives.distractors`).
  """
  rows = captions.one_per_image(captioned)
  if len(images) == len(captioned.captions):
    images = images[rows]
  strings = captions.equal_captions(captioned.captions)[0]
  labels = np.asarray(captioned.labels)[rows]
  return Embedded(images, texts, captioned.image_of, strings, labels, distractors)


def evaluate_embeddings(embedded: Embedded, ks: Sequence[int] = KS) -> dict[str, Any]:
  """All figures of a split.

  Returns:
    'recall@<k>', the mean of both directions under `instance`; '<direction>/recall@<k>', under
    `instance` too; 'ceiling', 'class_oracle' and 'chance' of these; 'protocols', {direction:
    {protocol: {'recall@<k>', and the three}}}; with distractors also 'with_negatives', the same
    where they are in the gallery of texts, of image_to_text alone; and the numbers of images,
    texts, different strings and classes. Without classes (labels of -1) there is neither the
    protocol `class` nor a class oracle.
  """
  alone = embedded._replace(distractors=None)
  result = _headline(_protocols(alone, ks), ks)
  pairing = recalls.pairing(alone)
  result |= {
    "num_images": len(embedded.images),
    "num_queries": len(embedded.images),
    "num_texts": len(embedded.texts),
    "num_strings": int(pairing.strings.max()) + 1,
    "num_classes": len(np.unique(embedded.labels[embedded.labels >= 0])),
  }
  if embedded.distractors is not None:
    harder = _protocols(embedded, ks)
    result["with_negatives"] = {"image_to_text": harder["image_to_text"]}
    result["num_negatives"] = len(embedded.distractors)
  return result


def _protocols(embedded: Embedded, ks: Sequence[int]) -> dict[str, Any]:
  has_classes = bool((embedded.labels >= 0).all())
  protocols = [name for name in PROTOCOLS if has_classes or name != "class"]
  measured = recalls.measure(embedded, ks, protocols)
  beside = bounds.beside(recalls.pairing(embedded), ks)
  names = [name for name in _BOUNDS if has_classes or name != "class_oracle"]
  return {
    direction: {
      protocol: {name: float(x.mean()) for name, x in measured[direction][protocol].items()}
      | {name: beside[direction][protocol][name] for name in names}
      for protocol in protocols
    }
    for direction in DIRECTIONS
  }


def _headline(protocols: dict[str, Any], ks: Sequence[int]) -> dict[str, Any]:
  """The flat figures, and each bound of them."""
  ways = {direction: protocols[direction][HEADLINE] for direction in DIRECTIONS}

  def flat(ways: dict[str, Any]) -> dict[str, float]:
    names = [f"recall@{k}" for k in ks]
    mean = {name: float(np.mean([x[name] for x in ways.values()])) for name in names}
    return mean | {f"{way}/{name}": x[name] for way, x in ways.items() for name in names}

  given = [bound for bound in _BOUNDS if bound in ways["image_to_text"]]
  beside = {bound: flat({way: x[bound] for way, x in ways.items()}) for bound in given}
  return flat(ways) | beside | {"protocols": protocols}


def write(
  config: Any,
  workdir: str,
  captioned: Captioned,
  trained: Embedded,
  untrained: Embedded | None = None,
  **about: Any,
) -> dict[str, Any]:
  """Measures a split; writes evaluation.json and embeddings.npz; returns the result.

  Args:
    trained: what `of_captioned` made of the model's embeddings.
    untrained: of zero-shot CLIP, the same; None leaves it out.
    about: 'step', and what else is to stand in the file.
  """
  ks = tuple(config.evaluate.ks)
  result = evaluate_embeddings(trained, ks)
  result |= {"dataset": captioned.name, "split": captioned.split}
  result |= {"source": config.evaluate.source} | about
  # An image that cannot be read is a row of zeros, and counts as not found.
  result["num_unreadable"] = int((~trained.images.any(axis=1)).sum())
  if captioned.partial:
    result["partial"] = True
  if untrained is not None:
    before = evaluate_embeddings(untrained, ks)
    kept = ("protocols", "with_negatives")
    result["untrained"] = results.metrics_only(before) | {x: before[x] for x in kept if x in before}
  if jax.process_index() == 0:
    _write_embeddings(os.path.join(workdir, EMBEDDINGS), captioned, trained)
    with files.replacing(os.path.join(workdir, FILE)) as temporary:
      temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
  metrics_log.evaluated(workdir, result)
  return result


def _write_embeddings(path: str, captioned: Captioned, embedded: Embedded) -> None:
  files.write_npz(
    path,
    paths=np.array([captioned.ids[row] for row in captions.one_per_image(captioned)]),
    labels=embedded.labels,
    vectors=embedded.images,
    class_names=np.array(captioned.class_names),
    texts=embedded.texts,
    owner=embedded.owner,
    captions=np.array(captioned.captions),
    **({} if embedded.distractors is None else {"distractors": embedded.distractors}),
  )


def evaluate_file(path: str, ks: Sequence[int] = KS) -> dict[str, Any]:
  """The figures of an embeddings.npz: `vectors` [n, D] of images, `texts` [m, D], `owner` [m],
  `captions` [m] and `labels` [n]; `distractors` [r, D] if any.

  Raises UserError where it is missing or damaged, or its arrays do not fit.
  """
  key = f"--config.evaluate.source={path}"
  embedded = read_embeddings(path, None)
  try:
    found = evaluate_embeddings(embedded, ks)
  except UserError as error:
    raise UserError(f"{key}: {error}") from error
  return found | {"dataset": path, "split": "all"}


def read_embeddings(path: str, stage: str | None = "evaluate") -> Embedded:
  """What `write` put into an embeddings.npz; UserError where it is missing or damaged."""
  arrays = files.read_npz(path, _ARRAYS, stage=stage, optional=("distractors",))
  images, texts, owner, written, labels = (arrays[name] for name in _ARRAYS)
  strings = np.unique(written, return_inverse=True)[1]
  return Embedded(images, texts, owner, strings, labels, arrays.get("distractors"))


def make_validation(
  embed: EmbedSplit, val: Captioned
) -> Callable[[dict[str, Any]], dict[str, float]]:
  """`measure(params)` on validation images: R@1 under `instance`, both ways and their mean.

  'val_recall@1', the mean, chooses the best checkpoint.
  """

  def measure(params: dict[str, Any]) -> dict[str, float]:
    with distributed.unhurried("validation"):
      found = recalls.measure(of_captioned(val, *embed(params)), (1,), (HEADLINE,))
    ways = {way: float(found[way][HEADLINE]["recall@1"].mean()) for way in DIRECTIONS}
    mean = float(np.mean(list(ways.values())))
    return {"val_recall@1": mean} | {f"val_{way}/recall@1": x for way, x in ways.items()}

  return measure


def figures(workdir: str) -> dict[str, Any]:
  """What the study keeps of an evaluation.

  Returns:
    evaluation.json without the untrained model, the bounds and the other protocols; 'steps'; and
    'by_class', {'num_queries', 'recall@1', '<direction>/recall@1': [C]}: the images of each class,
    the mean of R@1 of its images and of its captions, and each of the two, in the order of the
    class names. Without classes, all are of one. 'measured', the same in words.

  Raises:
    UserError: evaluation.json or embeddings.npz is missing or damaged.
  """
  result, path = results.read_result(workdir), os.path.join(workdir, EMBEDDINGS)
  embedded = read_embeddings(path)
  count = max(1, len(files.read_npz(path, ("class_names",), stage="evaluate")["class_names"]))
  alone = embedded._replace(distractors=None)
  found = recalls.measure(alone, (1,), (HEADLINE,))
  means = []
  labels = np.maximum(alone.labels, 0)
  for way, of in zip(DIRECTIONS, (labels, labels[alone.owner]), strict=True):
    numbers = np.bincount(of, minlength=count)
    hits = np.bincount(of, found[way][HEADLINE]["recall@1"], count)
    means.append(hits / np.maximum(numbers, 1))
  named = {"recall@1": np.mean(means, 0)}
  named |= {f"{way}/recall@1": x for way, x in zip(DIRECTIONS, means, strict=True)}
  by_class = {name: x.round(6).tolist() for name, x in named.items()}
  by_class["num_queries"] = np.bincount(labels, minlength=count).tolist()
  kept = {name: x for name, x in result.items() if name not in _NOT_KEPT}
  return kept | {"steps": result["step"], "by_class": by_class, "measured": _measured(result)}


def _measured(result: dict[str, Any]) -> str:
  """What was ranked, with the R@1 of chance and of the class oracle."""
  images, texts = (counted(result[f"num_{x}s"], x) for x in ("image", "text"))
  beside = [f"{bound.replace('_', ' ')} {results.percent(result[bound]['recall@1'])} %"
            for bound in ("chance", "class_oracle") if bound in result]  # fmt: skip
  return f"{images} and {texts} of {result['split']}; R@1 of {', '.join(beside)}"


def tables(result: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
  """Titles and rows of the tables of a report, the headline first."""
  others = [name for name in result["protocols"]["image_to_text"] if name != HEADLINE]
  found = [("the headline", rows_of(result, only=(HEADLINE,)))]
  found.append((f"{listed(others)}: other protocols", rows_of(result, only=others)))
  if "with_negatives" in result:
    title = f"{counted(result['num_negatives'], 'wrong caption')} in the gallery too"
    found.append((title, rows_of(result, "with_negatives")))
  for how, ways in result.get("at_test", {}).items():
    found.append((f"weighted captions: {AT_TEST[how]} (merged)", _weighted(ways)))
  return found


def _weighted(ways: dict[str, dict[str, float]]) -> list[list[str]]:
  """Head and rows of the figures of `at_test`."""
  names = [*ways["image_to_text"]]
  rows = [[way.replace("_", " "), *(results.percent(of[x]) for x in names)]
          for way, of in ways.items()]  # fmt: skip
  return [["%", *(name.replace("recall", "R") for name in names)], *rows]


def rows_of(
  result: dict[str, Any], part: str = "protocols", only: Sequence[str] = PROTOCOLS
) -> list[list[str]]:
  """Head and rows, in percent, of protocols both ways; 'with_negatives' is the harder part."""
  untrained = result.get("untrained", {}).get(part)
  columns = ["before training", "trained"] if untrained else [os.path.basename(result["source"])]
  given = [bound for bound in _BOUNDS if bound in result]
  rows = [["%", "protocol", "", *columns, *(bound.replace("_", " ") for bound in given)]]
  for direction, protocols in result[part].items():
    for protocol, found in ((name, of) for name, of in protocols.items() if name in only):
      for name in (x for x in found if x.startswith("recall@")):
        measured = [untrained[direction][protocol][name]] if untrained else []
        cells = [*measured, found[name], *(found[bound][name] for bound in given)]
        about = [direction.replace("_", " "), protocol, name.replace("recall", "R")]
        rows.append(about + [results.percent(x) for x in cells])
  return rows


def table(result: dict[str, Any]) -> str:
  """The table as text, with what was measured above it."""
  classes = f" of {counted(result['num_classes'], 'class')}" if result["num_classes"] else ""
  title = (
    f"{result['dataset']}, {result['split']}: {counted(result['num_images'], 'image')}{classes}, "
    f"{counted(result['num_texts'], 'caption')}"
  )
  title += " (partial copy)" if result.get("partial") else ""
  if lost := result.get("num_unreadable"):
    title += f"; not readable, and so not found: {counted(lost, 'image')}"
  lines = [title]
  for part in ("protocols", "with_negatives"):
    if part in result:
      lines += [] if part == "protocols" else ["with wrong captions in the gallery of texts"]
      lines += [
        f"{row[0]:<14}{row[1]:<10}{row[2]:<6}" + "".join(f"{cell:>17}" for cell in row[3:])
        for row in rows_of(result, part)
      ]
  for how, ways in result.get("at_test", {}).items():
    lines.append(f"with weighted captions, {AT_TEST[how]} (merged)")
    lines += [f"{row[0]:<14}" + "".join(f"{cell:>10}" for cell in row[1:])
              for row in _weighted(ways)]  # fmt: skip
  return "\n".join(lines)
