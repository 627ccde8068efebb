"""README's commands and Python, and those of docs/start/, run as they are written, but small.

What runs is read from the pages. A block that cannot run here says why in a comment above it,
`<!-- not run: REASON -->`; where the reason begins with a line of the block, that line alone does
not run. Backbones of the hub become a small model from random weights, photographs are generated.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs/start").glob("*.md")))
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Added to the commands, by the name of the config.
MODEL = {
  "data.image_size": 16,
  "data.resize_size": 16,
  "data.classes_per_batch": 2,
  "data.images_per_class": 2,
  "model.size": "custom",
  "model.width": 16,
  "model.depth": 1,
  "model.num_heads": 2,
  "model.mlp_dim": 32,
  "model.embedding_dim": 16,
  "model.conv_stem": False,
  "model.dtype": "float32",
  "loss.projector_width": 16,
  "train.steps": 2,
  "evaluate.ks": "(1,)",
}
OWN = MODEL | {
  "model.pretrained": "",
  "language.encoder": "tiny_clip",
  "language.num_attributes": 3,
  "language.top_k": 2,
  "language.cache": "",
}
FINCHES = MODEL | {
  "data.classes_per_batch": 5,
  "data.max_train_classes": 5,
  "data.recoloured_per_batch": 5,
  "data.recolourings": 1,
  "language.num_attributes": 16,
  "language.cache": "",
}
SMALLER = {"synthetic": FINCHES, "folder": OWN, "manifest": OWN, "cars": OWN}
IMPORTS = (
  "jax",
  "flax.linen",
  "optax",
  "orbax.checkpoint",
  "torch",
  "transformers",
  "sklearn.cluster",
)
CLASSES = ("ash", "beech", "elm", "fir")


class Block(NamedTuple):
  """A fenced block of a page, and why it or one of its lines does not run, if so."""

  page: str
  reason: str
  language: str
  text: str

  def lines(self):
    """Its commands that run, without comments, those of several lines joined."""
    joined = self.text.replace("\\\n", " ").splitlines()
    commands = [line.split("  #")[0].strip() for line in joined]
    exempt = [line for line in commands if line and self.reason.startswith(line)]
    if self.reason and not exempt:
      return []
    return [line for line in commands if line and line not in exempt]


BLOCKS = [
  Block(page.name, *(part or "" for part in found))
  for page in PAGES
  for found in BLOCK.findall(page.read_text(encoding="utf-8"))
]
README = "README.md"


def commands(page):
  """Of README, or of the pages beside it what README has not."""
  found = dict.fromkeys(
    line
    for block in BLOCKS
    if block.language == "bash" and (block.page == README) == (page == README)
    for line in block.lines()
  )
  return [line for line in found if page == README or line not in commands(README)]


def recipe(target):
  """The command by which the Makefile runs lafg_jax for a target."""
  (line,) = re.findall(r"\t\$\(BIN\)/(python -m lafg_jax.*)", _rule(target))
  return line


def _rule(target):
  return re.search(rf"^{target}:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)[0]


def run(forked, here, page):
  """Runs the commands of a page in this folder."""
  lines = {"main": [], "export": []}
  for command in commands(page):
    words = shlex.split(recipe("demo") if command == "make demo" else command)
    assert words[:2] == ["python", "-m"], f"{command}: run it here, or say on the page why not"
    name = words[2].removeprefix("lafg_jax.")
    changes = {}
    if name == "main":
      changes = SMALLER[re.search(r"configs/(\w+)\.py", " ".join(words))[1]]
    lines[name].append([*words[3:], *(f"--config.{key}={x}" for key, x in changes.items())])
  for name, given in lines.items():
    imports = IMPORTS if name == "main" else ()
    done = forked(name, given, here, cwd=here, imports=imports) if given else []
    for line, (code, said) in zip(given, done, strict=True):
      assert code == 0, f"{shlex.join(line)}\n{said[-3000:]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, forked):
  """Where the commands of README have run."""
  here = tmp_path_factory.mktemp("reader")
  (here / "configs").symlink_to(ROOT / "configs")
  rng = np.random.default_rng(0)
  for name in CLASSES:
    (here / "photos" / name).mkdir(parents=True)
    for k in range(3):
      pixels = rng.integers(0, 255, (20, 24, 3), np.uint8)
      Image.fromarray(pixels).save(here / "photos" / name / f"{k}.jpg")
  for name in ("a", "b", "c", "query"):
    Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(here / f"{name}.jpg")
  rows = [f"{path},{path.parent.name}" for path in sorted((here / "photos").glob("*/*.jpg"))]
  (here / "images.csv").write_text("\n".join(["path,class", *rows]) + "\n")
  words = {name: [f"A grey {name}.", f"Leaves of a kind, {k}."] for k, name in enumerate(CLASSES)}
  (here / "words.json").write_text(json.dumps(words))
  run(forked, here, README)
  return here


def test_every_block_runs_or_says_why_not():
  assert {block.page for block in BLOCKS} == {page.name for page in PAGES}
  for block in BLOCKS:
    assert block.language in ("bash", "python"), f"{block.page}: a block without a language"
    assert block.reason == "" or len(block.reason) > 20, f"{block.page}: {block.text}"
    # An exemption is of commands; Python always runs.
    assert not (block.reason and block.language == "python")


def check(folder, name):
  result = json.loads((folder / "runs" / name / "evaluation.json").read_text())
  assert result["step"] == 2 and (folder / "runs" / name / "report.html").exists()
  return (folder / "runs" / name / "prototypes.npz").exists()


def test_the_commands_and_the_python_of_the_readme_do_what_it_says(folder):
  assert check(folder, "demo") and not check(folder, "folder")
  assert (folder / "runs/folder/data.html").exists()
  index = folder / "exported"
  assert (index / "model.safetensors").exists() and (index / "gallery.faiss").exists()
  assert len(json.loads((index / "gallery.json").read_text())) == 12

  # The Python of the pages runs on what the commands wrote.
  blocks = [block for block in BLOCKS if block.language == "python"]
  assert {block.page for block in blocks} == {README, "first_run.md"}
  printed = python(folder, "-c", "".join(dict.fromkeys(block.text for block in blocks)))
  assert printed.count("synthetic/") == 5
  records = [json.loads(line) for line in (folder / "runs/demo/descriptions.jsonl").open()]
  assert printed.splitlines()[-1] in {record["description"] for record in records}


def test_the_commands_of_the_start_pages_write_what_they_say(folder, forked):
  run(forked, folder, "docs/start")
  assert check(folder, "words") and not check(folder, "scratch") and not check(folder, "manifest")
  assert (folder / "runs/demo/language.html").exists()

  # README's picture is drawn from the demo.
  args = ("--workdir=runs/demo", "--out=examples.png", "--queries=2", "--found=3")
  assert "examples.png" in python(folder, str(ROOT / "experiments/draw_examples.py"), *args)
  with Image.open(folder / "examples.png") as picture:
    assert picture.size == (1044, 424)


def python(folder, *args):
  """What it prints."""
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  command = [sys.executable, *args]
  done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout
