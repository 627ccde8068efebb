"""How the folder of an encoder is laid out: transformers' own, or sentence-transformers' modules.

Only settings are read here, so that what cannot be used is said before anything is encoded. Every
function raises ValueError for that; `load.loading` makes a UserError of it.
"""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Where older sentence-transformers put the transformer itself.
INNER = ("0_Transformer", "0_CLIPModel")
# sentence-transformers' names, in the order in which its older flags concatenate them.
_POOLINGS = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")


class Dense(NamedTuple):
  """x -> activation(W x + b), of which `residual` adds x (projected where the widths differ)."""

  path: Path  # model.safetensors
  activation: str  # a class of torch.nn
  residual: bool


class Layout(NamedTuple):
  """What a folder holds."""

  folder: Path  # of the transformer: config.json, tokenizer, weights
  settings: dict[str, Any]  # max_seq_length and do_lower_case, where they are given
  pooling: tuple[str, ...]  # side by side; the mean where nothing is said
  # What follows pooling, in order; None normalises to unit length.
  steps: tuple[Dense | None, ...]


def read(folder: Path) -> Layout:
  """The layout of a folder.

  Raises ValueError for weights in another format or of another library, an unknown module, or a
  setting that cannot be followed; each with what to do.
  """
  modules = _read_json(folder / "modules.json")
  if modules is None:
    inner = next((name for name in INNER if (folder / name / "config.json").is_file()), "")
    place = "" if (folder / "config.json").is_file() else inner
    return _of(folder, place, [("Pooling", folder / "1_Pooling")])
  try:
    named = [(str(m["type"]).rsplit(".", 1)[-1], str(m.get("path", ""))) for m in modules]
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError("its modules.json is no list of modules with type and path") from error
  if any(".." in Path(path).parts or Path(path).is_absolute() for _, path in named):
    raise ValueError("its modules.json names a folder outside of it")
  first = named[0][0] if named else "none"
  if first not in ("Transformer", "CLIPModel"):
    raise ValueError(
      f"its first module is of type {first}, and what can be read is Transformer and CLIPModel"
    )
  return _of(folder, named[0][1], [(kind, folder / path) for kind, path in named[1:]])


def _of(folder: Path, place: str, modules: Sequence[tuple[str, Path]]) -> Layout:
  pooling: tuple[str, ...] = ("mean",)
  steps: list[Dense | None] = []
  for i, (kind, path) in enumerate(modules):
    if kind == "Pooling" and not i:
      pooling = _pooling(path)
    elif kind == "Normalize":
      _of_sentence(kind, _read_json(path / "config.json") or {})
      steps.append(None)
    elif kind == "Dense":
      steps.append(_dense(path))
    # Dropout does nothing outside of training.
    elif kind != "Dropout":
      known = "Pooling (once, at the beginning), Dense, Normalize and Dropout"
      raise ValueError(f"it has a module of type {kind} at {path.name}; {known} can be read")
  inner = folder / place
  check_weights(inner, folder)
  return Layout(inner, _settings(inner), pooling, tuple(steps))


def is_open_clip(folder: Path) -> bool:
  """Whether a folder has a model in open_clip's layout, and none in transformers'."""
  return (folder / "open_clip_config.json").is_file() and not (folder / "config.json").is_file()


def check_weights(folder: Path, whole: Path | None = None) -> None:
  """Raises ValueError where a folder has no weights in transformers' safetensors format.

  `whole` is the folder that the encoder is called by, where `folder` is one of its modules.
  """
  whole = whole or folder
  if is_open_clip(folder) and any(folder.glob("open_clip*.safetensors")):
    return
  if not (folder / "config.json").is_file():
    names = {path.name for path in (*whole.glob("open_clip*"), *folder.glob("open_clip*"))}
    if names:
      raise ValueError(
        f"it is in open_clip's layout ({sorted(names)[0]}), of which open_clip_config.json and "
        "open_clip_model.safetensors are read; or pass the same model in transformers' layout, "
        "with config.json and model.safetensors, such as laion/CLIP-ViT-B-32-laion2B-s34B-b79K, "
        "which holds both"
      )
    raise ValueError(f"{_shown(folder, whole)} has no config.json")
  if (folder / _WEIGHTS).is_file():
    return
  index = _read_json(folder / _INDEX)
  if index is None:
    raise ValueError(_without_weights(folder, whole))
  shards = index.get("weight_map") if isinstance(index, dict) else None
  if not isinstance(shards, dict) or not shards:
    raise ValueError(f"its {_INDEX} has no weight_map")
  missing = sorted({str(name) for name in shards.values() if not (folder / str(name)).is_file()})
  if missing:
    raise ValueError(f"it lacks {len(missing)} of its shards, first {missing[0]}")


def _without_weights(folder: Path, whole: Path) -> str:
  """What is wrong with a folder that has config.json and no safetensors."""
  others = [*folder.glob("pytorch_model*.bin"), *folder.glob("*.h5"), *folder.glob("*.msgpack")]
  if any(path.suffix == ".bin" for path in others):
    # transformers unpickles weights alone, no code.
    code = "import sys, transformers as t; f = sys.argv[1]; t.AutoModel.from_pretrained(f)"
    code += ".save_pretrained(f)"
    name = next(path.name for path in others if path.suffix == ".bin")
    return (
      f"its weights are in {name}, and only {_WEIGHTS} is read, which holds no code; convert them "
      f'once with: python -c "{code}" {_quoted(folder)}'
    )
  found = f"only {others[0].name}, which is not read" if others else f"no {_WEIGHTS}"
  return (
    f"{_shown(folder, whole)} has {found}; weights in other formats are saved again by "
    "transformers' save_pretrained"
  )


