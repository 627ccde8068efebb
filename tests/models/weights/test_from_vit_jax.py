"""vit_jax checkpoints against a forward pass in NumPy, written from the paper and the names."""

import jax
import numpy as np
import pytest
from scipy.ndimage import zoom

from lafg_jax.models.vit import ViT
from lafg_jax.models.weights import from_vit_jax, load
from lafg_jax.utils.errors import UserError

WIDTH, HEADS, DEPTH, MLP, PATCH = 32, 4, 2, 48, 8


def random_checkpoint(seed=0, grid=4, token=True):
  """Arrays by the names of a vit_jax .npz, with its shapes and a head for 7 classes."""
  rng = np.random.default_rng(seed)

  def x(*shape):
    return (0.3 * rng.standard_normal(shape)).astype(np.float32)

  arrays = {
    "embedding/kernel": x(PATCH, PATCH, 3, WIDTH),
    "embedding/bias": x(WIDTH),
    "Transformer/posembed_input/pos_embedding": x(1, grid * grid + token, WIDTH),
    "Transformer/encoder_norm/scale": 1 + x(WIDTH),
    "Transformer/encoder_norm/bias": x(WIDTH),
    "pre_logits/kernel": x(WIDTH, WIDTH),
    "pre_logits/bias": x(WIDTH),
    "head/kernel": x(WIDTH, 7),
    "head/bias": x(7),
  }
  if token:
    arrays["cls"] = x(1, 1, WIDTH)
  for i in range(DEPTH):
    block = f"Transformer/encoderblock_{i}/"
    for norm in ("LayerNorm_0", "LayerNorm_2"):
      arrays |= {f"{block}{norm}/scale": 1 + x(WIDTH), f"{block}{norm}/bias": x(WIDTH)}
    attention = f"{block}MultiHeadDotProductAttention_1/"
    for name in ("query", "key", "value"):
      arrays[f"{attention}{name}/kernel"] = x(WIDTH, HEADS, WIDTH // HEADS)
      arrays[f"{attention}{name}/bias"] = x(HEADS, WIDTH // HEADS)
    arrays[f"{attention}out/kernel"] = x(HEADS, WIDTH // HEADS, WIDTH)
    arrays[f"{attention}out/bias"] = x(WIDTH)
    arrays[f"{block}MlpBlock_3/Dense_0/kernel"] = x(WIDTH, MLP)
    arrays[f"{block}MlpBlock_3/Dense_0/bias"] = x(MLP)
    arrays[f"{block}MlpBlock_3/Dense_1/kernel"] = x(MLP, WIDTH)
    arrays[f"{block}MlpBlock_3/Dense_1/bias"] = x(WIDTH)
  return arrays


def layer_norm(x, scale, bias):
  centred = x - x.mean(axis=-1, keepdims=True)
  return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * scale + bias


def forward(arrays, images, position):
  """Tokens [T, W] after the last norm for one image [h, w, 3] at a time."""
  at = {k: v.astype(np.float64) for k, v in arrays.items()}
  out = []
  for image in images.astype(np.float64):
    h, w = image.shape[0] // PATCH, image.shape[1] // PATCH
    patches = image.reshape(h, PATCH, w, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(h * w, -1)
    x = patches @ at["embedding/kernel"].reshape(-1, WIDTH) + at["embedding/bias"]
    if "cls" in at:
      x = np.concatenate([at["cls"][0], x])
    x = x + position
    for i in range(DEPTH):
      x = block(x, {k.split("/", 2)[2]: v for k, v in at.items() if f"encoderblock_{i}/" in k})
    norm = "Transformer/encoder_norm/"
    out.append(layer_norm(x, at[norm + "scale"], at[norm + "bias"]))
  return np.stack(out)


def block(x, at):
  y = layer_norm(x, at["LayerNorm_0/scale"], at["LayerNorm_0/bias"])
  attention = "MultiHeadDotProductAttention_1/"
  mixed = at[attention + "out/bias"].copy()
  for head in range(HEADS):
    q, k, v = (
      y @ at[f"{attention}{n}/kernel"][:, head] + at[f"{attention}{n}/bias"][head]
      for n in ("query", "key", "value")
    )
    scores = q @ k.T / np.sqrt(WIDTH // HEADS)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (
      mixed
      + weights / weights.sum(axis=-1, keepdims=True) @ v @ (at[attention + "out/kernel"][head])
    )
  x = x + mixed
  y = layer_norm(x, at["LayerNorm_2/scale"], at["LayerNorm_2/bias"])
  y = y @ at["MlpBlock_3/Dense_0/kernel"] + at["MlpBlock_3/Dense_0/bias"]
  # The tanh form: what flax's gelu is unless told otherwise, and vit_jax does not tell it.
  y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
  return x + y @ at["MlpBlock_3/Dense_1/kernel"] + at["MlpBlock_3/Dense_1/bias"]


def loaded(path, size):
  """The ViT of the file's own sizes with its parameters for images of `size`."""
  fields = from_vit_jax.settings(from_vit_jax.read(path)[1])._asdict()
  vit = ViT(**{k: v for k, v in fields.items() if k not in ("mean", "std", "size")})
  shapes = jax.eval_shape(vit.init, jax.random.key(0), np.zeros((1, *size, 3), np.float32))
  like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes["params"])
  grid = (size[0] // PATCH, size[1] // PATCH)
  return vit, load.load_backbone(path, like, grid)


@pytest.mark.parametrize("token", [True, False])
def test_equals_the_formula_at_its_own_size_and_at_another(tmp_path, token):
  arrays = random_checkpoint(token=token)
  path = str(tmp_path / "vit.npz")
  np.savez(path, **arrays)
  position = arrays["Transformer/posembed_input/pos_embedding"][0]
  for rows, columns in ((4, 4), (6, 5)):
    size = (rows * PATCH, columns * PATCH)
    images = np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)
    grid = position[token:].reshape(4, 4, WIDTH)
    grid = zoom(grid, (rows / 4, columns / 4, 1), order=1).reshape(-1, WIDTH)
    tokens = forward(arrays, images, np.concatenate([position[:token], grid]))
    wanted = tokens[:, 0] if token else tokens.mean(axis=1)
    vit, params = loaded(path, size)
    got = jax.jit(vit.apply)({"params": params}, images)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_sizes_are_read_off_the_arrays(tmp_path):
  path = str(tmp_path / "vit.npz")
  np.savez(path, **random_checkpoint())
  settings = from_vit_jax.settings(from_vit_jax.read(path)[1])
  assert settings[:6] == (WIDTH, DEPTH, HEADS, MLP, PATCH, "token")
  assert settings.options.activation == "gelu_tanh"


def test_files_that_are_no_vit_are_one_line(tmp_path):
  hybrid = random_checkpoint()
  del hybrid["embedding/kernel"]
  pickled = {"x": np.array([{}], dtype=object)}
  for name, arrays, says in (
    ("hybrid", hybrid, "has no embedding/kernel"),
    ("pickled", pickled, "cannot be read"),
  ):
    np.savez(tmp_path / f"{name}.npz", **arrays)
    with pytest.raises(UserError, match=says):
      from_vit_jax.read(str(tmp_path / f"{name}.npz"))
  (tmp_path / "text.npz").write_text("not an archive")
  np.save(tmp_path / "array", np.zeros(3))
  (tmp_path / "array.npy").rename(tmp_path / "array.npz")
  for name in ("text.npz", "array.npz", "absent.npz"):
    with pytest.raises(UserError, match=f"{name} cannot be read"):
      from_vit_jax.read(str(tmp_path / name))


def test_arrays_that_are_left_over_are_listed(tmp_path):
  path = str(tmp_path / "vit.npz")
  np.savez(path, **random_checkpoint(), **{"conv_root/kernel": np.zeros((7, 7, 3, 4), np.float32)})
  with pytest.raises(UserError, match=r"left over conv_root\.weight"):
    loaded(path, (32, 32))
