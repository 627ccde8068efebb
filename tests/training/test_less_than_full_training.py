"""LoRA, prompts, a frozen backbone and train.freeze: what is to stay stays, bit by bit."""

import re
import shutil

import jax
import numpy as np
import pytest

import lafg_jax
from lafg_jax.data import images
from lafg_jax.models import embedder as embedders
from lafg_jax.models import lora
from lafg_jax.models.weights import resolve
from lafg_jax.tasks.class_retrieval import checks, default, objective, stages, train
from lafg_jax.training import checkpoints, optimizers, partition
from lafg_jax.utils.errors import UserError

# What changes in the config, and which of the backbone's parameters stay as they are.
MODES = {
  "lora": ({"model.lora_rank": 2}, ""),
  "prompts": ({"model.num_prompts": 2, "model.prompts_depth": "deep"}, ""),
  "frozen": ({"train.frozen_backbone": True, "train.feature_views": 2}, ""),
  "up to a depth": (
    {"train.freeze": "backbone/(patch_embedding|position_embedding|block_[0-0]/)"},
    "(patch_embedding|position_embedding|block_0)",
  ),
}


@pytest.fixture(scope="module", params=MODES)
def trained(request, tmp_path_factory, config_with, dataset, prototypes):
  """A finished run of each mode: (its config, workdir, parameters before, arrays after)."""
  changes, fixed = MODES[request.param]
  # A step and a decay large enough for all that is not frozen to move.
  config = config_with(train__steps=4, train__learning_rate=0.01, train__weight_decay=0.5)
  config.model.conv_stem, config.model.depth = False, 2
  config.update_from_flattened_dict(changes)
  workdir = tmp_path_factory.mktemp("run")
  before = objective.build(config, len(dataset.class_names), prototypes)
  assert train.run(config, str(workdir), dataset, prototypes) == (4, False)
  return config, workdir, before, checkpoints.read(str(workdir), 4)[0], "^backbone/" + fixed


def test_the_backbone_stays_and_all_else_moves(trained):
  config, _, before, after, fixed = trained
  for path, x in checkpoints.flatten(before.params).items():
    same = np.array_equal(x, after[f"state/params/{path}"])
    stays = re.search(fixed, path) is not None or path == "projectors/text"
    # A key bias adds the same to every logit of a row, which softmax ignores: it never moves.
    assert same == stays or path.endswith("key/bias"), path


def test_the_optimiser_keeps_nothing_for_what_is_frozen(trained):
  config, _, before, after, _ = trained
  moments = [x for path, x in after.items() if re.search("/(mu|nu)/", path)]
  learned = [
    x for path, x in checkpoints.flatten(before.params).items()
    if not optimizers.frozen(config.train, before)(path)
  ]  # fmt: skip
  everything = jax.tree.leaves(before.params)
  assert len(moments) == 2 * len(learned) < 2 * len(everything)
  size = sum(x.nbytes for x in moments)
  assert size == 2 * sum(x.nbytes for x in learned)
  assert config.train.freeze or size < 2 * sum(x.nbytes for x in everything) / 2


def test_a_run_that_goes_on_ends_in_the_same_bits(trained, tmp_path, dataset, prototypes):
  config, workdir, _, after, _ = trained
  shutil.copytree(workdir, tmp_path / "copy")
  shutil.rmtree(tmp_path / "copy" / checkpoints.FOLDER / "4")
  assert train.run(config, str(tmp_path / "copy"), dataset, prototypes) == (4, False)
  again = checkpoints.read(str(tmp_path / "copy"), 4)[0]
  assert set(again) == set(after)
  for path, x in after.items():
    np.testing.assert_array_equal(x, again[path], err_msg=path)


def test_the_checkpoint_is_a_whole_retriever(trained, dataset):
  config, workdir, _, after, _ = trained
  retriever = lafg_jax.load_retriever(str(workdir))
  pictures = dataset.images[:3]
  crops = np.stack([images.resize_centre_crop(x, 16, 16) for x in pictures])
  params = checkpoints.subtree(after, "state/params")
  if config.model.lora_rank:
    # By hand and by name: W + alpha / r A B of each attention.
    for name, block in params["lora"].items():
      for role, factors in block["attention"].items():
        kernel = params["backbone"][name]["attention"][role]["kernel"]
        kernel += (16 / 2 * factors["kernel"]["a"] @ factors["kernel"]["b"]).reshape(kernel.shape)
  v = np.asarray(jax.jit(embedders.build(config.model).apply)({"params": params}, crops))
  expected = v / np.linalg.norm(v, axis=1, keepdims=True)
  np.testing.assert_allclose(retriever.embed(pictures), expected, atol=1e-5)


