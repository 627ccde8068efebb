"""lafg_jax: fine-grained image retrieval driven by language, in JAX."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Retriever", "list_images", "load_retriever"]


def __getattr__(name: str) -> Any:
  # Lazy, so that `import lafg_jax` and --help do not import jax.
  if name in __all__:
    from lafg_jax.inference import inputs, retriever

    return getattr(inputs if name == "list_images" else retriever, name)
  raise AttributeError(f"module 'lafg_jax' has no attribute {name!r}")
