"""The TPU script and a stand-in for gcloud: what is asked in every state, and when it gives up."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WHERE = ("--name=pod", "--zone=z", "--poll=0")
SLICE = (*WHERE, "--type=v5litepod-16")
WORDS = ("--config", "configs/synthetic.py", "--workdir=gs://b/it's", "--config.x=a $HOME * \n")
READY = (0, "READY\tv5litepod-16\n", "")
GONE = (1, "", "ERROR: (gcloud) NOT_FOUND: no such thing\n")
FULL = (1, "", "ERROR: There is no more capacity in the zone\n")


def state(name):
  return (0, f"{name}\tv5litepod-16\n", "")


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
  """A checkout of what the script copies."""
  folder = tmp_path_factory.mktemp("checkout")
  shutil.copytree(ROOT / "launch", folder / "launch")
  shutil.copytree(ROOT / "configs", folder / "configs")
  git = ("git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x", "-c", "gc.auto=0")
  subprocess.run([*git, "init", "-q"], check=True)
  subprocess.run([*git, "add", "."], check=True)
  subprocess.run([*git, "commit", "-qm", "all"], check=True)
  return folder


@pytest.fixture
def pod(stand_ins, repository):
  """Runs the script; `pod.verbs()` is what it asked of gcloud, in short."""
  stand_ins.add("gcloud")
  stand_ins.script = repository / "launch" / "tpu_pod.sh"
  stand_ins.pod = lambda *words: stand_ins.run(stand_ins.script, *words, cwd=Path("/"))
  stand_ins.verbs = lambda: [verb(call) for call in stand_ins.calls()]
  return stand_ins


def verb(call):
  assert call[:3] == ["gcloud", "compute", "tpus"] and "--zone=z" in call, call
  kind = "queued " if call[3] == "queued-resources" else ""
  if call[4] != "ssh":
    return kind + call[4]
  command = call[-1].split("tpu_worker.sh ", 1)[1].split()[0]
  worker = next(word for word in call if word.startswith("--worker="))
  return f"{command} {worker.removeprefix('--worker=')}"


RUN = ["scp", "install all", "start all", "follow 0"]


def test_a_slice_is_created_and_the_commit_runs_on_all_workers(pod):
  pod.answer({"tpu-vm + describe": [GONE, state("CREATING"), READY]})
  done = pod.pod(*SLICE, "--spot", "--project=p", *WORDS)
  assert done.returncode == 0, done.stderr
  assert pod.verbs() == ["describe", "create", "describe", "describe", *RUN]
  create, scp, install, start = (pod.calls()[i] for i in (1, 4, 5, 6))
  assert create[4:] == [
    *("create", "pod", "--version=v2-alpha-tpuv5-lite", "--zone=z", "--project=p"),
    *("--accelerator-type=v5litepod-16", "--spot", "--quiet"),
  ]
  commit = Path(scp[5]).name.removesuffix(".tar.gz")
  head = ["git", "-C", str(pod.script.parent), "rev-parse", "HEAD"]
  assert commit == subprocess.run(head, capture_output=True, text=True).stdout.strip()
  assert scp[6] == "pod:" and "--worker=all" in scp
  assert f"-C lafg_jax/{commit} " in install[-1] and install[-1].endswith("language,data,tpu")
  # The remote shell reads back what was typed.
  line = start[-1].removeprefix("--command=")
  read = ["bash", "-c", f"bash() {{ printf '%s\\0' \"$@\"; }}; {line}"]
  words = subprocess.run(read, capture_output=True, text=True).stdout.split("\0")[:-1]
  assert words == [f"lafg_jax/{commit}/launch/tpu_worker.sh", "start", *WORDS]


@pytest.mark.parametrize(
  "answers, before",
  [
    ([READY], ["describe"]),
    ([state("STOPPED"), state("STARTING"), READY], ["describe", "start", *["describe"] * 2]),
    ([state("REPAIRING"), READY], ["describe"] * 2),
    (
      [state("PREEMPTED"), state("PREEMPTED"), state("DELETING"), GONE, READY],
      ["describe", "queued describe", "describe", "delete", *["describe"] * 2]
      + ["create", "describe"],
    ),
  ],
)
def test_a_slice_that_is_there_is_used(pod, answers, before):
  pod.answer({"tpu-vm + describe": answers, "queued-resources + describe": [GONE]})
  done = pod.pod(*SLICE, *WORDS)
  assert done.returncode == 0, done.stderr
  assert pod.verbs() == [*before, *RUN]


def test_a_queued_resource_is_waited_for(pod):
  queue = ("WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  pod.answer(
    {
      "queued-resources + describe": [GONE, *((0, f"{name}\n", "") for name in queue)],
      "tpu-vm + describe": [READY],
    }
  )
  done = pod.pod(*SLICE, "--queued", "--spot", *WORDS)
  assert done.returncode == 0, done.stderr
  assert pod.verbs() == [
    *("queued describe", "queued create", *["queued describe"] * 4, "describe", *RUN)
  ]
  assert pod.calls()[1][4:] == [
    *("create", "pod", "--node-id=pod", "--runtime-version=v2-alpha-tpuv5-lite", "--zone=z"),
    *("--accelerator-type=v5litepod-16", "--spot", "--quiet"),
  ]
  assert done.stderr.count("WAITING_FOR_RESOURCES") == 1


@pytest.mark.parametrize("code", [255, 75, 1])
def test_a_preempted_slice_is_made_again_and_the_run_goes_on(pod, code):
  pod.answer(
    {
      # Ready, still said to be ready where the code speaks for it, preempted; then deleted, made.
      "tpu-vm + describe": [READY, *[READY] * (code != 1), *[state("PREEMPTED")] * 3, GONE, READY],
      "queued-resources + describe": [GONE],
      "follow": [(code, "", ""), (0, "the end\n", "")],
    }
  )
  done = pod.pod(*SLICE, "--spot", *WORDS)
  assert done.returncode == 0, done.stderr
  assert "the end" in done.stdout and "preempted (PREEMPTED), for the 1. time" in done.stderr
  verbs = pod.verbs()
  again = verbs[verbs.index("delete") :]
  assert again == ["delete", "describe", "create", "describe", *RUN]
  starts = [call for call in pod.calls() if "start" in verb(call)]
  assert starts[0] == starts[1]


def test_a_suspended_queued_resource_is_asked_for_again(pod):
  names = ("ACTIVE", "SUSPENDING", "SUSPENDING", "SUSPENDED", "SUSPENDED")
  pod.answer(
    {
      "queued-resources + describe": [
        *((0, f"{name}\n", "") for name in names),
        *(GONE, (0, "ACTIVE\n", "")),
      ],
      "tpu-vm + describe": [READY],
      "start": [(255, "", ""), (0, "", "")],
    }
  )
  done = pod.pod(*SLICE, "--queued", *WORDS)
  assert done.returncode == 0, done.stderr
  verbs = pod.verbs()
  assert verbs[verbs.index("queued delete") :] == [
    *("queued delete", "queued describe", "queued create", "queued describe", "describe", *RUN)
  ]
  assert "--force" in pod.calls()[verbs.index("queued delete")]


def test_preemptions_without_end_are_given_up(pod, is_one_line):
  pod.answer(
    {
      "tpu-vm + describe": [READY, state("PREEMPTED"), GONE, READY, state("PREEMPTED")],
      "queued-resources + describe": [GONE],
      "follow": [(255, "", "")],
    }
  )
  done = pod.pod(*SLICE, "--max-preemptions=1", *WORDS)
  assert done.returncode == 2 and "--max-preemptions=1" in done.stderr.splitlines()[-1]
  assert pod.verbs().count("follow 0") == 2


def test_a_lost_connection_is_taken_up_again(pod):
  answers = {"tpu-vm + describe": [READY], "follow": [(255, "", ""), (0, "", "")]}
  pod.answer(answers)
  done = pod.pod(*SLICE, *WORDS)
  assert done.returncode == 0, done.stderr
  follows = [call[-1].split()[-1] for call in pod.calls() if verb(call) == "follow 0"]
  assert follows == ["+1", "20"] and "create" not in pod.verbs()
  pod.answer(answers | {"scp": [(255, "", "")]})
  assert pod.pod(*SLICE, *WORDS).returncode == 255
  assert pod.verbs().count("scp") == 2 + 6


@pytest.mark.parametrize("where", ["scp", "install", "start", "follow"])
def test_a_failing_command_ends_it_with_its_code_and_the_last_lines(pod, where):
  pod.answer(
    {"tpu-vm + describe": [READY], where: [(3, "", "")], "last": [(0, "worker: no\n", "")]}
  )
  done = pod.pod(*SLICE, *WORDS)
  assert done.returncode == 3
  assert done.stderr.splitlines()[-2:-1] == ["worker: no"]
  assert done.stderr.splitlines()[-1].startswith("error: ") and "code 3" in done.stderr
  assert pod.verbs()[-1] == "last all" and "delete" not in pod.verbs()


def test_a_run_that_was_told_to_stop_is_not_taken_up(pod):
  pod.answer({"tpu-vm + describe": [READY], "follow": [(75, "", "")]})
  done = pod.pod(*SLICE, *WORDS)
  assert done.returncode == 75 and "the same command goes on" in done.stderr
  assert pod.verbs().count("follow 0") == 1


def test_capacity_is_waited_for_and_other_refusals_are_not(pod, is_one_line):
  pod.answer({"tpu-vm + describe": [GONE, GONE, READY], "create": [FULL, (0, "", "")]})
  done = pod.pod(*SLICE, *WORDS)
  assert done.returncode == 0 and "no v5litepod-16 is free in z" in done.stderr
  refusal = "ERROR: (gcloud) Quota limit exceeded"
  pod.answer({"tpu-vm + describe": [GONE], "create": [(1, "", f"a\n{refusal}\n")]})
  done = pod.pod(*SLICE, *WORDS)
  assert done.returncode == 2 and done.stderr.splitlines()[-1] == f"error: gcloud: {refusal}"


@pytest.mark.parametrize(
  "answers, said",
  [
    ({"tpu-vm + describe": [(1, "", "a\nERROR: log in\n")]}, "gcloud: ERROR: log in"),
    ({"tpu-vm + describe": [state("HIDDEN")]}, "HIDDEN"),
    ({"tpu-vm + describe": [(0, "READY\tv2-8\n", "")]}, "--type=v2-8"),
    ({"queued-resources + describe": [(0, "FAILED\n", "")]}, "FAILED"),
  ],
)
def test_what_cannot_be_used_is_one_line(pod, is_one_line, answers, said):
  pod.answer(answers)
  queued = ["--queued"] if "queued-resources + describe" in answers else []
  is_one_line(pod.pod(*SLICE, *queued, *WORDS), said)


def test_the_network_may_fail_once_it_has_worked(pod):
  down = (1, "", "ERROR: no network\n")
  pod.answer({"tpu-vm + describe": [state("CREATING"), down, down, READY]})
  assert pod.pod(*SLICE, *WORDS).returncode == 0
  pod.answer({"tpu-vm + describe": [state("CREATING"), down]})
  done = pod.pod(*SLICE, *WORDS)
  assert done.returncode == 2 and done.stderr.endswith("error: gcloud: ERROR: no network\n")


@pytest.mark.parametrize(
  "queued, slice_, verbs",
  [
    (GONE, READY, ["queued describe", "describe", "delete"]),
    ((0, "ACTIVE\n", ""), READY, ["queued describe", "queued delete"]),
    (GONE, GONE, ["queued describe", "describe"]),
  ],
)
def test_tear_down_deletes_what_is_there(pod, queued, slice_, verbs):
  pod.answer({"queued-resources + describe": [queued], "tpu-vm + describe": [slice_]})
  done = pod.pod(*WHERE, "--tear-down")
  assert done.returncode == 0, done.stderr
  assert pod.verbs() == verbs


def test_tear_down_at_the_end_and_stopping(pod):
  pod.answer({"queued-resources + describe": [GONE], "tpu-vm + describe": [READY]})
  assert pod.pod(*SLICE, "--delete-when-done", *WORDS).returncode == 0
  assert pod.verbs()[-2:] == ["describe", "delete"]
  assert pod.pod(*WHERE, "--stop").returncode == 0
  assert pod.verbs()[-1] == "stop all"
  pod.answer({"tpu-vm + describe": [READY], "stop": [(2, "", "")]})
  assert pod.pod(*WHERE, "--stop").returncode == 2


def test_ctrl_c_leaves_the_run_alone(pod):
  pod.answer({"tpu-vm + describe": [READY]})
  slow = "import time; 'tpu_worker.sh follow' in words and time.sleep(20)\nwith open("
  text = (pod.path / "gcloud").read_text().replace("with open(", slow, 1)
  (pod.path / "gcloud").write_text(text)
  running = pod.begin(pod.script, *SLICE, *WORDS, cwd=Path("/"))
  pod.until(lambda: "start all" in pod.verbs())
  # The stand-in sleeps before it records: it is there once the call before it has been answered.
  pod.until(lambda: b"follow" in tree(running.pid))
  os.killpg(running.pid, signal.SIGINT)
  _, stderr = running.communicate(timeout=60)
  assert running.returncode == 130 and "goes on without this terminal" in stderr
  assert "delete" not in pod.verbs() and "stop all" not in pod.verbs()


def tree(pid):
  children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
  return b" ".join(Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


@pytest.mark.parametrize("queued", [(), ("--queued",)])
def test_a_dry_run_prints_what_a_run_does(pod, commands, queued):
  printed = commands(pod.pod(*SLICE, *queued, "--dry-run", *WORDS))
  assert pod.calls() == []
  active = [(0, "ACTIVE\n", "")]
  pod.answer(
    {"tpu-vm + describe": [GONE, READY] * 2, "queued-resources + describe": [GONE, *active]}
  )
  if queued:
    pod.answer({"tpu-vm + describe": [READY], "queued-resources + describe": [GONE, *active]})
  pod.pod(*SLICE, *queued, *WORDS)
  asked = [command for command in printed if command[0] == "gcloud"]
  create = next(i for i, call in enumerate(asked) if call[4] == "create")
  # Besides the archive's name, word by word, from the creation on.
  real = pod.calls()[pod.verbs().index("queued create" if queued else "create") :]
  same = asked[create:][: len(real)]
  drop = lambda calls: [[w for w in c if not w.endswith(".tar.gz")] for c in calls]  # noqa: E731
  assert drop(same) == drop(real)


@pytest.mark.parametrize(
  "words, said",
  [
    (WORDS, "--name"),
    ((*WHERE, *WORDS), "--type"),
    ((*WHERE, "--type=v9-8", *WORDS), "--runtime"),
    ((*SLICE, *WORDS[2:]), "no config"),
    ((*SLICE, *WORDS[:2]), "--workdir="),
    ((*SLICE, *WORDS[:2], "--workdir", "runs/x"), "--workdir=runs/x"),
    ((*SLICE, *WORDS, "--extras=data; id"), "--extras=data; id"),
    ((*SLICE, "--config", "configs/none.py", WORDS[2]), "configs/none.py"),
    ((*SLICE, "--config=none:scratch", WORDS[2]), "configs/none.py"),
    ((*SLICE, "--commit=none", *WORDS), "--commit=none"),
    ((*SLICE, "--process_id=1", *WORDS), "--process_id"),
    ((*WHERE, "--tear-down", *WORDS), "--tear-down"),
    ((*SLICE, "--poll=x", *WORDS), "--poll=x"),
  ],
)
def test_a_misuse_is_one_line(pod, is_one_line, words, said):
  is_one_line(pod.pod(*words), said)
  assert pod.calls() == []


def test_changes_that_are_not_committed_are_refused(pod, repository, is_one_line):
  file = repository / "configs" / "synthetic.py"
  before = file.read_text()
  file.write_text(before + "\n")
  try:
    is_one_line(pod.pod(*SLICE, *WORDS), "--commit=HEAD")
    pod.answer({"tpu-vm + describe": [READY]})
    assert pod.pod(*SLICE, "--commit=HEAD", *WORDS).returncode == 0
    named = ("--config=synthetic", *WORDS[2:])
    assert pod.pod(*SLICE, "--commit=HEAD", *named).returncode == 0
  finally:
    file.write_text(before)
