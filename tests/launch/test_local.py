"""N processes on this machine: what they are told, their end, and a real run of two."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "launch" / "local.sh"
CONFIG = ("--config", "configs/synthetic.py:prototypes")
AWKWARD = ("--workdir", "a b/it's", '--config.language.prompt=a $HOME of "*"\n{};', "--config.x=")


def own(process, count, port=7):
  return [
    f"--coordinator=127.0.0.1:{port}",
    f"--num_processes={count}",
    f"--process_id={process}",
  ]


def test_every_process_gets_the_words_unchanged_and_its_own_number(stand_ins, fake_python):
  logs = stand_ins.folder / "lo gs"
  done = stand_ins.run(
    LOCAL,
    "--processes=3",
    "--port=7",
    f"--logs={logs}",
    f"--python={fake_python}",
    *CONFIG,
    *AWKWARD,
  )
  assert done.returncode == 0, done.stderr
  for process in range(3):
    words = stand_ins.main(process)["words"]
    assert words == ["-m", "lafg_jax.main", *CONFIG, *AWKWARD, *own(process, 3)]
    assert stand_ins.main(process)["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
  assert done.stdout == "process 0 speaks\n"
  assert (logs / "process-2.log").read_text() == "process 2 speaks\n"


def test_devices_are_shared_out(stand_ins, fake_python):
  options = (LOCAL, "--processes=2", "--port=7", f"--python={fake_python}", *CONFIG)
  stand_ins.run(*options, "--gpus-per-process=2")
  assert [stand_ins.main(i)["env"]["CUDA_VISIBLE_DEVICES"] for i in (0, 1)] == ["0,1", "2,3"]
  stand_ins.run(*options, "--devices-per-process=4", XLA_FLAGS="--xla_a=1")
  for process in (0, 1):
    environment = stand_ins.main(process)["env"]
    assert environment["XLA_FLAGS"] == "--xla_a=1 --xla_force_host_platform_device_count=4"
    assert environment["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize("config", [CONFIG[1], "configs/image_text/finches.py:seen"])
def test_a_dry_run_prints_what_would_run(stand_ins, fake_python, commands, config):
  words = ("--config", config, *AWKWARD)
  done = stand_ins.run(LOCAL, "--dry-run", "--processes=2", "--port=7", *words)
  for process, command in enumerate(commands(done)):
    assert command[:2] == ["env", f"PYTHONPATH={ROOT}"] or "PYTHONPATH" in os.environ
    main = command[command.index("python") :]
    assert main == ["python", "-m", "lafg_jax.main", *words, *own(process, 2)]
  assert not list(stand_ins.folder.glob("main-*"))


@pytest.mark.parametrize("failing", [0, 1])
def test_one_failure_ends_the_others_and_is_the_exit_code(stand_ins, fake_python, failing):
  codes = json.dumps({str(failing): 3})
  options = (LOCAL, "--processes=2", "--port=7", f"--python={fake_python}", *CONFIG)
  done = stand_ins.run(*options, CODES=codes, WAIT="1")
  assert done.returncode == 3
  assert f"process {failing} ended with exit code 3" in done.stderr
  assert stand_ins.main(1 - failing)["terms"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once(stand_ins, fake_python, number):
  options = (LOCAL, "--processes=2", "--port=7", f"--python={fake_python}", *CONFIG)
  running = stand_ins.begin(*options, WAIT="1")
  for process in (0, 1):
    stand_ins.main(process)
  # As a terminal does: to the whole group.
  os.killpg(running.pid, number)
  _, stderr = running.communicate(timeout=60)
  assert running.returncode == 75 and "error" not in stderr
  assert [stand_ins.main(process)["terms"] for process in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
  "words, said",
  [
    ((*CONFIG,), "--processes"),
    (("--processes=0", *CONFIG), "--processes=0"),
    (("--processes=two", *CONFIG), "--processes=two"),
    (("--processes=2",), "no config"),
    (("--processes=2", *CONFIG, "--process_id=1"), "--process_id"),
    (("--processes=2", "--gpus-per-process=1", "--devices-per-process=1", *CONFIG), "CPUs"),
    (("--processes=2", "--python=/no/such", *CONFIG), "/no/such"),
  ],
)
def test_a_misuse_is_one_line(stand_ins, is_one_line, words, said):
  is_one_line(stand_ins.run(LOCAL, *words), said)


def test_two_real_processes_train(stand_ins, small, tmp_path):
  overrides = [f"--config.{key}={value}" for key, value in small.items()]
  done = stand_ins.run(
    *(LOCAL, "--processes=2", "--devices-per-process=1", f"--python={sys.executable}"),
    *(f"--logs={tmp_path}/logs", *CONFIG, f"--workdir={tmp_path}/run", "--stage=train"),
    *(*overrides, "--config.train.steps=2", "--config.loss.alignment=none"),
    HF_HUB_OFFLINE="1",
  )
  assert done.returncode == 0, done.stderr + (tmp_path / "logs" / "process-1.log").read_text()
  rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  # One writer: each step once.
  assert [json.loads(row)["step"] for row in rows] == [1, 2]
  assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
