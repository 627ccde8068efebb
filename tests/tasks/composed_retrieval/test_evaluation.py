"""The whole task on a few images of one's own, and its figures by hand."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lafg_jax import stages, tasks
from lafg_jax.evaluate import results
from lafg_jax.models import clip as clips
from lafg_jax.tasks.composed_retrieval import (
  default,
  evaluation,
  features,
  methods,
  protocol,
  ranking,
  readings,
  words,
)
from lafg_jax.tasks.composed_retrieval import model as models
from lafg_jax.tasks.composed_retrieval import stages as task_stages
from lafg_jax.utils.errors import UserError
from lafg_jax.utils.files import fingerprint

IMAGES, QUERIES = 20, 6
TEXTS = ["has red wings", "is a dog costs $ 5", "is very red", "has no wings", "is dog", "is red"]


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
  """A folder of images, queries, captions, edits and training texts."""
  root = tmp_path_factory.mktemp("own")
  rng = np.random.default_rng(0)
  (root / "images").mkdir()
  for k in range(IMAGES):
    shape = (24, 40, 3) if k % 3 else (20, 20, 3)
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(root / "images" / f"{k}.png")
  queries = [
    {"id": str(k), "reference": f"{k}.png", "text": TEXTS[k], "kinds": ["odd" if k % 2 else "even"],
     "targets": [f"{k + 7}.png", f"{k + 12}.png"][: 1 + k % 2], "edited": f"a dog that {TEXTS[k]}"}
    for k in range(QUERIES)
  ]  # fmt: skip
  captions = [
    {"id": f"{k}.png", "captions": [f"a photo of dog {k}", "a red dog"][: 1 + k % 2]}
    for k in range(IMAGES)
  ]
  edits = [
    {"id": str(k), "edited": [f"a dog that {TEXTS[k]}", "a photo"], "added": "red wings" * (k != 2)}
    for k in range(QUERIES)
  ]
  for name, rows in (("queries", queries), ("captions", captions), ("edits", edits)):
    (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  texts = [f"a photo of a {x} dog that has {y} wings" for x in ("red", "no") for y in range(6)]
  (root / "texts.txt").write_text("\n".join(texts))
  return root


def config_of(own_data, small_clip, **changes):
  config = default.get_config()
  config.data.update(image_size=16, resize_size=16)
  config.model.pretrained = small_clip.folder
  config.composed.update(source="listed", file=str(own_data / "queries.jsonl"))
  config.composed.images = str(own_data / "images")
  config.captioner.update(kind="file", file=str(own_data / "captions.jsonl"))
  config.editor.update(kind="file", file=str(own_data / "edits.jsonl"))
  config.mapping.update(texts=str(own_data / "texts.txt"), batch_size=4, hidden=8)
  config.query.update(alpha=0.3, beta=0.5)
  config.train.update(steps=3, checkpoint_every=3, log_every=1)
  config.evaluate.batch_size = 8
  config.update_from_flattened_dict({k.replace("__", "."): x for k, x in changes.items()})
  return config


def run(config, workdir):
  names = default.default_names(config)
  default.validate(config, names)
  task = tasks.find(config)
  config, wanted = task.plan(config, str(workdir), names)
  assert stages.run_all(wanted, config, str(workdir))
  return results.read_result(str(workdir))


@pytest.fixture(scope="module")
def workdir(own_data, small_clip, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  run(config_of(own_data, small_clip), folder)
  return folder


def torch_features(small_clip, texts):
  import torch

  ids = small_clip.tokenizer(texts, padding=True, return_tensors="pt")
  with torch.no_grad():
    x = small_clip.torch.get_text_features(**ids)
  x = np.asarray(getattr(x, "pooler_output", x))
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_bare_run_writes_its_files_and_the_table_of_baselines(workdir):
  result = results.read_result(str(workdir))
  wanted = ["cvsi", "no_edit", "no_phi", "no_image", "no_captions", "no_added", "lincir", "cirevl"]
  wanted += ["perfect_edits", "noisy_edits", "image", "text", "sum"]
  assert list(result["by_method"]) == wanted
  assert result["by_method"]["cvsi"]["map@10"] == result["map@10"]
  assert result["step"] == 3 and result["num_queries"] == QUERIES
  assert result["weights"]["cvsi"]["alpha"] == 0.3 and result["weights"]["cvsi"]["gamma"] == 0.2
  assert result["exact_edits"] == {"edits": 1.0}
  assert set(result["by_kind"]) == {"odd", "even"}
  lines = [json.loads(line) for line in (workdir / "rankings.jsonl").read_text().splitlines()]
  for line in lines:
    assert len(line["ranked"]) == IMAGES - 1 and line["reference"] not in line["ranked"]
    parts = np.sum([line["terms"][name] for name in ("edit", "phi", "image")], axis=0)
    np.testing.assert_allclose(parts, line["scores"][: len(parts)], atol=1e-4)
  assert (workdir / "report.html").is_file() and (workdir / "tokenizer").is_dir()


def test_features_and_rankings_are_those_of_transformers(own_data, small_clip, workdir):
  """q and t by hand of PyTorch's features, and the figures of the full matrix."""
  config = config_of(own_data, small_clip, query__use_phi=False)
  result = run(config, workdir)
  images = np.stack([_crop(own_data / "images" / f"{k}.png") for k in range(IMAGES)])
  v = np.asarray(clips.embed_images(small_clip.clip, small_clip.params, images))
  edits = [json.loads(line) for line in (own_data / "edits.jsonl").read_text().splitlines()]
  q_m = np.stack([torch_features(small_clip, x["edited"]).mean(axis=0) for x in edits])
  said = [json.loads(line) for line in (own_data / "captions.jsonl").read_text().splitlines()]
  t_c = np.stack([torch_features(small_clip, x["captions"]).mean(axis=0) for x in said])
  q = 0.6 * q_m + 0.4 * v[:QUERIES]
  t = 0.8 * v + 0.2 * t_c
  scores = q @ t.T
  scores[np.arange(QUERIES), np.arange(QUERIES)] = -np.inf
  lines = ranking.read(str(workdir))
  for k in range(QUERIES):
    order = [f"{x}.png" for x in np.argsort(-scores[k])[:-1]]
    line = lines["listed", str(k)]
    assert line["ranked"] == order
    np.testing.assert_allclose(line["scores"], np.sort(scores[k])[::-1][:-1], atol=2e-5)
  right = [[x in line["targets"] for x in line["ranked"]] for line in lines.values()]
  assert result["recall@5"] == np.mean([any(one[:5]) for one in right])
  by_hand = np.mean(
    [
      sum(sum(one[: r + 1]) / (r + 1) for r in range(10) if one[r]) / min(10, sum(one))
      for one in right
    ]
  )
  assert result["map@10"] == pytest.approx(by_hand)
  assert result["weights"]["cvsi"]["alpha"] == pytest.approx(0.6)


