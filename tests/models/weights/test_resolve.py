"""What a config and the source of its weights decide together; and a restore without the source."""

import json
import shutil

import jax
import numpy as np
import pytest
from absl import logging
from safetensors.numpy import load_file, save_file

import lafg_jax
from configs import cars, synthetic
from lafg_jax.models import embedder
from lafg_jax.models.weights import load as pretrained
from lafg_jax.models.weights import resolve as backbones
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.training import checkpoints, resume
from lafg_jax.utils import config_keys, files
from lafg_jax.utils.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory, save_model):
  """A folder with a tiny DINOv2 with registers; tests that change it copy it."""
  folder = tmp_path_factory.mktemp("dinov2")
  return folder, save_model("dinov2_with_registers", folder)


@pytest.fixture
def copied(dinov2, tmp_path):
  return shutil.copytree(dinov2[0], tmp_path / "dinov2")


def config_for(source, **changes):
  config = default.get_config()
  config.data.image_size = config.data.resize_size = 32
  config.model.pretrained = str(source)
  for key, value in changes.items():
    config.update_from_flattened_dict({key.replace("__", "."): value})
  return config


def resolve(source, **changes):
  return backbones.resolve(config_for(source, **changes)).model


def load(config, size=(32, 32), grid=None):
  vit = embedder.build(config.model).backbone
  images = np.zeros((1, *size, 3), np.float32)
  like = jax.eval_shape(vit.init, jax.random.key(0), images)["params"]
  return pretrained.load_backbone(config.model.pretrained, like, grid)


