"""Phi against torch: its start, its output, its gradient through the text tower, its files."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lafg_jax.tasks.composed_retrieval import mapping, objective, pseudo_words
from lafg_jax.utils.errors import UserError

D, HIDDEN, WIDTH = 16, 24, 32


def torch_net(kind, dim=D, hidden=HIDDEN, width=WIDTH):
  """The published nets, as the papers describe them."""
  from torch import nn

  if kind == "pic2word":
    net = nn.Module()
    blocks = [nn.Sequential(nn.Linear(a, hidden), nn.Dropout(0.1), nn.ReLU())
              for a in (dim, hidden)]  # fmt: skip
    net.layers, net.fc_out = nn.Sequential(*blocks), nn.Linear(hidden, width)
    net.forward = lambda x: net.fc_out(net.layers(x))
    return net.eval()
  net = nn.Module()
  net.layers = nn.Sequential(
    *(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(0.5)),
    *(nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(0.5), nn.Linear(hidden, width)),
  )
  net.forward = lambda x: net.layers(x)
  return net.eval()


def saved(path, kind, net, prefix=""):
  import torch

  state = {prefix + name: x for name, x in net.state_dict().items()}
  if kind == "pic2word":
    state = {name: x.half() for name, x in state.items()}
    other = {"visual.proj": torch.zeros(2, 2)}
    content = {"epoch": 3, "name": "x", "state_dict": other, "state_dict_img2text": state}
    content["optimizer"] = torch.optim.AdamW(net.parameters()).state_dict()
  else:
    content = {"epoch": 7, "Phi": state}
  torch.save(content, path)
  return str(path)


@pytest.mark.parametrize("kind, prefix", [("lincir", ""), ("searle", ""), ("pic2word", "module.")])
def test_a_published_checkpoint_gives_torchs_output(tmp_path, kind, prefix):
  import torch

  torch.manual_seed(1)
  net = torch_net(kind)
  found, params = mapping.from_torch(saved(tmp_path / "phi.pt", kind, net, prefix))
  # SEARLE's and LinCIR's files are alike, and so are their nets.
  assert found == ("lincir" if kind == "searle" else kind)
  x = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
  with torch.no_grad():
    wanted = (net.half().float() if kind == "pic2word" else net).forward(torch.tensor(x)).numpy()
  np.testing.assert_allclose(mapping.apply(found, params, x), wanted, atol=1e-5)
  clip = types.SimpleNamespace(dim=D, text=types.SimpleNamespace(sizes=(WIDTH, 2, 2, 48)))
  of = types.SimpleNamespace(source=str(tmp_path / "phi.pt"), method=kind)
  config = types.SimpleNamespace(mapping=of)
  assert mapping.load(config, clip)[0] == found
  # Its template is another one, and the name of its row in the table.
  of.method = "lincir" if kind == "pic2word" else "pic2word"
  with pytest.raises(UserError, match=f"its Phi is of .*pass --config.mapping.method={found}"):
    mapping.load(config, clip)
  config.mapping.source = ""
  assert mapping.load(config, clip) is None


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
  import torch

  net = torch_net("lincir")
  good = saved(tmp_path / "phi.pt", "lincir", net)
  clip = types.SimpleNamespace(dim=512, text=types.SimpleNamespace(sizes=(768, 2, 2, 48)))
  state = net.state_dict()
  cut = {name: x for name, x in state.items() if name != "layers.3.bias"}
  torch.save({"Phi": cut}, tmp_path / "cut.pt")
  torn = state | {"layers.3.weight": torch.zeros(HIDDEN, HIDDEN + 1)}
  torch.save({"Phi": torn}, tmp_path / "torn.pt")
  torch.save({"state_dict": {"x": torch.zeros(2)}}, tmp_path / "other.pt")
  torch.save([1, 2], tmp_path / "list.pt")
  torch.save({"Phi": types.SimpleNamespace}, tmp_path / "code.pt")
  (tmp_path / "damaged.pt").write_bytes((tmp_path / "phi.pt").read_bytes()[:900])
  of = lambda path: mapping.load(  # noqa: E731
    types.SimpleNamespace(mapping=types.SimpleNamespace(source=str(path))), clip
  )
  wanted = {
    good: "it maps features of 16 to words of 32 numbers, and this CLIP has 512 and 768",
    tmp_path / "cut.pt": "a layer of its network lacks its weight or its bias",
    tmp_path / "torn.pt": "do not follow each other",
    tmp_path / "other.pt": "it holds no mapping network, but state_dict",
    tmp_path / "list.pt": "it holds a list",
    tmp_path / "code.pt": "no checkpoint that can be read",
    tmp_path / "damaged.pt": "no checkpoint that can be read",
    tmp_path / "none.pt": "no such file or folder",
  }
  for path, said in wanted.items():
    with pytest.raises(UserError) as error:
      of(path)
    assert said in str(error.value) and str(path) in str(error.value), path
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind, hidden", [("lincir", 4 * D), ("pic2word", 512)])
def test_it_starts_as_torchs_linear(kind, hidden):
  assert mapping.hidden(kind, D) == hidden and mapping.hidden(kind, D, 20) == 20
  params = mapping.init(kind, D, WIDTH, hidden, jax.random.key(0))
  net = torch_net(kind, hidden=hidden)
  layers = [x for x in net.modules() if type(x).__name__ == "Linear"]
  order = layers[1:] + layers[:1] if layers[0].out_features == WIDTH else layers
  assert len(params) == 3
  for number, layer in enumerate(order):
    of = params[f"layer_{number}"]
    assert of["kernel"].shape == tuple(layer.weight.shape)[::-1]
    for mine, theirs in ((of["kernel"], layer.weight), (of["bias"], layer.bias)):
      theirs = theirs.detach().numpy()
      bound = layer.in_features**-0.5
      assert np.abs(mine).max() <= bound and np.abs(theirs).max() <= bound
      if theirs.size > 2000:
        # Of U(-a, a): a / sqrt(3).
        np.testing.assert_allclose([np.std(mine), theirs.std()], bound / 3**0.5, rtol=0.05)


def test_dropout_of_a_row_does_not_depend_on_its_batch():
  params = mapping.init("lincir", D, WIDTH, 400, jax.random.key(0))
  x = np.random.default_rng(0).standard_normal((6, D)).astype(np.float32)
  keys = jax.random.split(jax.random.key(1), 6)
  whole = mapping.apply("lincir", params, x, 0.5, keys)
  part = mapping.apply("lincir", params, x[2:4], 0.5, keys[2:4])
  np.testing.assert_allclose(part, whole[2:4], atol=1e-6)
  assert np.abs(whole - mapping.apply("lincir", params, x)).max() > 1e-3
  # Half of the units are left out, and the others doubled.
  one = {"layer_0": {"kernel": jnp.zeros((D, 4000)), "bias": jnp.ones(4000)}}
  one["layer_1"] = {"kernel": jnp.eye(4000), "bias": jnp.zeros(4000)}
  kept = np.asarray(mapping.apply("pic2word", one, x[:1], 0.5, keys[:1]))
  assert set(np.unique(kept)) == {0.0, 2.0} and 0.45 < (kept > 0).mean() < 0.55


def test_its_gradient_through_the_text_tower_is_torchs(small_clip):
  """LinCIR's loss of a text with two places, without noise and dropout, in both libraries."""
  import torch

  torch.manual_seed(2)
  clip, width = small_clip.clip, small_clip.clip.text.sizes[0]
  net = torch_net("lincir", clip.dim, HIDDEN, width)
  params = {f"layer_{n}": {"kernel": net.layers[k].weight.detach().numpy().T,
                           "bias": net.layers[k].bias.detach().numpy()}
            for n, k in enumerate((0, 3, 6))}  # fmt: skip
  rows = pseudo_words.masked(small_clip.reader, [["a photo of ", " and ", ""], ["very ", " dog"]])
  target = np.random.default_rng(0).standard_normal((2, clip.dim)).astype(np.float32)

  def loss(phi):
    words = mapping.apply("lincir", phi, target)
    found = pseudo_words.features(clip, small_clip.params, rows, words)
    return objective.losses.reconstruction(found, target)

  value, gradient = jax.jit(jax.value_and_grad(loss))(params)
  words, there = net.forward(torch.tensor(target)), torch.tensor(rows.at)

  def hook(module, args, output):
    return torch.where(there[..., None], words[:, None], output)

  embedding = small_clip.torch.text_model.embeddings.token_embedding
  handle = embedding.register_forward_hook(hook)
  try:
    states = small_clip.torch.text_model(torch.tensor(rows.ids)).last_hidden_state
  finally:
    handle.remove()
  ended = states[torch.arange(2), torch.tensor(rows.ends).long()]
  found = small_clip.torch.text_projection(ended)
  wanted = (found - torch.tensor(target)).square().mean()
  wanted.backward()
  np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
  for n, k in enumerate((0, 3, 6)):
    of, theirs = gradient[f"layer_{n}"], net.layers[k]
    assert np.abs(theirs.weight.grad).max() > 1e-3
    np.testing.assert_allclose(of["kernel"], theirs.weight.grad.T, atol=1e-4)
    np.testing.assert_allclose(of["bias"], theirs.bias.grad, atol=1e-4)
