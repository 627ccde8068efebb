"""The command as a user runs it: every misuse is one line on stderr and exit code 2."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from configs import synthetic
from lafg_jax import tasks
from lafg_jax.config import command_line
from lafg_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SYNTHETIC = ("--config", "configs/synthetic.py")


def main(*args, cwd=ROOT):
  command = [sys.executable, "-m", "lafg_jax.main", *args]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


MISUSES = [
  ((), "--config"),
  (("--config",), "--config"),
  (("--config=",), "--config"),
  (("--config=karz",), "did you mean cars?"),
  (("--config=cars:huge",), "error: --config=configs/cars.py:huge: the variants are pretrained, "),
  (("--config=configs/folder.py:scrach",), "the variants are pretrained and scratch"),
  (("--config=hf:",), "the variants are pretrained and scratch"),
  (("--config", "aircraft:scratch"), "there is one variant, lafg"),
  (("--config=folder", "--config.data.classes_per_batch=1"), "auto, or a number of at least 2"),
  (("--config=folder", "--config.data.classes_per_batch=auto"), "--config.data.root=FOLDER"),
  (("--config=folder", "--config.train.steps=auto"), "train.steps"),
  (("--config", "configs/carz.py"), "configs/cars.py"),
  ((*SYNTHETIC, *SYNTHETIC), "once"),
  ((*SYNTHETIC, "--config.train.stepz=3"), "--config.train.steps"),
  ((*SYNTHETIC, "--config.steps=3"), "--config.train.steps"),
  ((*SYNTHETIC, "--steps=3"), "did you mean --config.train.steps?"),
  ((*SYNTHETIC, "--config.train=3"), "section"),
  ((*SYNTHETIC, "--config.train.steps"), "no value"),
  ((*SYNTHETIC, "--config.train.steps", "5"), "no value"),
  ((*SYNTHETIC, "--config.train.steps="), "train.steps"),
  ((*SYNTHETIC, "--config.train.steps=many"), "train.steps"),
  ((*SYNTHETIC, "--config.train.steps=1.5"), "train.steps"),
  ((*SYNTHETIC, "--config.train.steps=0"), "train.steps"),
  ((*SYNTHETIC, "--config.train.learning_rate=nan"), "train.learning_rate"),
  ((*SYNTHETIC, "--config.data.flip=maybe"), "data.flip"),
  ((*SYNTHETIC, "--config.evaluate.ks=(1,'a')"), "evaluate.ks"),
  ((*SYNTHETIC, "--config.loss.alignment=prototypes"), "prototype"),
  ((*SYNTHETIC, "--config.data.image_size=50"), "data.resize_size"),
  ((*SYNTHETIC, "--config.model.num_heads=3"), "model.num_heads"),
  ((*SYNTHETIC, "--config.language.top_k=999"), "language.num_attributes"),
  ((*SYNTHETIC, "--config.evaluate.split=val"), "data.num_val_classes"),
  ((*SYNTHETIC, "--config.train.freeze=("), "train.freeze"),
  ((*SYNTHETIC, "leftover"), "leftover"),
  ((*SYNTHETIC, "--stage=bad"), "evaluate, report, data, inspect"),
  ((*SYNTHETIC, "--stage"), "stage"),
  ((*SYNTHETIC, "--stge=train"), "--stage"),
  ((*SYNTHETIC, "--flagfile=none"), "flagfile"),
  ((*SYNTHETIC, "--workdir="), "--workdir"),
  ((*SYNTHETIC, "--workdir=setup.py/x"), "--workdir"),
  ((*SYNTHETIC, "--workdir=gs://bucket/run"), "gs://bucket/run"),
  (("--config.seed=1", *SYNTHETIC), "before"),
  (("--config", "configs/cars.py"), "--config.data.root=FOLDER"),
  (("--config", "cars:scratch", "--nodebug"), "--config.data.root=FOLDER"),
  (
    ("--config", "configs/cars.py", "--config.language.describer=file"),
    "--config.language.descriptions=FILE",
  ),
  (("--config", "configs/cars.py", "--config.language.describer=openai"), "language.llm=MODEL"),
]


@pytest.fixture(scope="module")
def misused(forked, tmp_path_factory):
  """{arguments: (exit code, what stood on stderr)}"""
  given = [args for args, _ in MISUSES]
  found = forked("main", given, tmp_path_factory.mktemp("misused"))
  return dict(zip(given, found, strict=True))


@pytest.mark.parametrize(("args", "names"), MISUSES, ids=lambda x: " ".join(x) if x else "-")
def test_misuse_is_one_line_and_exit_code_2(misused, args, names):
  code, said = misused[args]
  assert code == 2
  assert "Traceback" not in said
  lines = said.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith("error: ")
  assert names in lines[0]


def test_a_broken_config_is_one_line(tmp_path):
  for text, says in (
    ("def get_config(:\n", "invalid syntax"),
    ("import nothing_here", "nothing_here"),
  ):
    path = tmp_path / "broken.py"
    path.write_text(text)
    done = main("--config", str(path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and says in done.stderr and "broken.py" in done.stderr


def test_debug_shows_the_traceback_before_the_line(forked, tmp_path):
  values = ("train.steps=0", "validate"), ("train.stepz=1", "_check_key")
  lines = [(*SYNTHETIC, f"--config.{value}", "--debug") for value, _ in values]
  for (code, said), (_, where) in zip(forked("main", lines, tmp_path), values, strict=True):
    first, *_, last = said.splitlines()
    assert code == 2 and first.startswith("Traceback") and where in said
    assert last.startswith("error: ") and "train.steps" in last


def test_missing_inputs_of_a_stage_say_which_stage_to_run(tmp_path):
  for stage, says in (
    ("encode", "--stage=describe"),
    ("prototypes", "--stage=encode"),
    ("train", "--stage=prototypes"),
    ("evaluate", "--stage=train"),
    ("report", "--stage=evaluate"),
  ):
    with pytest.raises(UserError, match=says):
      tasks.run(synthetic.get_config(), str(tmp_path), [stage])
  done = main(*SYNTHETIC, "--stage=report", f"--workdir={tmp_path}")
  assert done.returncode == 2
  assert says in done.stderr.splitlines()[-1]


def test_help_exits_0_within_two_seconds_of_the_processor():
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  done = main("--help")
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  assert done.returncode == 0
  # Not by the clock, which other tests share.
  assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
  for word in ("--config", "--workdir", "--stage", "--debug", "inspect", "config.reference"):
    assert word in done.stdout


def test_import_pulls_in_nothing_heavy():
  code = (
    "import sys, lafg_jax, lafg_jax.main, configs.cars; configs.cars.get_config();"
    "heavy = {'jax', 'torch', 'tensorflow', 'transformers', 'sklearn', 'numpy', 'scipy', 'PIL',"
    "'orbax', 'grain', 'pyarrow', 'flax', 'optax', 'tensorboardX'} & set(sys.modules);"
    "assert not heavy, heavy"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_training_imports_neither_torch_nor_tensorflow():
  code = (
    "import sys, lafg_jax.training.loop, lafg_jax.inference.retriever, lafg_jax.report.run_page;"
    "import lafg_jax.tasks.class_retrieval.readings;"
    "heavy = {'bokeh', 'torch', 'tensorflow', 'transformers', 'sklearn'} & set(sys.modules);"
    "assert not heavy, heavy"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_variant_of_a_config_without_variants_is_one_line(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "from lafg_jax.tasks.class_retrieval import default\n"
    "def get_config():\n  return default.get_config()\n"
  )
  assert command_line._load(str(file)).data.name == "cars"
  with pytest.raises(UserError, match=f"^--config={file}:x: {file} has no variants; pass "):
    command_line._load(f"{file}:x")


@pytest.mark.parametrize(
  ("arg", "wanted"),
  [
    ("--config.data.classes_per_batch=auto", "--config.data.classes_per_batch=0"),
    ("-config.data.images_per_class=auto", "-config.data.images_per_class=0"),
    ("--config.model.patch_size=auto", "--config.model.patch_size=0"),
    ("--config.model.mean=auto", "--config.model.mean=()"),
    # These keys have the word itself, or none.
    ("--config.model.size=auto", "--config.model.size=auto"),
    ("--config.train.steps=auto", "--config.train.steps=auto"),
    ("--workdir=auto", "--workdir=auto"),
  ],
)
def test_auto_is_spelled_alike_for_every_key(arg, wanted):
  assert command_line._without_auto(arg) == wanted
