"""Experiment trackers: what their own stores hold afterwards, and that none can harm a run."""

import glob
import io
import json
import os
import queue
import shlex
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafg_jax.config import secrets
from lafg_jax.training import loop, metrics_log, tracker_process, trackers
from lafg_jax.training.step import Objective

MADE = Objective({}, None, None, {}, {}, 8, {})
FEED = loop.Feed(None, None, (), lambda step: [])
RESULT = {
  **{"split": "test", "source": "checkpoint", "step": 8, "recall@1": 0.5, "map@r": 0.25},
  **{"r_precision": 0.3, "untrained": {"recall@1": 0.125, "map@r": 0.0625, "r_precision": 0.1}},
}


def png(colour=(200, 30, 30)):
  buffer = io.BytesIO()
  Image.new("RGB", (12, 8), colour).save(buffer, "PNG")
  return buffer.getvalue()


def about(config, workdir, start=None):
  """What the tracker's process is told, by way of its pipe."""
  return json.loads(json.dumps(trackers._about(config, str(workdir), start)))


def serve(told, *lines):
  """What that process does, here; returns what it answers."""
  waiting, said = queue.SimpleQueue(), []
  for line in (told, *lines):
    waiting.put(json.dumps(line))
  waiting.put(None)
  tracker_process.serve(waiting, lambda **what: said.append(what))
  return said


# A run of 8 steps that was killed after step 6 and goes on from the checkpoint of step 4, and its
# evaluation, which is made twice.
FIRST = [["scalars", step, {"loss": 1 / step}] for step in range(1, 7)]
SECOND = [
  *(["scalars", step, {"loss": 1 / step, "val_map@r": 0.5}] for step in range(5, 9)),
  ["figures", 0, {"test/recall@1": 0.125}],
  *[["figures", 8, {"test/recall@1": 0.5}]] * 2,
  *[["image", 8, "test-retrieval", trackers.base64.b64encode(png()).decode()]] * 2,
  ["end", True],
]


def wandb_records(folder):
  """The records of W&B's files, by its own reader, in the order of the files."""
  from wandb.proto import wandb_internal_pb2
  from wandb.sdk.internal.datastore import DataStore

  for path in sorted(glob.glob(f"{folder}/*/wandb/offline-run-*/*.wandb")):
    store = DataStore()
    store.open_for_scan(path)
    while (data := store.scan_data()) is not None:
      record = wandb_internal_pb2.Record()
      record.ParseFromString(data)
      yield record


def values_of(items):
  return {"/".join(x.nested_key) or x.key: json.loads(x.value_json) for x in items}


def test_wandb_has_every_step_once_and_one_run_over_a_kill(tmp_path, config_with, monkeypatch):
  wandb = pytest.importorskip("wandb")
  for name, value in {"MODE": "offline", "PROJECT": "cars", "SILENT": "true"}.items():
    monkeypatch.setenv(f"WANDB_{name}", value)
  config = config_with(
    train__tracker="wandb", train__tracker_tags=("no words",), language__base_url="http://hidden/v1"
  )
  try:
    for number, (start, lines) in enumerate(((0, FIRST), (4, SECOND))):
      # Two processes of one second would share W&B's folder.
      monkeypatch.setenv("WANDB_DIR", str(tmp_path / "stores" / str(number)))
      (tmp_path / "stores" / str(number)).mkdir(parents=True)
      (said,) = serve(about(config, tmp_path, start), *lines)
      assert str(tmp_path) in said["at"]
  finally:
    wandb.teardown()
  records = list(wandb_records(tmp_path / "stores"))
  runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
  assert len({run.run_id for run in runs}) == 1 and {run.project for run in runs} == {"cars"}
  assert {*runs[0].tags} == {"class_retrieval", "synthetic", "no words"}
  assert runs[0].display_name == tmp_path.name
  settings = {}
  for record in records:
    if record.WhichOneof("record_type") in ("run", "config"):
      update = record.run.config if record.HasField("run") else record.config
      settings |= values_of(update.update)
  assert settings["model.width"] == 16 and settings["versions"]["jax"] and settings["command"]
  assert "hidden" not in str(records) and "language.base_url" not in settings
  rows = [values_of(r.history.item) for r in records if r.HasField("history")]
  losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
  assert losses == [(step, 1 / step) for step in range(1, 9)]
  assert [row["step"] for row in rows if "val_map@r" in row] == [5, 6, 7, 8]
  tested = [(row["step"], row["test/recall@1"]) for row in rows if "test/recall@1" in row]
  assert tested == [(0, 0.125), (8, 0.5)]
  pictures = [row for row in rows if any("test-retrieval" in key for key in row)]
  assert len(pictures) == 1 and pictures[0]["step"] == 8
  (path,) = tmp_path.glob("stores/1/wandb/offline-run-*/files/media/images/*.png")
  assert np.asarray(Image.open(path))[0, 0].tolist() == [200, 30, 30]


