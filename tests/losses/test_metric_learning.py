"""The usual losses against pytorch-metric-learning; their config, optimiser and state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pytorch_metric_learning import losses as oracle

import lafg_jax
from lafg_jax.losses import metric_learning
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import default, objective, stages, train
from lafg_jax.training import checkpoints, optimizers, resume
from lafg_jax.training import step as train_step
from lafg_jax.training.step import Objective
from lafg_jax.utils.errors import UserError

NAMES = ("supcon", "norm_softmax", "proxy_anchor")


@functools.partial(jax.jit, static_argnames=("name", "t"))
def ours(name, z, labels, proxies, t=0.3):
  if name == "supcon":
    return metric_learning.supcon(z, labels, temperature=t)
  if name == "norm_softmax":
    return metric_learning.norm_softmax(z, labels, proxies, temperature=t)
  return metric_learning.proxy_anchor(z, labels, proxies, alpha=32.0, margin=0.1)


@functools.partial(jax.jit, static_argnames=("name", "t"))
def gradients(name, z, labels, proxies, t=0.3):
  return jax.value_and_grad(ours, (1, 3))(name, z, labels, proxies, t)


def theirs(name, z, labels, proxies, t=0.3):
  """The loss and its gradients in embeddings and proxies, in float64; they divide cos by t / 2."""
  import torch

  z, p = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (z, proxies))
  count, width = proxies.shape
  if name == "supcon":
    loss = oracle.SupConLoss(temperature=t / 2)
  elif name == "norm_softmax":
    loss = oracle.NormalizedSoftmaxLoss(count, width, temperature=t / 2)
    del loss.W
    loss.W, loss.cast_types = p.T, lambda *_: None
  else:
    loss = oracle.ProxyAnchorLoss(count, width, margin=0.1, alpha=32)
    del loss.proxies
    loss.proxies, loss.cast_types = p, lambda *_: None
  value = loss(z, torch.tensor(labels))
  value.backward()
  return value.item(), z.grad.numpy(), np.zeros(p.shape) if p.grad is None else p.grad.numpy()


def draw(seed, rows=12, classes=5, width=8):
  """The last class has no row in the batch, and one row no positive."""
  rng = np.random.default_rng(seed)
  labels = np.append(rng.integers(0, classes - 2, rows - 1), classes - 2)
  z, proxies = rng.standard_normal((rows, width)), rng.standard_normal((classes, width))
  return 3 * z.astype(np.float32), labels, proxies.astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradients_equal_pytorch_metric_learning(name, seed):
  z, labels, proxies = draw(seed)
  value, in_z, in_proxies = theirs(name, z, labels, proxies)
  got, (dz, dp) = gradients(name, z, labels, proxies)
  np.testing.assert_allclose(got, value, rtol=1e-5)
  np.testing.assert_allclose(dz, in_z, rtol=1e-3, atol=1e-6)
  np.testing.assert_allclose(dp, in_proxies, rtol=1e-3, atol=1e-6)
  assert np.abs(dz).max() > 1e-3 and (name == "supcon" or np.abs(dp).max() > 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_row_order_length_and_the_names_of_classes_do_not_matter(name):
  z, labels, proxies = draw(2)
  rng = np.random.default_rng(2)
  rows, renamed = rng.permutation(len(z)), rng.permutation(len(proxies))
  other = np.empty_like(proxies)
  other[renamed] = 0.5 * proxies
  same = ours(name, 7 * z[rows], renamed[labels][rows], other)
  np.testing.assert_allclose(same, ours(name, z, labels, proxies), rtol=1e-5)
  # And labels do matter.
  assert abs(ours(name, z, np.roll(labels, 1), proxies) - same) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_extreme_embeddings_have_a_finite_loss_and_gradient(name):
  proxies = np.eye(3, 4, dtype=np.float32)
  for z in (np.ones((6, 4), np.float32), np.zeros((6, 4), np.float32)):
    for labels in (np.tile(np.arange(3), 2), np.zeros(6, int), np.arange(6) % 2):
      value, gradient = gradients(name, z, labels, proxies, t=0.01)
      assert np.isfinite(value) and value >= 0 and np.isfinite(gradient[0]).all()
  # No row has a positive: SupCon has nothing to say.
  alone = metric_learning.supcon(jnp.ones((3, 4)), jnp.arange(3), temperature=0.2)
  assert alone == 0


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    ({"auxiliary": "triplet"}, "loss.auxiliary=triplet: it takes one of pairwise, supcon"),
    ({"auxiliary": "supcon", "reduction": "sum"}, "loss.reduction=sum: .*pass .*reduction=mean"),
    ({"auxiliary": "norm_softmax", "proxy_alpha": 16.0}, "proxy_alpha=16.0: .*only proxy_anchor"),
    ({"auxiliary": "supcon", "proxy_margin": 0.2}, "proxy_margin=0.2: .*supcon does not read"),
    ({"proxy_lr_factor": 10.0}, "proxy_lr_factor=10.0: .*pairwise does not read it, only norm_"),
    ({"auxiliary": "proxy_anchor", "proxy_margin": -0.1}, "proxy_margin=-0.1: it takes"),
  ],
)
def test_what_cannot_be_is_one_line(config_with, changes, line):
  config = config_with(**{f"loss__{key}": value for key, value in changes.items()})
  with pytest.raises(UserError, match=line):
    default.validate(config, stages.STAGES)


@pytest.mark.parametrize("auxiliary", ["pairwise", *NAMES])
def test_every_value_is_valid_with_and_without_words(config_with, auxiliary):
  for alignment in ("none", "prototype", "onehot"):
    config = config_with(loss__auxiliary=auxiliary, loss__alignment=alignment)
    default.validate(config, stages.STAGES)


def test_proxies_disturb_no_other_number_and_follow_the_seed(config_with, monkeypatch):
  model = embedders.init_model(config_with())
  monkeypatch.setattr(embedders, "init_model", lambda config: (model[0], dict(model[1])))
  plain = objective.init_params(config_with(), 7, 24)
  states = [
    objective.init_params(config_with(loss__auxiliary="proxy_anchor", seed=seed), 7, 24)
    for seed in (0, 0, 1)
  ]
  proxies = [np.asarray(params.pop("proxies")) for params in states]
  assert proxies[0].shape == (7, 16)
  np.testing.assert_array_equal(proxies[0], proxies[1])
  assert np.abs(proxies[0] - proxies[2]).max() > 0.1
  jax.tree.map(np.testing.assert_array_equal, plain, states[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_proxies_learn_at_a_rate_of_their_own_and_do_not_decay(config_with, optimizer):
  import torch

  config = config_with(
    loss__auxiliary="proxy_anchor", loss__proxy_lr_factor=5.0, train__optimizer=optimizer,
    train__warmup=0.0, train__clip_norm=0.0, train__weight_decay=0.3,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  start = {"embedding": {"kernel": rng.standard_normal((3, 2))}, "proxies": rng.random((4, 2))}
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
  rates = (("^proxies$", config.loss.proxy_lr_factor),)
  made = Objective(params, None, None, {}, {}, 0, {}, rate_of=rates)
  rule = optimizers.make(config.train, made)
  state, update = rule.init(params), jax.jit(rule.update)
  tensors = [torch.nn.Parameter(torch.tensor(x)) for x in jax.tree.leaves(start)]
  groups = [{"params": [x], "weight_decay": d} for x, d in zip(tensors, (0.3, 0.0), strict=True)]
  make = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
  torch_rule = make(groups, lr=1.0, **({} if optimizer == "adamw" else {"momentum": 0.9}))
  for step in range(3):
    grads = jax.tree.map(lambda x: rng.standard_normal(x.shape), start)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    for tensor, x in zip(tensors, jax.tree.leaves(grads), strict=True):
      tensor.grad = torch.tensor(x)
    rate = float(optimizers.schedule(config.train)(step))
    for group, factor in zip(torch_rule.param_groups, (1, 5), strict=True):
      group["lr"] = rate * factor
    torch_rule.step()
  for x, tensor in zip(jax.tree.leaves(params), tensors, strict=True):
    np.testing.assert_allclose(x, tensor.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_run_keeps_its_proxies_and_its_retriever_needs_none(
  tmp_path, dataset, prototypes, config_with
):
  config = config_with(loss__auxiliary="proxy_anchor", train__steps=2, train__warmup=0.0)
  train.run(config, str(tmp_path), dataset, prototypes)
  arrays, meta = checkpoints.read(str(tmp_path), 2)
  made = objective.build(config, len(dataset.class_names), prototypes)
  template = train_step.init_state(made, config.train)[1]
  assert np.abs(arrays["state/params/proxies"] - template.params["proxies"]).max() > 0.01
  again = checkpoints.flatten({"state": resume.restore(template, arrays, meta)})
  assert set(again) == {path for path in arrays if path.startswith("state/")}
  for path, x in again.items():
    np.testing.assert_array_equal(x, arrays[path], err_msg=path)
  kept = {path: x for path, x in arrays.items() if "proxies" not in path}
  assert len(kept) < len(arrays)
  with checkpoints.manager(str(tmp_path / "without"), 1) as mngr:
    checkpoints.save(mngr, 2, kept, meta)
  vectors = lafg_jax.load_retriever(str(tmp_path / "without")).embed(dataset.images[:3])
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
