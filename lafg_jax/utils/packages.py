"""Packages that only some commands need, checked before work starts."""

from importlib import util

from lafg_jax.utils.errors import UserError

# Modules that training, evaluation, the report and the data check need, and inference does not.
TRAINING = ("bokeh", "grain", "imagehash", "tensorboardX")


def require(extra: str, *modules: str) -> None:
  """Raises UserError that names the modules not installed and the extra of setup.py with them."""
  found = {name: util.find_spec(name) for name in modules}
  # A folder of that name in the working directory, as W&B makes one, is a module without a file.
  missing = [name for name, spec in found.items() if spec is None or spec.origin is None]
  if missing:
    verb = "is" if len(missing) == 1 else "are"
    raise UserError(f"{', '.join(missing)} {verb} not installed: pip install 'lafg_jax[{extra}]'")
