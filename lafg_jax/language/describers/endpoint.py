"""Whether the endpoint of `language.describer=openai` is there, before any work starts."""

import json
import os
import urllib.error
import urllib.request
from typing import Any

from absl import logging

from lafg_jax.language.describers import openai_dialects
from lafg_jax.utils.errors import UserError

# Seconds for the connection.
_PATIENCE = 4.0


def check(language: Any) -> None:
  """Raises UserError where no connection to `language.base_url` can be made.

  Any answer counts, an error too: not every server lists its models, and the key is tried when the
  first class is described. A model that a server's list lacks is a warning, as some servers take
  names that they do not list.
  """
  given = language.base_url or os.environ.get("OPENAI_BASE_URL", "")
  url = openai_dialects.base_url(given) or "https://api.openai.com/v1"
  headers = {"Authorization": f"Bearer {os.environ.get(language.api_key_env) or 'none'}"}
  request = urllib.request.Request(f"{url}/models", headers=headers)
  try:
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
      names = [str(model["id"]) for model in json.load(answer)["data"]]
  except urllib.error.HTTPError:
    return
  except urllib.error.URLError as error:
    raise UserError(
      f"--config.language.base_url={language.base_url}: {url} cannot be reached ({error.reason}): "
      "start the server, or pass another URL"
    ) from error
  except (OSError, ValueError, KeyError, TypeError):
    # It took the connection, and is slow, or says something else.
    return
  # Ollama lists llama3.1:latest and takes llama3.1.
  if names and language.llm not in {name for full in names for name in (full, full.split(":")[0])}:
    logging.warning(
      "language.llm=%s is not among the models that %s lists, such as %s",
      *(language.llm, url, ", ".join(names[:5])),
    )
