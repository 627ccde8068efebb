"""Whether the endpoint of a language model is there, before any work starts."""

import json
import os
import urllib.error
import urllib.request

from absl import logging

from lafg_jax.language.describers import openai_dialects
from lafg_jax.language.describers.chat import Chat
from lafg_jax.utils.errors import UserError

# Seconds for the connection.
_PATIENCE = 4.0


def _without(chat: Chat) -> str:
  """What classes can do without a language model."""
  if chat.section != "language":
    return ""
  return (
    ", or leave language.describer out and train without words by "
    "--config.loss.alignment=orthogonal: class names alone suffice"
  )


def check(chat: Chat) -> None:
  """Raises UserError where no connection to the `base_url` can be made.

  Any answer counts, an error too: not every server lists its models, and the key is tried when the
  first question is asked. A model that a server's list lacks is a warning, as some servers take
  names that they do not list.
  """
  given = chat.base_url or os.environ.get("OPENAI_BASE_URL", "")
  url = openai_dialects.base_url(given) or "https://api.openai.com/v1"
  headers = {"Authorization": f"Bearer {os.environ.get(chat.api_key_env) or 'none'}"}
  request = urllib.request.Request(f"{url}/models", headers=headers)
  try:
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
      names = [str(model["id"]) for model in json.load(answer)["data"]]
  except urllib.error.HTTPError:
    return
  except urllib.error.URLError as error:
    raise UserError(
      f"--config.{chat.section}.base_url={chat.base_url}: {url} cannot be reached "
      f"({error.reason}): start the server, or pass another URL{_without(chat)}"
    ) from error
  except (OSError, ValueError, KeyError, TypeError):
    # It took the connection, and is slow, or says something else.
    return
  # Ollama lists llama3.1:latest and takes llama3.1.
  if names and chat.model not in {name for full in names for name in (full, full.split(":")[0])}:
    logging.warning(
      "%s=%s is not among the models that %s lists, such as %s",
      *(chat.model_key, chat.model, url, ", ".join(names[:5])),
    )
