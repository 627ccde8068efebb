"""A config that cannot be is one line that names the key, before any work."""

import pytest

from lafg_jax.tasks.composed_retrieval import default
from lafg_jax.utils.errors import UserError

WORDS = {"captioner.kind": "attributes", "editor.kind": "grammar"}
MISUSES = [
  ({"query.alpha": 0.8, "query.beta": 0.4}, "query.beta=0.4", "at most 1"),
  ({"query.alpha": 1.5}, "query.alpha=1.5", "from 0 to 1"),
  ({"query.method": "clip"}, "query.method=clip", "cvsi, image"),
  ({"query.oti": True}, "query.oti=True", "query.method=cvsi does not read it, only searle"),
  ({"query.method": "cirevl"}, "query.method=cirevl", "--config.editor.kind"),
  ({"editor.kind": "grammar"}, "editor.kind=grammar", "--config.captioner.kind"),
  ({"editor.kind": "openai", "captioner.kind": "file", "captioner.file": "a.jsonl"},
   "editor.kind=openai", "--config.editor.llm"),
  ({"editor.kind": "file"}, "editor.kind=file", "--config.editor.file"),
  ({"captioner.kind": "transformers"}, "captioner.kind=transformers", "--config.captioner.model"),
  ({"editor.file": "x"}, "editor.file=x", "editor.kind=none does not read it"),
  ({"editor.kind": "perfect", "composed.source": "circo", "composed.root": "/c"},
   "editor.kind=perfect", "no true descriptions"),
  ({"composed.source": "cirr"}, "composed.source=cirr", "--config.composed.root=FOLDER"),
  ({"composed.source": "listed"}, "composed.source=listed", "--config.composed.file=FILE.jsonl"),
  ({"composed.root": "/x"}, "composed.root=/x", "composed.source=finches does not read it"),
  ({"model.pretrained": ""}, "model.pretrained=", "a hub id or tiny_clip"),
  ({"data.resize_size": 100}, "data.resize_size=100", "data.image_size"),
  ({"data.images_per_class": 3}, "data.images_per_class=3", "does not read it"),
  ({"data.pad": "left"}, "data.pad=left", "none, target"),
  ({"train.frozen_backbone": True}, "train.frozen_backbone", "Phi alone learns"),
  ({"evaluate.source": "some.npz"}, "evaluate.source=some.npz", "checkpoint, best"),
  ({"evaluate.split": "val"}, "evaluate.split=val", "--config.composed.split"),
  ({"evaluate.ks": (1, 3)}, "evaluate.ks=(1, 3)", "protocol"),
  ({"evaluate.source": "pretrained"}, "evaluate.source=pretrained", "CLIP has no Phi"),
  ({"data.manifest": "/x"}, "data.manifest=/x", "does not read it"),
  ({"query.method": "searle", "mapping.method": "pic2word"}, "mapping.method=pic2word",
   "pass --config.mapping.method=searle"),
  ({"train.keep_best": True}, "train.keep_best", "train.validate_every"),
  ({"evaluate.source": "best"}, "evaluate.source=best", "train.keep_best=True"),
  ({"query.use_edit": False, "query.use_phi": False, "query.use_image": False},
   "query.use_image=False", "no term of the query is left"),
]  # fmt: skip
STAGES = [
  ({"query.method": "image"}, ["train"], "stage=train", "trains nothing"),
  ({"mapping.source": "phi.pt"}, ["train", "evaluate"], "stage=train", "has a trained Phi"),
  ({"query.method": "searle", "query.oti": True}, ["train"], "stage=train", "is inverted"),
  ({}, ["caption"], "stage=caption", "captioner.kind=none reads nothing"),
  (WORDS | {"query.method": "sum"}, ["edit"], "stage=edit", "reads nothing of it"),
]


def config_with(changes):
  config = default.get_config()
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize(("changes", "key", "hint"), MISUSES)
def test_a_misuse_is_one_line_that_names_the_key(changes, key, hint):
  config = config_with(changes)
  with pytest.raises(UserError) as error:
    default.validate(config, default.default_names(config_with({})))
  message = str(error.value)
  assert message.startswith(f"--config.{key}") and hint in message and "\n" not in message


@pytest.mark.parametrize(("changes", "stages", "key", "hint"), STAGES)
def test_a_stage_without_work_is_one_line(changes, stages, key, hint):
  with pytest.raises(UserError) as error:
    default.validate(config_with(changes), stages)
  assert str(error.value).startswith(f"--{key}") and hint in str(error.value)


def test_a_bare_run_has_the_stages_that_its_query_reads():
  of = lambda **changes: default.default_names(  # noqa: E731
    config_with({k.replace("__", "."): x for k, x in changes.items()})
  )
  assert of() == ["train", "evaluate", "report"]
  assert default.default_names(config_with(WORDS)) == list(default.STAGES)
  assert of(query__method="sum") == ["evaluate", "report"]
  assert of(evaluate__source="untrained") == ["evaluate", "report"]
  default.validate(config_with({}), of())
  default.validate(config_with(WORDS), default.STAGES)
