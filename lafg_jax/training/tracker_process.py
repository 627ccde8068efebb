"""What the process of an experiment tracker does; `trackers` starts it and talks to it.

It reads JSON lines from stdin: what the run is, then figures and pictures, then the end. To stdout
it writes {"at": where the run can be looked at}, and at last {"done": true} or {"failed": why}.
Nothing here imports jax. `<workdir>/tracker.json` has the tracker's id of the run, and what was
handed to it: a run that goes on after a kill sends nothing twice.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import queue
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lafg_jax.config import secrets as shown
from lafg_jax.utils import files

FILE = "tracker.json"
# Seconds that a tracker may take for what it has not sent when a run ends.
FINISH_S = 30
DEFAULT_PROJECT = "lafg_jax"


class Sink(NamedTuple):
  """A tracker that is open.

  run: its id of the run. at: where a person finds it. scalars: (step, {name: number}).
  image: (step, name, bytes of a PNG file). close: whether the command ended well.
  """

  run: str
  at: str
  scalars: Callable[[int, dict[str, float]], None]
  image: Callable[[int, str, bytes], None]
  close: Callable[[bool], None]


def main() -> None:
  """Serves one command to its end, or to the tracker's first error."""
  for number in (signal.SIGINT, signal.SIGTERM):
    # The command that was interrupted says when it has ended.
    signal.signal(number, signal.SIG_IGN)
  told = os.fdopen(os.dup(1), "w", encoding="utf-8")
  # What trackers print is not for the run's console.
  os.dup2(2, 1)

  def tell(**what: Any) -> None:
    with contextlib.suppress(OSError):
      print(json.dumps(what), file=told, flush=True)

  lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
  threading.Thread(target=_read, args=(lines,), daemon=True).start()
  try:
    serve(lines, tell)
    tell(done=True)
  except BaseException as error:
    tell(failed=shown.plain(" ".join(f"{type(error).__name__}: {error}".split()))[:500])
  # No thread and no exit handler of a tracker may hold the process.
  os._exit(0)


def _read(lines: queue.SimpleQueue[str | None]) -> None:
  """Takes every line at once, so that the run's process never waits, and notices its end."""
  for line in sys.stdin:
    lines.put(line)
  lines.put(None)
  # The system ends this process then, whatever it is doing. A live run gives up before.
  signal.alarm(FINISH_S + 5)


def serve(lines: queue.SimpleQueue[str | None], tell: Callable[..., None]) -> None:
  """Opens the tracker that the first line describes, and hands it the others to their end."""
  about = json.loads(lines.get() or "{}")
  sink = {"wandb": wandb_run, "mlflow": mlflow_run}[about["tracker"]](about)
  tell(at=sink.at)
  record = {key: about[key] for key in ("tracker", "to", "made_of", "sent")} | {"run": sink.run}
  _keep(about, record)
  well = False
  while (line := lines.get()) is not None:
    kind, *what = json.loads(line)
    if kind == "end":
      well = what[0]
    else:
      _hand_over(sink, record["sent"], kind, *what)
      _keep(about, record)
  sink.close(well)


def _keep(about: dict[str, Any], record: dict[str, Any]) -> None:
  with files.replacing(Path(about["workdir"], FILE)) as temporary:
    temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")


def _hand_over(sink: Sink, sent: dict[str, Any], kind: str, step: int, what: Any, data="") -> None:
  """Sends what was not sent before, and notes it in `sent`.

  Of training the last step of each name is kept, of evaluations every step's figure, of pictures
  the hash.
  """
  if kind == "scalars":
    new = {name: x for name, x in what.items() if step > sent.get(name, -1)}
    noted: dict[str, Any] = dict.fromkeys(new, step)
  elif kind == "figures":
    at = str(step)
    new = {name: x for name, x in what.items() if sent.get(name, {}).get(at) != x}
    noted = {name: sent.get(name, {}) | {at: x} for name, x in new.items()}
  else:
    png = base64.b64decode(data)
    mark = f"{step} {hashlib.sha256(png).hexdigest()}"
    if sent.get(what) != mark:
      sink.image(step, what, png)
      sent[what] = mark
    return
  if new:
    sink.scalars(step, new)
    sent |= noted


