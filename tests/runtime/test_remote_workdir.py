"""Runs in a bucket: gone on with on another machine, shared by processes, and cut off from it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from lafg_jax.runtime import distributed, remote_workdir
from lafg_jax.tasks.class_retrieval import train
from lafg_jax.training import checkpoints
from lafg_jax.utils.errors import Incomplete, UserError

ROOT = Path(__file__).resolve().parents[2]
URL = "gs://bucket/run"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
  monkeypatch.setattr(remote_workdir, "WAITS_S", (0.01, 0.01))
  monkeypatch.setattr(remote_workdir, "LOOK_S", 0.01)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine-1"))


def folder_of(url=URL):
  folder = remote_workdir.local_folder(url)
  os.makedirs(folder, exist_ok=True)
  return folder


def trained(config, dataset, prototypes, url=URL):
  folder = folder_of(url)
  with remote_workdir.synced(url, folder):
    assert train.run(config, folder, dataset, prototypes) == (config.train.steps, False)
  return checkpoints.latest(folder)[0]


def test_a_preempted_run_goes_on_on_another_machine_bit_for_bit(
  bucket, config_with, dataset, prototypes, tmp_path, monkeypatch, caplog
):
  config = config_with(train__steps=4, train__checkpoint_every=1, train__keep_checkpoints=3)
  train.run(config, str(tmp_path / "local"), dataset, prototypes)
  expected = checkpoints.latest(str(tmp_path / "local"))[0]
  trained(config, dataset, prototypes)
  run = bucket / "run"
  # Its empty folders are of this stand-in: a bucket has none.
  found = {path.parts[-3] for path in run.glob("checkpoints/*/meta/metadata")}
  assert found == {"2", "3", "4"}
  # Preempted after step 2, while 3 was on its way.
  shutil.rmtree(run / "checkpoints/4")
  (run / "checkpoints/3/meta/metadata").unlink()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine-2"))
  got = trained(config, dataset, prototypes)
  assert "skipping the half-uploaded checkpoint gs://bucket/run/checkpoints/3" in caplog.text
  assert list(run.glob("tensorboard/*.000000002")), "it did not go on from step 2"
  for arrays in (got, checkpoints.latest(str(run))[0]):
    assert arrays.keys() == expected.keys()
    for path, x in expected.items():
      np.testing.assert_array_equal(arrays[path], x, err_msg=path)
  lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
  assert lines[-2:] == [3, 4]


def cut_off(monkeypatch):
  put, down = LocalFileSystem.put_file, [True]

  def failing(self, *args, **kwargs):
    if down[0]:
      raise OSError("no route to the bucket")
    return put(self, *args, **kwargs)

  monkeypatch.setattr(LocalFileSystem, "put_file", failing)
  return down


def test_a_failing_upload_is_told_once_and_made_up_for(bucket, monkeypatch, caplog):
  down, folder = cut_off(monkeypatch), Path(folder_of())
  with remote_workdir.synced(URL, str(folder)):
    (folder / "a").write_text("1")
    remote_workdir.exchange()
    (folder / "b").write_text("2")
    remote_workdir.exchange()
    assert caplog.text.count("gs://bucket/run cannot be written (no route to the bucket)") == 1
    assert not (bucket / "run/a").exists()
    down[0] = False
    remote_workdir.exchange()
    assert (bucket / "run/a").exists() and (bucket / "run/b").exists()
  down[0] = True
  with pytest.raises(UserError, match="gs://bucket/run cannot be written: no route"):
    # The first that is written says so, before any work.
    (folder / "c").write_text("3")
    remote_workdir.synced(URL, str(folder)).__enter__()


def test_a_run_whose_last_upload_fails_is_incomplete(bucket, monkeypatch):
  down, folder = cut_off(monkeypatch), Path(folder_of())
  with pytest.raises(Incomplete, match=f"cannot be written .no route.*{folder}"):
    with remote_workdir.synced(URL, str(folder)):
      (folder / "a").write_text("1")
  down[0] = False
  with remote_workdir.synced(URL, str(folder)):
    # What an earlier run could not upload is uploaded first.
    assert (bucket / "run/a").exists()


def test_an_error_is_told_with_both_places_and_loses_nothing(bucket):
  folder = Path(folder_of())
  with pytest.raises(UserError, match=f"{folder}/x is wrong .{folder} holds {URL}"):
    with remote_workdir.synced(URL, str(folder)):
      (folder / "a").write_text("1")
      assert remote_workdir.address(str(folder / "a")) == f"{URL}/a"
      raise UserError(f"{folder}/x is wrong")
  assert (bucket / "run/a").exists() and remote_workdir.address("x") == "x"


def test_another_process_downloads_what_it_reads(bucket, trained_run, monkeypatch):
  """Process 1, with what process 0 says given to it."""
  folder = Path(folder_of())
  with remote_workdir.synced(URL, str(folder)):
    shutil.copytree(trained_run, folder, dirs_exist_ok=True)
    remote_workdir.exchange()
    (bucket / "run/.shared").write_text("token")
    said = {"the workdir": "token", "the checkpoint": 1, "the upload": ""}
    with monkeypatch.context() as patch:
      patch.setattr(distributed, "process_index", lambda: 1)
      patch.setattr(distributed, "agree", lambda name, make: said[name])
      other = folder_of()
      assert other == f"{folder}-process1"
      with remote_workdir.synced(URL, other):
        assert (Path(other) / "metrics.jsonl").exists()
        assert checkpoints.steps(other) == []
        arrays, meta = checkpoints.shared(other)
        assert meta["step"] == 1 and checkpoints.steps(other) == [1]
        (bucket / "run/words").write_text("1")
        remote_workdir.exchange()
        assert (Path(other) / "words").exists()
      # It has uploaded nothing.
      said["the workdir"] = "another token"
      with pytest.raises(UserError, match="process 1 on .* does not see what process 0 writes"):
        remote_workdir.synced(URL, other).__enter__()


def test_the_command_in_a_bucket(tmp_path):
  """A file: URL, which a process of its own can read, as this file's bucket it cannot."""
  url = f"file://{tmp_path}/bucket/run"
  command = [sys.executable, "-m", "lafg_jax.main", "--config", "configs/synthetic.py"]
  told = []
  for machine in ("machine-1", "machine-2"):
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": str(ROOT),
      "XDG_CACHE_HOME": str(tmp_path / machine),
    }
    done = subprocess.run(
      [*command, f"--workdir={url}", "--stage=describe"],
      cwd=ROOT,
      env=environment,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    told.append(done.stderr)
  assert "running (first run)" in told[0] and "skipped (up to date)" in told[1]
  assert f"{url} is worked on in {tmp_path}/machine-2/lafg_jax/workdirs/" in told[1]
  assert {p.name for p in (tmp_path / "bucket/run").iterdir()} == {
    *("descriptions.jsonl", "run.json", "stages.json")
  }