def _crop(path):
  from lafg_jax.data import images

  return images.resize_centre_crop(images.open_image(path), 16, 16, pad="target")


def test_a_sweep_of_weights_encodes_nothing_again(own_data, small_clip, workdir, monkeypatch):
  before = run(config_of(own_data, small_clip), workdir)

  def refuse(*_args, **_kwargs):
    raise AssertionError("features are there")

  monkeypatch.setattr(models, "image_features", refuse)
  monkeypatch.setattr(models, "text_features", refuse)
  found = run(config_of(own_data, small_clip, query__alpha=0.1, query__gamma=0.5), workdir)
  assert found["by_method"]["sum"] == before["by_method"]["sum"]
  assert found["by_method"]["cvsi"] != before["by_method"]["cvsi"]
  with pytest.raises(AssertionError, match="features are there"):
    run(config_of(own_data, small_clip, data__pad="none", query__method="sum"), workdir)


@pytest.mark.parametrize("method", ["text", "cirevl"])
def test_a_baseline_is_one_value(own_data, small_clip, workdir, method):
  whole = run(config_of(own_data, small_clip), workdir)
  found = run(config_of(own_data, small_clip, query__method=method), workdir)
  assert found["by_method"][method] == whole["by_method"][method]
  assert list(found["by_method"])[0] == method