def test_lora_and_prompts_go_together(config_with, dataset):
  config = config_with(model__lora_rank=1, model__num_prompts=1, loss__alignment="none")
  made = objective.build(config, len(dataset.class_names), None)
  learned, fixed = partition.split(made.params, optimizers.frozen(config.train, made))
  assert set(learned) == {"lora", "prompts", "embedding"} and set(fixed) == {"backbone"}
  whole = partition.join(learned, fixed)
  assert jax.tree.structure(whole) == jax.tree.structure(made.params)
  assert set(lora.merge(jax.tree.map(lambda x: np.zeros(x.shape), whole), 1.0)) == (
    set(whole) - {"lora"}
  )


# The shipped tower, resolved as before every run.
TOWER = {"model__pretrained": "tiny_clip", "model__size": "auto"}
TOWER |= {"data__image_size": 48, "data__resize_size": 48}
GIVEN = {"model__pool": "mean", "model__options": ""}


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"train__freeze": "no_such"}, "freeze=no_such: no parameter has such a path"),
    ({"train__freeze": "."}, "it leaves nothing to train"),
    ({"train__freeze": "backbone/block_0", "model__lora_rank": 2, **TOWER}, "frozen already"),
    (
      {"model__lora_targets": "no_such", "model__lora_rank": 2, **TOWER},
      "lora_targets=no_such: no kernel",
    ),
    (
      {"model__num_prompts": 3, **TOWER, "model__size": "resnet50", **GIVEN},
      "num_prompts: a ResNet has no tokens",
    ),
  ],
)
def test_what_finds_no_parameters_is_one_line_before_work_starts(config_with, changes, says):
  config = config_with(**changes)
  with pytest.raises(UserError, match=says):
    checks.parameters(resolve.resolve(config) if config.model.size == "auto" else config)


PRETRAINED = {"model.pretrained": "weights", "model.conv_stem": False}
ALONE = {"loss.alignment": "none"}
REFUSED = [
  ({"model.lora_rank": 2, "model.pretrained": ""}, "model.lora_rank=2: .*model.pretrained"),
  ({"model.num_prompts": 2, "model.pretrained": ""}, "model.num_prompts=2: .*model.pretrained"),
  ({"train.frozen_backbone": True, "model.pretrained": ""}, "frozen_backbone: .*pretrained"),
  ({"train.feature_views": 2}, "feature_views=2: .*frozen_backbone=True"),
  ({"train.frozen_backbone": True, "model.lora_rank": 2}, "frozen_backbone: .*lora_rank=2 would"),
  ({"train.frozen_backbone": True, "model.num_prompts": 2}, "frozen_backbone: .*num_prompts=2"),
  ({"train.frozen_backbone": True, "model.pool": "gem"}, "model.gem_learned=False"),
  ({"train.frozen_backbone": True, "model.embedding_dim": 0}, "model.embedding_dim=D"),
  ({"data.instances": True, "train.frozen_backbone": True} | ALONE, "instances.*frozen_backbone=F"),
  ({"data.instances": True}, "instances=True: .*loss.alignment=none"),
  (
    {"data.instances": True, "loss.image_alignment": "vocabulary"} | ALONE,
    "instances=True: .*image_alignment=none",
  ),
  (
    {"data.instances": True, "loss.auxiliary": "norm_softmax", "loss.reduction": "mean"} | ALONE,
    "instances=True: .*auxiliary=pairwise",
  ),
  (
    {
      "train.frozen_backbone": True,
      "data.pack": "p",
      "data.name": "cub",
      "data.root": "x",
      "language.describer": "shipped",
    },
    "data.pack=p: train.frozen_backbone",
  ),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_what_does_not_go_together_is_one_line(config_with, changes, says):
  config = config_with()
  config.update_from_flattened_dict(PRETRAINED)
  default.validate(config, stages.STAGES)
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=says):
    default.validate(config, stages.STAGES)


@pytest.mark.parametrize(
  "changes",
  [
    {"model.lora_rank": 2, "model.num_prompts": 2, "train.freeze": "embedding"},
    {"train.frozen_backbone": True, "model.pool": "gem", "model.gem_learned": False},
  ],
)
def test_what_goes_together_is_accepted(config_with, changes):
  config = config_with()
  config.update_from_flattened_dict(PRETRAINED | changes)
  default.validate(config, stages.STAGES)
