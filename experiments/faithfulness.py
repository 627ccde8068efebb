"""Measures whether heat maps show what they claim to: docs/guide/explain.md has the tables.

  python experiments/faithfulness.py parts --model=runs/demo
  python experiments/faithfulness.py parts --model=configs/image_text/finches.py
  python experiments/faithfulness.py curves --pretrained=WEIGHTS --images=FOLDER
  python experiments/faithfulness.py names --model=runs/demo

parts: on drawn finches of unseen classes, the share of an attribute's heat inside the true region
of its part (crown, wing, ...), beside heat that knows nothing of the attribute: the middle of the
picture, random patches, the bird's own silhouette, and the heat of another part's attribute on the
same bird. An attribute is taken where at least 4 of its 5 nearest sentences make one claim, and the
bird's class has it, and where it is named: above its floor. Of a model that reads texts (of a
config: its CLIP as it is), the attributes are phrases such as 'a crimson crown'. Heat is measured
where it is shown: where a place decides the score. The rows 'shown' say how often.

curves: of pairs of photographs of one class, the score while patches are taken away or brought
back, hottest first. The areas under both stand beside those of the middle, of random places, and of
random blobs. Without --images the pairs are of finches.

names: whether attributes named of finches are true of them, by the quantile of the floor; and of
how many entries the name says the claim that its sentences agree on.

Intervals are 95 %, by the bootstrap over birds, pairs, or images.
"""

import collections
import functools
from collections.abc import Sequence

import numpy as np
from absl import app, flags

import lafg_jax
from lafg_jax.config import shipped
from lafg_jax.explain import faithfulness, heat, occlusion
from lafg_jax.explain.names import short_names
from lafg_jax.finches import classes, regions
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.inference import bundle
from lafg_jax.inference.retriever import of
from lafg_jax.models import embedder as embedders
from lafg_jax.models.weights import resolve
from lafg_jax.tasks.class_retrieval import attributes, default

_AGREE = 4
# What sentences call a part; the patterns of a wing have no word of their own.
_WORDS = {
  "body": ("body", "breast", "underpart", "plumage"),
  "crown": ("crown", "cap"),
  "wing": ("wing", "feather"),
  "bill": ("bill", "beak"),
  "tail": ("tail",),
  "ring": ("ring",),
}
# Heat that knows nothing of the model, which that of a score is compared with.
BASES = ("centre", "random blobs", "random places")
Claim = tuple[str, str]


def claims_of(sentences: Sequence[Sequence[str]]) -> list[Claim | None]:
  """The claim that at least 4 of the sentences of each entry make; None without one."""
  said = {}
  for finch in classes.SEEN:
    for text, claims in classes.statements(finch.name):
      said.setdefault(text, set()).update(claims)
  found = []
  for entry in sentences:
    counts = collections.Counter(claim for text in entry for claim in said.get(text, ()))
    claim, count = counts.most_common(1)[0] if counts else (None, 0)
    found.append(claim if count >= _AGREE else None)
  return found


def birds(count: int) -> list[tuple[classes.Finch, int]]:
  """Evenly spaced birds of the unseen classes."""
  every = [
    (finch, j) for j in range(classes.IMAGES_PER_CLASS["unseen"]) for finch in classes.UNSEEN
  ]
  return [every[i] for i in np.linspace(0, len(every) - 1, count).astype(int)]


def shows(finch: classes.Finch, claim: Claim | None) -> bool:
  """Whether a claim is true of a finch."""
  return claim is not None and finch.attributes[list(ATTRIBUTES).index(claim[0])] == claim[1]


def parts(retriever: lafg_jax.Retriever) -> list[tuple]:
  """Rows (part, kind of heat, number of birds, mean share, low, high)."""
  claims, scores, directions, floors = _vocabulary(retriever)
  shares, decided = collections.defaultdict(list), collections.defaultdict(list)
  for number, (finch, j) in enumerate(birds(flags.FLAGS.birds)):
    picture = retriever.crops(classes.image(finch.name, j))[0]
    seen = retriever.see_batch(picture[None])
    maps = maps_of(retriever, picture, seen, scores)
    size = len(picture)
    bird = regions.region(finch.name, j, "bird", size)
    above = scores(seen.embedding)[0] > floors
    entries = [row for row, claim in enumerate(claims) if above[row] and shows(finch, claim)]
    of_bird = collections.defaultdict(list)
    for kind, x in _alone(retriever, picture, seen, number).items():
      of_bird["the bird", kind].append(
        faithfulness.share_inside(faithfulness.upsampled(x, size), bird)
      )
    for row in entries:
      part = claims[row][0]
      mask = regions.region(finch.name, j, part, size)
      if mask.sum() < 2:
        continue
      tells = occlusion.decides(maps(row), scores(seen.embedding)[0, row])
      decided[part].append(tells)
      if not tells:
        continue
      others = [other for other in entries if claims[other][0] != part]
      found = {
        "occlusion": maps(row),
        "occlusion of another part": np.mean([maps(x) for x in others], axis=0) if others else None,
        "patches": heat.unit_range(heat.similarity(seen.patches[0], directions[row])),
        "random": faithfulness.scattered((occlusion.PLACES,) * 2, number),
      }
      if seen.rollout is not None:
        found["rollout"] = heat.unit_range(seen.rollout[0])
      big = {k: faithfulness.upsampled(x, size) for k, x in found.items() if x is not None}
      big |= {"centre": faithfulness.centre(size), "silhouette": bird}
      for kind, x in big.items():
        of_bird[part, kind].append(faithfulness.share_inside(x, mask))
    for key, values in of_bird.items():
      shares[key].append(np.mean(values))
  shown = [(part, "shown", len(x), np.mean(x), np.nan, np.nan) for part, x in decided.items()]
  table = [(*key, len(x), *faithfulness.interval(np.array(x))) for key, x in shares.items()]
  return shown + table


