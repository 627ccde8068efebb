"""Pushing to a hub that a small server plays, by the hub's own client over HTTP."""

import base64
import http.server
import json
import threading

import pytest
from absl import flags
from absl.testing import flagsaver
from huggingface_hub import constants

from lafg_jax import export
from lafg_jax.inference import pushing
from lafg_jax.utils.errors import UserError

PLACE = "hf://org/name"


class Hub(http.server.BaseHTTPRequestHandler):
  """Repositories as {name: {path: content}}; answers `status` instead, where it is set."""

  def do_POST(self):
    server, body = self.server, self._body()
    server.calls.append((self.path, self.headers.get("Authorization")))
    if server.status != 200:
      self._answer(server.status, {"error": "no"})
    elif self.path == "/api/repos/create":
      name = f"{json.loads(body)['organization']}/{json.loads(body)['name']}"
      known = name in server.repositories
      server.repositories.setdefault(name, {})
      self._answer(409 if known else 200, {"url": f"{server.url}/{name}", "id": name})
    elif self.path.endswith("/preupload/main"):
      files = json.loads(body)["files"]
      self._answer(200, {"files": [
        {"path": x["path"], "uploadMode": "regular", "shouldIgnore": False} for x in files
      ]})  # fmt: skip
    elif self.path.endswith("/commit/main"):
      name = "/".join(self.path.split("/")[3:5])
      for line in body.decode().splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
          content = base64.b64decode(entry["value"]["content"])
          server.repositories[name][entry["value"]["path"]] = content
      found = {"commitUrl": f"{server.url}/{name}/commit/{'a' * 40}", "commitOid": "a" * 40}
      self._answer(200, found | {"success": True})
    else:
      self._answer(200, {"message": "ok"})

  def do_GET(self):
    self.server.calls.append((self.path, self.headers.get("Authorization")))
    there = "org/name" in self.server.repositories
    self._answer(200 if there else 404, {"id": "org/name", "sha": "a" * 40, "siblings": []})

  def _body(self):
    if self.headers.get("Transfer-Encoding") != "chunked":
      return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    parts = []
    while size := int(self.rfile.readline(), 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b"".join(parts)

  def _answer(self, status, content):
    body = json.dumps(content).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *_):
    pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
  server.url = f"http://127.0.0.1:{server.server_port}"
  server.repositories, server.calls, server.status = {}, [], 200
  threading.Thread(target=server.serve_forever, daemon=True).start()
  for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(constants, "ENDPOINT", server.url)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
  monkeypatch.setenv("HF_TOKEN", "hf_secret")
  yield server
  server.shutdown()
  server.server_close()


def test_what_was_exported_is_pushed_in_one_commit_and_nothing_else(hub, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  names = ("config.json", "model.safetensors", "README.md")
  for name in (*names, "private notes.txt"):
    (out / name).write_text(f"content of {name}")
  paths = [str(out / name) for name in names]
  for _ in range(2):
    # A repository that is there is no error.
    pushing.begin(PLACE)
    said = pushing.push(PLACE, str(out), paths)
  assert said.endswith(f"/org/name/commit/{'a' * 40}")
  wanted = {name: f"content of {name}".encode() for name in names}
  assert hub.repositories == {"org/name": wanted}
  assert {token for _, token in hub.calls} == {"Bearer hf_secret"}
  assert sum("commit/main" in path for path, _ in hub.calls) == 2


@pytest.mark.parametrize(
  ("status", "said"),
  [
    (401, "does not take this token: make a new one"),
    (403, "this token may not write there"),
    (404, "has no such organisation or repository"),
    (418, "the hub refuses: "),
  ],
)
def test_what_the_hub_refuses_is_one_line(hub, tmp_path, status, said):
  hub.status = status
  (tmp_path / "a.txt").write_text("a")
  for does in (
    lambda: pushing.begin(PLACE),
    lambda: pushing.push(PLACE, str(tmp_path), [str(tmp_path / "a.txt")]),
  ):
    with pytest.raises(UserError, match=said) as error:
      does()
    assert "\n" not in str(error.value) and "hf_secret" not in str(error.value)
    assert str(error.value).startswith(f"--push={PLACE}: ")


def test_no_network_no_token_and_no_place_are_one_line(hub, monkeypatch):
  monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
  with pytest.raises(UserError, match="the hub cannot be reached .*what was exported stays"):
    pushing.begin(PLACE)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
    pushing.begin(PLACE)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
    monkeypatch.delenv(name, raising=False)
  with pytest.raises(UserError, match="no token: set HF_TOKEN .*hf auth login"):
    pushing.begin(PLACE)
  for place in ("org/name", "hf://name", "hf://org/name/more", "hf://org/na me", "gs://org/name"):
    with pytest.raises(UserError, match="it takes hf://org/name"):
      pushing.repository(place)
  with pytest.raises(UserError, match=r"--push=hf://org/--x"):
    monkeypatch.setenv("HF_TOKEN", "x")
    pushing.begin("hf://org/--x")


def test_the_command_asks_the_hub_before_it_exports_and_pushes_what_it_wrote(
  hub, tmp_path, monkeypatch, capsys
):
  out = tmp_path / "out"

  def written(workdir, folder, *_):
    assert "org/name" in hub.repositories
    (out / "model.safetensors").write_text(workdir)
    return [str(out / "model.safetensors")]

  monkeypatch.setattr(export, "export", written)
  given = {"workdir": "runs/x", "out": str(out), "push": PLACE}
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**given):
    export.main([])
    assert hub.repositories == {"org/name": {"model.safetensors": b"runs/x"}}
    assert capsys.readouterr().out.splitlines()[-1].endswith("a" * 40)
  # Somebody else's repository is there, and only its commit is refused: the files stay.
  hub.status = 403
  with flagsaver.flagsaver(**given), pytest.raises(UserError, match="may not write there"):
    export.main([])
  assert (out / "model.safetensors").exists()
  hub.repositories.clear()
  monkeypatch.setattr(export, "export", lambda *_: pytest.fail("exported all the same"))
  with flagsaver.flagsaver(**given), pytest.raises(UserError, match="may not write there"):
    export.main([])
