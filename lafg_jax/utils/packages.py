"""Packages that only some commands need, told in one line before work starts where they miss."""

from importlib import util

from lafg_jax.utils.errors import UserError

# What training, evaluation and the data check import beyond what inference does, by module.
TRAINING = ("grain", "imagehash", "tensorboardX")


def require(extra: str, *modules: str) -> None:
  """Raises UserError that names the modules not installed and the extra of setup.py with them."""
  missing = [name for name in modules if util.find_spec(name) is None]
  if missing:
    verb = "is" if len(missing) == 1 else "are"
    raise UserError(f"{', '.join(missing)} {verb} not installed: pip install 'lafg_jax[{extra}]'")