def _alone(retriever, picture, seen, number) -> dict[str, np.ndarray]:
  """{kind: heat} of an image by itself, which is compared with its own embedding."""
  vectors, own = retriever.embed_batch(occlusion.covered(picture)), seen.embedding[0]
  found = {
    "occlusion": np.maximum(occlusion.falls(lambda x: x @ own, own, vectors), 0),
    "patches": heat.unit_range(heat.similarity(seen.patches[0], own)),
    "random": faithfulness.scattered((occlusion.PLACES,) * 2, number),
    "centre": faithfulness.centre(len(picture)),
  }
  if seen.rollout is not None:
    found["rollout"] = heat.unit_range(seen.rollout[0])
  return found


def _vocabulary(retriever) -> tuple:
  """Claims [N], scores (vectors [n, D]) -> [n, N], directions [N, D] and floors [N]."""
  if retriever.text_batch is None:
    found = retriever.readout
    directions = (found["image"] @ found["entries"].T).T
    scores = functools.partial(attributes.scores, found=found)
    return claims_of(retriever.sentences), scores, directions, retriever.floors
  claims = [(part, value) for part, values in ATTRIBUTES.items() for value in values]
  texts = retriever.embed_text([finch_text.phrases(claim)[0] for claim in claims])
  return claims, lambda x: x @ texts.T, texts, np.full(len(claims), -1.0)


def maps_of(retriever, picture, seen, scores):
  """row of the vocabulary -> heat [h, w] of its occlusion; the covered pictures are seen once."""
  vectors = retriever.embed_batch(occlusion.covered(picture))
  shape = (-1, occlusion.PLACES, occlusion.PLACES)
  found = (scores(seen.embedding) - scores(vectors)).T.reshape(shape)
  return lambda row: np.maximum(found[row], 0)


def names(retriever: lafg_jax.Retriever) -> list[tuple]:
  """Rows (quantile, named an image, share true with interval, share true of all entries)."""
  claims = claims_of(retriever.sentences)
  kept = [row for row, claim in enumerate(claims) if claim]
  chosen = birds(flags.FLAGS.birds)
  vectors = retriever.embed(np.stack([classes.image(finch.name, j) for finch, j in chosen]))
  found = attributes.scores(vectors, retriever.readout)[:, kept]
  true = np.array([[shows(finch, claims[row]) for row in kept] for finch, _ in chosen])
  table = []
  for quantile in (0.5, 0.9, 0.95, 0.99, 0.999):
    above = found > attributes.floors(retriever.readout, quantile)[kept]
    has = above.any(axis=1)
    right = (above & true).sum(axis=1)[has] / above.sum(axis=1)[has]
    said = faithfulness.interval(right) if has.any() else (np.nan,) * 3
    table.append((quantile, above.sum(axis=1).mean(), has.mean(), *said, true.mean()))
  told = [
    tells(name, claim)
    for name, claim in zip(short_names(retriever.sentences), claims, strict=True)
    if claim and claim[0] in _WORDS
  ]
  return [*table, ("names that tell the claim", sum(told), len(told))]


def tells(name: str, claim: Claim) -> bool:
  """Whether a name has a word for the part of a claim, and of a coloured part a word for it."""
  part, value = claim
  first = name.split(", ")[0]
  coloured = ATTRIBUTES[part] is finch_text.COLOURS
  right = not coloured or any(shade in first for shade in finch_text.shades(value))
  return right and any(word in first for word in _WORDS[part])


def curves(retriever: lafg_jax.Retriever) -> list[tuple]:
  """Rows of `beside_baselines`: heat of the cosine of two images of one class."""
  pairs = _pairs()
  areas = collections.defaultdict(list)
  for number in np.linspace(0, len(pairs) - 1, min(flags.FLAGS.pairs, len(pairs))).astype(int):
    picture, other = retriever.crops(pairs[number])
    seen, others = (retriever.see_batch(x[None]) for x in (picture, other))
    target = others.embedding[0]
    grid = (occlusion.PLACES, occlusion.PLACES)
    maps = of_pair(retriever, picture, seen, target, others.patches[0], grid, int(number))
    found = areas_of(picture, maps, lambda x, target=target: retriever.embed_batch(x) @ target)
    for key, value in found.items():
      areas[key].append(value)
  return beside_baselines(areas)


