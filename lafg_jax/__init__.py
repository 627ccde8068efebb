"""lafg_jax: fine-grained image retrieval driven by language, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from lafg_jax.inference.inputs import list_images as list_images
  from lafg_jax.inference.retriever import Retriever as Retriever
  from lafg_jax.inference.retriever import load_retriever as load_retriever
  from lafg_jax.utils.errors import UserError as UserError

__version__ = "0.1.0"
# name: the module that has it.
_PUBLIC = {
  "Retriever": "lafg_jax.inference.retriever",
  "UserError": "lafg_jax.utils.errors",
  "list_images": "lafg_jax.inference.inputs",
  "load_retriever": "lafg_jax.inference.retriever",
}
__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
  # Lazy, so that `import lafg_jax` and --help do not import jax.
  if name in _PUBLIC:
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
  raise AttributeError(f"module 'lafg_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted(__all__)
