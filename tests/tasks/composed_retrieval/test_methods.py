"""Which terms a method has, and what becomes of weights where a term is missing."""

import pytest

from lafg_jax.tasks.composed_retrieval import default, methods
from lafg_jax.tasks.composed_retrieval.methods import Weights
from lafg_jax.utils.errors import UserError


def config_with(**changes):
  config = default.get_config()
  config.update_from_flattened_dict({k.replace("__", "."): x for k, x in changes.items()})
  return config


ALL = {"edit", "phi", "captions"}
# (method, what is there) -> alpha, beta, rest, text.
CASES = [
  ({}, ALL, (0.6, 0.4, 0, 0)),
  ({"query.alpha": 0.2, "query.beta": 0.6}, ALL, (0.2, 0.6, 0.2, 0)),
  ({"query.alpha": 0.2, "query.beta": 0.6}, {"phi"}, (0, 0.75, 0.25, 0)),
  ({"query.alpha": 0.2, "query.beta": 0.6}, {"edit"}, (0.5, 0, 0.5, 0)),
  ({"query.use_phi": False}, ALL, (1, 0, 0, 0)),
  ({"query.alpha": 0.2, "query.beta": 0.6, "query.use_image": False}, ALL, (0.25, 0.75, 0, 0)),
  # With nothing but the image it is the baseline of images.
  ({}, set(), (0, 0, 1, 0)),
  ({"query.method": "image"}, set(), (0, 0, 1, 0)),
  ({"query.method": "text"}, set(), (0, 0, 0, 1)),
  ({"query.method": "sum"}, ALL, (0, 0, 0.5, 0.5)),
  ({"query.method": "searle"}, ALL, (0, 1, 0, 0)),
  ({"query.method": "cirevl"}, ALL, (1, 0, 0, 0)),
]


@pytest.mark.parametrize(("changes", "there", "wanted"), CASES)
def test_weights_of_terms_that_are_there_sum_to_one(changes, there, wanted):
  found = methods.weights_of(config_with(**changes), there)
  assert found == pytest.approx(wanted)
  assert sum(found) == pytest.approx(1)


def test_baselines_leave_the_gallerys_captions_out_and_have_their_own_templates():
  for name in ("image", "text", "sum", "pic2word", "searle", "lincir", "cirevl"):
    assert methods.of(config_with(query__method=name)).gamma == 0
  own = methods.of(config_with())
  assert own.gamma == 0.2 and own.template == "cvsi"
  assert methods.available(own, {"edit", "phi"}).gamma == 0
  assert methods.of(config_with(query__method="pic2word")).template == "pic2word"
  assert methods.of(config_with(query__method="searle")).template == "plain"
  assert methods.of(config_with(query__method="cirevl")).edits == "first"
  assert methods.of(config_with(query__use_added=False)).template == "without_added"
  texts = {
    name: text.format(text="is red", added="a hat") for name, text in methods.TEMPLATES.items()
  }
  assert texts == {
    "cvsi": "a photo of $ that is red. And the photo should have a hat.",
    "without_added": "a photo of $ that is red.",
    "plain": "a photo of $ that is red",
    "pic2word": "a photo of $ , is red",
  }


def test_beside_cvsi_stand_each_term_off_and_the_baselines():
  config = config_with(query__alpha=0.2, query__beta=0.6)
  table = methods.beside(config, ALL | {"added"}, ("perfect", "noisy"))
  assert list(table)[0] == "cvsi"
  assert {"no_edit", "no_phi", "no_image", "no_captions", "no_added"} <= set(table)
  assert {"image", "text", "sum", "lincir", "cirevl", "perfect_edits", "noisy_edits"} <= set(table)
  assert table["no_image"].weights == pytest.approx((0.25, 0.75, 0, 0))
  assert table["no_captions"].gamma == 0 and table["no_phi"].gamma == 0.2
  # A term without a weight cannot be taken away, and what is missing is no baseline.
  fewer = methods.beside(config_with(), {"phi"}, ())
  assert set(fewer) == {"cvsi", "lincir", "image", "text", "sum"}
  assert set(methods.beside(config_with(query__method="text"), ALL, ())) == {
    "text",
    "image",
    "sum",
  }


def test_what_a_method_reads_and_trains():
  words = {"captioner.kind": "attributes", "editor.kind": "grammar"}
  assert methods.reads(config_with(**words)) == ALL
  assert methods.reads(config_with()) == {"phi"}
  assert methods.reads(config_with(query__method="image", **words)) == set()
  # An editor reads captions of references, also where the gallery has none.
  assert methods.reads(config_with(query__method="cirevl", **words)) == {"edit", "captions"}
  only = config_with(**words, **{"query.alpha": 0.0, "query.gamma": 0.0, "query.beta": 1.0})
  assert methods.reads(only) == {"phi"}
  filed = config_with(**words | {"editor.kind": "file", "captioner.gallery": False})
  assert methods.reads(filed) == {"edit", "phi"}
  assert methods.trains(config_with()) and not methods.trains(config_with(query__method="sum"))
  assert not methods.trains(config_with(mapping__source="phi.pt"))
  assert not methods.trains(config_with(query__method="searle", query__oti=True))
  assert methods.resolve(config_with(query__method="pic2word")).mapping.method == "pic2word"


def test_a_query_of_no_term_is_one_line():
  off = dict.fromkeys(("query.use_edit", "query.use_phi", "query.use_image"), False)
  with pytest.raises(UserError, match=r"^--config.query.use_image=False: no term"):
    methods.of(config_with(**off))


def test_weights_are_shared_evenly_where_those_left_have_none():
  assert methods.without(Weights(0.6, 0.4, 0.0), {"image"}) == (0, 0, 1, 0)
  assert methods.without(Weights(1.0, 0.0, 0.0), {"phi", "image"}) == (0, 0.5, 0.5, 0)
  assert methods.without(Weights(1.0, 0.0, 0.0), set()) == (0, 0, 0, 0)
