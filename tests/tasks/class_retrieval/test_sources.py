"""What a run reads from elsewhere is asked for before its first stage, and named in one line."""

import contextlib
import http.server
import json
import socket
import threading
import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from lafg_jax.language.describers import chat, endpoint
from lafg_jax.tasks.class_retrieval import default, sources
from lafg_jax.utils import places
from lafg_jax.utils.errors import UserError

ALL = default.STAGES


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
  """A hub that refuses connections, and an empty cache; counts what its client asks."""
  asked = []
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
  for name in ("hf_hub_download", "snapshot_download", "model_info"):
    real = getattr(huggingface_hub, name)

    def ask(*args, real=real, name=name, **options):
      asked.append((name, options.get("local_files_only", False)))
      return real(*args, **options)

    monkeypatch.setattr(huggingface_hub, name, ask)
  places._asked_hub.cache_clear()
  yield asked
  places._asked_hub.cache_clear()


def config_of(**changes):
  config = default.get_config()
  config.data.name = "synthetic"
  config.update_from_flattened_dict({key.replace("__", "."): x for key, x in changes.items()})
  return config


HERE = {"model__pretrained": "tiny_clip", "model__size": "auto", "language__encoder": "tiny_clip"}
HERE |= {"language__describer": "synthetic"}
BACKBONE = {"model__pretrained": "owner/backbone"}
ENCODER = {"language__encoder": "owner/encoder"}
LLM = {"language__describer": "transformers", "language__llm": "owner/llm"}
LOST = {"language__descriptions": "/no/such.json"}
# It is to be written.
SKELETON = LOST | {"language__describer": "skeleton"}


@pytest.mark.parametrize(
  ("changes", "names", "describes", "named"),
  [
    ({}, ALL, True, []),
    (SKELETON, ("describe",), True, []),
    (BACKBONE, ALL, True, ["owner/backbone"]),
    (BACKBONE | ENCODER | LLM, ALL, True, ["owner/backbone", "owner/encoder", "owner/llm"]),
    (BACKBONE | ENCODER | LOST, ALL, True, ["owner/backbone", "owner/encoder", "/no/such.json"]),
    # What no stage reads is not asked for.
    (BACKBONE | ENCODER | LLM, ALL, False, ["owner/backbone", "owner/encoder"]),
    (BACKBONE | ENCODER | LLM, ["prototypes"], False, []),
    (ENCODER | LLM, ["describe"], True, ["owner/encoder", "owner/llm"]),
    (ENCODER | LLM | {"language__num_neighbours": 0}, ["describe"], True, ["owner/llm"]),
    (LLM | LOST, ["describe"], True, ["/no/such.json"]),
    ({"language__encoder": "/no/folder"} | BACKBONE, ALL, False, ["owner/backbone", "/no/folder"]),
  ],
)
def test_one_line_names_all_that_is_missing(no_hub, tmp_path, changes, names, describes, named):
  config = config_of(**(HERE | changes))
  start = time.monotonic()
  if not named:
    sources.resolved(config, str(tmp_path), names, describes)
    assert not no_hub
    return
  with pytest.raises(UserError) as error:
    sources.resolved(config, str(tmp_path), names, describes)
  text = str(error.value)
  assert "\n" not in text and all(name in text for name in named)
  others = {"owner/backbone", "owner/encoder", "owner/llm"} - {*named}
  assert not any(name in text for name in others)
  several = f"{len(named)} things that this run reads cannot be had: (1) "
  assert text.startswith(several) == (len(named) > 1)
  # The hub's own client, which tries six times, is told not to.
  assert time.monotonic() - start < 5 and all(local for _, local in no_hub)


def test_a_hub_that_takes_the_connection_and_says_nothing(no_hub, monkeypatch):
  monkeypatch.setattr(places, "_PATIENCE", 0.4)
  with socket.create_server(("127.0.0.1", 0)) as server:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    start = time.monotonic()
    assert not places.hub_answers() and not places.hub_answers()
    assert time.monotonic() - start < 1
  # Any answer is one, also a refusal.
  with serving(403, b"") as url:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(places, "_PATIENCE", 4.0)
    assert places.hub_answers()


@contextlib.contextmanager
def serving(status, body):
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(status)
      self.send_header("Content-Length", str(len(body)))
      self.end_headers()
      if self.command != "HEAD":
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *unused):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
  ("status", "body", "warned"),
  [
    (200, json.dumps({"data": [{"id": "llama3.1:latest"}]}).encode(), False),
    (200, json.dumps({"data": [{"id": "other"}]}).encode(), True),
    (200, b"no JSON", False),
    (200, b"[]", False),
    (401, b"", False),
    (404, b"", False),
    (500, b"", False),
  ],
)
def test_an_endpoint_that_answers_is_there(caplog, monkeypatch, status, body, warned):
  from absl import logging

  monkeypatch.setattr(logging.get_absl_logger(), "propagate", True)
  with serving(status, body) as url:
    config = config_of(language__base_url=f"{url}/v1", language__llm="llama3.1")
    endpoint.check(chat.of_language(config.language))
  assert ("is not among the models" in caplog.text) == warned


@pytest.mark.parametrize("given", ["/v1", "/v1/", "/v1/chat/completions", "/v1/models"])
def test_the_models_are_asked_for_where_the_describer_asks(monkeypatch, given):
  asked = []

  def urlopen(request, timeout):
    asked.append(request.full_url)
    raise OSError

  monkeypatch.setattr(endpoint.urllib.request, "urlopen", urlopen)
  language = config_of(language__base_url=f"http://here{given}").language
  endpoint.check(chat.of_language(language))
  assert asked == ["http://here/v1/models"]


def test_an_endpoint_that_is_not_there_is_named_with_the_rest(no_hub, tmp_path):
  changes = {"language__describer": "openai", "language__llm": "x", "language__num_neighbours": 0}
  changes["language__base_url"] = "http://127.0.0.1:9/v1"
  config = config_of(**(HERE | BACKBONE | changes))
  with pytest.raises(UserError, match=r"owner/backbone.*base_url=http://127.0.0.1:9/v1: .*reached"):
    sources.resolved(config, str(tmp_path), ALL, True)
