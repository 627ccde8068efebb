"""ResNet and its weights against transformers; what fine-tuning does to the frozen statistics."""

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from lafg_jax.models import embedder
from lafg_jax.models.resnet import ResNet
from lafg_jax.models.weights import from_resnet, load
from lafg_jax.tasks.class_retrieval.default import get_config
from lafg_jax.training import optimizers
from lafg_jax.training.step import Objective
from lafg_jax.utils.errors import UserError

SHAPE = {"depths": (1, 2, 1), "channels": (16, 24, 32), "stem_channels": 8}


def template(size=(32, 32), **changes):
  resnet = ResNet(**(SHAPE | changes))
  images = np.zeros((1, *size, 3), np.float32)
  shapes = jax.eval_shape(resnet.init, jax.random.key(0), images)["params"]
  return resnet, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


@pytest.fixture(scope="module")
def torch_resnet(tmp_path_factory):
  """A random ResNet of transformers with statistics of its own, saved as a user has it."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  config = transformers.ResNetConfig(
    embedding_size=8, hidden_sizes=[16, 24, 32], depths=[1, 2, 1], num_labels=5
  )
  model = transformers.ResNetForImageClassification(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
    for module in model.modules():
      if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.normal_(0.0, 0.5)
        module.running_var.uniform_(0.5, 2.0)
  folder = tmp_path_factory.mktemp("resnet")
  model.save_pretrained(folder)

  def features(images):
    with torch.no_grad():
      out = model.resnet(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    return out.pooler_output[:, :, 0, 0].numpy(), out.last_hidden_state.numpy()

  return str(folder), features


# Odd sides show a padding that is not torch's.
@pytest.mark.parametrize("size", [(64, 64), (75, 50)])
def test_equals_transformers(torch_resnet, size):
  folder, features = torch_resnet
  resnet, like = template()
  params = load.load_backbone(folder, like)
  images = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
  got = jax.jit(resnet.apply)({"params": params}, images)
  assert got.shape == (2, resnet.width) == (2, 32)
  np.testing.assert_allclose(got, features(images)[0], atol=1e-4)


def test_the_default_is_resnet_50():
  _, like = template(depths=(3, 4, 6, 3), channels=(256, 512, 1024, 2048), stem_channels=64)
  flat = traverse_util.flatten_dict(like, sep="/")
  statistics = sum(x.size for path, x in flat.items() if path.endswith(("/mean", "/var")))
  # torchvision's resnet50 has 25,557,032 parameters, of which its head has 2,049,000.
  assert sum(x.size for x in flat.values()) - statistics == 25_557_032 - 2_049_000
  assert (ResNet().depths, ResNet().width) == ((3, 4, 6, 3), 2048)


def test_gem_is_the_generalised_mean_of_the_last_map(torch_resnet):
  folder, features = torch_resnet
  resnet, like = template(pool="gem")
  # The same parameters as under any other pooling.
  params = load.load_backbone(folder, like)
  images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
  last_map = np.maximum(features(images)[1].astype(np.float64), 1e-6)
  wanted = (last_map**3).mean(axis=(2, 3)) ** (1 / 3)
  got = jax.jit(resnet.apply)({"params": params}, images)
  np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_weights_that_do_not_fit_are_listed(torch_resnet):
  for changes, says in (
    ({"depths": (1, 3, 1)}, r"missing encoder\.stages\.1\.layers\.2\.layer\.0\.convolution"),
    ({"depths": (1, 1, 1)}, r"left over encoder\.stages\.1\.layers\.1"),
    ({"channels": (16, 24, 40)}, "is "),
  ):
    with pytest.raises(UserError, match=says):
      load.load_backbone(torch_resnet[0], template(**changes)[1])


@pytest.mark.parametrize(
  ("config", "says"),
  [
    ({"model_type": "resnet", "layer_type": "basic"}, "layer_type basic"),
    ({"model_type": "resnet", "downsample_in_bottleneck": True}, "downsample_in_bottleneck True"),
    ({"model_type": "resnet", "depths": [3, 4, 23, 3]}, "depths"),
    ({"architecture": "resnet50d"}, "with resnet50d"),
    ({"architecture": "resnet50", "model_args": {"stem_type": "deep"}}, "stem_type"),
  ],
)
def test_other_resnets_are_refused(config, says):
  with pytest.raises(UserError, match=says):
    from_resnet.settings(config)


def test_settings_of_the_published_config():
  transformers = pytest.importorskip("transformers")
  config = transformers.ResNetConfig().to_dict()
  assert from_resnet.settings(config) == from_resnet.settings({})
  timm = {"architecture": "resnet50.a1_in1k", "pretrained_cfg": {"mean": [0.1] * 3, "std": [1] * 3}}
  assert from_resnet.settings(timm).mean == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_leaves_the_statistics_bit_for_bit(optimizer):
  resnet, like = template((16, 16), depths=(1,), channels=(8,), stem_channels=4)
  rng = np.random.default_rng(1)
  params = {"backbone": jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype("f"), like)}
  images = rng.standard_normal((2, 16, 16, 3)).astype(np.float32)
  config = get_config()
  config.train.update(optimizer=optimizer, weight_decay=0.1, learning_rate=1e-2, warmup=0.0)
  config.train.update(freeze="", steps=10)
  tx = optimizers.make(config.train, Objective(params, None, None, {}, {}, 0, {}))

  @jax.jit
  def step(params, state):
    def loss(params):
      return (resnet.apply({"params": params["backbone"]}, images) ** 2).mean()

    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  after, state = params, jax.jit(tx.init)(params)
  for _ in range(2):
    after, state = step(after, state)
  before, after = (traverse_util.flatten_dict(x, sep="/") for x in (params, after))
  for path, x in before.items():
    same = np.array_equal(x, after[path])
    assert same == path.endswith(("norm/mean", "norm/var")), path


def test_a_norm_is_that_of_torch_in_evaluation():
  torch = pytest.importorskip("torch")
  from lafg_jax.models.resnet import FrozenBatchNorm

  rng = np.random.default_rng(2)
  x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
  names = ("mean", "var", "scale", "bias")
  params = {name: rng.uniform(0.5, 2.0, 5).astype(np.float32) for name in names}
  wanted = torch.nn.functional.batch_norm(
    torch.from_numpy(x.transpose(0, 3, 1, 2)),
    *(torch.from_numpy(params[name]) for name in names),
  )
  got = FrozenBatchNorm().apply({"params": params}, x)
  np.testing.assert_allclose(got, wanted.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_prompts_are_refused():
  config = get_config()
  config.model.update(size="resnet50", pool="mean", options="", num_prompts=3)
  with pytest.raises(UserError, match="num_prompts: a ResNet has no tokens"):
    embedder.build(config.model)