def rewrite(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_without_weights_the_defaults_are_vit_b_16():
  config = cars.get_config()
  config.model.pretrained = ""
  model = backbones.resolve(config).model
  assert (model.size, model.patch_size, model.pool, model.options) == ("base", 16, "token", "")
  assert (model.mean, model.std, model.layer_norm_eps) == ((0.5,) * 3, (0.5,) * 3, 1e-12)
  for small in (synthetic.get_config("prototypes"), cars.get_config("scratch")):
    assert backbones.resolve(small).to_dict() == small.to_dict()
  resnet = config_for("", model__size="resnet50")
  assert backbones.resolve(resnet).model.pool == "mean"
  resnet.model.pool = "token"
  with pytest.raises(UserError, match="model.pool=token: a ResNet has no class token"):
    backbones.resolve(resnet)


def test_a_config_that_is_not_resolved_builds_nothing():
  with pytest.raises(ValueError, match="resolve it first"):
    embedder.build(default.get_config().model)


def test_configs_of_resnets_timm_and_vit_jax_resolve_too(tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
  model = resolve(tmp_path, model__pool="gem")
  assert (model.size, model.pool, model.mean) == ("resnet50", "gem", IMAGENET[0])
  assert embedder.build(model).backbone.width == 2048
  with pytest.raises(UserError, match="model.size=base: the weights of .* have a ResNet-50"):
    resolve(tmp_path, model__size="base")
  timm = {"architecture": "vit_small_patch16_224", "pretrained_cfg": {"mean": [0.1] * 3}}
  (tmp_path / "config.json").write_text(json.dumps(timm))
  model = resolve(tmp_path)
  assert (model.width, model.num_heads, model.patch_size, model.mean) == (384, 6, 16, (0.1,) * 3)
  (tmp_path / "config.json").unlink()
  block = "Transformer/encoderblock_0/"
  arrays = {"embedding/kernel": (8, 8, 3, 32), "cls": (1, 1, 32),
            f"{block}MultiHeadDotProductAttention_1/query/kernel": (32, 2, 16),
            f"{block}MlpBlock_3/Dense_0/kernel": (32, 64)}  # fmt: skip
  np.savez(tmp_path / "augreg.npz", **{name: np.zeros(shape) for name, shape in arrays.items()})
  model = resolve(tmp_path / "augreg.npz")
  assert (model.width, model.depth, model.num_heads, model.mlp_dim) == (32, 1, 2, 64)
  assert (model.patch_size, model.options) == (8, "activation=gelu_tanh")


def test_rotary_heads_are_a_multiple_of_4_wide(save_model, tmp_path):
  custom = {"model__size": "custom", "model__depth": 1, "model__mlp_dim": 8,
            "model__patch_size": 8, "model__options": "rotary_base=100"}  # fmt: skip
  with pytest.raises(UserError, match="model.options=rotary_base=100.0: .* is 12 / 2"):
    resolve("", **custom, model__width=12, model__num_heads=2)
  model = resolve("", **custom, model__width=24, model__num_heads=2)
  assert embedder.build(model).backbone.width == 24
  assert resolve("", model__options="rotary_base=100", model__size="tiny").size == "tiny"
  save_model("dinov3", tmp_path)
  rewrite(tmp_path / "config.json", hidden_size=36, num_attention_heads=6)
  with pytest.raises(UserError, match=r"model.pretrained=\S*: .* is 36 / 6"):
    resolve(tmp_path)


def test_the_source_decides_and_resolving_twice_changes_nothing(dinov2):
  config = config_for(dinov2[0])
  before = config.to_dict()
  once = backbones.resolve(config)
  model = once.model
  assert config.to_dict() == before and once.is_locked
  assert (model.size, model.width, model.depth, model.num_heads) == ("custom", 32, 2, 2)
  assert (model.mlp_dim, model.patch_size, model.layer_norm_eps) == (128, 8, 1e-6)
  assert (model.mean, model.std) == IMAGENET
  assert backbones.resolve(once).to_dict() == once.to_dict()


def test_what_the_user_says_of_pool_mean_std_and_eps_holds(dinov2, copied):
  said = {"pool": "mean", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "layer_norm_eps": 1e-3}
  (copied / "preprocessor_config.json").write_text("nothing that is read")
  model = resolve(copied, **{f"model__{key}": value for key, value in said.items()})
  assert {key: model[key] for key in said} == said
  assert model.options == "layer_scale registers=4 class_token"
  assert backbones.resolve(config_for(dinov2[0], model__pool="mean")).model.mean == IMAGENET[0]


def recorded(dinov2, **changes):
  """What a checkpoint says that was trained from that source while it lay on a hub."""
  flat = config_keys.flatten(backbones.resolve(config_for(dinov2[0], **changes)))
  return json.loads(json.dumps(flat | {"model.pretrained": "org/gone"}))


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"model.patch_size": 8, "model.pool": "token", "model.mean": IMAGENET[0]},
    {"model.size": "custom", "model.width": 32, "model.depth": 2, "model.num_heads": 2,
     "model.mlp_dim": 128},
    # These are not the source's to say.
    {"model.embedding_dim": 7, "model.dtype": "float32", "data.image_size": 40},
  ],
  ids=str,
)  # fmt: skip
def test_what_a_checkpoint_recorded_stands_for_a_source_that_cannot_be_reached(dinov2, changes):
  config = config_for("org/gone", **changes)
  with pytest.raises(UserError, match="the hub did not give it"):
    backbones.resolve(config)
  got = backbones.resolve(config, recorded(dinov2))
  want = backbones.resolve(config_for(dinov2[0], **changes))
  assert got.is_locked and got.model.mean == IMAGENET[0]
  assert got.model.to_dict() == want.model.to_dict() | {"pretrained": "org/gone"}


def test_a_named_size_is_the_one_that_was_recorded():
  flat = config_keys.flatten(backbones.resolve(config_for("", model__patch_size=8)))
  small = {"width": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536, "size": "custom"}
  flat |= {f"model.{key}": value for key, value in small.items()}
  flat["model.pretrained"] = "org/gone"
  assert backbones.resolve(config_for("org/gone", model__size="small"), flat).model.width == 384
  with pytest.raises(UserError, match="the hub did not give it"):
    backbones.resolve(config_for("org/gone", model__size="tiny"), flat)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"model.pretrained": "org/other"}, "org/other: .*the hub did not give it"),
    ({"model.patch_size": 16}, "the hub did not give it"),
    ({"model.size": "base"}, "the hub did not give it"),
    ({"model.pool": "mean"}, "the hub did not give it"),
    ({"model.std": (1.0, 1.0, 1.0)}, "the hub did not give it"),
    ({"data.image_size": 36}, "data.image_size=36: it takes a multiple of the patch size"),
  ],
)
def test_what_was_recorded_of_another_model_stands_for_nothing(dinov2, changes, says):
  with pytest.raises(UserError, match=says):
    backbones.resolve(config_for("org/gone", **changes), recorded(dinov2))


