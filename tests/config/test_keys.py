"""The table of keys: whole, documented, and what is derived from it."""

import pwd
import re
from pathlib import Path

import pytest

from configs import synthetic
from lafg_jax.config import keys, record, reference
from lafg_jax.config.table import ROWS
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils import config_keys
from lafg_jax.utils.errors import UserError

# Of all tasks.
SECTIONS = tuple(dict.fromkeys(name.split(".")[0] for name in ROWS))
PAGE = Path(__file__).resolve().parents[2] / "docs/reference/keys.md"


def test_every_key_of_the_default_has_a_row_that_says_all_of_it():
  ours = [row.name for row in keys.rows(default.SECTIONS)]
  assert sorted(config_keys.keys(default.get_config())) == sorted(ours)
  config = keys.defaults(SECTIONS)
  for name, row in ROWS.items():
    assert name == row.name and config_keys.get(config, name) == row.default
    assert row.rule.accepts(row.default) and row.rule.wanted, name
    assert row.decides in record.KINDS and row.comment.endswith("."), name
    if row.read_by is not None:
      by = ROWS[row.read_by.key]
      assert all(by.rule.accepts(value) for value in row.read_by.values), name


def test_the_page_of_the_documentation_is_what_the_table_gives():
  # python -m lafg_jax.config.reference > docs/reference/keys.md
  assert PAGE.read_text(encoding="utf-8") == reference.text()


def test_a_row_of_the_page_has_five_cells_whatever_stands_in_it():
  rows = [line for line in reference.text().splitlines() if line.startswith("| `")]
  assert len(rows) == len(ROWS)
  for line in rows:
    assert len(line.replace("\\|", "").split("|")) == 7, line
  (targets,) = [line for line in rows if "`model.lora_targets`" in line]
  assert "attention/(query\\|value)/kernel" in targets


@pytest.mark.parametrize(
  ("kinds", "has", "has_not"),
  [
    (["words"], ["language.llm", "language.temperature"], ["language.retries", "seed"]),
    (["features"], ["language.encoder", "language.prompt"], ["language.query"]),
    (["prototypes"], ["language.query", "language.tau_profile"], ["language.centre"]),
    (
      ["embedding", "training"],
      ["seed", "data.flip", "model.options", "model.pretrained", "loss.beta", "train.steps"],
      ["data.root", "data.pack", "train.log_every", "language.centre", "evaluate.ks"],
    ),
    (["targets"], ["language.centre", "language.shuffle", "language.prototype"], ["seed"]),
    (
      ["embedding", "evaluation"],
      ["seed", "model.pool", "data.resize_size", "data.box_crop", "evaluate.ks", "evaluate.split"],
      ["evaluate.batch_size", "train.steps", "data.flip"],
    ),
  ],
)
def test_what_decides_a_stage(kinds, has, has_not):
  config = synthetic.get_config("prototypes")
  found = keys.deciding(config, *kinds)
  assert set(has) <= found.keys() and not set(has_not) & found.keys()
  assert all(value == config_keys.get(config, key) for key, value in found.items())
  if "words" in kinds:
    assert keys.deciding({"language": config.language}, *kinds) == found


def test_every_key_decides_one_thing():
  config = keys.defaults(SECTIONS)
  found = [key for kind in record.KINDS for key in keys.deciding(config, kind)]
  assert sorted(found) == sorted(ROWS)


def test_a_key_is_read_with_some_values_of_another():
  config = synthetic.get_config("prototypes")
  assert not keys.is_read(config, "language.tau_profile") and keys.is_read(config, "language.tau_k")
  config.language.prototype = "profile"
  assert keys.is_read(config, "language.tau_profile")


def test_flat_configs_come_back_nested():
  config = synthetic.get_config("prototypes")
  again = config_keys.nested(config_keys.flatten(config))
  assert again.to_dict() == config.to_dict()


# Keys whose comments speak of files, and which name none.
NO_PATHS = {
  "captioner.kind",
  "editor.kind",
  "task",
  "captions.layout",
  "captions.source",
  "captions.split",
  "data.name",
  "data.depth",
  "data.split_folders",
  "language.describer",
  "model.lora_targets",
  "train.freeze",
}


def test_home_folders_stand_in_every_key_that_names_a_file_or_folder(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  speaks = re.compile(r"\b(folder|file|path|JSON|CSV)s?\b", re.IGNORECASE)
  for name, row in ROWS.items():
    said = speaks.search(f"{row.comment} {row.rule.wanted}") and name not in NO_PATHS
    assert not said or row.path, f"{name} speaks of files: is it a path?"
    if not row.path:
      continue
    for given, meant in PLACES.items():
      config = keys.defaults(SECTIONS)
      many = isinstance(row.default, tuple)
      config.update_from_flattened_dict({name: (given, given) if many else given})
      keys.expand_paths(config)
      assert config_keys.get(config, name) == ((meant, meant) if many else meant), name
  root = pwd.getpwuid(0).pw_name
  config.data.root = f"~{root}/x"
  keys.expand_paths(config)
  assert config.data.root == pwd.getpwuid(0).pw_dir + "/x"
  config.data.root = "~nobody_of_this_name/x"
  with pytest.raises(
    UserError, match=r"^--config\.data\.root=~nobody_of_this_name/x: .*\./~nobody"
  ):
    keys.expand_paths(config)


PLACES = {
  "~/x": "/home/me/x",
  "~": "/home/me",
  "a/~/b": "a/~/b",
  "./~": "./~",
  "x~": "x~",
  "$HOME/x": "$HOME/x",
  "org/name": "org/name",
  "gs://bucket/~/x": "gs://bucket/~/x",
  "hf://org/name": "hf://org/name",
}
