"""Serves the page: on this machine alone unless told otherwise, and asking nothing of any other."""

import contextlib
import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from absl import logging

from lafg_jax.demo_page import desk, gate
from lafg_jax.demo_page.desk import Desk
from lafg_jax.demo_page.uploads import Limits
from lafg_jax.gallery import model as models
from lafg_jax.gallery import store
from lafg_jax.utils import packages, places
from lafg_jax.utils.errors import UserError

# Read by Gradio and huggingface_hub when they are imported, whatever the environment has.
_SETTINGS = {
  "GRADIO_ANALYTICS_ENABLED": "False",
  "HF_HUB_DISABLE_TELEMETRY": "1",
  "DO_NOT_TRACK": "1",
}


def serve(
  place: str, source: str | None, checkpoint: str | None, host: str, port: int, limits: Limits
) -> None:
  """Opens a gallery and answers until it is stopped.

  Args:
    place: FILE.db, or the URL of a Milvus server. source, checkpoint: as `model.of_gallery`.
    host: the interface; any but this machine's own is warned of. port: 0 takes a free one.

  Raises UserError where the gallery, its model or the port cannot be had.
  """
  packages.require("demo", "gradio")
  with _listening(host, port) as listener, store.opened(place) as gallery:
    model = models.of_gallery(gallery.facts, source, checkpoint)
    served = desk.opened(gallery, model, limits)
    _warm(served)
    with tempfile.TemporaryDirectory(prefix="lafg-demo-") as uploads:
      os.environ.update(_SETTINGS | {"GRADIO_TEMP_DIR": uploads})
      app = application(served, f"Search {os.path.basename(place.rstrip('/'))}", host)
      gate.stay_here([host] if places.is_url(place) is False else [host, _host_of(place)])
      _run(app, listener, host)


def _host_of(place: str) -> str:
  return urlsplit(place).hostname or ""


def _warm(served: Desk) -> None:
  """Compiles what a query runs, so that the first visitor does not wait."""
  from PIL import Image

  served.model.retriever.embed(Image.new("RGB", (8, 8)))
  if served.model.reads_texts:
    served.model.retriever.embed_text("warm")
    served.model.retriever.embed_query(Image.new("RGB", (8, 8)), "warm")


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
  """A socket on the interface; taken before the model is read, which takes seconds."""
  try:
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, protocol)
  except (OSError, OverflowError, UnicodeError) as error:
    raise UserError(f"--host={host} --port={port}: {_said(error)}") from error
  with listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listener.bind(address)
    except OSError as error:
      raise UserError(
        f"--host={host} --port={port}: {_said(error)}; --port=0 takes a free one"
      ) from error
    yield listener


def _said(error: Exception) -> str:
  return getattr(error, "strerror", None) or str(error)


def is_here(host: str) -> bool:
  """Whether only this machine reaches an interface."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


def application(served: Desk, title: str, host: str) -> gate.App:
  """The page behind its gate, as ASGI."""
  import fastapi
  import gradio as gr

  from lafg_jax.demo_page import layout

  page = layout.blocks(served, title)
  # Gradio takes only what was uploaded for an upload, but, of a page that is mounted and not
  # launched, any path that a crafted request names: it asks this attribute.
  page.has_launched = True
  app = gr.mount_gradio_app(
    # Without pages about itself.
    fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None),
    page,
    path="/",
    footer_links=[],
    run_history=False,
    allowed_paths=[],
    max_file_size=served.limits.size,
    show_error=False,
    ssr_mode=False,
    pwa=False,
    mcp_server=False,
    enable_monitoring=False,
    theme=layout.theme(),
    css=layout.STYLE,
  )
  names = [*gate.LOOPBACK, host] if is_here(host) else None
  return gate.gated(app, names, served.limits.size)


def _run(app: Any, listener: socket.socket, host: str) -> None:
  import uvicorn

  shown = f"[{host}]" if ":" in host else host
  if not is_here(host):
    logging.warning(
      "--host=%s: whoever reaches this machine's port can search, and sees small pictures of the "
      "gallery; there is no password",
      host,
    )
  # Python's own loop: `gate.stay_here` sees what it connects to.
  config = uvicorn.Config(
    app, log_level="warning", loop="asyncio", ws="none", timeout_graceful_shutdown=1
  )
  # Who opens the address at once is not refused, but waits until the server answers.
  listener.listen()
  print(f"Open http://{shown}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
  uvicorn.Server(config).run(sockets=[listener])
