"""What the pages name is there: files, headings, keys. `make docs` checks the links as well."""

import re
from pathlib import Path

import pytest

from configs import synthetic
from lafg_jax.config.table import ROWS

ROOT = Path(__file__).resolve().parents[2]
OF_ROOT = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [
  *(ROOT / name for name in (*OF_ROOT, "launch/README.md", "benchmarks/RESULTS.md")),
  *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = "benchmarks|configs|docs|experiments|lafg_jax|launch|notebooks|tests"
# Generated pages name what others write.
WRITTEN = [page for page in PAGES if "generated" not in page.parts]
CONFIG = synthetic.get_config()
SECTIONS = [name for name in CONFIG if hasattr(CONFIG[name], "keys")]
KEYS = {*ROWS, *(f"{section}.{key}" for section in SECTIONS for key in CONFIG[section])}


def names(pages):
  return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page):
  return page.read_text(encoding="utf-8")


def anchors(page):
  """Of each heading, as GitHub and the site make it."""
  heads = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@names(WRITTEN)
def test_links_lead_somewhere(page):
  for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
    if link.startswith(("http://", "https://")):
      continue
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists() and target.is_relative_to(ROOT), f"{page.name}: {link}"
    assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@names(WRITTEN)
def test_files_that_a_page_names_are_there(page):
  for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)(?::\w+)?`", text_of(page)):
    # The words of a placeholder are in capitals.
    if "NAME" not in path:
      assert (ROOT / path).exists(), f"{page.name}: {path}"


@names(WRITTEN)
def test_keys_that_a_page_names_exist(page):
  sections = "|".join(SECTIONS)
  text = text_of(page)
  found = re.findall(rf"--config\.([\w.]+?)=|`((?:{sections})\.\w+)(?:=[^`]*)?`", text)
  # Files and modules, such as `data.html`, are written as keys are.
  files = re.compile(r".+\.(html|json|jsonl|npz|png|py|parquet|safetensors|sh|stablehlo)$")
  for key in {a or b for a, b in found}:
    if key != "KEY" and not files.match(key):
      assert key in KEYS, f"{page.name}: {key}"


def test_the_readme_is_short():
  assert len(text_of(ROOT / "README.md").splitlines()) <= 130


def test_the_site_asks_for_nothing_from_elsewhere():
  settings = text_of(ROOT / "mkdocs.yml")
  assert "font: false" in settings and "offline" not in settings
  assert "http" not in settings


def test_the_architecture_lists_the_rooms_from_the_top_down():
  house = text_of(ROOT / "tests/test_house.py")
  rooms = re.findall(r'"(\w+)"', re.search(r"ROOMS = \((.+?)\n\)\n", house, re.DOTALL)[1])
  table = text_of(ROOT / "ARCHITECTURE.md").split("| Room |")[1].split("\n\n")[0]
  listed = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table, re.MULTILINE)
  assert listed == rooms[::-1]
