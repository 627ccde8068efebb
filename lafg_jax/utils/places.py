"""Files that lie elsewhere: URLs that fsspec reads, such as gs://, and repositories of the hub.

What goes wrong on the way there becomes a UserError of one line. fsspec and huggingface_hub are
imported only when they are used.
"""

import contextlib
import functools
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lafg_jax.utils.errors import UserError

# What the clients of buckets and of the hub raise beside Python's own errors. A client that raises
# one has imported its module, so nothing is imported here.
_CLIENT_ERRORS = (
  *("gcsfs.retry.HttpError", "gcsfs.retry.ChecksumError", "gcsfs.retry.NonRetryableError"),
  *("google.auth.exceptions.GoogleAuthError", "google.api_core.exceptions.GoogleAPIError"),
  *(
    "aiohttp.ClientError",
    "httpx.HTTPError",
    "httpx2.HTTPError",
    "azure.core.exceptions.AzureError",
  ),
  *("botocore.exceptions.BotoCoreError", "botocore.exceptions.ClientError"),
)


def is_url(place: str) -> bool:
  """Whether `place` is a URL and not a path of this machine."""
  return "://" in place


def opened(place: str) -> tuple[Any, str]:
  """The fsspec file system of a URL or path, and the path in it, without a slash at the end."""
  import fsspec

  # gcsfs logs each failed request with a traceback, beside the error that it raises.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  system, path = fsspec.url_to_fs(place)
  return system, path.rstrip("/")


@contextlib.contextmanager
def as_user_error(url: str, what: str = "read") -> Iterator[None]:
  """Raises UserError, in one line, for whatever the file system behind a URL raises.

  Args:
    url: as the message names it; the key of the config may stand before it.
    what: the participle of what the block does to the URL, 'read' or 'written'.
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
    raise UserError(f"{url} cannot be {what}: {reason(error)}") from error


def errors() -> tuple[type[Exception], ...]:
  """What a file system behind a URL and the hub raise, except for a missing package."""
  names = (name.rpartition(".") for name in _CLIENT_ERRORS)
  known = (getattr(sys.modules.get(module), name, None) for module, _, name in names)
  return (ValueError, OSError, RuntimeError, *filter(None, known))


def reason(error: Exception) -> str:
  """The message of an error in one line; its type where it has none."""
  return " ".join(str(error).split()) or type(error).__name__


@functools.cache
def download(url: str, key: str = "") -> str | None:
  """The local path of the file at a URL; None where there is no such file.

  A process downloads each file once, and deletes it when the process ends.

  Args:
    key: stands before the URL in messages, such as '--config.model.pretrained='.

  Raises:
    UserError: the URL cannot be read.
  """
  folder = os.path.join(_downloads().name, hashlib.sha256(url.encode()).hexdigest()[:16])
  path = os.path.join(folder, os.path.basename(url))
  with as_user_error(f"{key}{url}"):
    system, remote = opened(url)
    # Unlike `isfile`, `info` tells a missing file from a server that does not answer.
    with contextlib.suppress(FileNotFoundError):
      if system.info(remote)["type"] == "file":
        os.makedirs(folder, exist_ok=True)
        system.get_file(remote, path)
        return path
  return None


@functools.cache
def _downloads() -> tempfile.TemporaryDirectory:
  return tempfile.TemporaryDirectory(prefix="lafg_jax-")


def hub_file(repository: str, name: str, problem: str, revision: str | None = None) -> str | None:
  """The path of a file of a hub repository, in the hub's cache; None where it has no such file.

  Raises:
    UserError: the hub does not give it: `problem` with the reason in place of '{}'.
  """
  import huggingface_hub as hub
  from huggingface_hub import errors

  with _hub_as_user_error(problem):
    try:
      return hub.hf_hub_download(repository, name, revision=revision)
    except errors.EntryNotFoundError as error:
      # Offline, only what the hub has said before tells that there is no such file.
      known = hub.try_to_load_from_cache(repository, name, revision=revision)
      offline = isinstance(error, errors.LocalEntryNotFoundError)
      if offline and known is not hub._CACHED_NO_EXIST:
        raise
  return None


def hub_folder(repository: str, problem: str, **patterns: Any) -> str:
  """The folder of a hub repository in the hub's cache.

  What is missing is downloaded. The revision that is in the cache is kept, so that a run that is
  resumed reads the same files; `hf download <repository>` takes a newer one.

  Args:
    patterns: `allow_patterns` and `ignore_patterns` of the files, as lists of globs.

  Raises:
    UserError: as `hub_file`.
  """
  import huggingface_hub as hub

  with _hub_as_user_error(problem):
    return hub.snapshot_download(
      repository, revision=_cached_commit(repository) or None, **patterns
    )


def hub_commit(repository: str) -> str:
  """The commit of a hub repository that `hub_folder` gives; '' where nobody can tell.

  The hub is asked only where the repository is not in the cache.
  """
  import huggingface_hub as hub

  try:
    return _cached_commit(repository) or hub.model_info(repository, timeout=10).sha or ""
  except errors():
    return ""


def _cached_commit(repository: str) -> str:
  import huggingface_hub as hub

  path = hub.try_to_load_from_cache(repository, "config.json")
  return Path(path).parent.name if isinstance(path, str) else ""


@contextlib.contextmanager
def _hub_as_user_error(problem: str) -> Iterator[None]:
  from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

  try:
    yield
  except errors() as error:
    offline = isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
    why = "it cannot be reached" if offline else type(error).__name__
    raise UserError(problem.replace("{}", why)) from error