def wandb_run(about: dict[str, Any]) -> Sink:
  """Weights & Biases. Its own variables (WANDB_...) count where a key of the config is empty."""
  import wandb

  run = wandb.init(
    project=about["project"] or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
    name=about["name"] or os.environ.get("WANDB_NAME") or about["folder"],
    tags=about["tags"],
    id=about["run"] or secrets.token_hex(4),
    resume="allow",
    dir=os.environ.get("WANDB_DIR") or about["workdir"],
    # An address of a git remote may hold a token.
    settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
  )
  facts = {"command": about["command"], "versions": about["versions"]}
  run.config.update(about["config"] | facts, allow_val_change=True)
  # W&B's own step only rises, also in a run that goes on: 'step' is the step of training.
  run.define_metric("step")
  run.define_metric("*", step_metric="step")

  def image(step: int, name: str, png: bytes) -> None:
    from PIL import Image

    run.log({"step": step, name: wandb.Image(Image.open(io.BytesIO(png)))})

  return Sink(
    run.id,
    run.url or f"offline in {os.path.dirname(run.dir)}: wandb sync sends it",
    lambda step, values: run.log({"step": step} | values),
    image,
    lambda well: run.finish(exit_code=0 if well else 1),
  )


def mlflow_run(about: dict[str, Any]) -> Sink:
  """MLflow. Its own variables (MLFLOW_...) count where a key of the config is empty."""
  uri = os.environ.get("MLFLOW_TRACKING_URI") or Path(about["workdir"], "mlruns").resolve().as_uri()
  if "://" not in uri or uri.startswith("file:"):
    # MLflow asks for this consent to folders, which whoever names one has given.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
  # By default it asks a server that does not answer for a quarter of an hour.
  os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
  os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
  from mlflow.entities import Metric, Param
  from mlflow.tracking import MlflowClient

  client = MlflowClient(tracking_uri=uri)
  run = _mlflow_resumed(client, about["run"]) or _mlflow_created(client, about)
  number, known = run.info.run_id, run.data.params
  config = {_mlflow_name(key): str(x)[:6000] for key, x in about["config"].items()}
  params = [Param(key, x) for key, x in config.items() if key not in known]
  for first in range(0, len(params), 100):
    client.log_batch(number, params=params[first : first + 100])
  versions = {f"version.{name}": x for name, x in about["versions"].items()}
  facts = {"command": about["command"], **versions, **dict.fromkeys(about["tags"], "true")}
  # A parameter of MLflow never changes.
  facts |= {f"changed.{key}": x for key, x in config.items() if known.get(key, x) != x}
  for key, value in facts.items():
    client.set_tag(number, _mlflow_name(key), str(value)[:5000])

  def scalars(step: int, values: dict[str, float]) -> None:
    now = int(time.time() * 1000)
    metrics = [Metric(_mlflow_name(name), x, now, step) for name, x in values.items()]
    client.log_batch(number, metrics=metrics)

  def image(step: int, name: str, png: bytes) -> None:
    from PIL import Image

    client.log_image(number, Image.open(io.BytesIO(png)), f"{name}_{step:09d}.png")

  return Sink(
    number,
    f"{shown.plain(uri)} (experiment {run.info.experiment_id}, run {number})",
    scalars,
    image,
    lambda well: client.set_terminated(number, "FINISHED" if well else "FAILED"),
  )


def _mlflow_resumed(client: Any, number: str | None) -> Any:
  """The run of this id, running again; None where this store has none."""
  from mlflow.exceptions import MlflowException

  if not number:
    return None
  try:
    found = client.get_run(number)
  except MlflowException as error:
    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
      raise
    return None
  client.update_run(number, status="RUNNING")
  return found


def _mlflow_created(client: Any, about: dict[str, Any]) -> Any:
  from mlflow.exceptions import MlflowException

  about["sent"].clear()
  number = None if about["project"] else os.environ.get("MLFLOW_EXPERIMENT_ID")
  if not number:
    name = about["project"] or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
    found = client.get_experiment_by_name(name)
    try:
      number = found.experiment_id if found else client.create_experiment(name)
    except MlflowException:
      # Another run may have created it meanwhile.
      found = client.get_experiment_by_name(name)
      if found is None:
        raise
      number = found.experiment_id
  name = about["name"] or os.environ.get("MLFLOW_RUN_NAME") or about["folder"]
  return client.create_run(number, run_name=name)


def _mlflow_name(name: str) -> str:
  """MLflow takes no '@' in names: 'recall_at_1'."""
  return re.sub(r"[^\w. :/-]", "_", name.replace("@", "_at_"))
