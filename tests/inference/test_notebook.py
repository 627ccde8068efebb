"""notebooks/restore_in_colab.ipynb runs from top to bottom, on the CPU, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "notebooks/restore_in_colab.ipynb"


@pytest.fixture(scope="module")
def ran(trained_run, dataset, tmp_path_factory):
  return run_with(trained_run, dataset, tmp_path_factory.mktemp("notebook"))


def run_with(model, dataset, folder):
  """The notebook's cells after it ran with a model and photographs of one's own, and its folder."""
  for row in range(0, 60, 6):
    Image.fromarray(dataset.images[row]).save(folder / f"finch {row}.png")
  notebook = nbformat.read(PATH, as_version=4)
  at = [cell["metadata"].get("tags") == ["parameters"] for cell in notebook.cells].index(True)
  own = f"MODEL, IMAGES, PACKAGE = {str(model)!r}, {str(folder)!r}, 'not needed'"
  notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(own))
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  # In the user's folder: nothing may be read from the checkout.
  client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
  client.execute(env=environment)
  return notebook.cells, folder


def printed(cells, wanted):
  """What the cell whose source has `wanted` printed."""
  (cell,) = [c for c in cells if c.cell_type == "code" and wanted in c.source]
  return "".join(x.text for x in cell.outputs if x.output_type == "stream" and x.name == "stdout")


def test_it_restores_embeds_and_finds(ran):
  cells, folder = ran
  assert "trained on 40 classes" in printed(cells, "load_retriever(MODEL)")
  assert "10 images -> float32 (10, 16)" in printed(cells, "retriever.embed(paths)")
  lines = printed(cells, "retriever.search(gallery[queries]").splitlines()
  assert len(lines) == 4
  for line in lines:
    query, hits = line.split(" -> ")
    found = hits.split(", ")
    assert len(set(found)) == 5 and query not in found
    assert all((folder / name).is_file() for name in (query, *found))


def test_it_shows_pictures_and_attributes(ran):
  cells, _ = ran
  (cell,) = [c for c in cells if c.cell_type == "code" and "retrieval_grid(lines" in c.source]
  assert any("image/png" in output.get("data", {}) for output in cell.outputs)
  lines = printed(cells, "retriever.attributes").splitlines()
  heads = [at for at, line in enumerate(lines) if " share " in line]
  assert len(heads) == 4 and len(lines) == 4 * 6
  for at in heads:
    shared = int(lines[at].split(" share ")[1].split()[0])
    entries = lines[at + 1 : at + 6]
    assert sum(line.startswith("  *") for line in entries) == shared
    assert all("nearest to entry" in line for line in entries)


def test_a_model_of_images_alone_is_not_searched_by_words(ran):
  says = "a model of task=class_retrieval embeds no texts"
  for cell in ("search(text=TEXT", "CHANGE}"):
    assert printed(ran[0], cell).startswith(says)


def test_it_searches_by_words_with_a_model_that_reads_texts(text_model, dataset, tmp_path):
  cells, folder = run_with(text_model, dataset, tmp_path)
  assert "step 0, trained on 0 classes" in printed(cells, "load_retriever(MODEL)")
  text, found = printed(cells, "search(text=TEXT").strip().split(" -> ")
  assert text == "a bird with a red crown"
  assert len(set(found.split(", "))) == 5 and (folder / found.split(", ")[0]).is_file()
  assert "has no vocabulary of attributes" in printed(cells, "retriever.attributes")
  # The sum of both: the query's own image is left out.
  check_composed(cells, folder)


def check_composed(cells, folder):
  asked, found = printed(cells, "CHANGE}").strip().split(", but it has a red crown -> ")
  names = found.split(", ")
  assert len(set(names)) == 5 and asked not in names and (folder / asked).is_file()


def test_it_searches_by_an_image_and_words_with_a_model_that_composes(
  composed_model, dataset, tmp_path
):
  cells, folder = run_with(composed_model, dataset, tmp_path)
  check_composed(cells, folder)
  assert "a bird with a red crown -> " in printed(cells, "search(text=TEXT")


def test_it_says_what_to_fill_in_and_installs_nothing_else(tmp_path):
  cells = nbformat.read(PATH, as_version=4).cells
  first, install = [cell.source for cell in cells if cell.cell_type == "code"][:2]
  assert 'PACKAGE = ""' in first and "git+https://" in first
  # -S: without what is installed here.
  command = [sys.executable, "-S", "-c", f"{first}\n{install}"]
  done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True)
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert "Set PACKAGE in the first cell to the git URL" in done.stderr


def test_it_is_stored_without_outputs():
  cells = nbformat.read(PATH, as_version=4).cells
  for cell in cells:
    if cell.cell_type == "code":
      assert not cell.outputs and cell.execution_count is None
      # What only some notebooks understand would fail where the notebook runs elsewhere.
      assert not any(line.lstrip().startswith(("%", "!")) for line in cell.source.splitlines())
