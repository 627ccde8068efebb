"""Language models that describe: a real local endpoint that misbehaves, kills, tiny chat models."""

import functools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from absl import logging

from lafg_jax.language.describers import describe, llm, neighbours, openai_api
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils.errors import Incomplete, UserError

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-very-secret-0123"


class Server:
  def __init__(self, *args) -> None:
    command = [sys.executable, str(Path(__file__).parent / "chat_server.py"), *map(str, args)]
    self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert self.process.stdout is not None
    self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

  def requests(self):
    return self.get("requests")

  def get(self, path):
    with urllib.request.urlopen(f"{self.url}/{path}") as response:
      return json.load(response)

  def close(self):
    self.process.kill()
    self.process.wait()


@pytest.fixture
def serve():
  servers = []

  def start(latency=0.0, *gate):
    servers.append(Server(latency, *gate))
    return servers[-1]

  yield start
  for server in servers:
    server.close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def logged(caplog):
  logger = logging.get_absl_logger()
  before, logger.propagate = logger.propagate, True
  with caplog.at_level("DEBUG"):
    yield caplog
  logger.propagate = before


def section(server=None, **changes):
  language = default.get_config().language
  language.describer = "openai"
  language.llm = "some-model"
  language.base_url = f"{server.url}/v1" if server else ""
  language.sentences_per_class = 3
  language.num_neighbours = 0
  language.retries = 2
  # No machine is so busy that an answer takes this long.
  language.timeout_s = 600.0
  language.update(changes)
  return language


def lines(path):
  return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


def described(workdir):
  return Counter(row["class"] for row in lines(workdir / "descriptions.jsonl"))


FAULTS = ("pause", "date", "closed", "cut", "broken", "page", "shape", "number", "list")
UNUSABLE = ("refusal", "empty", "long", "prose")
STATUSES = ("status-500", "status-502", "status-408", "status-409")


def test_every_class_ends_described_or_recorded_as_failed(serve, tmp_path, logged, monkeypatch):
  monkeypatch.setattr(openai_api, "_FIRST_DELAY", 0.05)
  server = serve(0.05)
  good = [f"Kind {i}" for i in range(10)]
  once = [f"Thing {i} {fault} once" for i, fault in enumerate(FAULTS + UNUSABLE + STATUSES)]
  never = [f"Stone {i} {fault}" for i, fault in enumerate(("status-500", "closed", *UNUSABLE))]
  never += ["Stone 9 status-400"]
  names = good + once + never
  language = section(server, concurrency=40, retries=3)
  with pytest.raises(Incomplete, match=f"{len(good + once)} of {len(names)} classes") as raised:
    describe.run(language, tmp_path, names)
  assert f"no usable answer for {len(never)}" in str(raised.value)
  assert "descriptions_failed.jsonl" in str(raised.value)
  assert not (tmp_path / "descriptions.jsonl").exists()
  failed = {row["class"]: row for row in lines(tmp_path / "descriptions_failed.jsonl")}
  assert set(failed) == set(never)
  assert "as an AI I can't" in failed["Stone 2 refusal"]["raw"]
  assert failed["Stone 4 long"]["raw"] == '["It has a long'
  assert failed["Stone 4 long"]["attempts"] == 4
  assert "cut off" in failed["Stone 4 long"]["reason"]
  assert "HTTP 500" in failed["Stone 0 status-500"]["reason"]
  # What the setting says, and no multiple of it; a request that was understood is not repeated.
  asked = Counter(request[0] for request in server.requests())
  assert {asked[name] for name in never[:-1]} == {4} and asked[never[-1]] == 1
  assert {asked[name] for name in good} == {1} and {asked[name] for name in once} == {2}
  # The server sent the key back.
  texts = [p.read_text() for p in tmp_path.iterdir()] + [logged.text, str(raised.value)]
  assert not any(KEY in text for text in texts) and "***" in failed["Stone 0 status-500"]["reason"]

  # The same command asks for the failed ones, and only those.
  with pytest.raises(Incomplete, match=f"for {len(never)} "):
    describe.run(language, tmp_path, names)
  again = Counter(request[0] for request in server.requests()) - asked
  assert set(again) == set(never)
  # Even where nothing but trouble is left.
  with pytest.raises(Incomplete, match="for 2 "):
    describe.run(language, tmp_path, good + never[:2])
  assert len(lines(tmp_path / "descriptions_failed.jsonl")) == 2
  # Without them the run ends, without a request, and no record of failure stays behind.
  before = len(server.requests())
  describe.run(language, tmp_path, good + once)
  assert described(tmp_path) == dict.fromkeys(good + once, 3)
  assert len(server.requests()) == before
  assert not (tmp_path / "descriptions_failed.jsonl").exists()


def test_retry_after_is_honoured_as_a_number_and_as_a_date(serve, tmp_path):
  server = serve()
  for name, least in (("Kind 0 pause once", 1.2), ("Kind 1 date once", 0.9)):
    describe.run(section(server), tmp_path, [name])
    first, second = (request[1] for request in server.requests() if request[0] == name)
    # Without the header it would have been half a second.
    assert second - first >= least


