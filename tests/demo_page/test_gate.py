"""What passes the gate before Gradio's server, and what this process asks of others."""

import asyncio
import subprocess
import sys

import pytest

from lafg_jax.demo_page import gate


def scope(path, method="GET", **headers):
  headers = {"host": "127.0.0.1:7860"} | {k.replace("_", "-"): v for k, v in headers.items()}
  named = [(k.encode(), v.encode()) for k, v in headers.items() if v]
  return {"type": "http", "path": path, "method": method, "headers": named}


def refused(given, hosts=gate.LOOPBACK):
  found = gate.refused(given, hosts, 1_000_000)
  return found and found[0]


@pytest.mark.parametrize(
  "path",
  [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=http://example.com/x.png",
    "/gradio_api/file/etc/passwd",
    "/gradio_api/proxy=https://a.hf.space/x",
    "/file=/etc/passwd",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/gradio_api/call/search",
    "/gradio_api/run/predict",
    "/gradio_api/api/predict",
    "/gradio_api/runs",
    "/gradio_api/run-history/connect",
    "/gradio_api/mcp/sse",
    "/gradio_api/dev/reload",
    "/gradio_api/stream/x",
    "/monitoring",
    "/docs",
    "/login",
    "/gradio_api",
    "/gradio_api/",
    "/proxy=http://example.com",
    "//etc/passwd",
  ],
)
def test_what_the_page_does_not_need_is_not_there(path):
  assert refused(scope(path)) == 404
  assert refused(scope(path, "POST", content_length="3")) == 404


def test_what_the_page_needs_passes():
  for path in ("/", "/config", "/theme.css", "/assets/a/b.js", "/gradio_api/heartbeat/x"):
    assert refused(scope(path)) is None
  sent = scope("/gradio_api/queue/join", "POST", content_length="300")
  assert refused(sent) is None
  assert refused(scope("/", host="localhost:1")) is None
  assert refused(scope("/", host="[::1]:7860")) is None


@pytest.mark.parametrize(
  ("given", "status"),
  [
    # Another name for this machine: a page elsewhere may have had it resolved to 127.0.0.1.
    (scope("/", host="evil.example"), 403),
    (scope("/", host="127.0.0.1.evil.example:7860"), 403),
    (scope("/", host=""), 403),
    (scope("/", host="[::1"), 403),
    (scope("/", origin="https://evil.example"), 403),
    (scope("/", origin="null"), 403),
    (scope("/gradio_api/queue/join", "POST"), 411),
    (scope("/gradio_api/queue/join", "POST", content_length="-1"), 411),
    (scope("/gradio_api/queue/join", "POST", content_length="200000"), 413),
    (scope("/gradio_api/upload", "POST", content_length="2000000"), 413),
  ],
)
def test_what_comes_from_elsewhere_or_is_too_large_is_refused(given, status):
  assert refused(given) == status


def test_a_page_that_was_opened_to_the_network_takes_any_name():
  assert refused(scope("/", host="gpu7.lab:7860"), None) is None
  assert refused(scope("/", host="gpu7.lab:7860", origin="https://evil.example"), None) == 403


def test_the_gate_answers_for_the_application_and_adds_its_headers():
  asked, sent = [], []

  async def app(scope, receive, send):
    asked.append(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": []})

  async def send(message):
    sent.append(message)

  call = gate.gated(app, gate.LOOPBACK, 1000)
  asyncio.run(call(scope("/gradio_api/file=/etc/passwd"), None, send))
  assert not asked and sent[0]["status"] == 404
  asyncio.run(call(scope("/"), None, send))
  assert asked == ["/"]
  assert "frame-ancestors 'none'" in dict(sent[-1]["headers"])[b"content-security-policy"].decode()
  asyncio.run(call({"type": "websocket", "path": "/"}, None, send))
  assert sent[-1]["type"] == "websocket.close" and asked == ["/"]


ELSEWHERE = """
import asyncio, socket, sys, urllib.request
from lafg_jax.demo_page import gate
gate.stay_here()
for ask in (
  lambda: socket.create_connection(("192.0.2.1", 80), 1),
  lambda: socket.getaddrinfo("example.com", 80),
  lambda: urllib.request.urlopen("http://example.com/", timeout=1),
  lambda: asyncio.run(asyncio.open_connection("192.0.2.1", 80)),
):
  try:
    ask()
  except OSError as error:
    print("refused", error)
with socket.socket() as server:
  server.bind(("127.0.0.1", 0))
  server.listen()
  socket.create_connection(server.getsockname(), 1).close()
  print("here")
"""


def test_no_connection_to_another_machine_is_opened():
  done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True)
  assert done.stdout.count("the demo asks nothing of other machines") == 4, done
  assert done.stdout.endswith("here\n")
