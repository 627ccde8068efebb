"""A page to search a gallery in the browser: drop an image, type words, or both.

  python -m lafg_jax.search index --model=runs/cars --images=photos/ --gallery=cars.db
  python -m lafg_jax.demo --gallery=cars.db

Then open the address that it prints. A click on a result searches on with it; 'Why?' tells what
matched. The page offers what the gallery's model can do: images for class retrieval, words and both
for image-text and composed retrieval.

It answers on this machine alone, and asks nothing of any other. --host=0.0.0.0 opens it to the
network, without a password. No file is served: pictures are drawn anew, small.
"""

from collections.abc import Sequence

from absl import flags

from lafg_jax.config import command_line
from lafg_jax.utils.errors import UserError

_GALLERY = flags.DEFINE(
  command_line.PATH,
  "gallery",
  None,
  "FILE.db, or the URL of a Milvus server.",
  allow_override=True,
)
_MODEL = flags.DEFINE(
  command_line.PATH,
  "model",
  None,
  "What load_retriever takes (default: the gallery's own).",
  allow_override=True,
)
_CHECKPOINT = flags.DEFINE_enum(
  "checkpoint", None, ["newest", "best", "auto"], "Of --model.", allow_override=True
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "The interface to answer on.")
_PORT = flags.DEFINE_integer("port", 7860, "The port; 0 takes a free one.", 0, 65535)
_MEGABYTES = flags.DEFINE_float("max_megabytes", 10, "Of an upload, at most.", 0.001, 1000)
_MEGAPIXELS = flags.DEFINE_float("max_megapixels", 50, "Of an upload, at most.", 0.001, 170)


def main(unused: Sequence[str]) -> None:
  """Checks the flags, and serves."""
  del unused
  if not _GALLERY.value:
    raise UserError("pass --gallery=FILE.db: search index makes one")
  if _CHECKPOINT.value and not _MODEL.value:
    raise UserError("--checkpoint is of --model: pass both")
  from lafg_jax.demo_page import server, uploads

  limits = uploads.Limits(int(_MEGABYTES.value * 1e6), int(_MEGAPIXELS.value * 1e6))
  server.serve(_GALLERY.value, _MODEL.value, _CHECKPOINT.value, _HOST.value, _PORT.value, limits)


if __name__ == "__main__":
  command_line.run(main, __doc__ or "", with_config=False)