def test_phi_before_training_and_other_words_are_controls(own_data, small_clip, workdir):
  trained = run(config_of(own_data, small_clip), workdir)
  before = run(config_of(own_data, small_clip, evaluate__source="untrained"), workdir)
  other = run(config_of(own_data, small_clip, query__words="other"), workdir)
  assert before["step"] == 0
  scores = {json.dumps(x["by_method"]["no_phi"]) for x in (trained, before, other)}
  assert len(scores) == 1
  with pytest.raises(UserError, match=r"is of another config \(mapping.hidden: 8 -> 16\)"):
    evaluation.run(config_of(own_data, small_clip, mapping__hidden=16), str(workdir))


def test_figures_of_a_cell_are_those_of_the_evaluation(own_data, small_clip, workdir):
  config = config_of(own_data, small_clip)
  result = run(config, workdir)
  found = evaluation.figures(config, str(workdir))
  counts = np.array(found["by_class"]["num_queries"])
  assert found["num_classes"] == len(counts) == QUERIES
  for name in ("map@10", "recall@1", "recall@10"):
    mean = (counts * found["by_class"][name]).sum() / counts.sum()
    assert mean == pytest.approx(result[name], abs=1e-5) and found[name] == result[name]
  assert "by_method" not in found and set(found["kinds"]) == {"odd", "even"}


def test_validation_measures_phi_alone(own_data, small_clip, tmp_path):
  run(config_of(own_data, small_clip, train__validate_every=2, train__keep_best=True), tmp_path)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  steps = [line["step"] for line in lines if "val_map@10" in line]
  assert steps == [2, 3] and (tmp_path / "best").is_dir()


def test_features_that_are_there_take_the_place_of_images(own_data, small_clip, tmp_path):
  config = config_of(own_data, small_clip, query__method="sum")
  plain = run(config, tmp_path)
  clip, params = small_clip.clip, small_clip.params
  images = np.stack([_crop(own_data / "images" / f"{k}.png") for k in range(IMAGES)])
  vectors = np.asarray(models.of_images(clip, params, images))
  path = tmp_path / "given.npz"
  np.savez(path, ids=np.array([f"{k}.png" for k in range(IMAGES)]), vectors=vectors)
  config.composed.features = str(path)
  assert run(config, tmp_path)["by_method"] == plain["by_method"]
  np.savez(path, ids=np.array(["0.png"]), vectors=vectors[:1])
  with pytest.raises(UserError, match=r"^--config.composed.features=.*it lacks 19 of 20 images"):
    evaluation.run(config, str(tmp_path))
  np.savez(path, ids=np.array(["0.png"]), vectors=vectors[:1, :3])
  with pytest.raises(UserError, match=r"not real numbers \(1, 16\)"):
    evaluation.run(config, str(tmp_path))


def test_a_gallery_without_captions_has_none_of_its_references(own_data, small_clip, tmp_path):
  """captioner.gallery=False: an editor reads captions of the references, and gamma is 0."""
  phrases = tmp_path / "phrases.json"
  phrases.write_text(json.dumps({"colour": {"red": "a red dog", "no": "no dog"}}))
  changes = {"captioner__kind": "attributes", "captioner__file": str(phrases)}
  changes |= {"captioner__model": "tiny_clip", "editor__kind": "grammar", "editor__file": ""}
  changes |= {"query__use_phi": False, "captioner__gallery": False}
  result = run(config_of(own_data, small_clip, **changes), tmp_path)
  assert len((tmp_path / "captions.jsonl").read_text().splitlines()) == QUERIES
  assert result["weights"]["cvsi"]["gamma"] == 0 and "num_without_caption" not in result
  assert result["weights"]["cvsi"]["alpha"] == pytest.approx(0.6)


