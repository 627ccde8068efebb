"""URLs and hub repositories: what a client raises is one line, and which revision is read."""

import shutil
import sys
import types
from pathlib import Path

import fsspec
import huggingface_hub
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import constants

from lafg_jax.models.weights import files
from lafg_jax.utils import places
from lafg_jax.utils.errors import UserError

A, B = "a" * 40, "b" * 40


class Unreachable(MemoryFileSystem):
  """A bucket whose client raises `error`, where `method` is called."""

  protocol = "gs"
  cachable = False
  error: Exception
  method: str

  def info(self, path, **kwargs):
    self._fail("info")
    return {"name": path, "type": "file", "size": 1}

  def get_file(self, rpath, lpath, **kwargs):
    self._fail("get_file")

  def _fail(self, method):
    if method == self.method:
      raise self.error


@pytest.fixture
def client(monkeypatch):
  """`client(module, name, *bases)`: the class of an error that a client's module defines."""
  monkeypatch.setattr(Unreachable, "method", "info", raising=False)
  monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gs", Unreachable)
  places.download.cache_clear()

  def make(module, name, base=Exception):
    error = type(name, (base,), {"__module__": module})
    for k in range(len(module.split("."))):
      parent = ".".join(module.split(".")[: k + 1])
      if parent not in sys.modules:
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setattr(sys.modules[module], name, error, raising=False)
    return error

  yield make
  places.download.cache_clear()


@pytest.mark.parametrize("method", ["info", "get_file"])
@pytest.mark.parametrize(
  ("module", "name"),
  [
    ("gcsfs.retry", "HttpError"),
    ("gcsfs.retry", "ChecksumError"),
    ("gcsfs.retry", "NonRetryableError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("google.api_core.exceptions", "GoogleAPIError"),
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
  ],
)
def test_whatever_a_bucket_client_raises_is_one_line(client, monkeypatch, module, name, method):
  # What is raised is a subclass, as google.auth's DefaultCredentialsError is.
  error = type("Some" + name, (client(module, name),), {})("Anonymous caller\nhas no access, 401")
  monkeypatch.setattr(Unreachable, "error", error, raising=False)
  monkeypatch.setattr(Unreachable, "method", method)
  with pytest.raises(UserError) as raised:
    files.find("gs://bucket/vit")
  url = "--config.model.pretrained=gs://bucket/vit/model.safetensors"
  assert str(raised.value) == f"{url} cannot be read: Anonymous caller has no access, 401"


@pytest.mark.parametrize(
  "error", [OSError("Forbidden: b\nno"), TimeoutError(), RuntimeError("Loop is not running")]
)
def test_so_is_what_python_itself_raises(client, monkeypatch, error):
  monkeypatch.setattr(Unreachable, "error", error, raising=False)
  with pytest.raises(UserError, match="gs://bucket/vit/model.safetensors cannot be read: ") as got:
    files.find("gs://bucket/vit")
  assert "\n" not in str(got.value)


def test_a_mistake_of_the_code_keeps_its_traceback(client, monkeypatch):
  monkeypatch.setattr(Unreachable, "error", AttributeError("no such method"), raising=False)
  with pytest.raises(AttributeError):
    files.find("gs://bucket/vit")


def test_a_file_is_downloaded_once_and_into_no_other_folder():
  memory = fsspec.filesystem("memory")
  memory.pipe("/places/a", b"1")
  path = places.download("memory://places/a")
  memory.pipe("/places/a", b"2")
  assert path is not None and places.download("memory://places/a") == path
  assert Path(path).read_text() == "1" and places.download("memory://places/b") is None
  # An index of shards is read from there too, and names files.
  memory.pipe("/evil", b"3")
  path = places.download("memory://places/../../../../evil")
  assert path is None or Path(path).parents[1] == Path(places._downloads().name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """An offline cache of the hub; `hub(commit)` downloads a revision of owner/name."""
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

  def put(commit):
    repository = tmp_path / "models--owner--name"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text(commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(commit)

  return put


def test_the_commit_is_that_of_the_folder_and_found_without_the_hub(hub, monkeypatch):
  asked = []
  info = types.SimpleNamespace(sha=B)
  monkeypatch.setattr(huggingface_hub, "model_info", lambda name, **_: asked.append(name) or info)
  assert places.hub_commit("owner/name") == B and asked == ["owner/name"]
  for commit in (A, B):
    hub(commit)
    assert places.hub_commit("owner/name") == commit
    assert Path(places.hub_folder("owner/name", "{}")).name == commit
  assert len(asked) == 1


def test_a_cached_revision_stays_until_another_is_downloaded(hub, monkeypatch):
  """Online too: a newer revision on the hub does not change what a resumed run reads."""
  asked = []
  monkeypatch.setattr(
    huggingface_hub, "snapshot_download", lambda name, revision, **_: asked.append(revision) or "x"
  )
  places.hub_folder("owner/name", "{}")
  hub(A)
  places.hub_folder("owner/name", "{}")
  # Of a repository that is not there, the newest is taken, and refs/main names it afterwards.
  assert asked == [None, A]


def test_what_the_hub_does_not_give_is_one_line_and_has_no_commit(hub, tmp_path):
  assert places.hub_commit("owner/name") == "" == places.hub_commit("no/such/id")
  for call in (
    lambda problem: places.hub_file("owner/name", "config.json", problem),
    lambda problem: places.hub_folder("owner/name", problem),
  ):
    with pytest.raises(UserError, match="^no model .it cannot be reached.: try$"):
      call("no model ({}): try")
  with pytest.raises(UserError, match="HFValidationError"):
    places.hub_file("no/such/id", "config.json", "{}")
  hub(A)
  absent = tmp_path / "models--owner--name/.no_exist" / A
  absent.mkdir(parents=True)
  (absent / "model.safetensors").touch()
  assert places.hub_file("owner/name", "model.safetensors", "{}") is None
  shutil.rmtree(absent)
  with pytest.raises(UserError):
    places.hub_file("owner/name", "model.safetensors", "{}")
