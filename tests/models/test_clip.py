"""Whole CLIPs against transformers, from its own files."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lafg_jax.models import clip as clips
from lafg_jax.models.weights import files
from lafg_jax.utils.errors import UserError

SHIPPED = files.local(files.SHIPPED).rstrip("/")


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch")


def drawn(side, count=2):
  return np.random.default_rng(side).integers(0, 256, (count, side, side, 3), np.uint8)


def pixels(torch, clip, images):
  """What transformers' processor makes of images of the right size."""
  x = (images / 255 - np.asarray(clip.mean)) / np.asarray(clip.std)
  return torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def of_torch(torch, model, x, **arguments):
  with torch.no_grad():
    return unit(model.get_image_features(pixel_values=x, **arguments).pooler_output.numpy())


@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("name", ["clip", "clip_gelu", "siglip"])
def test_images_equal_those_of_transformers(torch, whole, loaded, name, side):
  model, (clip, params) = whole(name)[0], loaded(name, side)
  assert clip.image_size == side and clip.family == name.split("_")[0]
  images = drawn(side)
  got = clips.embed_images(clip, params, images)
  x = pixels(torch, clip, images)
  want = of_torch(torch, model, x, interpolate_pos_encoding=side != 32)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-5)
  for name in ("logit_scale", "logit_bias"):
    value = getattr(model, name, torch.zeros(()))
    np.testing.assert_allclose(params[name], value.item(), rtol=1e-6)


@pytest.mark.parametrize("side", [32, 48])
def test_naflex_at_a_square_grid_equals_transformers(torch, whole, loaded, side):
  model, (clip, params) = whole("siglip2")[0], loaded("siglip2", side)
  images, grid = drawn(side), side // 8
  patches = pixels(torch, clip, images).reshape(2, 3, grid, 8, grid, 8).permute(0, 2, 4, 3, 5, 1)
  want = of_torch(
    torch,
    model,
    patches.reshape(2, grid * grid, -1),
    pixel_attention_mask=torch.ones(2, grid * grid, dtype=torch.int32),
    spatial_shapes=torch.tensor([[grid, grid]] * 2),
  )
  np.testing.assert_allclose(clips.embed_images(clip, params, images), want, atol=1e-5)


def test_the_shipped_clip_equals_transformers(torch):
  transformers = pytest.importorskip("transformers")
  model = transformers.CLIPModel.from_pretrained(SHIPPED, dtype=torch.float32).eval()
  clip, params = clips.load("tiny_clip")
  assert (clip.dim, clip.image_size, clip.tokens.context) == (64, 48, 80)
  assert clip.mean == clip.std == (0.5, 0.5, 0.5) and clip.tokens.folder == SHIPPED
  images = drawn(48)
  want = of_torch(torch, model, pixels(torch, clip, images))
  np.testing.assert_allclose(clips.embed_images(clip, params, images), want, atol=1e-5)
  ids = np.array([[1, 9, 700, 6, 3, 0], [1, 3, 0, 0, 0, 0]])
  with torch.no_grad():
    want = unit(model.get_text_features(input_ids=torch.from_numpy(ids)).pooler_output.numpy())
  tokens = clips.token_embeddings(clip, params, ids)
  got = clips.embed_texts(clip, params, tokens, np.array([4, 1]))
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_allclose(params["logit_scale"], model.logit_scale.item(), rtol=1e-6)


# MaPLe on CLIP: appended before ln_pre, replaced before block 1, then they flow on. VPT: after it.
@pytest.mark.parametrize(
  ("name", "prompts_at", "depth"),
  [("clip", "before_norm", 2), ("clip", "after_norm", 3), ("clip", "before_norm", 1)],
)
def test_image_prompts_and_their_gradients_equal_those_of_torch(
  torch, whole, loaded, name, prompts_at, depth
):
  model, (clip, params) = whole(name)[0], loaded(name)
  clip = clip._replace(image=clip.image.clone(prompts_at=prompts_at))
  rng, images = np.random.default_rng(2), drawn(32)
  prompts = rng.standard_normal((depth, 2, 32)).astype(np.float32)
  probe = rng.standard_normal(clip.dim).astype(np.float32)

  def summed(prompts):
    x = clips.embed_images(clip, params, images, prompts)
    return jnp.sum(x @ probe), x

  grad, got = jax.jit(jax.grad(summed, has_aux=True))(prompts)
  theirs = torch.from_numpy(prompts).requires_grad_()
  tower = model.vision_model

  def appended(x):
    return torch.cat([x, theirs[0].expand(len(x), -1, -1)], 1)

  norm = tower.pre_layrnorm
  if prompts_at == "before_norm":
    handles = [norm.register_forward_pre_hook(lambda m, a: (appended(a[0]),))]
  else:
    handles = [norm.register_forward_hook(lambda m, a, x: appended(x))]
  for i in range(1, depth):

    def before(module, args, kwargs, i=i):
      x = args[0]
      return (torch.cat([x[:, :-2], theirs[i].expand(len(x), -1, -1)], 1), *args[1:]), kwargs

    handles.append(tower.encoder.layers[i].register_forward_pre_hook(before, with_kwargs=True))
  try:
    want = model.get_image_features(pixel_values=pixels(torch, clip, images)).pooler_output
  finally:
    for handle in handles:
      handle.remove()
  want = want / want.norm(dim=-1, keepdim=True)
  (want @ torch.from_numpy(probe)).sum().backward()
  np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-5)
  np.testing.assert_allclose(grad, theirs.grad.numpy(), atol=1e-4)
  assert np.abs(grad).max(axis=(1, 2)).min() > 1e-3


