"""The whole command on the embedded default, with a model small enough for a test."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lafg_jax
from lafg_jax.data import datasets

ROOT = Path(__file__).resolve().parents[1]
CARS = ROOT.parent / "shared" / "data" / "stanford_cars"
GPT3 = ROOT.parent / "shared" / "data" / "descriptions" / "stanford_cars_gpt3.json"
SMALL = (
  "--config.data.image_size=16",
  "--config.data.resize_size=16",
  "--config.data.classes_per_batch=5",
  "--config.data.images_per_class=2",
  "--config.model.width=16",
  "--config.model.depth=1",
  "--config.model.num_heads=2",
  "--config.model.mlp_dim=32",
  "--config.model.embedding_dim=16",
  "--config.train.steps=4",
  "--config.train.log_every=1",
  "--config.train.checkpoint_every=2",
)


def main(workdir, *args, config="configs/synthetic.py:prototypes", code=0):
  command = [sys.executable, "-m", "lafg_jax.main", "--config", config, f"--workdir={workdir}"]
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
  }
  done = subprocess.run(
    [*command, *args], cwd=ROOT, env=environment, capture_output=True, text=True
  )
  assert done.returncode == code, done.stderr
  return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  done = main(workdir, *SMALL)
  return workdir, done


@pytest.fixture
def copied(finished, tmp_path):
  """A finished workdir that a test may change."""
  shutil.copytree(finished[0], tmp_path / "copy")
  return tmp_path / "copy"


def test_a_bare_run_writes_every_file_of_the_contract(finished):
  workdir, done = finished
  result = json.loads((workdir / "evaluation.json").read_text())
  assert result["dataset"] == "synthetic" and result["split"] == "test" and result["step"] == 4
  assert result["num_queries"] == result["num_gallery"] == 1200 and result["num_classes"] == 60
  assert "partial" not in result
  for metrics in (result, result["untrained"]):
    for name in ("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision"):
      assert 0 < metrics[name] < 1
  records = [json.loads(line) for line in (workdir / "descriptions.jsonl").open()]
  assert {"class", "description", "source"} <= set(records[0])
  with np.load(workdir / "prototypes.npz", allow_pickle=False) as npz:
    assert npz["prototypes"].shape == npz["queries"].shape == (40, npz["vocabulary"].shape[1])
    seen = set(npz["class_names"].tolist())
  assert {record["class"] for record in records} == seen
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
  assert [line["step"] for line in lines] == [1, 2, 3, 4]
  assert {"loss", "l_aux", "l_ali", "image_entropy", "text_spread", "learning_rate"} <= set(
    lines[0]
  )
  assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
  evaluated = (workdir / "tensorboard" / "evaluation").iterdir()
  # Of the untrained model, of the last step, and the picture.
  ends = sorted(path.name.partition(".test")[2] for path in evaluated)
  assert ends == ["-retrieval.000000004", ".000000000", ".000000004"]
  assert f"tensorboard --logdir {workdir}" in done.stdout
  assert (
    "before training" in done.stdout and "recall@1" in done.stdout and "report.html" in done.stdout
  )


def test_the_report_shows_figures_and_pictures(finished):
  workdir, _ = finished
  page = (workdir / "report.html").read_text()
  result = json.loads((workdir / "evaluation.json").read_text())
  assert f"<td>{100 * result['recall@1']:.1f}</td>" in page
  assert "data:image/jpeg;base64," in page
  # Outside of its scripts it names no address, and its policy lets it ask none.
  plain = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
  assert "http://" not in plain and "https://" not in plain and "default-src 'none'" in plain
  assert not re.search(r"<script[^>]* src=|<link", plain)
  found = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
  recall, loss, *_ = found["charts"]
  for k in (1, 2, 4, 8):
    at = recall["series"][0]["x"].index(k)
    assert recall["series"][0]["y"][at] == pytest.approx(100 * result[f"recall@{k}"], abs=1e-3)
    chance = dict(zip(recall["series"][2]["x"], recall["series"][2]["y"], strict=True))
    assert chance[k] == pytest.approx(100 * result["chance"][f"recall@{k}"], abs=1e-3)
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
  assert (loss["x"], loss["y"]) == ("training step", "loss, nats")
  assert loss["series"][0]["y"] == pytest.approx([line["loss"] for line in lines], rel=1e-5)
  assert len(found["map"]["x"]) == len(found["map"]["ids"]) == 1200
  right = np.array(found["map"]["right"])
  assert right.mean() == pytest.approx(result["recall@1"])
  picture = np.asarray(Image.open(workdir / "retrieval.png"))
  assert picture.shape[0] > 800 and picture.shape[1] > 900
  # The frames of right and wrong answers, and of queries, are there to be seen.
  colours = {tuple(c) for c in picture.reshape(-1, 3)}
  assert (207, 34, 46) in colours and (88, 96, 105) in colours


def test_a_second_run_skips_every_stage(finished):
  workdir, first = finished
  # The lock says which process holds it, and run.json how each run began.
  written = [p for p in workdir.iterdir() if p.name not in (".lock", "run.json")]
  before = {p: p.stat().st_mtime_ns for p in written}
  done = main(workdir, *SMALL)
  assert done.stderr.count("skipped (up to date)") == 6 and "running" not in done.stderr
  assert done.stdout == first.stdout
  assert {p: p.stat().st_mtime_ns for p in written} == before
  assert {p.name for p in workdir.iterdir()} == {".lock", "run.json", *(p.name for p in written)}
  starts = json.loads((workdir / "run.json").read_text())["starts"]
  assert len(starts) == 2 and starts[0]["command"] == starts[1]["command"]
  assert starts[0]["command"][:3] == ["python", "-m", "lafg_jax.main"]


@pytest.mark.parametrize(
  ("change", "reruns"),
  [
    ("--config.evaluate.ks=(1,3)", {"evaluate", "report"}),
    ("--config.train.log_every=3", set()),
  ],
)
def test_a_changed_key_reruns_what_it_touches(copied, change, reruns):
  done = main(copied, *SMALL, change)
  ran = {line.split()[2] for line in done.stderr.splitlines() if ": running (" in line}
  assert ran == reruns


def test_an_output_edited_by_hand_is_made_again(copied):
  path = copied / "descriptions.jsonl"
  whole = path.read_text()
  path.write_text(whole[: len(whole) // 2])
  main(copied, *SMALL, "--stage=describe")
  assert path.read_text() == whole


def test_training_refuses_words_of_a_class_it_does_not_train_on(copied):
  done = main(copied, *SMALL, "--stage=train", "--config.data.num_val_classes=10", code=2)
  assert "leak" in done.stderr.splitlines()[-1]


def test_evaluating_with_another_model_config_is_one_line(copied):
  done = main(copied, *SMALL, "--stage=evaluate", "--config.model.depth=2", code=2)
  assert "model.depth: 1 -> 2" in done.stderr.splitlines()[-1]


def test_classes_that_were_trained_on_are_not_evaluated_on(copied):
  held_out = ("--config.data.num_val_classes=10", "--config.evaluate.split=val")
  done = main(copied, *SMALL, *held_out, "--stage=evaluate", code=2)
  assert "trained on 10 of the 10 classes of evaluate.split=val" in done.stderr.splitlines()[-1]


def test_validation_classes_are_evaluated_when_they_were_held_out(tmp_path):
  held_out = ("--config.data.num_val_classes=10", "--config.evaluate.split=val")
  main(tmp_path, *SMALL, *held_out, "--config.model.conv_stem=False")
  result = json.loads((tmp_path / "evaluation.json").read_text())
  assert result["split"] == "val" and result["num_classes"] == 10
  with np.load(tmp_path / "prototypes.npz", allow_pickle=False) as npz:
    trained = set(npz["class_names"].tolist())
  with np.load(tmp_path / "embeddings.npz", allow_pickle=False) as npz:
    assert len(trained) == 30 and not trained & set(npz["class_names"].tolist())


@pytest.mark.parametrize(
  ("name", "damage"),
  [
    ("evaluation.json", lambda x: x[: len(x) // 2]),
    ("embeddings.npz", lambda x: x[: len(x) // 2]),
  ],
)
def test_a_damaged_input_of_the_report_is_one_line(copied, name, damage):
  path = copied / name
  path.write_bytes(damage(path.read_bytes()))
  done = main(copied, *SMALL, "--stage=report", code=2)
  assert name in done.stderr.splitlines()[-1] and "--stage=evaluate" in done.stderr


def test_a_report_of_another_evaluation_is_refused(copied):
  done = main(copied, "--config.evaluate.source=some.npz", "--stage=report", code=2)
  assert "another evaluation" in done.stderr.splitlines()[-1]


def test_a_report_stands_beside_that_of_another_run(finished, copied):
  main(copied, *SMALL, "--stage=report", f"--compare={finished[0]}")
  page = (copied / "report.html").read_text()
  assert "Compared with other runs" in page and "0 of 60 classes gained, 0 lost" in page
  main(copied, *SMALL, "--stage=report")
  assert "Compared with other runs" not in (copied / "report.html").read_text()
  done = main(copied, *SMALL, "--stage=report", f"--compare={copied}/none", code=2)
  assert "no such folder" in done.stderr.splitlines()[-1]


def test_two_runs_in_one_workdir_are_refused(copied):
  import fcntl

  with open(copied / ".lock", "a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = main(copied, *SMALL, code=2)
  assert "another run" in done.stderr.splitlines()[-1]


def test_what_the_operating_system_refuses_is_one_line(tmp_path):
  (tmp_path / "descriptions.jsonl").mkdir()
  done = main(tmp_path, "--stage=describe", code=2)
  assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_training_is_one_line_and_exit_code_75(tmp_path, number):
  command = [sys.executable, "-m", "lafg_jax.main", "--config", "configs/synthetic.py:prototypes"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  process = subprocess.Popen(
    [*command, f"--workdir={tmp_path}"],
    cwd=ROOT,
    env=environment,
    stderr=subprocess.PIPE,
    text=True,
    # What a shell starts in the background, this test perhaps, is deaf to Ctrl-C.
    preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
  )
  for line in process.stderr:
    if "stage encode" in line:
      process.send_signal(number)
      break
  rest = process.stderr.read()
  assert process.wait() == 75
  assert "Traceback" not in rest and "stopped and saved" in rest.splitlines()[-1]


def test_a_restored_retriever_embeds_what_evaluation_embedded(finished):
  workdir, _ = finished
  retriever = lafg_jax.load_retriever(str(workdir))
  assert retriever.step == 4 and len(retriever.class_names) == 40
  assert retriever.prototypes["prototypes"].shape[0] == 40
  images = datasets.load_splits(retriever.config.data, splits=("test",))["test"].images
  with np.load(workdir / "embeddings.npz", allow_pickle=False) as npz:
    vectors, labels = npz["vectors"], npz["labels"]
  got = retriever.embed(list(images[:100]), batch_size=64)
  np.testing.assert_allclose(got, vectors[:100], atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
  scores, rows = retriever.search(images[:7], vectors, k=5)
  expected = np.argsort(-(vectors[:7] @ vectors.T), axis=1)[:, :5]
  np.testing.assert_array_equal(rows[:, 0], np.arange(7))
  np.testing.assert_allclose(
    scores, np.take_along_axis(vectors[:7] @ vectors.T, expected, axis=1), atol=1e-5
  )
  assert labels.shape == (1200,)


def test_the_run_leaves_a_few_unseen_images_as_files(finished):
  workdir, _ = finished
  retriever = lafg_jax.load_retriever(str(workdir))
  files = lafg_jax.list_images(workdir / "examples")
  assert len(files) == 12 and len({Path(file).parent for file in files}) == 4
  with np.load(workdir / "embeddings.npz", allow_pickle=False) as npz:
    paths, vectors = npz["paths"].tolist(), npz["vectors"]
  # Each is found at the row of its own id, without a pixel changed.
  scores, rows = retriever.search(files, vectors, k=1)
  ids = [f"synthetic/{Path(file).parent.name}/{Path(file).stem}" for file in files]
  assert [paths[row] for row in rows[:, 0]] == ids
  np.testing.assert_allclose(scores, 1, atol=1e-5)


def test_a_retriever_takes_files_of_any_size_and_says_what_it_cannot_read(finished, tmp_path):
  retriever = lafg_jax.load_retriever(str(finished[0]))
  Image.new("L", (70, 30), 90).save(tmp_path / "grey.png")
  assert retriever.embed([tmp_path / "grey.png"]).shape == (1, 16)
  assert retriever.embed([]).shape == (0, 16)
  (tmp_path / "bad.jpg").write_bytes(b"nothing")
  with pytest.raises(lafg_jax.utils.errors.UserError, match=r"bad\.jpg"):
    retriever.embed([tmp_path / "bad.jpg"])
  with pytest.raises(lafg_jax.utils.errors.UserError, match="uint8"):
    retriever.embed(np.zeros((1, 16, 16, 3), np.int32))
  with pytest.raises(lafg_jax.utils.errors.UserError, match="checkpoint"):
    lafg_jax.load_retriever(str(tmp_path))


def test_an_embeddings_file_is_evaluated_without_training(finished, tmp_path):
  workdir, _ = finished
  main(tmp_path, f"--config.evaluate.source={workdir / 'embeddings.npz'}")
  expected = json.loads((workdir / "evaluation.json").read_text())
  got = json.loads((tmp_path / "evaluation.json").read_text())
  for name in ("recall@1", "recall@8", "map@r", "r_precision", "num_queries", "num_classes"):
    assert got[name] == pytest.approx(expected[name], abs=1e-3)
  assert not (tmp_path / "checkpoints").exists()
  (tmp_path / "bad.npz").write_bytes(b"PK nothing")
  done = main(tmp_path, f"--config.evaluate.source={tmp_path / 'bad.npz'}", code=2)
  assert "bad.npz" in done.stderr.splitlines()[-1]


def test_a_pretrained_backbone_is_evaluated_without_training(tmp_path):
  transformers = pytest.importorskip("transformers")
  vit = transformers.ViTConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    patch_size=8,
    image_size=16,
  )
  transformers.ViTModel(vit).save_pretrained(tmp_path / "vit")
  main(
    tmp_path / "run",
    *SMALL,
    "--config.model.size=custom",
    f"--config.model.pretrained={tmp_path / 'vit'}",
    "--config.model.conv_stem=False",
    "--config.model.pool=token",
    "--config.evaluate.source=pretrained",
  )
  result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  assert result["source"] == "pretrained" and 0 < result["recall@1"] < 1
  with np.load(tmp_path / "run" / "embeddings.npz") as npz:
    assert npz["vectors"].shape == (1200, 16)


@pytest.mark.skipif(not CARS.exists() or not GPT3.exists(), reason="needs ../shared/data")
def test_cars_photographs_end_to_end(tmp_path):
  done = main(
    tmp_path,
    *SMALL,
    "--config.model.conv_stem=False",
    f"--config.data.root={CARS}",
    "--config.data.expect_counts=False",
    f"--config.language.descriptions={GPT3}",
    "--config.language.encoder=tiny_clip",
    "--config.language.num_attributes=32",
    "--config.language.top_k=8",
    config="configs/cars.py:scratch",
  )
  result = json.loads((tmp_path / "evaluation.json").read_text())
  assert result["partial"] is True
  assert result["num_queries"] == 2042 and result["num_classes"] == 49
  assert "dropped 98 classes" in done.stderr
  with np.load(tmp_path / "prototypes.npz", allow_pickle=False) as npz:
    assert len(npz["class_names"]) == 98


def test_the_stages_of_one_run_list_the_data_set_once(tmp_path, monkeypatch):
  from configs import folder as config_file
  from lafg_jax import stages, tasks
  from lafg_jax.data.readers import folder
  from lafg_jax.tasks.class_retrieval import stages as task

  for name in "abc":
    (tmp_path / "images" / name).mkdir(parents=True)
    (tmp_path / "images" / name / "0.jpg").touch()
  config = config_file.get_config()
  config.data.root, read, listed, seen = str(tmp_path / "images"), folder.read, [], []
  monkeypatch.setattr(folder, "read", lambda data: listed.append(data.root) or read(data))

  def look(config, workdir):
    seen.append(datasets.class_splits(config.data))
    return datasets.load_splits(config.data)["test"].class_names == seen[-1]["test"]

  nothing = lambda *unused: []  # noqa: E731
  stage = stages.Stage("look", look, nothing, nothing)
  monkeypatch.setattr(task, "plan", lambda config, workdir, names: (config, [stage] * len(names)))
  monkeypatch.setattr(task, "summary", nothing)
  tasks.run(config, str(tmp_path), ["look", "look"])
  assert len(listed) == 1 and len(seen) == 2
  shutil.rmtree(tmp_path / "images" / "b")
  tasks.run(config, str(tmp_path), ["look"])
  assert len(listed) == 2 and seen[-1] == {"train": ("a",), "test": ("c",)}
