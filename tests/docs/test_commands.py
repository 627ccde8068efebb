"""README's commands and Python, and those of docs/start/, run as they are written, but small.

What runs is read from the pages. A block that cannot run here says why in a comment above it,
`<!-- not run: REASON -->`; where the reason begins with a line of the block, that line alone does
not run. There is no hub. Backbones from there become random weights, its text encoders tiny_clip;
photographs are generated.
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

from lafg_jax.gallery import store

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs/start").glob("*.md")))
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Added to the commands.
MODEL = {
  "data.image_size": 16,
  "data.resize_size": 16,
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
# What is from the hub by default: the backbone of a config without ':scratch', and the text encoder
# of what reads words.
BACKBONE = {"model.pretrained": ""}
ENCODER = {
  "language.encoder": "tiny_clip",
  "language.cache": "",
}
FINCHES = {
  "data.classes_per_batch": 5,
  "data.images_per_class": 2,
  "data.max_train_classes": 5,
  "data.recoloured_per_batch": 5,
  "data.recolourings": 1,
  "language.num_attributes": 16,
  "language.cache": "",
}
IMPORTS = (
  "jax",
  "flax.linen",
  "optax",
  "orbax.checkpoint",
  "sklearn.cluster",
)
CLASSES = ("ash", "beech", "elm", "fir", "oak", "yew")


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
README, OWN_PAGE = "README.md", "photographs.md"


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
  """The commands by which the Makefile runs lafg_jax for a target."""
  return re.findall(r"^\t\$\(BIN\)/(python -m lafg_jax.*)", _rule(target), re.MULTILINE)


def _rule(target):
  return re.search(rf"^{target}:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)[0]


def smaller(words):
  """Changes of the config, so that a command of these words is done in a blink."""
  line = " ".join(words)
  name, variant = re.search(r"configs/(\w+)\.py(:\w+)?", line).groups()
  if name == "synthetic":
    return MODEL | FINCHES
  reads_words = "language.descriptions" in line
  return MODEL | (BACKBONE if variant is None else {}) | (ENCODER if reads_words else {})


def run(forked, here, page, more=()):
  """Runs the commands of a page, and further ones, in this folder."""
  # By kind, in this order: what a command needs stands before it.
  lines = {"main": [], "export": [], "finches.files": [], "search": []}
  given = [*commands(page), *more]
  for command in (x for one in given for x in (recipe("demo") if one == "make demo" else [one])):
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"], f"{command}: run it here, or say on the page why not"
    name = words[2].removeprefix("lafg_jax.")
    changes = smaller(words) if name == "main" else {}
    more = ["--per_class=1"] if name == "finches.files" else []
    more += [f"--config.{key}={x}" for key, x in changes.items()]
    lines[name].append([*words[3:], *more])
  for name, given in lines.items():
    imports = IMPORTS if name == "main" else IMPORTS[:2] if name == "search" else ()
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
    for k in range(4):
      pixels = rng.integers(0, 255, (20, 24, 3), np.uint8)
      Image.fromarray(pixels).save(here / "photos" / name / f"{k}.jpg")
  for name in ("a", "b", "c", "query"):
    Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(here / f"{name}.jpg")
  rows = [f"{path},{path.parent.name}" for path in sorted((here / "photos").glob("*/*.jpg"))]
  (here / "images.csv").write_text("\n".join(["path,class", *rows]) + "\n")
  words = {name: [f"A grey {name}.", f"Leaves of a kind, {k}."] for k, name in enumerate(CLASSES)}
  (here / "words.json").write_text(json.dumps(words))
  (training,) = [x for x in commands(README) if "folder.py:scratch" in x and "--stage" not in x]
  described = f"{training} --config.language.descriptions=words.json --workdir=runs/described"
  with pytest.MonkeyPatch.context() as patch:
    # Nothing of the hub is there, and it cannot be reached.
    patch.setenv("HF_HOME", str(here / "no_hub"))
    patch.setenv("HF_HUB_OFFLINE", "1")
    run(forked, here, README, [described])
  assert not (here / "no_hub").exists() or not any((here / "no_hub").rglob("*.safetensors"))
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
  assert check(folder, "demo") and not check(folder, "folder-scratch")
  assert check(folder, "described")
  assert (folder / "runs/folder-scratch/data.html").exists()
  index = folder / "exported"
  assert (index / "model.safetensors").exists() and (index / "gallery.faiss").exists()
  assert len(json.loads((index / "gallery.json").read_text())) == 24
  # The galleries: that of `make demo`, and of the photographs.
  with store.opened(str(folder / "runs/demo/finches.db")) as gallery:
    assert store.count(gallery) == 60 and "crown" in gallery.facts.own_columns()
  with store.opened(str(folder / "photos.db")) as gallery:
    assert store.count(gallery) == 24 and store.classes(gallery) == list(CLASSES)
    assert gallery.facts.complete and gallery.facts.task == "class_retrieval"

  # The Python of the pages runs on what the commands wrote.
  blocks = [block for block in BLOCKS if block.language == "python"]
  assert {block.page for block in blocks} == {README, "first_run.md", "photographs.md"}
  # That of photographs.md first: the others end in a sentence.
  texts = dict.fromkeys(block.text for block in sorted(blocks, key=lambda x: x.page != OWN_PAGE))
  printed = python(folder, "-c", "".join(texts))
  assert printed.count("synthetic/") == 5
  assert len(set(re.findall(rf"'({'|'.join(CLASSES)})/\d.jpg'", printed.splitlines()[0]))) > 0
  records = [json.loads(line) for line in (folder / "runs/demo/descriptions.jsonl").open()]
  assert printed.splitlines()[-1] in {record["description"] for record in records}


def test_the_commands_of_the_start_pages_write_what_they_say(folder, forked):
  run(forked, folder, "docs/start")
  assert check(folder, "words")
  assert not check(folder, "folder") and not check(folder, "manifest-scratch")
  # On all classes there is nothing to evaluate.
  assert not (folder / "runs/all/evaluation.json").exists()
  assert len(json.loads((folder / "exported_all/gallery.json").read_text())) == 24
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
