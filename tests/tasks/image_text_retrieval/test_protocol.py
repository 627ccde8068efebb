"""evaluation.json and embeddings.npz of captions, from embeddings that are given."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from lafg_jax.data.captions import Captioned
from lafg_jax.evaluate import results
from lafg_jax.tasks.image_text_retrieval import protocol
from lafg_jax.utils.errors import UserError

KS = (1, 5)
# Four images of two classes; image 1 has two captions, and images 0 and 2 have the same one.
CAPTIONS = ["a red bird", "a blue bird", "a bird in blue", "a red bird", "a <b>dark</b> bird"]
IMAGE_OF = np.array([0, 1, 1, 2, 3], np.int32)


def captioned(**changes):
  made = Captioned(
    images=np.zeros((5, 4, 4, 3), np.uint8),
    captions=CAPTIONS,
    labels=np.array([0, 0, 0, 1, 1], np.int32),
    class_names=("finch", "siskin"),
    ids=("a.png", "b.png", "b.png#2", "c.png", "d.png"),
    split="test",
    image_of=IMAGE_OF,
    negatives=None,
    spans=None,
    name="table",
    content="0",
  )
  return made._replace(**changes)


def vectors(of=CAPTIONS):
  """Each text at its own axis; each image at that of its first caption, the last one nowhere."""
  axis = {text: k for k, text in enumerate(dict.fromkeys(CAPTIONS))}
  texts = np.eye(8, dtype=np.float32)[[axis[text] for text in of]]
  images = texts[[0, 1, 3, 4]] + 0.01 * np.eye(8, dtype=np.float32)[[4, 5, 6, 7]]
  images[3] = np.eye(8)[7]
  return images, texts


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("evaluated")
  config = ConfigDict({"evaluate": {"ks": KS, "source": "checkpoint"}})
  images, texts = vectors()
  data = captioned(partial=True)
  extra = np.eye(8, dtype=np.float32)[[0, 7]]
  trained = protocol.of_captioned(data, images, texts, extra)
  # One embedding each for all: nothing is found before it is right by luck.
  flat = protocol.of_captioned(data, np.ones((4, 8), np.float32), np.ones((5, 8), np.float32))
  result = protocol.write(config, str(workdir), data, trained, flat, step=7)
  return workdir, result


def test_what_is_written_and_read_again(written):
  workdir, result = written
  assert json.loads((workdir / "evaluation.json").read_text()) == result
  assert results.read_result(str(workdir)) == result
  found = result["protocols"]
  # Images 0 and 2 share a string; image 3 is nowhere.
  assert found["image_to_text"]["instance"]["recall@1"] == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)
  assert found["image_to_text"]["merged"]["recall@1"] == pytest.approx(3 / 4)
  assert found["image_to_text"]["instance"]["ceiling"]["recall@1"] == pytest.approx(3 / 4)
  assert found["image_to_text"]["instance"]["chance"]["recall@1"] == pytest.approx(5 / 20)
  assert found["text_to_image"]["instance"]["chance"]["recall@1"] == pytest.approx(1 / 4)
  mean = np.mean([found[way]["instance"]["recall@1"] for way in found])
  assert result["recall@1"] == pytest.approx(mean)
  assert result["text_to_image/recall@1"] == found["text_to_image"]["instance"]["recall@1"]
  counts = {"images": 4, "texts": 5, "strings": 4, "classes": 2, "negatives": 2}
  assert {name: result[f"num_{name}"] for name in counts} == counts
  assert (result["dataset"], result["split"], result["step"]) == ("table", "test", 7)
  assert result["partial"] is True
  assert result["untrained"]["recall@1"] == 0
  # A text that stands as near to the images of the shared string as that string is before it.
  harder = result["with_negatives"]["image_to_text"]["instance"]["recall@1"]
  assert harder == pytest.approx(1 / 4)
  names = [*results.metrics_only(result)]
  ways = ("", "image_to_text/", "text_to_image/")
  assert names == [f"{way}recall@{k}" for way in ways for k in KS]


def test_a_file_of_embeddings_gives_the_same_figures(written):
  workdir, result = written
  found = protocol.evaluate_file(str(workdir / "embeddings.npz"), KS)
  assert found["protocols"] == result["protocols"]
  assert found["with_negatives"] == result["with_negatives"]
  arrays = dict(np.load(workdir / "embeddings.npz", allow_pickle=False))
  assert arrays["paths"].tolist() == ["a.png", "b.png", "c.png", "d.png"]
  assert arrays["captions"].tolist() == CAPTIONS
  np.savez(workdir / "cut.npz", **arrays | {"owner": arrays["owner"][:3]})
  with pytest.raises(UserError, match=r"evaluate\.source=.*cut\.npz: .*5 texts with 3 images"):
    protocol.evaluate_file(str(workdir / "cut.npz"), KS)


def test_the_study_gets_means_by_class(written):
  workdir, result = written
  found = protocol.figures(str(workdir))
  assert found["recall@1"] == result["recall@1"]
  assert found["steps"] == 7
  by_class = found["by_class"]
  assert by_class["num_queries"] == [2, 2]
  to_text = np.array([(0.5 + 1) / 2, 0.5 / 2])
  # "a bird in blue" is at no image; equal texts find the image that is a bit nearer, or a tie.
  to_image = result["protocols"]["text_to_image"]["instance"]["recall@1"]
  twice = 2 * np.array(by_class["recall@1"]) - to_text
  assert twice @ [3, 2] / 5 == pytest.approx(to_image, abs=1e-5)
  assert not {"untrained", "protocols", "chance"} & set(found)


def test_rows_of_the_table_have_their_bounds(written):
  head, first, *others = protocol.rows_of(written[1])
  bounds = ["ceiling", "class oracle", "chance"]
  assert head == ["%", "protocol", "", "before training", "trained", *bounds]
  assert first[:5] == ["image to text", "instance", "R@1", "0.0", "50.0"]
  assert len(others) == 2 * 3 * len(KS) - 1
  text = protocol.table(written[1])
  assert "4 images of 2 classes, 5 captions (partial copy)" in text
  assert "with wrong captions in the gallery of texts" in text
  (_, headline), (others, rows), (harder, _) = protocol.tables(written[1])
  assert (len(headline), len(rows)) == (1 + 2 * len(KS), 1 + 4 * len(KS))
  assert (others, harder) == (
    "merged and class: other protocols",
    "2 wrong captions in the gallery too",
  )


def test_images_may_come_once_or_with_each_of_their_captions():
  images, texts = vectors()
  once = protocol.of_captioned(captioned(), images, texts)
  each = protocol.of_captioned(captioned(), images[IMAGE_OF], texts)
  np.testing.assert_array_equal(once.images, each.images)
  assert once.labels.tolist() == [0, 0, 1, 1]
  assert once.strings.tolist() == [0, 1, 2, 0, 3]


def test_without_classes_there_is_no_class_protocol():
  data = captioned(labels=np.full(5, -1, np.int32), class_names=())
  found = protocol.evaluate_embeddings(protocol.of_captioned(data, *vectors()), KS)
  assert found["num_classes"] == 0
  assert [*found["protocols"]["image_to_text"]] == ["instance", "merged"]
  assert "class_oracle" not in found
  assert "class_oracle" not in found["protocols"]["image_to_text"]["instance"]
  titled = found | {"source": "checkpoint", "dataset": "table", "split": "test"}
  assert "class" not in protocol.table(titled)


def test_validation_is_the_headline_of_the_evaluation(written):
  given = []

  def embed(params):
    given.append(params)
    return vectors()

  measured = protocol.make_validation(embed, captioned())({"some": 1})
  assert given == [{"some": 1}]
  result = written[1]
  assert measured["val_recall@1"] == pytest.approx(result["recall@1"])
  for way in ("image_to_text", "text_to_image"):
    assert measured[f"val_{way}/recall@1"] == pytest.approx(result[f"{way}/recall@1"])


def test_images_that_cannot_be_read_are_counted(tmp_path):
  config = ConfigDict({"evaluate": {"ks": KS, "source": "checkpoint"}})
  images, texts = vectors()
  images[1] = 0
  data = captioned()
  found = protocol.write(
    config, str(tmp_path), data, protocol.of_captioned(data, images, texts), step=0
  )
  assert found["num_unreadable"] == 1
  assert "5 captions; not readable, and so not found: 1 image" in protocol.table(found)