def test_images_that_cannot_be_read_are_refused_or_counted(own_data, small_clip, tmp_path):
  shutil.copytree(own_data / "images", tmp_path / "images")
  (tmp_path / "images" / "19.png").write_bytes(b"no image")
  config = config_of(own_data, small_clip, query__method="image")
  config.composed.images = str(tmp_path / "images")
  with pytest.raises(UserError, match=r"1 image of 20 of listed cannot be read \('19.png'\)"):
    run(config, tmp_path)
  config.composed.missing = "partial"
  result = run(config, tmp_path)
  assert result["num_unreadable"] == 1 and result["partial"]


def test_the_counts_of_parts_are_added(part_of):
  def about(lacking, before):
    has = np.arange(4) >= lacking
    fixed = features.Fixed(None, np.ones(4, bool), None, None, has_edit=has)
    return evaluation._about(default.get_config(), part_of([], 4), fixed, {}, before)

  first = about(1, {})
  assert first["num_without_edit"] == 1 and "num_without_caption" not in first
  assert about(2, first)["num_without_edit"] == about(0, about(3, {}))["num_without_edit"] == 3


def test_a_text_with_a_sign_that_ends_a_line_is_read_again(part_of, query, tmp_path):
  part = part_of([query(0, 0, [1])._replace(text="red\u2028not\x85blue")], 3)
  ranked = ranking.rank(part, np.ones((1, 2), np.float32), np.eye(3, 2, dtype=np.float32), 3)
  with ranking.writing(str(tmp_path)) as file:
    ranking.write(file, part, ranked, {"image": ranked.scores})
  assert ranking.read(str(tmp_path))["x", "0"]["text"] == part.queries[0].text
  assert set(readings.read_rankings(str(tmp_path), [part])) == {("x", "0")}


def test_one_process_of_several_writes_rankings(tmp_path, monkeypatch):
  monkeypatch.setattr(ranking.distributed, "process_index", lambda: 1)
  with ranking.writing(str(tmp_path)) as file:
    file.write("x")
  assert list(tmp_path.iterdir()) == []


def _key_of(config, workdir):
  every = {stage.name: stage for stage in task_stages._STAGES}
  return fingerprint(*every["evaluate"].inputs(methods.resolve(config), str(workdir)))


@pytest.mark.parametrize(
  "changes",
  [
    {"mapping__inversion_steps": 7},
    {"mapping__inversion_rate": 0.5},
    {"mapping__texts": "queries.jsonl"},
    {"mapping__concepts": "texts.txt"},
    {"composed__features": "edits.jsonl"},
    {"editor__seed": 3},
  ],
)
def test_what_decides_figures_is_evaluated_again(own_data, small_clip, tmp_path, changes):
  oti = {"query__method": "searle", "query__oti": True}
  before = _key_of(config_of(own_data, small_clip, **oti), tmp_path)
  assert before == _key_of(config_of(own_data, small_clip, **oti), tmp_path)
  named = {k: str(own_data / x) if isinstance(x, str) else x for k, x in changes.items()}
  assert _key_of(config_of(own_data, small_clip, **oti, **named), tmp_path) != before
  if next(iter(changes)).startswith("mapping"):
    # A Phi that is trained already is not inverted.
    config = config_of(own_data, small_clip, query__method="sum")
    changed = config_of(own_data, small_clip, query__method="sum", **named)
    assert _key_of(config, tmp_path) == _key_of(changed, tmp_path)


def test_inversions_take_concepts_of_the_texts_that_are_named(own_data, small_clip):
  config = config_of(own_data, small_clip, query__method="searle", query__oti=True)
  wanted = tuple((own_data / "texts.txt").read_text().splitlines())
  assert words._concept_texts(config) == wanted
  config.mapping.update(texts="", concept_phrases="phrases.json")
  assert words._concept_texts(config) == ()
  config.mapping.concept_phrases = ""
  with pytest.raises(UserError, match="no line of split train: pass --config.mapping.texts"):
    words._concept_texts(config)


