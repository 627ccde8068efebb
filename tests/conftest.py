"""One compile cache for a whole test run, and the small training runs that several files make."""

import dataclasses
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.long_tests import LONG, SLOW

ROOT = Path(__file__).resolve().parents[1]

# A model of a few thousand parameters: what is tested with it does not depend on its size.
SMALL = {
  "data.image_size": 16,
  "data.resize_size": 16,
  "data.classes_per_batch": 5,
  "data.images_per_class": 2,
  # The convolutional stem takes long to compile.
  "model.conv_stem": False,
  # Not that of the weights, where a test has some.
  "model.size": "custom",
  "model.width": 16,
  "model.depth": 1,
  "model.num_heads": 2,
  "model.mlp_dim": 32,
  "model.embedding_dim": 16,
  "loss.projector_width": 48,
  "train.steps": 8,
  "train.log_every": 1,
  "train.checkpoint_every": 2,
}


def pytest_configure(config: pytest.Config) -> None:
  # Most tests compile the same few small programs.
  if not hasattr(config, "workerinput"):
    # The controlling process alone: its workers, and what tests start, inherit the folder.
    folder = config.cache.mkdir("compiled") if hasattr(config, "cache") else None
    # Most of the time here is XLA's, on programs that run for a blink: it may be brief with them.
    brief = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    brief += " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"
    # `make test-all` runs some tests once more as users run the code, with XLA's own settings.
    if not os.environ.get("LAFG_XLA_DEFAULTS"):
      os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {brief}".strip()
    # Read once, when the library is imported: a test that sets it later waits for the network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # With a worker on each core, more threads only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if folder is not None:
      os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
      os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(scope="session")
def trees():
  """The module tests/trees.py: small copies of data sets in their native layouts."""
  spec = importlib.util.spec_from_file_location("trees", Path(__file__).with_name("trees.py"))
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="session")
def small():
  """Changes to configs/synthetic.py, by dotted key."""
  return dict(SMALL)


@pytest.fixture(scope="session")
def config_with():
  """The small config with further changes, `config_with(train__steps=1)`."""
  from configs import synthetic

  def make(**changes):
    config = synthetic.get_config("prototypes")
    for key, value in (SMALL | {k.replace("__", "."): v for k, v in changes.items()}).items():
      config.update_from_flattened_dict({key: value})
    return config

  return make


@pytest.fixture(scope="session")
def dataset(config_with):
  """The training images of the finches."""
  from lafg_jax.data import datasets

  return datasets.load_splits(config_with().data, splits=("train",))["train"]


@pytest.fixture(scope="session")
def prototypes(dataset):
  """Random words of the right shapes, d = 24."""
  from lafg_jax.tasks.class_retrieval.language_base import LoadedPrototypes

  rng = np.random.default_rng(0)
  count = len(dataset.class_names)

  def unit(*shape):
    x = rng.standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  return LoadedPrototypes(
    prototypes=unit(count, 24),
    queries=unit(count, 24),
    vocabulary=unit(10, 24),
    mean=np.zeros(24, np.float32),
    encoder="random",
  )


@pytest.fixture(scope="session")
def trained_run(config_with, dataset, prototypes, tmp_path_factory):
  """A workdir with the checkpoint of one step, read only."""
  from lafg_jax.tasks.class_retrieval import train

  sentences = tuple((f"nearest to entry {i}", f"next to entry {i}") for i in range(10))
  workdir = tmp_path_factory.mktemp("trained_run")
  words = dataclasses.replace(prototypes, sentences=sentences)
  train.run(config_with(train__steps=1), str(workdir), dataset, words)
  return workdir


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
  """The tiny CLIP as a model of image-text retrieval, as it is before any training, read only."""
  from configs.image_text import finches
  from lafg_jax.inference import bundle
  from lafg_jax.language.encoders import kept_clip
  from lafg_jax.models.weights import files
  from lafg_jax.tasks.image_text_retrieval import model

  config = finches.get_config()
  config.prompts.method = "zero_shot"
  facts = dict.fromkeys(("validation", "dataset", "evaluation"))
  facts |= {"step": 0, "checkpoint": "newest", "class_names": [], "partial": False, "versions": {}}
  found = model.load(config)
  facts |= kept_clip.facts_of(found.clip)
  shipped = Path(files.local("tiny_clip"))
  content = {name: (shipped / name).read_bytes() for name in facts["tokenizer"]}
  folder = tmp_path_factory.mktemp("text_model")
  bundle.write(bundle.Trained(config, found.params, {}, {}, facts, content), str(folder))
  return folder


@pytest.fixture(scope="session")
def composed_model(tmp_path_factory):
  """The tiny CLIP with a random Phi, an export of composed retrieval, read only.

  Of the query, q_m has weight 0.5, q_f 0.3 and q_v 0.2.
  """
  import jax

  from lafg_jax.inference import bundle
  from lafg_jax.models import clip as clips
  from lafg_jax.models.weights import files
  from lafg_jax.tasks.composed_retrieval import default, mapping, restore

  config = default.get_config()
  config.model.pretrained = "tiny_clip"
  config.data.update(image_size=48, resize_size=48, pad="target")
  config.query.update(alpha=0.5, beta=0.3)
  clip, params = clips.load("tiny_clip", 48)
  phi = mapping.init("lincir", clip.dim, clip.text.sizes[0], 32, jax.random.key(0))
  facts = dict.fromkeys(("validation", "dataset", "evaluation"))
  facts |= {"step": 3, "checkpoint": "newest", "class_names": [], "partial": False, "versions": {}}
  facts |= restore.facts_of(clip, "lincir")
  shipped = Path(files.local("tiny_clip"))
  content = {name: (shipped / name).read_bytes() for name in facts["tokenizer"]}
  trained = bundle.Trained(config, {**params, "mapping": phi}, {}, {}, facts, content)
  folder = tmp_path_factory.mktemp("composed_model")
  bundle.write(trained, str(folder))
  return folder