def test_mlflow_has_every_step_once_and_one_run_over_a_kill(tmp_path, config_with, monkeypatch):
  pytest.importorskip("mlflow")
  from mlflow.tracking import MlflowClient

  monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
  config = config_with(
    train__tracker="mlflow", train__tracker_name="mine", language__base_url="http://hidden/v1"
  )
  serve(about(config, tmp_path, 0), *FIRST)
  serve(about(config, tmp_path, 4), *SECOND)
  # The evaluation alone, under another key of its own.
  config.evaluate.batch_size = 7
  serve(about(config, tmp_path), *SECOND[-6:])
  client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
  experiment = client.get_experiment_by_name("lafg_jax")
  (run,) = client.search_runs([experiment.experiment_id])
  assert run.info.run_name == "mine" and run.info.status == "FINISHED"
  assert run.data.params["model.width"] == "16" and "language.base_url" not in run.data.params
  assert run.data.tags["synthetic"] == "true" and run.data.tags["version.jax"]
  assert run.data.tags["command"] and run.data.tags["changed.evaluate.batch_size"] == "7"
  assert "hidden" not in str(run.to_dictionary())

  def history(name):
    return [(x.step, x.value) for x in client.get_metric_history(run.info.run_id, name)]

  assert history("loss") == [(step, 1 / step) for step in range(1, 9)]
  assert [step for step, _ in history("val_map_at_r")] == [5, 6, 7, 8]
  assert history("test/recall_at_1") == [(0, 0.125), (8, 0.5)]
  (picture,) = client.list_artifacts(run.info.run_id)
  assert picture.path == "test-retrieval_000000008.png"
  # Another training from the start is another run; another config alone, or a rerun, is not.
  for changes, start, same in (({}, 0, True), ({"seed": 9}, None, True), ({"seed": 9}, 0, False)):
    other = config_with(train__tracker="mlflow", train__tracker_name="mine", **changes)
    told = about(other, tmp_path, start)
    assert (told["run"] == run.info.run_id) == same == bool(told["sent"]), (changes, start)
  # So is one for another server.
  monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
  assert about(config, tmp_path)["run"] is None


# A stand-in for W&B that notes the rows it gets in $NOTES, and in which one thing goes wrong.
FAKE = """
import json, os, sys, time
class Settings:
  def __init__(self, **unused): pass
def Image(picture): return picture.size
class Config:
  def update(self, *unused, **options): pass
class Run:
  id, url, config = "an-id", "https://runs/1", Config()
  def define_metric(self, *unused, **options): pass
  def log(self, row):
    LOG
    with open(os.environ["NOTES"], "a") as file:
      file.write(json.dumps(row) + "\\n")
  def finish(self, exit_code):
    FINISH
def init(**options):
  INIT
  return Run()
IMPORT
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """`fake(init="raise ...")`: `import wandb` in the tracker's process gives this stand-in."""

  def make(**parts):
    text = FAKE
    for name in ("import", "init", "log", "finish"):
      text = text.replace(name.upper() + "\n", parts.get(name, "pass") + "\n")
    folder = tmp_path / "fake" / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(text)
    # Before the tracker itself: `launch` puts this checkout first, which has no module wandb.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"

  return make


@pytest.fixture
def started(monkeypatch):
  """The processes that `launch` starts."""
  found, start = [], subprocess.Popen

  def popen(*args, **options):
    found.append(start(*args, **options))
    return found[-1]

  monkeypatch.setattr(trackers.subprocess, "Popen", popen)
  return found


def log_steps(config, workdir, start, steps):
  """A training's log without a training."""
  with metrics_log.MetricsLog(str(workdir), start, config.train, MADE, FEED) as log:
    for step in steps:
      log.validated(step, {"val_map@r": step / 100})


@pytest.mark.parametrize(
  ("parts", "said"),
  [
    ({"import": "raise ImportError('a broken wheel')"}, "ImportError: a broken wheel"),
    ({"init": "raise RuntimeError('no key\\n for http://me:pw@host/x')"}, "no key for http://...@"),
    ({"init": "time.sleep(1000)"}, "did not finish within"),
    ({"log": "raise OSError(28, 'No space left on device')"}, "No space left on device"),
    ({"log": "time.sleep(1000)"}, "did not finish within"),
    ({"log": "sys.exit('enough')"}, "SystemExit: enough"),
    ({"log": "os._exit(3)"}, "its process ended"),
    ({"finish": "raise ConnectionError('refused')"}, "ConnectionError: refused"),
    ({"finish": "time.sleep(1000)"}, "did not finish within"),
  ],
)
def test_a_tracker_that_fails_costs_one_warning_and_no_time(
  tmp_path, config_with, fake, started, monkeypatch, caplog, parts, said
):
  fake(**parts)
  # An import of Python's takes longer than that where the machine is busy; a hung call is hung.
  monkeypatch.setattr(trackers, "FINISH_S", 1.0 if "within" in said else 60)
  config = config_with(train__tracker="wandb", train__steps=100)
  with caplog.at_level("WARNING", logger="absl"):
    with trackers.session(config, str(tmp_path / "run")):
      (tmp_path / "run").mkdir()
      begun = time.monotonic()
      log_steps(config, tmp_path / "run", 0, range(1, 101))
      metrics_log.evaluated(str(tmp_path / "run"), RESULT)
      assert time.monotonic() - begun < 30
  warnings = [record.getMessage() for record in caplog.records]
  assert len(warnings) == 1 and warnings[0].startswith("wandb: ") and "\n" not in warnings[0]
  assert said in warnings[0] and warnings[0].endswith("; the run goes on without it")
  lines = metrics_log.read(str(tmp_path / "run" / metrics_log.FILE))
  assert [line["step"] for line in lines] == list(range(1, 101))
  (process,) = started
  assert process.poll() is not None, "nothing of it stays"


