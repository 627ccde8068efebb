"""run.json: config, command and versions of each start, and no secret."""

import json

import pytest

from configs import synthetic
from lafg_jax.config import starts
from lafg_jax.utils import config_keys

SECRETS = {
  "--config.language.base_url=https://me.example/v1/SECRET": "--config.language.base_url=...",
  "--config.language.api_key_env=MY_SECRET": "--config.language.api_key_env=...",
  "--config.model.pretrained=https://me:SECRET@host/x": (
    "--config.model.pretrained=https://...@host/x"
  ),
  "--workdir=abfs://b/x?sv=1&sig=SECRET%2B": "--workdir=abfs://b/x?sv=...&sig=...",
  "--config.language.llm=hf_SECRETSECRET": "--config.language.llm=hf_...",
  "sk-proj-SECRETSECRET": "sk-...",
  "--workdir=runs/a?b=c@d": "--workdir=runs/a?b=c@d",
}


def test_each_start_is_added_with_what_it_changed(tmp_path):
  config, versions = synthetic.get_config(), {"jax": "1.2"}
  command = ["python", "-m", "lafg_jax.main", "--config=synthetic"]
  starts.record(str(tmp_path), config, command, ["train"], versions)
  config.train.steps, before = 7, config.train.steps
  starts.record(str(tmp_path), config, [*command, "--config.train.steps=7"], ["train"], versions)
  found = json.loads((tmp_path / starts.FILE).read_text())
  assert found["config"] == config_keys.flatten(config)
  first, second = found["starts"]
  assert first["command"] == command and first["stages"] == ["train"] and not first["changed"]
  assert second["changed"] == {"train.steps": [before, 7]}
  assert second["versions"]["jax"] == "1.2" and second["versions"]["python"]
  assert first["began"] <= second["began"] and first["began"].endswith("+00:00")
  (tmp_path / starts.FILE).write_text('{"config": 3')
  starts.record(str(tmp_path), config, command, ["train"], versions)
  assert len(json.loads((tmp_path / starts.FILE).read_text())["starts"]) == 1


@pytest.mark.parametrize("word", SECRETS)
def test_no_secret_is_written(tmp_path, word):
  config = synthetic.get_config()
  key, _, value = word.partition("=")
  if key.startswith("--config."):
    config.update_from_flattened_dict({key.removeprefix("--config."): value})
  starts.record(str(tmp_path), config, ["lafg-jax", word], ["train"], {})
  text = (tmp_path / starts.FILE).read_text()
  assert "SECRET" not in text
  assert json.loads(text)["starts"][0]["command"] == ["lafg-jax", SECRETS[word]]
