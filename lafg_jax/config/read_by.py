"""Keys that only some values of another key read: to change one in vain is a mistake."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from lafg_jax.tasks.class_retrieval.choices import PROXIED
from lafg_jax.utils.config_keys import get
from lafg_jax.utils.errors import UserError

# Keys of the loss, with the value that asks for nothing, and the values of loss.auxiliary.
LOSS: dict[str, tuple[object, tuple[str, ...]]] = {
  "reduction": ("mean", ("pairwise",)),
  "proxy_alpha": (32.0, ("proxy_anchor",)),
  "proxy_margin": (0.1, ("proxy_anchor",)),
  "proxy_lr_factor": (100.0, PROXIED),
}


def reject_unread(
  config: ConfigDict, chooser: str, read_by: Mapping[str, tuple[object, tuple[str, ...]]]
) -> None:
  """Raises UserError for a key, beside `chooser` in its section, that is set and not read.

  Args:
    config: all keys.
    chooser: dotted key whose value decides what is read, such as 'loss.auxiliary'.
    read_by: for each key the value that asks for nothing, and the values of `chooser` that read it.
  """
  section, chosen = chooser.split(".")[0], get(config, chooser)
  for key, (unset, names) in read_by.items():
    value = config[section][key]
    if value != unset and chosen not in names:
      raise UserError(
        f"--config.{section}.{key}={value}: {chooser}={chosen} does not read it, only "
        f"{', '.join(names)}; pass --config.{section}.{key}={unset}"
      )