def _quoted(path: Path) -> str:
  return shlex.quote(str(path))


def _shown(folder: Path, whole: Path) -> str:
  return "it" if folder == whole else f"its {folder.relative_to(whole).as_posix()}"


def _settings(folder: Path) -> dict[str, Any]:
  """Of sentence_bert_config.json, or of the same file under the name of another architecture."""
  for path in sorted(folder.glob("sentence_*_config.json")):
    found = _read_json(path)
    if not isinstance(found, dict):
      raise ValueError(f"its {path.name} is no JSON object")
    length = found.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 1):
      raise ValueError(f"its {path.name} has max_seq_length {length!r}, which is no length")
    return found
  return {}


def _of_sentence(kind: str, settings: dict[str, Any]) -> None:
  """Raises ValueError for a module that changes something else than the pooled feature."""
  for key in ("module_input_name", "module_output_name"):
    if settings.get(key) not in (None, "sentence_embedding"):
      raise ValueError(f"its {kind} has {key} {settings[key]!r}; only sentence_embedding is read")


def _dense(path: Path) -> Dense:
  """A Dense module, checked; its weights are not read yet."""
  settings = _read_json(path / "config.json")
  if not isinstance(settings, dict):
    raise ValueError(f"its {path.name} is a Dense without a config.json")
  _of_sentence("Dense", settings)
  # Without the key it is tanh, as in sentence-transformers.
  name = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
  name = name or "torch.nn.modules.linear.Identity"
  # Nothing but torch's own classes: a name may not load other code.
  match = re.fullmatch(r"torch\.nn\.(?:modules\.(?:activation|linear)\.)?([A-Z]\w*)", str(name))
  if not match:
    raise ValueError(f"its {path.name} has the activation {name}, which is none of torch.nn")
  weights = path / _WEIGHTS
  if not weights.is_file():
    old = path / "pytorch_model.bin"
    if not old.is_file():
      raise ValueError(f"its {path.name} lacks {_WEIGHTS}")
    code = "import sys, torch, safetensors.torch as s; b, f = sys.argv[1:]; "
    code += "s.save_file(torch.load(b, weights_only=True), f)"
    raise ValueError(
      f"the weights of its {path.name} are in {old.name}, and only {_WEIGHTS} is read; convert "
      f'them once with: python -c "{code}" {_quoted(old)} {_quoted(weights)}'
    )
  return Dense(weights, match[1], bool(settings.get("use_residual")))


def _pooling(folder: Path) -> tuple[str, ...]:
  """How a sentence encoder pools according to config.json; the mean where there is none."""
  settings = _read_json(folder / "config.json")
  if settings is None:
    return ("mean",)
  if not isinstance(settings, dict):
    raise ValueError(f"its {folder.name}/config.json is no JSON object")
  if "pooling_mode" in settings:
    value = settings["pooling_mode"]
    chosen = [value] if isinstance(value, str) else [*map(str, value)]
  else:
    flags = "\n".join(key for key, value in settings.items() if value)
    chosen = re.findall(r"^pooling_mode_(\w+)$", flags, re.MULTILINE)
    chosen.sort(key=lambda name: [*_POOLINGS, _short(name)].index(_short(name)))
  chosen = [_short(name) for name in chosen]
  if not chosen or not {*chosen} <= {*_POOLINGS}:
    raise ValueError(f"{folder.name}/config.json asks for pooling {sorted(chosen)}")
  return tuple(chosen)


def _short(mode: str) -> str:
  return re.sub("_tokens?$", "", mode)


def finisher(steps: Sequence[Dense | None], device: Any) -> Callable[[Any], Any]:
  """The function of torch tensors [B, d] -> [B, D] that the `steps` of a layout are.

  Raises ValueError for an activation that torch lacks, and for weights that do not fit.
  """
  import torch

  functions = [_unit if step is None else _loaded(step, device) for step in steps]

  def finish(features: torch.Tensor) -> torch.Tensor:
    for function in functions:
      features = function(features)
    return features

  return finish


def _unit(features: Any) -> Any:
  import torch

  return torch.nn.functional.normalize(features, dim=-1)


def _loaded(dense: Dense, device: Any) -> Callable[[Any], Any]:
  import torch
  from safetensors.torch import load_file

  found = {name: x.float().to(device) for name, x in load_file(dense.path).items()}
  kind = getattr(torch.nn, dense.activation, None)
  if kind is None or kind.__module__.split(".")[-1] not in ("activation", "linear"):
    raise ValueError(f"its {dense.path.parent.name} has the activation {dense.activation}")
  activation = kind()
  if "linear.weight" not in found:
    raise ValueError(f"its {dense.path.parent.name} lacks linear.weight")
  weight, bias = found["linear.weight"], found.get("linear.bias")

  def apply(features: torch.Tensor) -> torch.Tensor:
    result = activation(torch.nn.functional.linear(features.float(), weight, bias))
    if dense.residual:
      projected = found.get("residual.weight")
      result = result + (features if projected is None else features @ projected.T)
    return result

  return apply


def weights(layout: Layout) -> list[Path]:
  """The files of a layout that hold weights."""
  return sorted(layout.folder.glob("*.safetensors")) + [s.path for s in layout.steps if s]


def _read_json(path: Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
  except ValueError as error:
    raise ValueError(f"its {path.name} is no JSON") from error


def read_object(path: Path) -> dict[str, Any]:
  """The JSON object of a file; {} where there is none. Raises ValueError for anything else."""
  found = _read_json(path)
  if found is not None and not isinstance(found, dict):
    raise ValueError(f"its {path.name} is no JSON object")
  return found or {}
