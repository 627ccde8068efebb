"""Fine-grained image retrieval driven by language.

lafg-jax COMMAND [--FLAG=VALUE ...]        (or python -m lafg_jax COMMAND ...)
lafg-jax COMMAND --help
"""

import difflib
import runpy
import sys

from lafg_jax.utils import output

# command: module, the stage of lafg_jax.main that it is, and what it does.
COMMANDS = {
  "train": ("lafg_jax.main", "", "all stages: words, training, evaluation, report"),
  "data": ("lafg_jax.main", "data", "checks a data set and shows it: counts, damage, duplicates"),
  "describe": ("lafg_jax.main", "describe", "gets descriptions of the classes, and no more"),
  "inspect": ("lafg_jax.main", "inspect", "a page about the classes' descriptions and attributes"),
  "evaluate": ("lafg_jax.main", "evaluate", "measures retrieval among unseen classes"),
  "report": ("lafg_jax.main", "report", "makes report.html of a run anew"),
  "export": ("lafg_jax.export", "", "writes a model for the hub, for other programs, for faiss"),
  "search": ("lafg_jax.search", "", "makes a gallery of images, and searches it by image and text"),
  "demo": ("lafg_jax.demo", "", "a page in the browser to search a gallery on"),
  "ablate": ("lafg_jax.ablate", "", "compares variants of the training over seeds"),
  "keys": ("lafg_jax.config.reference", "", "prints what every config key does"),
}


def main() -> None:
  """Runs the command that sys.argv names, just as `python -m MODULE` does."""
  name, given = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
  with output.quiet():
    if name in ("--help", "-help", "-h", "help"):
      print(_help())
      return
    if name == "--version":
      import lafg_jax

      print(lafg_jax.__version__)
      return
    if name not in COMMANDS:
      close = difflib.get_close_matches(name, COMMANDS, n=1)
      hint = f" (did you mean {close[0]}?)" if close else ""
      _fail(f"unknown command {name}{hint}; it takes one of {', '.join(COMMANDS)}")
    module, stage, _ = COMMANDS[name]
    if stage and any(word.lstrip("-").split("=")[0] == "stage" for word in given):
      _fail(f"lafg-jax {name} is --stage={stage}: leave --stage out, or use lafg-jax train")
    sys.argv = [sys.argv[0], *given, *([f"--stage={stage}"] if stage else [])]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _help() -> str:
  lines = [(__doc__ or "").strip(), "", "Commands:"]
  for name, (module, stage, does) in COMMANDS.items():
    same = f"{module} --stage={stage}" if stage else module
    lines.append(f"  {name:9} {does} (python -m {same})")
  return "\n".join(lines)


def _fail(why: str) -> None:
  print(f"error: {why}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  main()
