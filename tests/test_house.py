"""The house: which room may import which, no circles, few files in the hall, none too long."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lafg_jax"
# Ground up: a room imports only rooms below it, and itself. ARCHITECTURE.md says what each is for.
ROOMS = (
  *("utils", "losses", "runtime", "models", "config", "finches", "data", "language", "evaluate"),
  *("explain", "training", "report", "stages", "tasks", "inference", "gallery"),
  *("demo_page", "ablation"),
)
# Commands, above all rooms: nothing imports them.
COMMANDS = ("__main__", "main", "ablate", "export", "search", "demo")
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
  parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imported(path: Path) -> set[str]:
  """The modules of the package that a file imports, wherever in it: functions count too."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names if alias.name in NAMES}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute"
      parts = {f"{node.module}.{alias.name}" for alias in node.names}
      found |= {part if part in NAMES else node.module for part in parts} & NAMES
  return found - {name_of(path)}


IMPORTS = {name_of(path): imported(path) for path in MODULES}


def room_of(module: str) -> str:
  return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_room():
  rooms = {room_of(module) for module in NAMES} - {""}
  assert rooms <= {*ROOMS, *COMMANDS}
  assert {"utils", "training", "tasks", "main"} <= rooms


@pytest.mark.parametrize("module", sorted(NAMES - {"lafg_jax"}))
def test_a_room_imports_only_rooms_below_it(module):
  room = room_of(module)
  for other in IMPORTS[module]:
    below = room_of(other)
    assert below not in COMMANDS, f"{module} imports the command {other}"
    if below and room in ROOMS:
      assert ROOMS.index(below) <= ROOMS.index(room), f"{module} imports {other}"


def test_there_is_no_circle():
  done: set[str] = set()

  def visit(module: str, way: tuple[str, ...]) -> None:
    assert module not in way, " -> ".join((*way[way.index(module) :], module))
    if module not in done:
      for other in sorted(IMPORTS[module]):
        visit(other, (*way, module))
      done.add(module)

  for module in sorted(NAMES - {"lafg_jax"}):
    visit(module, ())


def test_a_task_imports_no_other_task():
  for module in NAMES:
    task = module.split(".")[2:3]
    if room_of(module) == "tasks" and task:
      others = {x.split(".")[2] for x in IMPORTS[module] if x.count(".") > 1 and ".tasks." in x}
      assert others <= set(task), module


def test_the_hall_is_small_and_no_file_is_long():
  assert len(list(PACKAGE.glob("*.py"))) <= 8
  lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
  assert max(lengths.values()) <= 400, max(lengths, key=lambda path: lengths[path])
