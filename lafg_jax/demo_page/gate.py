"""What stands before Gradio's server: the routes that the page needs, and no others.

Gradio also serves files, fetches addresses and answers for an interface of programs. This page uses
none of that, so it is not there. A request must name this machine as its host, so that no page
elsewhere can send a browser here under another name; what it sends has a length; and the browser is
told to ask nothing of anyone else.
"""

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

ROUTES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json")
BELOW = ("/static/", "/assets/")
_API = "/gradio_api/"
# Of the page's own events; `upload` alone takes files.
API = ("queue/join", "queue/data", "upload", "upload_progress", "app_id", "reset", "cancel")
API_BELOW = ("heartbeat/",)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Of a request that is no upload, in bytes.
MOST = 100_000
_POLICY = (
  "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
  "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
HEADERS = {
  "content-security-policy": _POLICY,
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
}

App = Callable[..., Awaitable[None]]


def gated(app: App, hosts: Sequence[str] | None, largest: int) -> App:
  """The ASGI application behind the gate.

  Args:
    hosts: names under which it may be asked; None takes any.
    largest: bytes of an upload, at most.
  """

  async def call(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
      await app(scope, receive, send)
    elif scope["type"] != "http":
      await send({"type": "websocket.close", "code": 1008})
    elif why := refused(scope, hosts, largest):
      await _answer(send, *why)
    else:
      await app(scope, receive, lambda message: send(_with_headers(message)))

  return call


def refused(
  scope: dict[str, Any], hosts: Sequence[str] | None, largest: int
) -> tuple[int, str] | None:
  """The status and line with which a request is turned away; None lets it pass."""
  headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
  host = headers.get("host", "")
  if hosts is not None and _name(host) not in hosts:
    return 403, "this page answers under the name that it was started with"
  if (origin := headers.get("origin")) and urlsplit(origin).netloc != host:
    return 403, "this page takes no requests from other pages"
  path = scope["path"]
  if not _is_known(path):
    return 404, "there is nothing here"
  if scope["method"] not in ("GET", "HEAD"):
    length = headers.get("content-length", "")
    if not length.isdecimal():
      return 411, "a request has to say its length"
    if int(length) > (largest + MOST if path == f"{_API}upload" else MOST):
      return 413, "too large"
  return None


def _name(host: str) -> str:
  try:
    return urlsplit(f"//{host}").hostname or ""
  except ValueError:
    return ""


def _is_known(path: str) -> bool:
  if path.startswith(_API):
    rest = path[len(_API) :].rstrip("/")
    return rest in API or rest.startswith(API_BELOW)
  return path in ROUTES or path.startswith(BELOW)


def _with_headers(message: dict[str, Any]) -> dict[str, Any]:
  if message["type"] != "http.response.start":
    return message
  more = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
  return message | {"headers": [*message.get("headers", ()), *more]}


async def _answer(send: Any, status: int, line: str) -> None:
  body = line.encode()
  head = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))} | HEADERS
  headers = [(key.encode(), value.encode()) for key, value in head.items()]
  await send({"type": "http.response.start", "status": status, "headers": headers})
  await send({"type": "http.response.body", "body": body})


def stay_here(hosts: Sequence[str] = ()) -> None:
  """From here on this process opens no connection to another machine, whatever asks it to.

  Gradio would fetch an address that a crafted request names as its file. `hosts` are let through
  beside this machine. It holds until the process ends: Python's audit hooks are for good.
  """
  allowed = {*LOOPBACK, *hosts}

  def hook(event: str, args: tuple) -> None:
    if event == "socket.getaddrinfo":
      _check(args[0], allowed)
    elif event == "socket.connect" and isinstance(args[1], tuple):
      _check(args[1][0], allowed)

  sys.addaudithook(hook)


def _check(host: Any, allowed: set[str]) -> None:
  name = host.decode("latin-1") if isinstance(host, bytes) else host
  if name and name not in allowed and not name.startswith("127."):
    raise PermissionError(f"the demo asks nothing of other machines, so not of {name}")
