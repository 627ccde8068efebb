"""Packages that only some commands need, checked before work starts."""

from importlib import util

from lafg_jax.utils.errors import UserError

# Modules that training, evaluation and the data check import, and inference does not.
TRAINING = ("grain", "imagehash", "tensorboardX")


def require(extra: str, *modules: str) -> None:
  """Raises UserError that names the modules not installed and the extra of setup.py with them."""
  missing = [name for name in modules if util.find_spec(name) is None]
  if missing:
    verb = "is" if len(missing) == 1 else "are"
    raise UserError(f"{', '.join(missing)} {verb} not installed: pip install 'lafg_jax[{extra}]'")
