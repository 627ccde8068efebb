"""Where a gallery lies, and Milvus' client of it: a file of Milvus Lite, or a server by its URL."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from typing import Any

from lafg_jax.utils import packages, places
from lafg_jax.utils.errors import UserError

_HOUR = 3_600_000  # in milliseconds


def is_local(place: str) -> bool:
  """Whether a gallery is a file of Milvus Lite; UserError where it is that nor a server's URL."""
  if places.is_url(place):
    if not place.startswith(("http://", "https://", "tcp://", "unix:")):
      raise UserError(f"--gallery={place}: a Milvus server is http://HOST:PORT[/DATABASE]")
    return False
  if not place.endswith(".db"):
    raise UserError(f"--gallery={place}: a gallery is a FILE.db, or the URL of a Milvus server")
  return True


def exists(place: str) -> bool:
  """Whether a local gallery is there; of a server only connecting tells."""
  return not is_local(place) or os.path.exists(place)


@contextlib.contextmanager
def connected(place: str) -> Iterator[Any]:
  """A client of Milvus. Raises UserError where there is none, or another process has the file."""
  packages.require("gallery", "pymilvus")
  local = is_local(place)
  if local:
    packages.require("gallery", "milvus_lite")
    _check_file(place)
  from pymilvus import MilvusClient

  # They log a traceback of every error that they raise, and of calls that Milvus Lite lacks and
  # their client does without.
  for name in ("pymilvus", "milvus_lite", "grpc._server"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  # Milvus Lite hangs up on a client that asks every 10 s, their default, whether it is there.
  more: dict[str, Any] = {"grpc_options": {"grpc.keepalive_time_ms": _HOUR}}
  if not local:
    more = {"token": os.environ.get("MILVUS_TOKEN", "")}
  with as_user_error(place), _without_proxy(local):
    client = MilvusClient(place, **more)
  try:
    yield client
  finally:
    client.close()
    if local:
      from milvus_lite.server_manager import server_manager_instance

      # Writes what is in memory, ends the index's builders, and gives the file free.
      server_manager_instance.release_server(place)


@contextlib.contextmanager
def _without_proxy(local: bool) -> Iterator[None]:
  """gRPC asks a proxy of the environment for 127.0.0.1 too, unless it is told otherwise."""
  before = os.environ.get("no_grpc_proxy")
  if local:
    os.environ["no_grpc_proxy"] = f"{before},127.0.0.1" if before else "127.0.0.1"
  try:
    yield
  finally:
    if local:
      if before is None:
        del os.environ["no_grpc_proxy"]
      else:
        os.environ["no_grpc_proxy"] = before


def _check_file(place: str) -> None:
  if os.path.isfile(place):
    raise UserError(
      f"--gallery={place} is a file, and Milvus Lite keeps a gallery as a folder: a gallery of "
      "milvus-lite before 3.0, or something else; pass another name"
    )
  lock = os.path.join(place, "LOCK")
  if os.path.exists(lock):
    with open(lock, "ab") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise UserError(f"--gallery={place}: another process has it open; wait for it") from error
  elif os.path.isdir(place) and os.listdir(place):
    raise UserError(f"--gallery={place} is a folder of something else; pass another name")


@contextlib.contextmanager
def as_user_error(what: str) -> Iterator[None]:
  """Turns an error of Milvus into one line that begins with `what`."""
  from pymilvus.exceptions import MilvusException

  try:
    yield
  except MilvusException as error:
    said = " ".join(str(error.message or error).split())
    raise UserError(f"{what}: Milvus says: {said}") from error
