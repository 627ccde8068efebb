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
COMMANDS = list(dict.fromkeys(c for b in BLOCKS if b.language == "bash" for c in b.lines()))


def recipe(target):
  """The command by which the Makefile runs lafg_jax for a target."""
  (line,) = re.findall(r"\t\$\(BIN\)/(python -m lafg_jax.*)", _rule(target))
  return line


def _rule(target):
  return re.search(rf"^{target}:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)[0]


def arguments(name):
  """Of each command of this name on the pages, its arguments with what makes it small."""
  found = []
  for command in COMMANDS:
    words = shlex.split(recipe("demo") if command == "make demo" else command)
    assert words[:2] == ["python", "-m"], f"{command}: run it here, or say on the page why not"
    if words[2] != f"lafg_jax.{name}":
      continue
    changes = {}
    if name == "main":
      changes = SMALLER[re.search(r"configs/(\w+)\.py", command + recipe("demo"))[1]]
    found.append([*words[3:], *(f"--config.{key}={value}" for key, value in changes.items())])
  return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, forked):
  """Where all commands of the pages have run."""
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
  for name in ("main", "export"):
    lines = arguments(name)
    done = forked(name, lines, here, cwd=here, imports=IMPORTS)
    for line, (code, said) in zip(lines, done, strict=True):
      assert code == 0, f"{shlex.join(line)}\n{said[-3000:]}"
  return here


def test_every_block_runs_or_says_why_not():
  assert {block.page for block in BLOCKS} == {page.name for page in PAGES}
  for block in BLOCKS:
    assert block.language in ("bash", "python"), f"{block.page}: a block without a language"
    assert block.reason == "" or len(block.reason) > 20, f"{block.page}: {block.text}"
    # An exemption is of commands; Python always runs.
    assert not (block.reason and block.language == "python")
  assert {"main", "export"} == {
    re.search(r"lafg_jax\.(\w+)", c)[1] for c in COMMANDS if " -m " in c
  }


def test_the_commands_write_what_the_pages_say(folder):
  runs = folder / "runs"
  for name in ("demo", "folder", "scratch", "words", "manifest"):
    result = json.loads((runs / name / "evaluation.json").read_text())
    assert result["step"] == 2 and (runs / name / "report.html").exists()
  assert (runs / "folder/data.html").exists() and (runs / "demo/language.html").exists()
  assert not (runs / "folder/prototypes.npz").exists() and (runs / "words/prototypes.npz").exists()
  index = folder / "exported"
  assert (index / "model.safetensors").exists() and (index / "gallery.faiss").exists()
  assert len(json.loads((index / "gallery.json").read_text())["paths"]) == 12


@pytest.mark.parametrize("page", ["README.md", "first_run.md"])
def test_the_python_of_a_page_runs(folder, page):
  program = "".join(b.text for b in BLOCKS if b.page == page and b.language == "python")
  assert program.strip()
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=folder,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("synthetic/") == 5
  said = [json.loads(line) for line in (folder / "runs/demo/descriptions.jsonl").open()]
  assert done.stdout.splitlines()[-1] in {record["description"] for record in said}
