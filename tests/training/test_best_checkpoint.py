"""Validation while training: what is measured, the best that is kept, and the same after a stop."""

import json
import shutil

import numpy as np
import pytest

from lafg_jax.data import datasets
from lafg_jax.evaluate import embed, metrics, results
from lafg_jax.inference import bundle
from lafg_jax.models import embedder as embedders
from lafg_jax.tasks.class_retrieval import protocol, train
from lafg_jax.tasks.class_retrieval.default import validate
from lafg_jax.training import best_checkpoint, checkpoints, metrics_log
from lafg_jax.utils.errors import UserError

CHANGES = {
  "data__num_val_classes": 8,
  "loss__alignment": "none",
  "train__validate_every": 3,
  "train__keep_best": True,
  "train__keep_checkpoints": 20,
  "train__checkpoint_every": 1,
  "train__learning_rate": 0.02,
}
# Its measure is not asked for.
VALIDATION = best_checkpoint.Validation(lambda params: {}, "val_map@r")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, config_with):
  workdir, config = tmp_path_factory.mktemp("run"), config_with(**CHANGES)
  splits = datasets.load_splits(config.data, ("train", "val"))
  assert train.run(config, str(workdir), splits["train"], None, splits["val"]) == (8, False)
  return workdir, config, splits


def validations(workdir):
  lines = metrics_log.read(str(workdir / metrics_log.FILE))
  return {line["step"]: line for line in lines if "val_map@r" in line}


def test_what_is_measured_is_the_evaluation_of_that_step_and_the_best_is_kept(trained):
  workdir, config, splits = trained
  measured = validations(workdir)
  assert list(measured) == [3, 6, 8]
  for step, line in measured.items():
    arrays, _ = checkpoints.read(str(workdir), step)
    params = checkpoints.subtree(arrays, "state/params")
    apply = embed.make_embed(embedders.build(config.model), params)
    # In batches of the same size: a rounding more turns near ties of so small a model.
    size = config.evaluate.batch_size
    (vectors,), _ = embed.embed_dataset([apply], splits["val"], config.data, size)
    found = metrics.evaluate_embeddings(vectors, splits["val"].labels, (1,))
    assert line["val_map@r"] == pytest.approx(found["map@r"], abs=1e-6)
    assert line["val_recall@1"] == pytest.approx(found["recall@1"], abs=1e-6)
  best = max(measured, key=lambda step: measured[step]["val_map@r"])
  assert checkpoints.steps(str(workdir), checkpoints.BEST) == [best]
  kept, meta = checkpoints.latest(str(workdir), where=checkpoints.BEST)
  assert meta["validation"]["val_map@r"] == measured[best]["val_map@r"]
  for path, x in checkpoints.read(str(workdir), best)[0].items():
    np.testing.assert_array_equal(kept[path], x, err_msg=path)


def test_only_a_better_step_takes_the_place_of_the_best(tmp_path, trained, config_with):
  _, config, splits = trained
  meta = train.meta(config, splits["train"], None)
  arrays, saved = {"x": np.zeros(3)}, []
  for given in ([0.2, 0.1, 0.2, 0.3], [0.3, 0.4]):
    with best_checkpoint.open_selection(config, str(tmp_path), VALIDATION, meta) as one:
      for value in given:
        step = len(saved) + 1
        one.keep(step, {"val_map@r": value}, arrays, meta)
        saved.append(one.best)
  assert saved == [0.2, 0.2, 0.2, 0.3, 0.3, 0.4]
  assert checkpoints.steps(str(tmp_path), checkpoints.BEST) == [6]
  # On other devices the step that is there may measure more: it is there all the same.
  with best_checkpoint.open_selection(config, str(tmp_path), VALIDATION, meta) as one:
    one.keep(6, {"val_map@r": 0.41}, arrays, meta)
  assert checkpoints.steps(str(tmp_path), checkpoints.BEST) == [6]
  # Under another config what was there is no measure, and no checkpoint beside it need say so.
  config = config_with(**CHANGES | {"train__learning_rate": 0.01})
  meta = train.meta(config, splits["train"], None)
  with best_checkpoint.open_selection(config, str(tmp_path), VALIDATION, meta) as one:
    assert one.best == -np.inf
  assert checkpoints.steps(str(tmp_path), checkpoints.BEST) == []
  assert (tmp_path / checkpoints.BEST / "before-6-0").is_dir()


def test_a_run_that_was_stopped_keeps_the_same_best(tmp_path, trained):
  workdir, config, splits = trained
  again = tmp_path / "again"
  shutil.copytree(workdir, again)
  for step in (5, 6, 7, 8):
    shutil.rmtree(again / checkpoints.FOLDER / str(step))
  assert train.run(config, str(again), splits["train"], None, splits["val"]) == (8, False)
  assert validations(again) == validations(workdir)
  one, other = (checkpoints.latest(str(x), where=checkpoints.BEST) for x in (workdir, again))
  assert one[1]["step"] == other[1]["step"]
  for path, x in one[0].items():
    np.testing.assert_array_equal(x, other[0][path], err_msg=path)


def test_a_damaged_best_stops_the_run_instead_of_being_forgotten(tmp_path, trained):
  workdir, config, splits = trained
  shutil.copytree(workdir, tmp_path / "run")
  for step in (7, 8):
    shutil.rmtree(tmp_path / "run" / checkpoints.FOLDER / str(step))
  (best,) = (tmp_path / "run" / checkpoints.BEST).iterdir()
  (best / "meta" / "metadata").write_text("{")
  with pytest.raises(UserError, match=f"^{best} is damaged .* to choose the best anew$"):
    train.run(config, str(tmp_path / "run"), splits["train"], None, splits["val"])
  shutil.rmtree(best)
  assert train.run(config, str(tmp_path / "run"), splits["train"], None, splits["val"])[0] == 8
  assert checkpoints.steps(str(tmp_path / "run"), checkpoints.BEST) == [8]


def test_the_best_is_evaluated_on_request(trained, config_with):
  workdir, _, _ = trained
  config = config_with(**CHANGES, evaluate__source="best", evaluate__split="val")
  result = protocol.run(config, str(workdir))
  best = checkpoints.steps(str(workdir), checkpoints.BEST)[0]
  assert result["step"] == best and result["source"] == "best"
  model = bundle.read(str(workdir), "best")
  assert model.facts["step"] == best and model.facts["evaluation"] == result
  assert model.facts["validation"]["val_map@r"] == validations(workdir)[best]["val_map@r"]
  assert bundle.read(str(workdir)).facts["evaluation"] is None, "it is of another checkpoint"
  assert result["map@r"] == pytest.approx(validations(workdir)[best]["val_map@r"], abs=1e-6)
  assert json.loads((workdir / results.FILE).read_text())["step"] == best


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train__validate_every": 5}, "train.validate_every=5: no classes are held out"),
    ({"train__keep_best": True}, "train.keep_best: pass --config.train.validate_every"),
    ({"evaluate__source": "best"}, "evaluate.source=best: nothing keeps it"),
  ],
)
def test_keys_that_need_others_say_so(config_with, changes, message):
  with pytest.raises(UserError, match=message):
    validate(config_with(**changes), ["train", "evaluate"])