def test_an_answer_that_does_not_come_is_asked_for_again(serve, tmp_path):
  server = serve()
  describe.run(section(server, timeout_s=0.5, retries=20), tmp_path, ["Kind 0 late once"])
  assert described(tmp_path) == {"Kind 0 late once": 3} and len(server.requests()) >= 2


def test_a_thousand_classes_keep_every_allowed_request_in_flight(serve, tmp_path):
  """How long they take is then up to the server: ceil(classes / concurrency) times its latency.

  The server answers one request at a time, and none before 32 stand open: whoever waits for a
  whole batch, or leaves a place empty, waits for ever.
  """
  concurrency, names = 32, [f"Kind {i}" for i in range(1000)]
  server = serve(0.0, concurrency, len(names))
  describe.run(section(server, concurrency=concurrency), tmp_path, names)
  assert list(described(tmp_path)) == names
  assert server.get("open") == [concurrency, 0] and len(server.requests()) == len(names)


def test_twenty_kills_lose_no_class_and_repeat_none(serve, tmp_path):
  server, rng = serve(0.02), random.Random(0)
  concurrency, names = 4, [f"Kind {i}" for i in range(600)]
  language = section(server, concurrency=concurrency)
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["openai", "lafg_jax.language.describers.describe"])
  kept: list[str] = []
  kills = 20
  for _ in range(kills):
    process = context.Process(target=describe.run, args=(language, tmp_path, names))
    process.start()
    # Counted from its first request, so that a slow machine does not change how far it gets.
    server.get(f"kill/{process.pid}/{rng.randrange(1, 25)}/{rng.uniform(0, 0.01)}")
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was not killed"
    partial = list(tmp_path.glob("descriptions.partial-*.jsonl"))
    if partial:
      # Only what was written whole counts, and nothing that stood there is gone.
      data = partial[0].read_bytes()
      now = [json.loads(line)["class"] for line in data.split(b"\n")[:-1]]
      assert now[: len(kept)] == kept and len(set(now)) == len(now)
      kept = now
  assert 40 < len(kept) < len(names)
  before = len(server.requests())
  describe.run(language, tmp_path, names)
  assert list(described(tmp_path)) == names and set(described(tmp_path).values()) == {3}
  # A kill costs at most the requests in flight.
  asked = Counter(request[0] for request in server.requests())
  assert sum(asked.values()) - len(names) <= kills * concurrency
  assert len(server.requests()) - before <= len(names) - len(kept) + 1


def test_a_half_written_line_is_cut_off_and_a_damaged_one_is_asked_again(serve, tmp_path, logged):
  server, names = serve(), ["Kind 0", "Kind 1", "Kind 2"]
  describe.run(section(server), tmp_path, names)
  whole = (tmp_path / "descriptions.jsonl").read_text()
  (partial,) = tmp_path.glob("descriptions.partial-*.jsonl")
  rows = {row["class"]: json.dumps(row).encode() for row in lines(partial)}
  for middle in (b"{}", b"\0\0\0", b"3", b'{"class": "Kind 1", "sentences": []}', b"\xff"):
    partial.write_bytes(rows["Kind 0"] + b"\n" + middle + b"\n" + rows["Kind 2"][:-5])
    before = len(server.requests())
    describe.run(section(server), tmp_path, names)
    assert sorted(r[0] for r in server.requests()[before:]) == ["Kind 1", "Kind 2"]
    assert (tmp_path / "descriptions.jsonl").read_text() == whole
  assert "line 2 is damaged" in logged.text


def test_other_settings_ask_again_and_going_back_does_not(serve, tmp_path):
  server, names = serve(), ["Kind 0", "Kind 1"]
  for temperature, requests in ((0.7, 2), (0.1, 4), (0.7, 4)):
    describe.run(section(server, temperature=temperature), tmp_path, names)
    assert len(server.requests()) == requests
  # One more class is one more request; how the endpoint is reached does not matter.
  describe.run(section(server, concurrency=2), tmp_path, [*names, "Kind 2"])
  assert len(server.requests()) == 5


def test_an_answer_that_names_a_held_out_class_is_asked_again(serve, tmp_path):
  server = serve()
  describe.run(section(server), tmp_path, ["Kind 0"], held_out=["Gold"])
  with pytest.raises(Incomplete):
    describe.run(section(server), tmp_path, ["Kind 0"], held_out=["Gold", "four bars", "tail"])
  assert [row["reason"] for row in lines(tmp_path / "descriptions_failed.jsonl")] == [
    "every sentence names another kind"
  ]
  assert described(tmp_path) == {"Kind 0": 2}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_stops_at_once(serve, tmp_path, status):
  server = serve()
  with pytest.raises(UserError, match=f"some-model.*HTTP {status}.*OPENAI_API_KEY") as raised:
    describe.run(section(server), tmp_path, [f"Kind {i} status-{status}" for i in range(200)])
  assert KEY not in str(raised.value) and len(server.requests()) < 100


