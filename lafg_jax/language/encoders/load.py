"""Where the files of a frozen encoder are: a folder, a hub id, or 'tiny_clip', which is shipped."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lafg_jax.language.encoders import layout
from lafg_jax.utils import files, places
from lafg_jax.utils.errors import UserError

KEY = "language.encoder"
HINT = "pass the folder of a transformers text encoder, --config.language.encoder=FOLDER"
NOT_ON_HUB = f"{KEY} [] cannot be loaded (the hub did not give it: {{}}): {HINT}"
# What is downloaded of a hub repository: no weights in other formats or precisions.
_HUB_FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"]
# Those of sentence-transformers' modules, such as 2_Dense.
_HUB_FILES += ["[0-9]_*/model.safetensors", "[0-9]_*/model-*.safetensors"]
_OPEN_CLIP_FILES = [*_HUB_FILES, "open_clip_model.safetensors"]


def folder_of(key: str, name: str, hint: str) -> Path | None:
  """The folder that a config key names; None for a hub id.

  Raises UserError, which `hint` ends, if `name` is the path of a folder that does not exist.
  """
  path = Path(name).expanduser()
  if path.is_dir():
    return path
  # A hub id is NAME or OWNER/NAME; anything else is meant as a path.
  if name[0] in "./~" or name.count("/") > 1 or path.exists():
    raise UserError(f"{key}: no folder {str(path)!r}: {hint}")
  return None


def local_folder(encoder: str) -> Path | None:
  """The local folder of an encoder ('tiny_clip' is the shipped one); None for a hub id.

  Raises UserError if `encoder` is empty, or the path of a folder that does not exist.
  """
  if not encoder:
    raise UserError(f"{KEY} is empty: {HINT}")
  shipped = Path(__file__).parents[2] / "finches/tiny_clip"
  return folder_of(KEY, str(shipped) if encoder == "tiny_clip" else encoder, HINT)


def resolve(encoder: str) -> tuple[Path, str]:
  """(folder with the encoder's files, identity of its content); a hub id is downloaded once.

  The identity is the hub's revision, or for a folder a hash of what decides the features.

  Raises:
    UserError: there is no such folder, its layout cannot be read, or the hub has no such model or
      cannot be reached.
  """
  folder = local_folder(encoder)
  if folder is None:
    folder = _from_hub(encoder)
    return folder, f"{encoder}@{folder.name}"
  paths = [p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".txt", ".model")]
  # Names relative to the folder: a copy elsewhere is the same encoder.
  with loading(encoder):
    paths += layout.weights(layout.read(folder))
  content = [[path.relative_to(folder).as_posix(), path] for path in paths if path.is_file()]
  return folder, files.fingerprint(content)


def _from_hub(encoder: str) -> Path:
  problem, ignored = NOT_ON_HUB.replace("[]", repr(encoder)), ["onnx/*", "openvino/*"]
  for patterns in (_HUB_FILES, _OPEN_CLIP_FILES):
    found = places.hub_folder(encoder, problem, allow_patterns=patterns, ignore_patterns=ignored)
    # Most repositories in open_clip's layout hold transformers' too, and one is enough.
    if not layout.is_open_clip(Path(found)):
      break
  return Path(found)


def content(encoder: str) -> Path | str:
  """What of an encoder decides its features, for a fingerprint: its folder, or id and commit.

  Nothing is downloaded. The commit is empty where neither the hub's cache nor the hub knows it;
  `resolve` fails then, and says why. Raises UserError as `local_folder`.
  """
  return local_folder(encoder) or f"{encoder}@{places.hub_commit(encoder)}"


@contextlib.contextmanager
def loading(name: str, key: str = KEY, hint: str = HINT) -> Iterator[None]:
  """Turns what libraries raise for files that they cannot use into a UserError of one line."""
  import safetensors

  errors = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, AttributeError)
  try:
    yield
  except (*errors, safetensors.SafetensorError) as error:
    reason = str(error).strip().split("\n")[0]
    raise UserError(f"{key} {name!r} cannot be loaded ({reason}): {hint}") from error
