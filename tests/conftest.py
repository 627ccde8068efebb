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


# Files whose tests take longest: they begin, so that no worker is left with them at the end.
SLOW = (
  *("test_commands.py", "test_step.py", "test_loop.py", "test_main.py", "test_protocol.py"),
  *("test_less_than_full_training.py", "test_shipped.py"),
)


# Tests that take long and whose subject others touch too: `make test-all` runs them, `make test`
# does not.
LONG = (
  "test_cells_with_the_same_phi_train_it_once_and_have_the_figures_of_those_alone",
  "test_rollout_is_that_of_the_weights_that_transformers_gives",
  "test_a_model_of_composed_retrieval_explains_too",
  "test_a_report_stands_beside_that_of_another_run",
  "test_they_stand_beside_the_trained_model",
  "test_a_changed_key_reruns_what_it_touches",
  "test_a_damaged_input_of_the_report_is_one_line",
  "test_evaluating_with_another_model_config_is_one_line",
  "test_a_kill_loses_at_most_a_batch",
  "test_the_command_drops_sentences_that_name_a_validation_or_test_class",
  "test_a_search_is_hamming_then_the_full_vectors",
  "test_the_command_trains_with_it",
  "test_other_training_images_leave_the_centred_backbone_out",
  "test_models_of_the_two_other_tasks_and_another_model",
  "test_ten_kills_while_indexing_lose_and_double_nothing",
  "test_a_token_weighs_its_mean_over_training_captions",
  "test_it_saw_photographs_of_some_types_and_its_tests_say_what_stands_beside",
  "test_no_variant_of_cars_tests_what_the_small_clip_was_trained_on",
  "test_training_finds_more_of_unseen_classes_than_the_model_did_before",
  "test_wandb_has_every_step_once_and_one_run_over_a_kill",
  "test_an_embeddings_file_is_evaluated_without_training",
  "test_a_pretrained_backbone_is_evaluated_without_training",
  "test_it_searches_by_an_image_and_words_with_a_model_that_composes",
  "test_ctrl_c_does_not_wait_for_the_requests_in_flight",
  "test_a_model_that_knows_every_caption_reaches_the_ceiling",
  "test_every_pair_is_ranked_by_the_weights_of_its_own_image",
  "test_the_trained_clip_is_one_of_transformers",
  "test_prompts_adapt_the_frozen_clip_to_classes_it_has_not_seen",
  "test_a_fitted_chat_model_describes_every_class",
  "test_two_real_processes_train",
  "test_sigterm_to_one_stops_all_at_one_step_and_a_hung_one_is_named",
  "test_a_random_chat_model_fails_for_every_class_with_exit_code_1",
  "test_every_target_trains_and_the_table_has_the_paired_differences",
  "test_the_command_describes_super_classes_and_needs_images",
  "test_transformers_reads_the_export_of_a_fine_tuned_model",
  "test_it_searches_by_words_with_a_model_that_reads_texts",
  "test_gradients_on_eight_devices_equal_those_on_one",
  "test_smollm2_describes_or_is_recorded",
  "test_the_commands_of_the_start_pages_write_what_they_say",
  "test_the_command_on_a_folder",
  "test_validation_classes_are_evaluated_when_they_were_held_out",
  "test_two_processes_of_four_devices_train_restore_and_evaluate_as_eight_and_one",
  "test_a_killed_process_is_named_and_an_error_of_one_is_told_by_all",
  "test_killed_interrupted_and_run_to_its_end",
  "test_a_new_revision_of_a_hub_encoder_makes_the_stage_encode_run_again",
  "test_the_papers_batch_fits_one_device",
  "test_measured_encoders_are_on_their_sides_of_the_threshold",
  "test_masked_sentences_find_their_class",
  "test_what_is_said_follows_what_is_seen_and_the_table_is_in_order",
  "test_the_script_prints_its_table_and_the_classes_asked_for",
  "test_cars_photographs_end_to_end",
  "test_twenty_kills_of_the_editor_on_800_real_queries",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  items.sort(key=lambda item: item.path.name not in SLOW)
  for item in items:
    if getattr(item, "originalname", item.name) in LONG:
      item.add_marker(pytest.mark.long)
