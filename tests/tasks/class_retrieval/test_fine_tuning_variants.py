"""The study of a whole fine-tuned backbone: what it starts from, and what its cells differ in."""

import pytest

from configs import synthetic
from lafg_jax.ablation import plan
from lafg_jax.tasks.class_retrieval import fine_tuning_variants as variants
from lafg_jax.utils.errors import UserError


def planned(tmp_path, **changes):
  config = synthetic.get_config("pretrained")
  config.update_from_flattened_dict({key.replace("__", "."): x for key, x in changes.items()})
  cells = plan.cells(variants, config, str(tmp_path), {}, seeds=1)
  return {one.variant: one for one in cells}


def test_all_train_alike_and_differ_in_their_class_targets_alone(tmp_path):
  found = planned(tmp_path, train__interpolate=0.75)
  assert len({one.key for one in found.values()}) == len(found)
  assert not found["untrained"].trains and not found["centred"].trains
  assert found["centred"].config.model.centre and not found["untrained"].config.model.centre
  trained = [x for name, x in found.items() if name not in ("untrained", "centred")]
  assert {one.config.train.interpolate for one in trained} == {0.75}
  assert {one.steps for one in trained} == {found["l_aux"].config.train.steps}
  words = {name for name, x in found.items() if x.config.loss.alignment not in _WITHOUT_WORDS}
  assert words >= {"prototypes", "prototypes-shuffled", "prototypes@paper-literal"}
  assert found["prototypes-shuffled"].config.language.shuffle == "all"
  assert found["l_aux@images=2"].config.data.max_images_per_class == 2
  # The study has cells of its own for the start.
  assert not any(one.config.evaluate.references for one in found.values())


def test_batches_show_no_class_or_image_twice_where_labels_are_scarce(tmp_path):
  small = {"data__classes_per_batch": 16, "data__images_per_class": 4}
  found = planned(tmp_path, train__interpolate=0.75, **small)
  scarce = [found[x].config.data for x in found if "@classes=" in x or "@images=" in x]
  assert len(scarce) == 16
  for data in scarce:
    assert data.classes_per_batch <= (data.max_train_classes or 32)
    assert data.images_per_class <= (data.max_images_per_class or 4) or data.max_train_classes == 10
    assert 60 <= data.classes_per_batch * data.images_per_class <= 64


_WITHOUT_WORDS = ("none", "onehot", "orthogonal")


def test_a_backbone_with_a_head_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"it takes model.pretrained and model.embedding_dim=0"):
    planned(tmp_path, model__embedding_dim=32)
