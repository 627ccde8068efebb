"""EMA of all weights, rates by layers, and the distance to the start, each by hand in NumPy."""

import re
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

import lafg_jax
from lafg_jax.config import rules
from lafg_jax.data import images
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import checks, objective, train
from lafg_jax.tasks.class_retrieval.default import validate
from lafg_jax.tasks.image_text_retrieval import default as image_text
from lafg_jax.training import checkpoints, learned_weights, optimizers, partition, step
from lafg_jax.utils.errors import UserError

DECAY = 0.4
EMA = {
  "train__ema": DECAY,
  "train__steps": 4,
  "train__checkpoint_every": 1,
  "train__keep_checkpoints": 9,
  "train__learning_rate": 0.02,
  "train__freeze": "backbone/block_0/mlp_1",
  "loss__alignment": "onehot",
}

SIZES = {"width": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072}
RESNET = {f"model__{name}": x for name, x in SIZES.items()} | {"model__size": "resnet50"}


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def averaged(config_with, dataset, tmp_path_factory):
  config, workdir = config_with(**EMA), tmp_path_factory.mktemp("run")
  assert train.run(config, str(workdir), dataset, None) == (4, False)
  return config, workdir


def test_the_average_follows_its_recursion(averaged, dataset):
  config, workdir = averaged
  start = objective.build(config, len(dataset.class_names), None)
  expected = flat(partition.split(start.params, optimizers.frozen(config.train, start))[0])
  assert not any("block_0/mlp_1" in path for path in expected)
  for t in range(1, 5):
    arrays = checkpoints.read(str(workdir), t)[0]
    d = min(DECAY, (1 + t) / (10 + t))
    for path, e in expected.items():
      expected[path] = d * e + (1 - d) * arrays[f"state/params/{path}"]
    kept = {path[len("state/ema/") :] for path in arrays if path.startswith("state/ema/")}
    assert kept == expected.keys()
    for path, e in expected.items():
      np.testing.assert_allclose(arrays[f"state/ema/{path}"], e, rtol=1e-5, atol=1e-6, err_msg=path)
  assert (2 / 11, 3 / 12, 4 / 13, 5 / 14)[3] < DECAY, "the warm-up counts here"


def test_it_is_what_is_evaluated_and_restored_and_goes_on_in_the_same_bits(
  averaged, dataset, tmp_path
):
  config, workdir = averaged
  arrays = checkpoints.read(str(workdir), 4)[0]
  learned = flat(learned_weights.of(arrays))
  for path, x in learned.items():
    other = arrays.get(f"state/ema/{path}", arrays[f"state/params/{path}"])
    np.testing.assert_array_equal(x, other)
  shutil.copytree(workdir, tmp_path / "copy")
  for gone in (3, 4):
    shutil.rmtree(tmp_path / "copy" / checkpoints.FOLDER / str(gone))
  assert train.run(config, str(tmp_path / "copy"), dataset, None) == (4, False)
  again = checkpoints.read(str(tmp_path / "copy"), 4)[0]
  assert again.keys() == arrays.keys()
  for path, x in arrays.items():
    np.testing.assert_array_equal(x, again[path], err_msg=path)
  retriever = lafg_jax.load_retriever(str(workdir))
  embedder = embedders.build(config.model)
  crops = np.stack([images.resize_centre_crop(x, 16, 16) for x in dataset.images[:2]])
  v = jax.jit(embedder.apply)({"params": learned_weights.of(arrays)}, crops)
  expected = v / np.linalg.norm(v, axis=1, keepdims=True)
  np.testing.assert_allclose(retriever.embed(dataset.images[:2]), expected, atol=1e-5)


def layer_of(path, depth):
  """BEiT's numbers: 0 before the blocks, 1 to L for them, L + 1 behind them."""
  if found := re.match(r"(?:backbone|lora)/block_(\d+)/", path):
    return int(found[1]) + 1
  before = path.startswith("backbone/") and not path.startswith("backbone/norm/")
  return 0 if before else depth + 1


