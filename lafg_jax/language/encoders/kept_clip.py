"""What a checkpoint keeps of a CLIP, so that its source is not needed again.

Facts: 'clip', of `models.clip_record`; 'reading', what `tokens` is told of texts; 'tokenizer',
{name: SHA-256} of the tokenizer's files. The files lie in `<workdir>/tokenizer/`, and beside an
export's other files.
"""

import tempfile
from pathlib import Path
from typing import Any

from lafg_jax.language.encoders import tokens
from lafg_jax.models import clip_record
from lafg_jax.utils import files
from lafg_jax.utils.errors import UserError

FACTS = ("clip", "reading", "tokenizer")


def facts_of(clip: Any) -> dict[str, Any]:
  """The facts of a loaded Clip, for a checkpoint's meta."""
  folder = Path(clip.tokens.folder)
  return {
    "clip": clip_record.of(clip),
    "reading": tokens.reading(folder)._asdict(),
    "tokenizer": {name: files.file_hash(folder / name) for name in _files(folder)},
  }


def keep_tokenizer(workdir: str, clip: Any) -> None:
  """Copies the tokenizer's files into a workdir, each whole or not at all."""
  folder, target = Path(clip.tokens.folder), Path(workdir, tokens.FOLDER)
  target.mkdir(exist_ok=True)
  for name in _files(folder):
    content = (folder / name).read_bytes()
    if not (target / name).is_file() or (target / name).read_bytes() != content:
      with files.replacing(target / name) as temporary:
        temporary.write_bytes(content)


def _files(folder: Path) -> list[str]:
  return [name for name in tokens.FILES if (folder / name).is_file()]


def tokenizer(facts: dict[str, Any], found: dict[str, bytes]) -> tokens.Tokenizer:
  """The tokenizer of a model from its files' contents."""
  with tempfile.TemporaryDirectory(prefix="lafg_jax-") as folder:
    for name, content in found.items():
      Path(folder, name).write_bytes(content)
    try:
      return tokens.load(Path(folder), told=tokens.Reading(**facts["reading"]))
    except ValueError as error:
      raise UserError(f"the tokenizer beside the model cannot be read: {error}") from error