def test_a_source_on_this_machine_is_read_whatever_was_recorded(dinov2, copied):
  flat = config_keys.flatten(backbones.resolve(config_for(copied)))
  rewrite(copied / "config.json", hidden_act="silu")
  got = backbones.resolve(config_for(copied), flat).model.options
  assert "silu" in got and "silu" not in flat["model.options"]


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"model.patch_size": 16}, "model.patch_size=16: the weights of .* have patches of 8"),
    ({"model.size": "base"}, "model.size=base: the weights of .* have width 32, not 768"),
    ({"model.size": "resnet50"}, "have a ViT"),
    ({"model.size": "custom", "model.width": 32, "model.depth": 3}, "depth 2, not 3"),
    ({"model.pool": "map"}, "have no head that pools"),
    ({"model.options": "registers=2"}, "have 'layer_scale registers=4'"),
    ({"data.image_size": 36}, "data.image_size=36: it takes a multiple of the patch size"),
  ],
)
def test_what_cannot_be_is_one_line_that_names_the_key(dinov2, changes, says):
  with pytest.raises(UserError, match=says):
    resolve(dinov2[0], **changes)


@pytest.mark.parametrize(
  ("file", "changes", "says"),
  [
    ("config.json", {"model_type": "swin"}, "says model_type swin; what can be read is DINOv3,"),
    ("config.json", {"hidden_act": "relu"}, "says relu; the activations are gelu,"),
    ("config.json", {"hidden_size": "wide"}, "config.json describes no DINOv2 with registers"),
    ("config.json", {"patch_size": [8, 16]}, "config.json describes no DINOv2 with registers"),
    ("preprocessor_config.json", {"image_mean": [0.5]}, "no image_mean of three"),
    ("preprocessor_config.json", {"image_mean": [0] * 3, "rescale_factor": 1}, "rescale_factor"),
  ],
)
def test_a_source_that_cannot_be_used_is_one_line(copied, file, changes, says):
  (copied / "preprocessor_config.json").write_text("{}")
  rewrite(copied / file, **changes)
  with pytest.raises(UserError, match=says):
    resolve(copied)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"image_mean": [0.5, "a", 0.5]}, "no image_mean of three numbers"),
    ({"image_mean": [0.5, None, 0.5]}, "no image_mean of three numbers"),
    ({"image_mean": [0.5, True, 0.5]}, "no image_mean of three numbers"),
    ({"image_std": [0.5, float("nan"), 0.5]}, "image_std of three numbers above 0"),
    ({"image_std": [0, 0.5, 0.5]}, "image_std of three numbers above 0"),
    ({"image_std": 0.5}, "image_std of three numbers above 0"),
    ({"rescale_factor": None}, "rescale_factor other than 1/255"),
    ({"rescale_factor": "1"}, "rescale_factor other than 1/255"),
  ],
)
def test_a_mean_and_std_that_cannot_be_are_one_line_that_names_the_file(
  copied, name, changes, says
):
  given = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | changes
  whole = given if name.startswith("pre") else {"image_processor": given}
  (copied / name).write_text(json.dumps(whole))
  with pytest.raises(UserError, match=f"its {name} has .*{says}") as raised:
    resolve(copied)
  assert "\n" not in str(raised.value)
  # What the user says is enough without it.
  said = (0.5, 0.5, 0.5)
  assert resolve(copied, model__mean=said, model__std=said).std == said


def test_a_std_of_timm_that_cannot_be_names_config_json(tmp_path):
  timm = {"architecture": "vit_small_patch16_224", "pretrained_cfg": {"std": [0.1, 0.1, "0.1"]}}
  (tmp_path / "config.json").write_text(json.dumps(timm))
  with pytest.raises(UserError, match="its config.json has no image_mean"):
    resolve(tmp_path)


def test_mean_and_std_come_from_the_preprocessor(copied):
  preprocessor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
  (copied / "processor_config.json").write_text(json.dumps({"image_processor": preprocessor}))
  model = resolve(copied)
  assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
  path = copied / "preprocessor_config.json"
  path.write_text(json.dumps(preprocessor | {"image_mean": [0.7, 0.8, 0.9]}))
  assert resolve(copied).mean == (0.7, 0.8, 0.9)
  rewrite(path, do_normalize=False)
  assert (resolve(copied).mean, resolve(copied).std) == ((0.0,) * 3, (1.0,) * 3)
  # A source that changed is another input of the stage, even where its weights are the same.
  keys = {files.fingerprint(x.model) for x in (backbones.resolve(config_for(copied)),)}
  rewrite(path, do_normalize=True)
  assert files.fingerprint(resolve(copied)) not in keys