@pytest.mark.parametrize("changes", [{}, {"model__lora_rank": 2}])
def test_rates_fall_towards_the_image(config_with, changes):
  depth, decay = 3, 0.7
  config = config_with(
    model__depth=depth, train__layer_decay=decay, train__optimizer="sgd", train__clip_norm=0.0,
    train__weight_decay=0.0, train__schedule="constant", train__warmup=0.0,
    loss__alignment="onehot", **changes,
  )  # fmt: skip
  made = objective.build(config, 4, None)
  trained = partition.split(made.params, optimizers.frozen(config.train, made))[0]
  rule = optimizers.make(config.train, made)
  ones = jax.tree.map(np.ones_like, trained)
  updates = flat(rule.update(ones, rule.init(trained), trained)[0])
  seen = set()
  for path, x in updates.items():
    layer = layer_of(path, depth)
    seen.add(layer)
    expected = -config.train.learning_rate * decay ** (depth + 1 - layer)
    np.testing.assert_allclose(x, expected, rtol=1e-5, err_msg=path)
  assert seen == ({1, 2, 3, 4} if changes else {0, 1, 2, 3, 4})


@pytest.mark.parametrize(
  ("changes", "anchored"),
  [
    ({"loss__reduction": "mean"}, "^backbone/"),
    ({"model__head_init": "identity", "train__freeze": "block_0/"}, "^(backbone/(?!b)|embedding)"),
    ({"train__frozen_backbone": True, "model__head_init": "identity"}, "^embedding/"),
  ],
)
def test_the_gradient_of_the_distance_is_the_distance(config_with, changes, anchored):
  weight = 0.3
  config = config_with(**{"loss__alignment": "none", "loss__reduction": "sum"} | changes)
  grads, metrics = {}, {}
  for distance in (0.0, weight):
    config.loss.start_distance = distance
    made = objective.build(config, 4, None)
    rng = np.random.default_rng(0)
    params = {path: np.asarray(x) for path, x in flat(made.params).items()}
    params = {path: x + rng.standard_normal(x.shape).astype("f") / 8 for path, x in params.items()}
    moved = traverse_util.unflatten_dict(params, sep="/")
    rows = {"label": np.arange(10, dtype=np.int32) % 5}
    for name, x in made.embed_reads.items():
      rows[name] = rng.integers(0, 255, (10, *x.shape)).astype(x.dtype)
    gradients = jax.jit(step.make_gradients(made, config.train, None))
    key = step.step_key(0, 0)
    grads[distance], metrics[distance] = gradients(moved, {}, rows, made.constants, key)
  # As beta, it has the same effect under 'sum', which is m (m - 1) = 2 times the mean.
  scale = 2 if config.loss.reduction == "sum" else 1
  before, now, total = flat(made.params), flat(moved), 0.0
  for path, grad in flat(grads[weight]).items():
    by_hand = weight * scale * (now[path] - before[path]) if re.search(anchored, path) else 0 * grad
    total += float((by_hand**2).sum()) / (weight * scale) ** 2
    difference = grad - flat(grads[0.0])[path]
    np.testing.assert_allclose(difference, by_hand, atol=2e-3, err_msg=path)
  assert float(metrics[weight]["l_start"]) == pytest.approx(total / 2, rel=1e-4)
  assert "l_start" not in metrics[0.0]


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({**RESNET, "train__layer_decay": 0.5}, "layer_decay=0.5: resnet50 has no"),
    ({"model__num_prompts": 2, "train__layer_decay": 0.5}, "num_prompts=2 keeps the backbone"),
    ({"model__lora_rank": 2, "loss__start_distance": 0.1}, "lora_rank=2 keeps the backbone alre"),
    ({"train__ema": 1.0}, "ema=1.0: it takes a number of at least 0 and below 1"),
    ({"train__layer_decay": 0.0}, "layer_decay=0.0: it takes above 0"),
  ],
)
def test_what_cannot_be_is_one_line(config_with, changes, says):
  config = config_with(**changes)
  config.model.pretrained = "tiny_clip"
  with pytest.raises(UserError, match=says):
    validate(config, ["evaluate"])


def test_a_family_without_layers_shows_once_its_weights_are_known(config_with):
  config = config_with(train__layer_decay=0.5)
  checks.parameters(config)
  # What 'auto' of model.size becomes by the weights of a ResNet.
  config = config_with(**RESNET, train__layer_decay=0.5)
  with pytest.raises(UserError, match=r"layer_decay=0.5: resnet50 has no"):
    checks.parameters(config)


@pytest.mark.parametrize("key", ["ema", "layer_decay", "interpolate"])
def test_other_tasks_refuse_what_they_do_not_read(key):
  config = image_text.get_config()
  rules.check_alone(config)
  config.train[key] = 0.5
  with pytest.raises(UserError, match=f"train.{key}=0.5: task=image_text_retrieval does not read"):
    rules.check_alone(config)
