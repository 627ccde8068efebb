"""Files behind URLs that fsspec reads, such as gs://, and in repositories of the hub.

Errors of their clients become a UserError of one line. fsspec and huggingface_hub are imported only
when they are used.
"""

import contextlib
import functools
import hashlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lafg_jax.utils.errors import UserError

# Errors of the clients of buckets and of the hub, beside Python's own. A client that raises one has
# imported its module, so nothing is imported here.
_CLIENT_ERRORS = {
  "gcsfs.retry": ("HttpError", "ChecksumError", "NonRetryableError"),
  "google.auth.exceptions": ("GoogleAuthError",),
  "google.api_core.exceptions": ("GoogleAPIError",),
  "aiohttp": ("ClientError",),
  "httpx": ("HTTPError",),
  "httpx2": ("HTTPError",),
  "azure.core.exceptions": ("AzureError",),
  "botocore.exceptions": ("BotoCoreError", "ClientError"),
}

# Seconds that the hub has to answer at all.
_PATIENCE = 4.0


# With the chains of fsspec, such as simplecache::gs://; a folder may be called 'lr=1://2'.
_URL = re.compile(r"[A-Za-z][\w+.-]*(::[A-Za-z][\w+.-]*)*://")


def is_url(place: str) -> bool:
  """Whether `place` is a URL and not a path of this machine."""
  return _URL.match(place) is not None


def expanded(place: str | os.PathLike, key: str = "") -> str:
  """A path with ~ and ~user as home folders; a URL, and any other ~ or $, as it is.

  Raises UserError where there is no such user; `key`, such as '--workdir=', stands before it.
  """
  place = os.fspath(place)
  found = place if is_url(place) else os.path.expanduser(place)
  # A folder called '~user' in the current one is never meant, and would be made without a word.
  if found == place and place.startswith("~"):
    name = place.split("/", 1)[0]
    raise UserError(f"{key}{place}: {name} is no home folder; write ./{place} for that very name")
  return found


def opened(place: str) -> tuple[Any, str]:
  """The fsspec file system of a URL or path, and the path in it, without a slash at the end."""
  import fsspec

  # gcsfs logs a traceback of each failed request, beside the error that it raises.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  if not is_url(place):
    # A '::' in the name of a folder is no chain of file systems.
    return fsspec.filesystem("file"), os.path.abspath(place)
  system, path = fsspec.url_to_fs(place)
  return system, path.rstrip("/")


@contextlib.contextmanager
def as_user_error(url: str, what: str = "read") -> Iterator[None]:
  """Turns what the file system behind a URL raises into a UserError of one line.

  The message names `url`, which may begin with the config's key, and `what` the block does: the
  URL is 'read' or 'written'.
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
  pairs = (
    (sys.modules.get(module), name) for module, names in _CLIENT_ERRORS.items() for name in names
  )
  return (
    ValueError,
    OSError,
    RuntimeError,
    *filter(None, (getattr(*pair, None) for pair in pairs)),
  )


def reason(error: Exception) -> str:
  """The message of an error in one line; its type where it has none."""
  return " ".join(str(error).split()) or type(error).__name__


@functools.cache
def download(url: str, key: str = "") -> str | None:
  """The local path of the file at a URL; None where there is no such file.

  A process downloads each file once, and deletes it at its end. Raises UserError where the URL
  cannot be read; `key`, such as '--config.model.pretrained=', stands before it in the message.
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

  Raises UserError for other errors: `problem`, with the reason in place of its '{}'.
  """
  import huggingface_hub as hub
  from huggingface_hub import errors

  with _hub_as_user_error(problem):
    try:
      return hub.hf_hub_download(
        repository, name, revision=revision, local_files_only=not hub_answers()
      )
    except errors.EntryNotFoundError as error:
      # Offline, only the cache tells that there is no such file, from an earlier answer.
      known = hub.try_to_load_from_cache(repository, name, revision=revision)
      offline = isinstance(error, errors.LocalEntryNotFoundError)
      if offline and known is not hub._CACHED_NO_EXIST:
        raise
  return None


def hub_folder(repository: str, problem: str, **patterns: Any) -> str:
  """The folder of a hub repository in the hub's cache, with missing files downloaded.

  A cached revision is kept, so that a resumed run reads the same files; `hf download <repository>`
  gets a newer one. `patterns` are lists of globs, `allow_patterns` and `ignore_patterns`. Raises
  UserError as `hub_file` does.
  """
  import huggingface_hub as hub

  with _hub_as_user_error(problem):
    commit = _cached_commit(repository) or None
    offline = not hub_answers()
    return hub.snapshot_download(repository, revision=commit, local_files_only=offline, **patterns)


def check_hub(repository: str, problem: str) -> None:
  """Raises UserError, as `hub_file` does, for a repository that neither cache nor hub has.

  Nothing is downloaded.
  """
  import huggingface_hub as hub

  with _hub_as_user_error(problem):
    if not _cached_commit(repository):
      if not hub_answers():
        raise hub.errors.OfflineModeIsEnabled
      hub.model_info(repository, timeout=10)


def hub_answers() -> bool:
  """Whether the hub can be reached; asked once a process, for some seconds at most.

  The hub's own client asks six times a file, with a warning each, and 23 seconds for each file.
  """
  from huggingface_hub import constants

  return not constants.HF_HUB_OFFLINE and _asked_hub(constants.ENDPOINT)


@functools.cache
def _asked_hub(endpoint: str) -> bool:
  from huggingface_hub.utils import get_session

  answers: list[bool] = []

  def ask() -> None:
    # Any answer will do. A second try for a network that was only slow to wake.
    for _ in range(2):
      with contextlib.suppress(*errors()):
        get_session().head(endpoint, timeout=_PATIENCE / 2)
        answers.append(True)
        return

  # Where no name server answers, looking up the hub's name takes longer than any timeout.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(_PATIENCE)
  return bool(answers)


def hub_commit(repository: str) -> str:
  """The commit of a hub repository that `hub_folder` gives; '' where it is unknown.

  The hub is asked only if the repository is not in the cache.
  """
  import huggingface_hub as hub

  try:
    commit = _cached_commit(repository)
    # Offline, the hub's client fails at once by itself.
    if commit or not (hub.constants.HF_HUB_OFFLINE or hub_answers()):
      return commit
    return hub.model_info(repository, timeout=10).sha or ""
  except errors():
    return ""


def _cached_commit(repository: str) -> str:
  import huggingface_hub as hub

  # A repository in open_clip's layout may have no other config.
  for name in ("config.json", "open_clip_config.json"):
    path = hub.try_to_load_from_cache(repository, name)
    if isinstance(path, str):
      return Path(path).parent.name
  return ""


@contextlib.contextmanager
def _hub_as_user_error(problem: str) -> Iterator[None]:
  from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

  if "HF_HUB_VERBOSITY" not in os.environ:
    # It logs each of its retries, beside the error that it raises in the end.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
  try:
    yield
  except errors() as error:
    offline = isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
    why = "it cannot be reached" if offline else type(error).__name__
    raise UserError(problem.replace("{}", why)) from error