def test_one_gallery_of_two_splits_is_encoded_once(own_data, small_clip, tmp_path, monkeypatch):
  lines = [json.loads(x) for x in (own_data / "queries.jsonl").read_text().splitlines()]
  path, config = tmp_path / "split.jsonl", config_of(own_data, small_clip, query__method="image")
  split = lambda k: {"split": ("val", "test")[k % 2]}  # noqa: E731
  path.write_text("".join(json.dumps(x | split(k)) + "\n" for k, x in enumerate(lines)))
  config.composed.file = str(path)
  run(config, tmp_path)
  monkeypatch.setattr(models, "image_features", lambda *_: pytest.fail("features are there"))
  config.composed.split = "test"
  assert run(config, tmp_path)["split"] == "test"


def test_a_submission_is_an_output_of_the_stage():
  config, outputs = default.get_config(), ["evaluation.json", "rankings.jsonl"]
  config.composed.update(source="circo", split="test")
  assert task_stages._evaluate_outputs(config) == [*outputs, "submission.json"]
  config.composed.missing = "partial"
  assert task_stages._evaluate_outputs(config) == outputs
  config.composed.update(missing="refuse", split="val")
  assert task_stages._evaluate_outputs(config) == outputs


def test_no_submission_is_written_of_a_partial_copy(part_of, query, tmp_path):
  queries = [query(k, k, members=range(k, k + 6)) for k in range(3)]
  part = part_of(queries, 60, protocol="cirr")
  q, t = np.ones((3, 2), np.float32), np.random.default_rng(0).random((60, 2), np.float32)
  ranked = ranking.rank(part, q, t, 50)
  result = {"split": "test", "source": "checkpoint"}
  evaluation._write(str(tmp_path), [part], [ranked], result)
  names = {"submission_recall.json", "submission_recall_subset.json"}
  assert names <= {x.name for x in tmp_path.iterdir()}
  evaluation._write(str(tmp_path), [part], [ranked], result | {"partial": True})
  assert not names & {x.name for x in tmp_path.iterdir()}


def test_secret_answers_give_rankings_and_no_figures(own_data, small_clip, tmp_path):
  lines = [json.loads(line) for line in (own_data / "queries.jsonl").read_text().splitlines()]
  path = tmp_path / "secret.jsonl"
  path.write_text("".join(json.dumps(line | {"targets": []}) + "\n" for line in lines))
  config = config_of(own_data, small_clip, query__method="image", composed__file=str(path))
  result = run(config, tmp_path)
  assert result["by_method"] == {} and len(ranking.read(str(tmp_path))) == QUERIES
  with pytest.raises(UserError, match=r"^--config.composed.split=val: its right answers are"):
    evaluation.figures(config, str(tmp_path))


def test_cirrs_subset_and_left_out_reference_against_the_full_matrix(part_of, query):
  rng = np.random.default_rng(3)
  queries = [
    query(k, k, [k + 4], [k, *range(k + 1, k + 6)])
    for k in range(5)
  ]  # fmt: skip
  part = part_of(queries, 12, protocol="cirr", drop=True)
  t = rng.integers(-2, 3, (12, 3)).astype(np.float32)
  q = rng.integers(-2, 3, (5, 3)).astype(np.float32)
  found = ranking.rank(part, q, t, protocol.depth(part))
  scores = q @ t.T
  for k in range(5):
    order = sorted(range(12), key=lambda x: (-scores[k, x], x == k + 4, x))
    order.remove(k)
    assert found.rows[k][found.rows[k] >= 0].tolist() == order
    subset = [x for x in order if k < x < k + 6]
    assert found.members[k].tolist() == subset
  figures = protocol.figures(part, found.rows, found.members)
  assert figures["recall@1"] == np.mean([found.rows[k, 0] == k + 4 for k in range(5)])
  assert re.fullmatch(r"subset_recall@\d", next(x for x in figures if "subset" in x))