def test_one_tensor_too_few_too_many_or_misshapen_is_listed(dinov2, copied, monkeypatch):
  logged = []
  monkeypatch.setattr(logging, "error", lambda text, *args: logged.append(text % args))
  config = backbones.resolve(config_for(copied))
  whole = load_file(copied / "model.safetensors")

  def says(match, **changes):
    tensors = {name: x for name, x in (whole | changes).items() if x is not None}
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(UserError, match=match) as raised:
      load(config)
    assert "\n" not in str(raised.value)

  says("1 problem .missing layernorm.bias.", **{"layernorm.bias": None})
  says("1 problem .left over extra.", extra=np.ones(3, np.float32))
  says(
    r"1 problem .encoder.layer.1.mlp.fc1.weight is 32 x 64, not 32 x 128",
    **{"encoder.layer.1.mlp.fc1.weight": np.ones((64, 32), np.float32)},
  )
  says(
    "embeddings.position_embeddings is 1 x 15 x 32, not 1 x 17 x 32",
    **{"embeddings.position_embeddings": np.ones((1, 15, 32), np.float32)},
  )
  blocks = {name: None for name in whole if name.startswith("encoder.layer.1")}
  logged.clear()
  says(rf"{len(blocks)} problems \((missing [^;]*; ){{6}}\.\.\. as logged\)", **blocks)
  assert sorted(logged) == sorted(f"{copied}: missing {name}" for name in blocks)


def test_a_file_of_half_precision_loads_as_float32(dinov2, copied):
  import ml_dtypes

  tensors = load_file(copied / "model.safetensors")
  half = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
  save_file(half, copied / "model.safetensors")
  got = np.asarray(load(backbones.resolve(config_for(copied)))["norm"]["scale"])
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, half["layernorm.weight"].astype(np.float32))


def test_a_checkpoint_needs_its_source_no_more(copied, dinov2, tmp_path, torch_tokens):
  config = backbones.resolve(
    config_for(copied, data__image_size=48, data__resize_size=48, model__embedding_dim=0,
               model__dtype="float32")
  )  # fmt: skip
  _, params = embedder.init_model(config)
  meta = {
    "config": config_keys.flatten(config),
    "dataset": {"name": "one", "class_names": ["a"], "partial": False},
    "box": None,
    "sentences": [],
  }
  with checkpoints.manager(str(tmp_path), keep=1) as mngr:
    state = {"state": {"params": params}, "prototypes": {}}
    checkpoints.save(mngr, 1, checkpoints.flatten(state), meta)
  shutil.rmtree(copied)
  images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
  got = lafg_jax.load_retriever(str(tmp_path)).embed(images)
  mean, std = IMAGENET
  normalised = ((images / 255 - mean) / std).astype(np.float32)
  want = torch_tokens(dinov2[1], normalised)["pooler_output"]
  np.testing.assert_allclose(got, want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-4)
  # Training from it takes the same backbone; a run of other options is another run.
  assert {"model.options", "model.mean", "model.pretrained"} <= set(resume.deciding(config))


def test_positions_of_no_square_need_their_grid(dinov2):
  config = backbones.resolve(config_for(dinov2[0]))
  # Nothing says whether 12 patches are 3 x 4.
  with pytest.raises(UserError, match="position_embeddings is 1 x 17 x 32, not 1 x 13 x 32"):
    load(config, (24, 32))
  assert load(config, (24, 32), (3, 4))["position_embedding"].shape == (1, 13, 32)


def test_a_run_of_other_options_is_another_run():
  config = synthetic.get_config("prototypes")
  old = {"config": config_keys.flatten(config), "made_of": {}}
  resume.check_same(config, old, old, "runs/x")
  config.model.options = "registers=4"
  with pytest.raises(UserError, match="model.options:  -> registers=4"):
    resume.check_same(config, old, old | {"config": config_keys.flatten(config)}, "runs/x")


@pytest.mark.parametrize(("size", "width"), [("small", 384), ("base", 768), ("resnet50", 2048)])
def test_an_embedding_of_auto_is_as_wide_as_the_backbone(size, width):
  config = cars.get_config("lafg")
  config.model.update(size=size, pretrained="", embedding_dim=-1)
  found = backbones.resolve(config).model
  assert found.embedding_dim == width == embedder.build(found).backbone.width