def test_an_endpoint_that_is_not_there_stops_the_run(serve, tmp_path):
  server = serve()
  server.close()
  with pytest.raises(UserError, match="language.base_url .*127.0.0.1.* does not answer"):
    describe.run(section(server, retries=1), tmp_path, [f"Kind {i}" for i in range(100)])


# --- neighbours ---


def test_neighbours_by_the_encoder_are_training_classes_nearest_first():
  import numpy as np

  from lafg_jax.finches import classes
  from lafg_jax.language.encoders import texts as encode

  names = classes.class_names("seen")[:12]
  language = section(num_neighbours=3, encoder="tiny_clip")
  found = neighbours.find(language, names, names[:5])
  features = encode.encode_texts([f"a photo of {name}" for name in names], "tiny_clip", 8)
  for i, name in enumerate(names[:5]):
    cosine = {names[j]: float(np.dot(features[i], features[j])) for j in range(12) if j != i}
    assert list(found[name]) == sorted(cosine, key=cosine.__getitem__, reverse=True)[:3]
  assert neighbours.find(language, names[:2], names[:1]) == {names[0]: (names[1],)}


def test_neighbours_from_a_file_never_name_an_unseen_class(serve, tmp_path):
  path = tmp_path / "near.json"
  path.write_text(json.dumps({"a": ["a", "unseen", "c", "b", "c"], "unseen": ["a"]}))
  language = section(neighbours=str(path), num_neighbours=3)
  assert neighbours.find(language, ["a", "b", "c"], ["a", "b"]) == {"a": ("c", "b"), "b": ()}
  for text in ("[", "3", '{"a": "b"}', '{"a": [1]}'):
    path.write_text(text)
    with pytest.raises(UserError, match="language.neighbours"):
      neighbours.find(language, ["a"], ["a"])
  with pytest.raises(UserError, match="no file"):
    neighbours.find(section(neighbours="none.json"), ["a"], ["a"])


def test_settings_hold_what_decides_and_not_how_it_is_reached():
  base = llm.settings(section(num_neighbours=3))
  for change in ({"concurrency": 2}, {"base_url": "http://x/v1"}, {"timeout_s": 3.0}):
    assert llm.settings(section(num_neighbours=3, **change)) == base
  for change in ({"llm": "x"}, {"encoder": "x"}, {"max_tokens": 3}, {"neighbours": "x"}):
    assert llm.settings(section(num_neighbours=3, **change)) != base


# --- the whole command ---


def test_the_command_drops_sentences_that_name_a_validation_or_test_class(
  tmp_path, finches, describe_finches
):
  from lafg_jax.data import datasets

  config = default.get_config()
  config.data.name, config.data.num_val_classes = "synthetic", 36
  splits = datasets.class_splits(config.data)
  unseen = [f"Unlike the {splits[split][0].upper()}, it is red." for split in ("val", "test")]
  words = {name: [*unseen, f"{name} is red."] for name in finches}
  (tmp_path / "words.json").write_text(json.dumps(words))
  flag = f"--config.language.descriptions={tmp_path / 'words.json'}"
  done = describe_finches(tmp_path, flag, code=0)
  assert "and 8 that name a class kept from training" in done.stderr
  kept = [row["description"] for row in lines(tmp_path / "descriptions.jsonl")]
  assert kept == [f"{name} is red." for name in finches]


def test_super_classes_are_asked_about_as_such_and_kept_apart(serve, tmp_path, monkeypatch):
  from lafg_jax.language.describers import prompt

  asked = []
  about = prompt.about_variants
  monkeypatch.setattr(prompt, "about_variants", lambda *a: asked.append(a) or about(*a))
  server = serve()
  language = section(server, num_neighbours=3, encoder="no-such-encoder")
  describe.run(language, tmp_path, ["lamp", "coffee maker"], variants=True)
  assert asked == [("lamp", 3, ""), ("coffee maker", 3, "")]
  assert described(tmp_path) == {"lamp": 3, "coffee maker": 3}
  # The same names as classes would be asked another question: those answers do not count.
  describe.run(section(server), tmp_path, ["lamp", "coffee maker"])
  assert len(server.requests()) == 4 and len(asked) == 2


def test_ctrl_c_does_not_wait_for_the_requests_in_flight(serve, tmp_path):
  server = serve(10_000)
  command = [sys.executable, "-m", "lafg_jax.main", "--config", "configs/synthetic.py:prototypes"]
  command += ["--stage=describe", f"--workdir={tmp_path}", "--config.language.describer=openai"]
  command += ["--config.language.llm=x", f"--config.language.base_url={server.url}/v1"]
  command += ["--config.language.num_neighbours=0", "--config.language.timeout_s=10000"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  process = subprocess.Popen(
    command,
    cwd=ROOT,
    env=environment,
    stderr=subprocess.PIPE,
    text=True,
    # What a shell starts in the background, this test perhaps, is deaf to Ctrl-C.
    preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
  )
  while not server.requests() and process.poll() is None:
    time.sleep(0.05)
  process.send_signal(signal.SIGINT)
  _, errors = process.communicate(timeout=1000)
  assert process.returncode == 75
  assert "stopped and saved: the same command goes on" in errors and "Traceback" not in errors