def test_a_process_that_cannot_be_started_is_a_warning(tmp_path, config_with, monkeypatch, caplog):
  def popen(*args, **options):
    raise BlockingIOError(11, "Resource temporarily unavailable")

  monkeypatch.setattr(trackers.subprocess, "Popen", popen)
  config = config_with(train__tracker="wandb")
  with caplog.at_level("WARNING", logger="absl"), trackers.session(config, str(tmp_path)):
    log_steps(config, tmp_path, 0, [1, 2])
  assert caplog.text.count("temporarily unavailable; the run goes on without it") == 1


def test_a_tracker_gets_the_lines_of_metrics_jsonl_and_one_process(
  tmp_path, config_with, fake, started
):
  notes = fake(init="print('noise'); sys.stderr.write('noise')")
  config = config_with(train__tracker="wandb", train__steps=8)
  with trackers.session(config, str(tmp_path)):
    log_steps(config, tmp_path, 0, range(1, 7))
    metrics_log.evaluated(str(tmp_path), RESULT)
    metrics_log.pictured(str(tmp_path), RESULT, "retrieval", png())
  assert len(started) == 1
  rows = [json.loads(line) for line in notes.read_text().splitlines()]
  assert rows[:6] == metrics_log.read(str(tmp_path / metrics_log.FILE))
  assert rows[6]["step"] == 0 and rows[6]["test/recall@1"] == 0.125
  assert rows[7:] == [
    {"step": 8, "test/recall@1": 0.5, "test/map@r": 0.25, "test/r_precision": 0.3},
    {"step": 8, "test-retrieval": [12, 8]},
  ]
  # Outside of a session, as in a cell of a study, nothing is opened.
  log_steps(config, tmp_path, 6, [7])
  assert len(started) == 1 and len(notes.read_text().splitlines()) == len(rows)


def test_only_the_first_process_has_a_tracker(tmp_path, config_with, monkeypatch):
  monkeypatch.setattr(trackers, "launch", lambda about: pytest.fail("a second run"))
  monkeypatch.setattr(trackers.distributed, "process_index", lambda: 1)
  with trackers.session(config_with(train__tracker="wandb"), str(tmp_path)):
    assert trackers.begin(0) is trackers.NONE


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": 1}', '{"run": "a", "sent": 3}'])
def test_a_damaged_record_is_a_new_run_with_a_warning(tmp_path, config_with, content, caplog):
  (tmp_path / tracker_process.FILE).write_text(content)
  with caplog.at_level("WARNING", logger="absl"):
    told = about(config_with(train__tracker="wandb"), tmp_path)
  assert told["run"] is None and told["sent"] == {} and "tracker.json is damaged" in caplog.text


URL = "--config.language.base_url"


@pytest.mark.parametrize(
  ("words", "shown"),
  [
    ([f"{URL}=http://h/v1"], f"{URL}=..."),
    ([URL, "http://h/v1", "--stage=train"], f"{URL} ... --stage=train"),
    (["--workdir=s3://me:pw@host/x"], "--workdir=s3://...@host/x"),
    (["--config.data.root=/a b"], "'--config.data.root=/a b'"),
    (["--config.language.llm", "m", URL[1:] + "=x"], f"--config.language.llm m {URL[1:]}=..."),
  ],
)
def test_a_command_is_shown_without_secrets(words, shown):
  assert shlex.join(secrets.command(["main", *words])) == f"main {shown}"


def test_a_killed_run_leaves_no_tracker_behind(tmp_path, config_with, fake):
  """Its process notices the end of the pipe, and ends also where the tracker hangs."""
  fake(log="time.sleep(1000)")
  told = json.dumps(trackers._about(config_with(train__tracker="wandb"), str(tmp_path), 0))
  program = trackers._PROGRAM.replace("; ", "; tracker_process.FINISH_S = -4; ", 1)
  path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ["PYTHONPATH"]])
  process = subprocess.Popen(
    [trackers.sys.executable, "-c", program],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": path},
    text=True,
  )
  process.stdin.write(told + '\n["scalars", 1, {"loss": 1}]\n')
  process.stdin.close()
  assert process.wait(60) == -trackers.signal.SIGALRM
