"""Pushes an export to the hub, by the hub's own client."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lafg_jax.utils import places
from lafg_jax.utils.errors import UserError

_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)", re.ASCII)


def repository(place: str) -> str:
  """'org/name' of hf://org/name. Raises UserError for anything else."""
  found = _HUB.fullmatch(place)
  if not found:
    raise UserError(f"--push={place}: it takes hf://org/name")
  return found[1]


def begin(place: str) -> None:
  """Makes the repository where it is not there; before an export, which takes longer.

  Raises UserError where there is no token or no network, or the token may not write there.
  """
  import huggingface_hub as hub

  name = repository(place)
  if hub.constants.HF_HUB_OFFLINE:
    raise UserError(f"--push={place}: HF_HUB_OFFLINE is set: unset it to push")
  if not hub.get_token():
    raise UserError(
      f"--push={place}: no token: set HF_TOKEN to one that may write "
      "(https://huggingface.co/settings/tokens), or run `hf auth login`"
    )
  with _as_user_error(place):
    _api().create_repo(name, exist_ok=True)


def push(place: str, folder: str, paths: Sequence[str]) -> str:
  """Pushes files of a folder, all in one commit; returns the URL of the commit.

  Other files of the folder stay here, and other files of the repository stay there. Raises
  UserError as `begin`.
  """
  names = [os.path.relpath(path, folder) for path in paths]
  with _as_user_error(place):
    done = _api().upload_folder(
      repo_id=repository(place),
      folder_path=folder,
      allow_patterns=names,
      commit_message="Exported by lafg_jax",
    )
  return str(getattr(done, "commit_url", "") or place)


def _api() -> Any:
  import huggingface_hub as hub

  return hub.HfApi(library_name="lafg_jax")


@contextmanager
def _as_user_error(place: str) -> Iterator[None]:
  from huggingface_hub import errors

  if "HF_HUB_VERBOSITY" not in os.environ:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
  try:
    yield
  except errors.HfHubHTTPError as error:
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = places.reason(error)[:300]
    why = {
      401: "the hub does not take this token: make a new one, and set HF_TOKEN",
      403: "this token may not write there: take one with the right to write, or another --push",
      404: "the hub has no such organisation or repository, or this token may not see it",
    }.get(status or 0, f"the hub refuses: {said}")
    raise UserError(f"--push={place}: {why}") from error
  except errors.HFValidationError as error:
    raise UserError(f"--push={place}: {places.reason(error)}") from error
  except places.errors() as error:
    why = f"the hub cannot be reached ({type(error).__name__})"
    raise UserError(f"--push={place}: {why}; what was exported stays") from error