def test_the_place_of_prompts_matters_beside_ln_pre(loaded):
  clip, params = loaded("clip")
  images, prompts = drawn(32), np.full((1, 2, 32), 3.0, np.float32)
  prompts[..., ::2] = -1
  early, late = (
    clips.embed_images(
      clip._replace(image=clip.image.clone(prompts_at=at)), params, images, prompts
    )
    for at in ("before_norm", "after_norm")
  )
  assert np.abs(early - late).max() > 1e-3


def test_bfloat16_is_close_and_parameters_stay_float32(whole, loaded):
  clip, params = loaded("clip")
  half, same = clips.load(str(whole("clip")[1]), dtype="bfloat16")
  assert {x.dtype for x in jax.tree.leaves(same)} == {jnp.dtype(jnp.float32)}
  exact, rough = (clips.embed_images(c, params, drawn(32)) for c in (clip, half))
  assert rough.dtype == jnp.float32 and 1e-5 < np.abs(exact - rough).max() < 0.03


def equal(one, two):
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_shards_give_the_same_parameters(whole, loaded, tmp_path):
  model, _ = whole("clip")
  model.save_pretrained(tmp_path, max_shard_size="50KB")
  assert len(list(tmp_path.glob("*.safetensors"))) > 2
  equal(clips.load(str(tmp_path))[1], loaded("clip")[1])


def test_random_parameters_have_the_form_of_loaded_ones(loaded):
  clip, params = loaded("clip")
  random = jax.eval_shape(lambda: clips.init(clip, jax.random.key(0)))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, random)


def changed(folder, tmp_path, tensors=None, config=None):
  """A copy of a source with tensors and config.json passed through functions."""
  out = tmp_path / "copy"
  shutil.copytree(folder, out)
  if tensors:
    save_file(tensors(load_file(out / "model.safetensors")), out / "model.safetensors")
  if config:
    found = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config(found)))
  return str(out)


def test_an_old_config_with_a_text_config_dict_is_read_as_transformers_reads_it(
  whole, loaded, tmp_path
):
  def old(config):
    return config | {"text_config_dict": config["text_config"], "text_config": {"vocab_size": 7}}

  clip, params = clips.load(changed(whole("clip")[1], tmp_path, config=old))
  assert clip.text == loaded("clip")[0].text
  equal(params, loaded("clip")[1])


def test_a_url_brings_its_tokenizer_into_one_folder():
  import fsspec

  memory = fsspec.filesystem("memory")
  for path in Path(SHIPPED).iterdir():
    memory.pipe(f"/towers/{path.name}", path.read_bytes())
  clip, _ = clips.load("memory://towers")
  names = {path.name for path in Path(clip.tokens.folder).iterdir()}
  assert names == {"tokenizer.json", "tokenizer_config.json", "config.json"}


def without(name):
  return lambda tensors: {key: x for key, x in tensors.items() if name not in key}


BAD = {
  "missing": (without("text_model.final_layer_norm"), None, "2 problems (missing text_model.final"),
  "no scale": (without("logit_scale"), None, "missing logit_scale"),
  "left over": (
    lambda t: t | {"text_model.extra.weight": np.ones(3, np.float32)},
    None,
    "left over text_model.extra.weight",
  ),
  "shape": (
    None,
    lambda c: c | {"text_config": c["text_config"] | {"max_position_embeddings": 13}},
    "text_model.embeddings.position_embedding.weight is 1 x 12 x 32, not 1 x 13 x 32): check",
  ),
  "projection": (None, lambda c: c | {"projection_dim": 20}, "text_projection.weight is 32 x 24"),
  "one tower": (
    None,
    lambda c: c | {"model_type": "clip_vision_model"},
    "model_type clip_vision_model; what can be read is CLIP",
  ),
  "heads": (
    None,
    lambda c: c | {"text_config": c["text_config"] | {"num_attention_heads": 5}},
    "5 heads for text of width 32",
  ),
  "activation": (
    None,
    lambda c: c | {"text_config": c["text_config"] | {"hidden_act": "tanh"}},
    "its config says tanh; the activations are gelu",
  ),
  "number": (
    None,
    lambda c: c | {"text_config": c["text_config"] | {"vocab_size": "many"}},
    "vocab_size 'many', which is no whole number",
  ),
  "resnet": (
    lambda t: t | {"visual.layer1.0.conv1.weight": np.ones(3, np.float32)},
    None,
    "its image tower is a ResNet",
  ),
  "another model": (
    lambda t: {"embeddings.word_embeddings.weight": np.ones((3, 3), np.float32)},
    None,
    "of no CLIP: what can be read is",
  ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_source_is_one_line(whole, tmp_path, case):
  tensors, config, says = BAD[case]
  source = changed(whole("clip")[1], tmp_path, tensors, config)
  with pytest.raises(UserError) as error:
    clips.load(source, key="--config.language.encoder")
  line = str(error.value)
  assert says in line and "\n" not in line
  assert line.startswith(f"--config.language.encoder={source}")


def test_sizes_that_no_grid_has_and_absent_files_are_refused(whole, tmp_path):
  source = str(whole("clip")[1])
  with pytest.raises(UserError, match="images of 33 pixels are no multiple of its patches of 8"):
    clips.load(source, 33)
  with pytest.raises(UserError, match="the folder has no model.safetensors or open_clip_model"):
    clips.load(str(tmp_path))
  shutil.copy(whole("clip")[1] / "model.safetensors", tmp_path)
  with pytest.raises(UserError, match="no config.json beside it"):
    clips.load(str(tmp_path))