@pytest.fixture(scope="session")
def site_of(tmp_path_factory):
  """`site_of(*packages)`: a folder with these, all that they require, and nothing else installed.

  As sys.path beside the standard library, it is a fresh virtual environment of these packages.
  """

  def make(*packages: str) -> str:
    folder = tmp_path_factory.mktemp("site")
    waiting, seen = list(packages), set()
    while waiting:
      requirement = Requirement(waiting.pop())
      name = requirement.name.lower().replace("_", "-")
      if name in seen or not (requirement.marker is None or requirement.marker.evaluate()):
        continue
      seen.add(name)
      found = metadata.distribution(name)
      waiting += found.requires or []
      for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
        # Namespaces such as google/ have parts from several packages: one link has them all.
        (folder / top).is_symlink() or (folder / top).symlink_to(found.locate_file(top))
    return str(folder)

  return make


class Endpoint:
  """What `chat_endpoint` starts: its URL, and the bodies of all that was asked."""

  def __init__(self, server):
    self.server, self.requests = server, []
    self.url = f"http://127.0.0.1:{server.server_port}/v1"


@pytest.fixture
def chat_endpoint():
  """`chat_endpoint(answer)`: a chat-completions endpoint on 127.0.0.1.

  answer(request, number of equal requests before) is a text, the texts of several choices, a tuple
  of status, body and headers, or None, which closes the connection.
  """
  servers = []

  def start(answer):
    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      disable_nagle_algorithm = True
      wbufsize = -1

      def log_message(self, *args):
        pass

      def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
          earlier = sum(other["messages"] == request["messages"] for other in endpoint.requests)
          endpoint.requests.append(request)
        found = answer(request, earlier)
        if found is None:
          self.close_connection = True
          self.connection.close()
          return
        if not isinstance(found, tuple):
          texts = [found] if isinstance(found, str) else found
          messages = [{"role": "assistant", "content": text} for text in texts]
          choices = [{"message": message, "finish_reason": "stop"} for message in messages]
          found = 200, {"choices": choices}, {}
        status, value, headers = (*found, {})[:3]
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **headers}.items():
          self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    class Server(http.server.ThreadingHTTPServer):
      daemon_threads, request_queue_size = True, 256

      def handle_error(self, request, client_address):
        # Clients are killed in some tests.
        pass

    lock = threading.Lock()
    endpoint = Endpoint(Server(("127.0.0.1", 0), Handler))
    servers.append(endpoint.server)
    threading.Thread(target=endpoint.server.serve_forever, args=(0.01,), daemon=True).start()
    return endpoint

  yield start
  for server in servers:
    server.shutdown()
    server.server_close()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """The folder that gs://bucket is; gcsfs and the network are not there."""
  from fsspec.implementations.local import LocalFileSystem

  class Bucket(LocalFileSystem):
    protocol = "gs"

    @classmethod
    def _strip_protocol(cls, path, *unused):
      return f"{tmp_path}/{path.removeprefix('gs://')}" if path.startswith("gs://") else path

  monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gs", Bucket)
  return tmp_path / "bucket"


# What `python -m lafg_jax.NAME` does, in a process for each command line; imports are made once.
FORKED = """
import importlib, json, os, sys
from lafg_jax.config import command_line
name, lines, folder, *imports = sys.argv[1:]
kind = {"with_config": name in ("main", "ablate"), "words": name == "search"}
for module in imports:
  importlib.import_module(module)
command = importlib.import_module(f"lafg_jax.{name}")
for number, args in enumerate(json.loads(lines)):
  child = os.fork()
  if not child:
    with open(f"{folder}/{number}", "w") as file:
      os.dup2(file.fileno(), 1)
      os.dup2(file.fileno(), 2)
    argv = [f"lafg_jax/{name}.py", *args]
    command_line.run(command.main, command.__doc__, argv, **kind)
    sys.exit()
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="session")
def forked():
  """`forked("main", command lines, folder)`: [(exit code, what it printed)] of each.

  cwd: where they run, the checkout by default. imports: modules that most of them take long to
  import.
  """

  def run(name, lines, folder, cwd=ROOT, imports=()):
    said = Path(tempfile.mkdtemp(prefix="forked", dir=folder))
    done = subprocess.run(
      [sys.executable, "-c", FORKED, name, json.dumps(lines), str(said), *imports],
      cwd=cwd,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
      capture_output=True,
      text=True,
    )
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == len(lines), done.stderr
    return [(code, (said / str(number)).read_text()) for number, code in enumerate(codes)]

  return run


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  items.sort(key=lambda item: item.path.name not in SLOW)
  for item in items:
    if getattr(item, "originalname", item.name) in LONG:
      item.add_marker(pytest.mark.long)
