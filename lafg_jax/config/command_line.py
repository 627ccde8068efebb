"""Flags, configs and one-line errors of every command. Nothing here imports jax, which is slow."""

import difflib
import io
import logging as python_logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from lafg_jax.config import keys, shipped
from lafg_jax.config.table import ROWS
from lafg_jax.runtime import interrupts
from lafg_jax.utils import config_keys, output, places
from lafg_jax.utils.errors import Incomplete, PeerLost, Stopped, UserError, exit_code

# ml_collections reads overrides from this list, which `_parse` fills once they are checked.
_ARGV: list[str] = []
# The words of the command that `run` runs.
_COMMAND: list[str] = []
_CONFIG_HELP = (
  "Path of a config file, such as configs/cars.py, or the name of a shipped one, such as cars; "
  "--config.KEY=VALUE overrides."
)
CONFIG = config_flags.DEFINE_config_file("config", None, _CONFIG_HELP, sys_argv=_ARGV)


class _PathParser(flags.ArgumentParser):
  """~ and ~user are home folders, as in a shell."""

  def parse(self, argument: str) -> str:
    return places.expanded(argument)


# The parser of every flag that takes a path or URL: flags.DEFINE(command_line.PATH, ...).
PATH = _PathParser()
flags.DEFINE_bool("debug", False, "Show the traceback of an error before its one line.")
_SHIPPED = "configs/NAME.py, or NAME of a shipped one: " + ", ".join(shipped.names())
_KEY_FLAG = re.compile(r"^--?(no)?config\.([^=]*)(=.*)?$", re.DOTALL)


def run(
  main: Callable[[Sequence[str]], None],
  doc: str,
  argv: Sequence[str] | None = None,
  *,
  with_config: bool = True,
  words: bool = False,
) -> None:
  """Parses flags, calls `main(argv)` and exits: with 0, or after an error or a signal, told in one
  line on stderr, with its `exit_code`. Without `with_config` the command has no --config. With
  `words`, `main` gets the program and the words that are no flags; without, there may be none."""
  argv = list(sys.argv if argv is None else argv)
  _COMMAND[:] = argv
  # A name of bytes that are not UTF-8 is no reason to fail at the last line.
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")
  with output.quiet():
    _run(main, doc, argv, with_config, words)


def _run(
  main: Callable[[Sequence[str]], None],
  doc: str,
  argv: list[str],
  with_config: bool,
  words: bool,
) -> None:
  if not with_config:
    flags.FLAGS.remove_flag_values(["config"])
  if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(argv[1:]):
    print(_help(doc))
    sys.exit(0)
  try:
    rest = _parse(argv, with_config, words)
    set_up_logging()
    interrupts.watch()
    main(rest if words else argv)
  except Exception as error:
    if {"--debug", "-debug", "--debug=true", "--debug=True"} & set(argv[1:]):
      traceback.print_exc()
    if isinstance(error, RuntimeError) and re.match(
      "Unable to initialize backend|Unknown backend", str(error)
    ):
      # jax: a platform without its driver.
      error = UserError(str(error))
    if isinstance(error, BrokenPipeError) and not output.flushed():
      # Whoever read the output has left; what it tells of is done.
      sys.exit(0)
    if not isinstance(error, UserError | Incomplete | PeerLost | OSError):
      raise
    message = str(error)
    if isinstance(error, Incomplete):
      message += f"; to try these again, and only these: {shlex.join(command())}"
    elif isinstance(error, OSError) and error.filename:
      message = f"{error.filename}: {error.strerror}"
    # One line, although messages of libraries may have several.
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(exit_code(error))
  except KeyboardInterrupt as error:
    done = "stopped and saved" if isinstance(error, Stopped) else "left at once"
    print(f"{done}: the same command goes on from here", file=sys.stderr)
    sys.exit(exit_code(error))


def command() -> list[str]:
  """The words that started this process, as `python -m MODULE ...`; none outside of a command."""
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  program = ["python", "-m", spec.name] if spec else _COMMAND[:1]
  return [*program, *_COMMAND[1:]] if _COMMAND else []


def set_up_logging() -> None:
  """Logs our messages from INFO and those of libraries from WARNING, with the time."""
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  here = str(Path(__file__).resolve().parents[1])
  # Orbax and optax log dozens of lines per checkpoint through absl.
  level = python_logging.WARNING
  handler.addFilter(lambda record: record.levelno >= level or record.pathname.startswith(here))


def _help(doc: str) -> str:
  lines = [doc.strip(), "", "Flags:"]
  for module in (
    "lafg_jax.config.command_line",
    sys.argv[0],
    "__main__",
    "lafg_jax.runtime.distributed",
  ):
    for flag in flags.FLAGS.flags_by_module_dict().get(module, []):
      default = f" (default: {flag.default_as_str})" if flag.default is not None else ""
      lines.append(f"  --{flag.name}: {flag.help}{default}")
  return "\n".join(dict.fromkeys(lines))


def _parse(argv: list[str], with_config: bool, words: bool = False) -> list[str]:
  """Parses argv into absl's flags; the program and the words that are none.

  Raises UserError for whatever is wrong with it, and for such words unless `words` are wanted.
  """
  _check_names(argv, with_config)
  if with_config:
    at, given = _config_path(argv)
    path = places.expanded(shipped.find(given), "--config=")
    argv = [*argv[:at], argv[at].removesuffix(given) + path, *argv[at + 1 :]]
    config = _load(path)
    for match in filter(None, map(_KEY_FLAG.match, argv[1:])):
      _check_key(config, match[2], match[0], match[3] is not None or match[1] is not None)
    argv = [_without_auto(arg) for arg in argv]
    _ARGV[:] = argv
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    raise UserError(f"{error}; see --help") from error
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # ml_collections raises these for values that it cannot convert.
    raise UserError(f"the command line cannot be read: {error}; see --help") from error
  if with_config:
    keys.expand_paths(CONFIG.value)
  if len(rest) > 1 and not words:
    raise UserError(f"leftover word {rest[1]!r} on the command line: flags are --name=value")
  return rest


