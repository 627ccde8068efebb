"""Places that fsspec reaches, such as gs://, and what goes wrong on the way there, in one line."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from lafg_jax.utils.errors import UserError

# What cloud packages raise beside Python's own; named, because nothing imports them but fsspec.
_CLOUD_ERRORS = (
  ("gcsfs.retry", "HttpError"),
  ("google.auth.exceptions", "GoogleAuthError"),
  ("aiohttp", "ClientError"),
  ("botocore.exceptions", "BotoCoreError"),
)


def is_url(place: str) -> bool:
  """Whether `place` is a URL and not a path of this machine."""
  return "://" in place


def opened(url: str) -> tuple[Any, str]:
  """The fsspec file system of a URL, and the URL's path in it, without a slash at the end."""
  import fsspec

  system, path = fsspec.url_to_fs(url)
  return system, path.rstrip("/")


@contextlib.contextmanager
def told(url: str, what: str = "read") -> Iterator[None]:
  """Raises UserError, in one line, for whatever a file system behind a URL raises.

  Args:
    what: it cannot be done to the URL.
  """
  try:
    yield
  except UserError:
    raise
  except FileNotFoundError as error:
    raise UserError(f"{url} does not exist, or holds no such file: {error}") from error
  except ImportError as error:
    raise UserError(f"{url}: {error} (gs:// takes pip install gcsfs, or the extra gcs)") from error
  except errors() as error:
    raise UserError(f"{url} cannot be {what}: {error or type(error).__name__}") from error


def errors() -> tuple[type[Exception], ...]:
  """What a file system behind a URL raises, but for a missing package."""
  known = (getattr(sys.modules.get(module), name, None) for module, name in _CLOUD_ERRORS)
  return (ValueError, OSError, RuntimeError, *(error for error in known if error is not None))