def areas_of(picture, maps, score) -> dict[tuple[str, str], float]:
  """{(kind of heat, curve): area} of a picture's heat by kind."""
  found = {}
  ground = np.full_like(picture, picture.mean(axis=(0, 1)))
  for kind, x in maps.items():
    both = faithfulness.curves(score, picture, x, flags.FLAGS.steps, ground)
    for name, curve in zip(("deletion", "insertion"), both, strict=True):
      found[kind, name] = faithfulness.area(curve)
  return found


def beside_baselines(areas, more=()) -> list[tuple]:
  """Rows (kind, curve, number, mean with interval, and what it is above each of BASES and `more`,
  with intervals of the paired differences)."""
  table = []
  for (kind, name), values in areas.items():
    row = [kind, name, len(values), *faithfulness.interval(np.array(values))]
    for base in (*BASES, *more):
      row += faithfulness.interval(np.array(values) - np.array(areas[base, name]))
    table.append(tuple(row))
  return table


def _pairs() -> list:
  """Two images of each class of --images, or of each unseen class of finches."""
  if not flags.FLAGS.images:
    return [[classes.image(finch.name, j) for j in (0, 1)] for finch in classes.UNSEEN]
  by_class = collections.defaultdict(list)
  for path in lafg_jax.list_images(flags.FLAGS.images):
    by_class[path.rsplit("/", 2)[-2]].append(path)
  return [x[:2] for x in by_class.values() if len(x) > 1]


def of_pair(retriever, picture, seen, target, others, grid, number) -> dict[str, np.ndarray]:
  """{kind: heat} of a picture that is compared with the embedding of another, all of one grid."""
  vectors = retriever.embed_batch(occlusion.covered(picture))
  found = {
    "occlusion": occlusion.falls(lambda x: x @ target, seen.embedding[0], vectors),
    "matches": _resized(heat.matches(seen.patches[0], others), grid),
  }
  return found | without_occlusion(picture, seen, target, grid, number)


def without_occlusion(picture, seen, direction, grid, number) -> dict[str, np.ndarray]:
  """{kind: heat} of what costs no embedding: of the network towards a direction, and BASES."""
  found = {
    "patches": heat.similarity(seen.patches[0], direction),
    "centre": faithfulness.centre(len(picture)),
    "random places": faithfulness.scattered(grid, number),
    "random blobs": faithfulness.upsampled(faithfulness.scattered((4, 4), number), grid[0]),
  }
  if seen.rollout is not None:
    found["rollout"] = seen.rollout[0]
  return {kind: _resized(x, grid) for kind, x in found.items()}


def _resized(x: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Means of heat over the places of a grid whose sides divide those of 8 times the heat."""
  if x.shape == grid:
    return x
  big = np.kron(x, np.ones(grid))
  return big.reshape(grid[0], x.shape[0], grid[1], x.shape[1]).mean(axis=(1, 3))


def model() -> lafg_jax.Retriever:
  """The trained model of --model, or the plain feature of pretrained weights."""
  if flags.FLAGS.model.endswith(".py"):
    config = shipped.get_config(flags.FLAGS.model)
    config.prompts.method = "zero_shot"
    return lafg_jax.load_retriever(config)
  if not flags.FLAGS.pretrained:
    return lafg_jax.load_retriever(flags.FLAGS.model)
  config = default.get_config()
  config.data.update(image_size=flags.FLAGS.side, resize_size=flags.FLAGS.side)
  config.model.update(pretrained=flags.FLAGS.pretrained, embedding_dim=0, embedding_norm="")
  config = resolve.resolve(config)
  _, params = embedders.init_model(config)
  facts = {"step": 0, "checkpoint": "newest", "class_names": [], "sentences": []}
  return of(bundle.Trained(config, params, {}, {}, facts))


def define_flags() -> None:
  """Not at the import: a test imports this beside commands with flags of the same names."""
  flags.DEFINE_string("model", "runs/demo", "A trained model, as load_retriever takes it.")
  flags.DEFINE_string(
    "pretrained", "", "Weights as model.pretrained takes them, as they are, in place of --model."
  )
  flags.DEFINE_integer("side", 112, "Of --pretrained: pixels of an image's side.")
  flags.DEFINE_string("images", "", "curves: a folder with a subfolder for each class.")
  flags.DEFINE_integer("birds", 120, "parts, names: how many birds of unseen classes.")
  flags.DEFINE_integer("pairs", 40, "curves: how many pairs.")
  flags.DEFINE_integer("steps", 8, "curves: steps from the whole image to none of it.")


def main(argv: list[str]) -> None:
  measures = {"parts": parts, "curves": curves, "names": names}
  if len(argv) != 2 or argv[1] not in measures:
    raise app.UsageError(f"say one of {', '.join(measures)}")
  measure = measures[argv[1]]
  for row in measure(model()):
    print("| " + " | ".join(x if isinstance(x, str) else f"{x:.3f}" for x in row) + " |")


if __name__ == "__main__":
  define_flags()
  app.run(main)