def _without_auto(arg: str) -> str:
  """The argument, with what stands for 'auto' in a key of numbers."""
  key, _, value = arg.partition("=")
  row = ROWS.get(key.lstrip("-").removeprefix("config."))
  return f"{key}={row.auto}" if row and row.auto is not None and value == "auto" else arg


def _check_names(argv: list[str], with_config: bool) -> None:
  # Keys in a flag file would not be checked.
  # absl's own of one letter are none of ours; k of search is.
  no = ("flagfile", "undefok", "?", "v")
  known = [name for name in flags.FLAGS if name not in no]
  for arg in argv[1:]:
    if arg == "--":
      return
    name = arg.lstrip("-").split("=", 1)[0]
    is_key = with_config and name.startswith(("config.", "noconfig."))
    if not arg.startswith("-") or not name or is_key:
      continue
    if name not in known and not (name.startswith("no") and name[2:] in known):
      # --steps=300, for --config.train.steps.
      key = next((key for key in ROWS if key.rpartition(".")[2] == name), "") if with_config else ""
      hint = f" (did you mean --config.{key}?)" if key else _nearest(name, known, "--")
      raise UserError(f"unknown flag --{name}{hint}; see --help")


def _config_path(argv: list[str]) -> tuple[int, str]:
  """The index in argv of the word that ends in the path of the config, and the path."""
  paths: list[tuple[int, str]] = []
  for i, arg in enumerate(argv[1:], start=1):
    if re.match(r"^--?config=", arg):
      paths.append((i, arg.split("=", 1)[1]))
    elif arg in ("--config", "-config"):
      if i + 1 >= len(argv) or argv[i + 1].startswith("-"):
        raise UserError(f"--config has no value: pass {_SHIPPED}")
      paths.append((i + 1, argv[i + 1]))
    elif not paths and _KEY_FLAG.match(arg):
      raise UserError(f"{arg}: put --config configs/NAME.py before the keys that it overrides")
  if len(paths) > 1:
    raise UserError(f"two configs, {paths[0][1]} and {paths[1][1]}: pass --config once")
  if not paths or not paths[0][1]:
    raise UserError(f"no config: pass --config {_SHIPPED}")
  return paths[0]


def _load(path: str) -> ConfigDict:
  file = path.split(":", 1)[0]
  if not os.path.isfile(file):
    if os.path.isfile(path):
      raise UserError(f"--config: {path}: a colon begins a variant; the file needs a path without")
    folder, name = os.path.dirname(file) or ".", os.path.basename(file)
    beside = sorted(path.name for path in Path(folder).glob("*.py"))
    hint = _nearest(name, beside, f"{folder}/") or _nearest(file, shipped.names())
    raise UserError(f"--config: no such file {file}{hint}; it takes {_SHIPPED}")
  try:
    config = flags.FLAGS["config"].parser.parse(path)
  except UserError as error:
    # ml_collections puts a traceback before it.
    last = str(error).strip().splitlines()[-1]
    raise UserError(last.removeprefix(f"{UserError.__module__}.UserError: ")) from error
  except Exception as error:
    if ":" in path and isinstance(error, TypeError) and "get_config() takes" in str(error):
      raise UserError(f"--config={path}: {file} has no variants; pass --config={file}") from error
    # A user's file may raise anything; --debug shows where.
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "configs":
      return _reject(file, "write from lafg_jax.tasks.class_retrieval import default")
    said = str(error).strip().splitlines()
    return _reject(file, said[-1] if said else type(error).__name__)
  return config if isinstance(config, ConfigDict) else _reject(file, "returns no ConfigDict")


def _reject(file: str, why: str) -> ConfigDict:
  raise UserError(f"--config: {file} is no usable config: {why}")


def _nearest(word: str, known: Sequence[str], prefix: str = "") -> str:
  close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
  return f" (did you mean {prefix}{close[0]}?)" if close else ""


def _check_key(config: ConfigDict, key: str, arg: str, has_value: bool) -> None:
  leaves = config_keys.keys(config)
  if key in leaves:
    if not has_value and not isinstance(config_keys.get(config, key), bool):
      raise UserError(f"{arg} has no value: write {arg}=VALUE")
    return
  inside = next((f"--config.{leaf}" for leaf in leaves if leaf.startswith(key + ".")), "")
  if inside:
    raise UserError(f"--config.{key} is a section: set one of its keys, such as {inside}")
  same_name = [leaf for leaf in leaves if leaf.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
  hint = _nearest(same_name[0] if same_name else key, leaves, "--config.")
  raise UserError(f"unknown key --config.{key}{hint}; {keys.LISTED}")


def make_folder(flag: str, path: str) -> None:
  """Makes the folder that a flag names, and those above it.

  Raises UserError where it cannot be made, or is a URL, for which this would make a folder 'gs:'.
  """
  if places.is_url(path):
    raise UserError(
      f"--{flag}={path}: it takes a folder of a file system, which all processes see, and no "
      "URL; load_retriever reads a copy under gs://"
    )
  try:
    os.makedirs(path, exist_ok=True)
  except OSError as error:
    raise UserError(f"--{flag}={path}: {error.strerror}") from error


def config_name() -> str:
  """The name of a run: that of the config file, with its variant, such as 'cars-scratch'."""
  path, *variant = config_flags.get_config_filename(flags.FLAGS["config"]).split(":", 1)
  return "-".join([os.path.splitext(os.path.basename(path))[0], *variant])
