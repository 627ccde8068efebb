"""Several processes train, save, restore and evaluate as one does, and stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from lafg_jax.runtime import distributed
from lafg_jax.training import checkpoints, metrics_log
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CHECK = str(Path(__file__).parent / "check_distributed.py")
# Name of a topology: processes, devices of each.
TOPOLOGIES = {"1": (1, 1), "2": (1, 2), "8": (1, 8), "2x4": (2, 4)}
# 15 rows are padded to 16 on 8 devices; every step is logged.
RUN = {"data.images_per_class": 3, "loss.alignment": "prototype", "train.checkpoint_every": 20}
SGD = {"train.optimizer": "sgd", "train.learning_rate": 0.1}
ADAMW = {"train.optimizer": "adamw", "train.learning_rate": 1e-3}


def environment(devices):
  flag = f" --xla_force_host_platform_device_count={devices}"
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flag,
    "PYTHONPATH": str(ROOT),
  }


def flags_of(processes):
  """The flags of each of so many processes, on a port that was free a moment ago."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  if processes == 1:
    return [[]]
  shared = [f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
  return [[*shared, f"--process_id={k}"] for k in range(processes)]


def start(command, processes, devices, **kwargs):
  """One process for each of the run, its stderr in a pipe."""
  return [
    subprocess.Popen(
      [sys.executable, *command, *flags],
      cwd=ROOT,
      env=environment(devices),
      stderr=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      **kwargs,
    )
    for flags in flags_of(processes)
  ]


@pytest.fixture
def ended():
  """Processes that are ended after the test, whatever becomes of it."""
  all_ = []
  yield all_
  for process in all_:
    process.kill()
    process.communicate()


def finish(processes):
  """(exit code, stderr) of each."""
  return [(p.wait(), e) for p, (_, e) in [(p, p.communicate(timeout=500)) for p in processes]]


def check(folder, topologies, trains, runs, changes, ended):
  """What check_distributed.py has written for each of the topologies."""
  for name in topologies:
    spec = {"changes": changes, "runs": runs, "trains": name in trains, "saved": trains}
    ended += start([CHECK, str(folder), name, json.dumps(spec)], *TOPOLOGIES[name])
  for code, stderr in finish(ended):
    assert code == 0, stderr
  results = {}
  for name in topologies:
    with np.load(folder / f"{name}.npz") as npz:
      results[name] = dict(npz)
    processes, devices = TOPOLOGIES[name]
    assert results[name]["processes"] == processes
    assert results[name]["devices"] == processes * devices
  return results


def assert_alike(folder, results, trains, runs):
  first = trains[0]
  for run in runs:
    for saved in trains:
      loss = results[saved][f"loss {run}"]
      np.testing.assert_allclose(loss, results[first][f"loss {run}"], rtol=1e-4)
      mine = results[first][f"vectors {saved} {run}"]
      # The same training, whatever it ran on, as far as its embeddings tell.
      np.testing.assert_allclose(mine, results[first][f"vectors {first} {run}"], atol=1e-4)
      for name, result in results.items():
        # The same checkpoint, whatever it is restored on.
        np.testing.assert_allclose(
          result[f"vectors {saved} {run}"], mine, atol=1e-6, err_msg=f"{run}: {saved} on {name}"
        )
        metrics = f"metrics {saved} {run}"
        # Embeddings that differ in their last bit turn a near tie or two among 600 images.
        np.testing.assert_allclose(result[metrics], results[first][metrics], atol=1e-4)
  for saved in trains[1:]:
    one, other = (checkpoints.latest(str(folder / name / "sgd"))[0] for name in (first, saved))
    assert one.keys() == other.keys()
    for path, x in one.items():
      np.testing.assert_allclose(other[path], x, rtol=1e-5, atol=1e-5, err_msg=f"{saved} {path}")


def test_two_processes_of_four_devices_train_restore_and_evaluate_as_eight_and_one(
  tmp_path, small, ended
):
  runs, trains = {"sgd": SGD, "adamw": ADAMW}, ["1", "8", "2x4"]
  changes = small | RUN | {"train.steps": 20}
  results = check(tmp_path, list(TOPOLOGIES), trains, runs, changes, ended)
  assert len(results["1"]["loss sgd"]) == 20
  assert_alike(tmp_path, results, trains, runs)


def test_two_processes_train_restore_and_evaluate_as_one(tmp_path, small, ended):
  runs, trains = {"sgd": SGD}, ["1", "2x4"]
  changes = small | RUN | {"train.steps": 3}
  results = check(tmp_path, trains, trains, runs, changes, ended)
  assert_alike(tmp_path, results, trains, runs)


def start_main(workdir, small, *extra):
  changes = small | {"train.steps": 4000, "train.checkpoint_every": 4000}
  command = ["-m", "lafg_jax.main", "--config", "configs/synthetic.py:prototypes"]
  command += [f"--workdir={workdir}", "--stage=train", "--config.loss.alignment=orthogonal", *extra]
  return start([*command, *(f"--config.{k}={v}" for k, v in changes.items())], 2, 1)


def wait_for_lines(workdir, count, processes):
  until = time.monotonic() + 300
  while len(metrics_log.read(str(workdir / metrics_log.FILE))) < count:
    ended = [p for p in processes if p.poll() is not None]
    assert not ended, ended[0].stderr.read()
    assert time.monotonic() < until
    time.sleep(0.05)


def test_sigterm_to_one_stops_all_at_one_step_and_a_hung_one_is_named(tmp_path, small, ended):
  ended += start_main(tmp_path, small)
  wait_for_lines(tmp_path, 2, ended)
  ended[1].send_signal(signal.SIGTERM)
  (code, told), (other_code, other) = finish(ended)
  assert (code, other_code) == (75, 75), told + other
  stopped = checkpoints.steps(str(tmp_path))[0]
  assert f"stopped at step {stopped} of 4000" in told
  # One tells how the run goes; the other only warns.
  assert "step 1/4000" in told and "step 1/4000" not in other
  lines = [line["step"] for line in metrics_log.read(str(tmp_path / metrics_log.FILE))]
  assert lines == list(range(1, stopped + 1))

  again = start_main(tmp_path, small, "--peer_timeout_s=5")
  ended += again
  wait_for_lines(tmp_path, stopped + 2, again)
  again[1].send_signal(signal.SIGSTOP)
  _, stderr = again[0].communicate(timeout=120)
  assert f"going on from the checkpoint of step {stopped}" in stderr
  assert again[0].returncode == 1
  last = stderr.splitlines()[-1]
  assert (
    last.startswith(f"error: process 1 of 2 ({socket.gethostname()}) ") and "peer_timeout" in last
  )
  assert "Traceback" not in stderr


def test_a_killed_process_is_named_and_an_error_of_one_is_told_by_all(tmp_path, small, ended):
  ended += start_main(tmp_path / "killed", small)
  wait_for_lines(tmp_path / "killed", 2, ended)
  ended[1].kill()
  _, stderr = ended[0].communicate(timeout=120)
  assert ended[0].returncode == 1
  assert "error: process 1 of 2 (" in stderr.splitlines()[-1]
  assert "ended without a word" in stderr.splitlines()[-1]
  # Process 0 alone reads the checkpoints, and finds nothing but damage.
  for step in ("1", "2"):
    (tmp_path / "damaged" / "checkpoints" / step).mkdir(parents=True)
  for code, stderr in finish(start_main(tmp_path / "damaged", small)):
    assert code == 2
    assert "all 2 checkpoints in" in stderr.splitlines()[-1] and "Traceback" not in stderr


@pytest.fixture
def parsed():
  """Sets absl's flags, and takes it back."""
  before = flags.FLAGS.is_parsed()
  saved = {name: flags.FLAGS[name].value for name in flags.FLAGS if before}

  def set_(**values):
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    for name, value in values.items():
      flags.FLAGS[name].value = value

  yield set_
  for name in ("coordinator", "num_processes", "process_id", "distributed", "peer_timeout_s"):
    flags.FLAGS[name].value = saved.get(name, flags.FLAGS[name].default)
  if not before:
    flags.FLAGS.unparse_flags()


ALL = {"coordinator": "host:8476", "num_processes": 4, "process_id": 3}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"coordinator": None}, "no --coordinator"),
    ({"process_id": None}, "no --process_id"),
    ({"process_id": 4}, "--process_id=4: it takes 0 to 3"),
    ({"process_id": -1}, "--process_id=-1"),
    ({"coordinator": "host"}, "--coordinator=host: it takes HOST:PORT"),
    ({"coordinator": "http://host:1"}, "HOST:PORT"),
    ({"distributed": "off"}, "--distributed=off"),
    ({"peer_timeout_s": 0.0}, "--peer_timeout_s=0.0"),
  ],
)
def test_flags_that_do_not_go_together_are_one_line(parsed, changes, message):
  parsed(**(ALL | changes))
  with pytest.raises(UserError, match=message):
    distributed._arguments()


SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "n[1-2]",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
  "SLURM_NTASKS": "2",
}


def test_what_is_joined_is_found_out(parsed, monkeypatch):
  for name in (*SLURM, "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "MEGASCALE_NUM_SLICES"):
    monkeypatch.delenv(name, raising=False)
  parsed()
  assert distributed._arguments() is None
  parsed(**ALL)
  assert distributed._arguments() == {
    "coordinator_address": "host:8476",
    "num_processes": 4,
    "process_id": 3,
  }
  # What all of this machine take part in is open to none but this machine.
  for host in ("localhost", "127.0.0.1", "[::1]"):
    parsed(coordinator=f"{host}:8476")
    assert distributed._arguments()["coordinator_bind_address"] == f"{host}:8476"
  parsed(num_processes=1, process_id=0)
  assert distributed._arguments() is None
  parsed(coordinator=None, num_processes=None, process_id=None)
  for variable, value, several in (
    ("TPU_WORKER_HOSTNAMES", "a,b", True),
    ("TPU_WORKER_HOSTNAMES", "a", False),
    ("MEGASCALE_NUM_SLICES", "2", True),
  ):
    with monkeypatch.context() as patch:
      patch.setenv(variable, value)
      assert (distributed._arguments() == {}) is several
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  assert distributed._arguments() == {}
  parsed(distributed="off")
  assert distributed._arguments() is None
  parsed(distributed="auto")
  # A batch script has the job's variables, and those of no step; and a step may be of one task.
  with monkeypatch.context() as patch:
    patch.delenv("SLURM_STEP_NODELIST")
    assert distributed._arguments() is None
  monkeypatch.setenv("SLURM_NTASKS", "1")
  assert distributed._arguments() is None


def test_alone_nothing_is_waited_for(tmp_path):
  assert distributed.agree("anything", lambda: 3) == 3
  distributed.barrier("anything")
  distributed.beat(1)
  distributed.check_shared(str(tmp_path))
  assert not list(tmp_path.iterdir())
  assert (distributed.process_index(), distributed.process_count()) == (0, 1)
