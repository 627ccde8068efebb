"""The Slurm script between stand-ins for srun, scancel, squeue and scontrol."""

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BATCH = ROOT / "launch" / "slurm.sbatch"
WORDS = ("--config", "configs/synthetic.py", "--workdir", "a b/it's", "--config.x=$HOME * \n")

# Two tasks, which alone get signals; the highest exit code, as srun has it.
SRUN = """#!{python} -IS
import os, subprocess, sys
if {fails}:
  sys.exit(7)
command = sys.argv[next(i for i, word in enumerate(sys.argv) if i and not word.startswith("-")) :]
tasks = []
for number in ("0", "1"):
  tasks.append(subprocess.Popen(command, env=os.environ | {{"SLURM_PROCID": number}}))
with open("{folder}/tasks.partial", "w") as file:
  file.write(" ".join(str(task.pid) for task in tasks))
os.rename("{folder}/tasks.partial", "{folder}/tasks")
sys.exit(max(task.wait() % 256 for task in tasks))
"""
SCANCEL = (
  """#!{python} -IS
import os, signal, sys
assert sys.argv[1:] == ["--signal=TERM", "17"], sys.argv
for pid in open("{folder}/tasks").read().split():
  os.kill(int(pid), signal.SIGTERM)
"""
  + """with open("{folder}/calls.jsonl", "a") as file:
  file.write('["scancel"]\\n')
"""
)
JOB = {
  "SLURM_JOB_ID": "17",
  "SLURM_SUBMIT_DIR": str(ROOT),
  "SLURM_NTASKS_PER_NODE": "2",
  "SLURM_GPUS_ON_NODE": "2",
  "SLURM_CPUS_PER_TASK": "3",
}


@pytest.fixture
def cluster(stand_ins):
  stand_ins.add("srun", SRUN.replace("{fails}", "False"))
  stand_ins.add("scancel", SCANCEL)
  stand_ins.add("squeue")
  stand_ins.add("scontrol")
  stand_ins.answer({"squeue": [(0, "RUNNING\n", "")]})
  return stand_ins


@pytest.fixture
def copied(tmp_path):
  """Where Slurm runs the script from: not from the checkout."""
  copy = tmp_path / "slurm_script"
  copy.write_bytes(BATCH.read_bytes())
  return copy


def begun(cluster, copied, fake_python, **more):
  command = ("bash", copied, f"--python={fake_python}", *WORDS)
  running = cluster.begin(*command, cwd="/", **JOB, **more)
  cluster.main(0), cluster.main(1)
  cluster.until((cluster.folder / "tasks").exists)
  return running


def test_a_run_that_ends_is_not_queued_again(cluster, copied, fake_python):
  done = cluster.run("bash", copied, f"--python={fake_python}", *WORDS, cwd="/", **JOB)
  assert done.returncode == 0, done.stderr
  assert cluster.main(1)["words"] == ["-m", "lafg_jax.main", *WORDS]
  assert cluster.main(1)["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
  assert cluster.calls() == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_saves_and_queues_again(cluster, copied, fake_python, number):
  running = begun(cluster, copied, fake_python, WAIT="1")
  running.send_signal(number)
  running.send_signal(number)
  _, stderr = running.communicate(timeout=60)
  assert running.returncode == 0, stderr
  assert [cluster.main(task)["terms"] for task in (0, 1)] == [1, 1]
  assert [call[0] for call in cluster.calls()] == ["scancel", "squeue", "scontrol"]
  assert cluster.calls()[-1] == ["scontrol", "requeue", "17"]


def test_tasks_that_slurm_stopped_by_itself_are_queued_again(cluster, copied, fake_python):
  running = begun(cluster, copied, fake_python, WAIT="1")
  for _ in range(2):
    for pid in (cluster.folder / "tasks").read_text().split():
      os.kill(int(pid), signal.SIGTERM)
  running.communicate(timeout=60)
  assert [cluster.main(task)["terms"] for task in (0, 1)] == [1, 1]
  assert [call[0] for call in cluster.calls()] == ["squeue", "scontrol"]


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PREEMPTED", ""])
def test_a_job_that_is_over_is_left_alone(cluster, copied, fake_python, state):
  cluster.answer({"squeue": [(0, f"{state}\n", "")]})
  running = begun(cluster, copied, fake_python, WAIT="1")
  running.send_signal(signal.SIGTERM)
  stdout, _ = running.communicate(timeout=60)
  assert running.returncode == 75 and f"the job is {state}" in stdout
  assert [call[0] for call in cluster.calls()] == ["scancel", "squeue"]


def test_a_failure_is_the_exit_code_and_is_not_queued_again(cluster, copied, fake_python):
  command = ("bash", copied, f"--python={fake_python}", *WORDS)
  done = cluster.run(*command, cwd="/", CODES='{"1": 3}', **JOB)
  assert done.returncode == 3
  assert done.stderr == "error: srun ended with exit code 3\n"
  assert cluster.calls() == []
  cluster.add("srun", SRUN.replace("{fails}", "True"))
  done = cluster.run(*command, cwd="/", **JOB)
  assert done.returncode == 7 and done.stderr == "error: srun ended with exit code 7\n"


def test_a_requeue_that_fails_says_what_to_do(cluster, copied, fake_python):
  cluster.answer({"squeue": [(0, "RUNNING\n", "")], "scontrol": [(1, "", "")]})
  running = begun(cluster, copied, fake_python, WAIT="1")
  running.send_signal(signal.SIGUSR1)
  _, stderr = running.communicate(timeout=60)
  assert running.returncode == 2
  assert stderr == "error: scontrol requeue failed: the run has saved; submit it again\n"


def test_a_task_that_is_stopped_before_main_listens_is_queued_again(stand_ins):
  task = ROOT / "launch" / "slurm_task.sh"
  running = stand_ins.begin("bash", task, "sleep", "20")
  stand_ins.until(lambda: "sleep" in children(running.pid))
  running.send_signal(signal.SIGTERM)
  running.communicate(timeout=60)
  assert running.returncode == 75


def children(pid):
  pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
  return " ".join(Path(f"/proc/{child}/cmdline").read_text() for child in pids)


def test_a_dry_run_calls_nothing(cluster, commands):
  done = cluster.run("bash", BATCH, "--dry-run", *WORDS)
  srun, tell, again = commands(done)
  assert srun[0] == "srun" and srun[-len(WORDS) - 3 :] == ["python", "-m", "lafg_jax.main", *WORDS]
  assert tell == ["scancel", "--signal=TERM", "JOB"] and again == ["scontrol", "requeue", "JOB"]
  assert cluster.calls() == []


@pytest.mark.parametrize(
  "words, more, said",
  [
    (WORDS, {}, "no Slurm job"),
    (WORDS, JOB | {"SLURM_GPUS_ON_NODE": "4"}, "--ntasks-per-node=2"),
    (WORDS, JOB | {"SLURM_SUBMIT_DIR": "/"}, "submit from the root"),
    (WORDS[2:], JOB, "no config"),
    ((*WORDS, "--coordinator=a:1"), JOB, "--coordinator"),
  ],
)
def test_a_misuse_is_one_line(cluster, is_one_line, words, more, said):
  is_one_line(cluster.run("bash", BATCH, *words, **more), said)
