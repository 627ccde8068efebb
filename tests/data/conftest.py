"""The config section and small data sets that tests of readers share."""

import io
import json

import pytest
from ml_collections import ConfigDict
from PIL import Image

from lafg_jax.data import datasets, images
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils.errors import UserError


@pytest.fixture
def section():
  """section(name, key=value, ...): config.data with the defaults and these changes."""

  def make(name, **changes):
    data = ConfigDict(default.get_config().data.to_dict())
    data.update({"name": name} | changes)
    return data

  return make


@pytest.fixture
def jpeg():
  """jpeg(grey): the bytes of an image file, whose grey level says which image it is."""

  def make(grey):
    file = io.BytesIO()
    Image.new("L", (12, 8), grey).save(file, "JPEG", quality=95)
    return file.getvalue()

  return make


@pytest.fixture
def greys():
  """greys(dataset): the grey level of each image's first pixel."""
  return lambda x: [images.of_dataset(x, row).getpixel((0, 0))[0] for row in range(len(x))]


@pytest.fixture
def one_line():
  """one_line(data, said): loading is refused by one line that matches."""

  def check(data, said):
    with pytest.raises(UserError, match=said) as error:
      datasets.load_splits(data)
    assert "\n" not in str(error.value)

  return check


@pytest.fixture
def prepare(tmp_path, jpeg):
  """prepare(labels by split, ...): a prepared tensorflow-datasets folder, written without TF."""

  def write(splits, name="toy", version="1.0.0", names=None, extra=None, config=None, text=True):
    import tensorflow_datasets as tfds

    folder = tmp_path.joinpath("tfds", name, *([config] if config else []), version)
    folder.mkdir(parents=True)
    classes = 1 + max(label for labels in splits.values() for label in labels)
    label = tfds.features.ClassLabel(names=names, num_classes=None if names else classes)
    features = {"image": tfds.features.Image(), "label": label}
    kind = tfds.features.Text if text else tfds.features.Image
    features |= {key: kind() for key in extra or ()}
    identity = tfds.core.dataset_info.DatasetIdentity(
      name=name,
      version=tfds.core.Version(version),
      data_dir=str(folder),
      module_name=name,
      config_name=config,
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, 3, file_format="array_record")
    writer.initialize_splits(list(splits))
    grey = 0
    for split, labels in splits.items():
      for k in labels:
        example = {"image": io.BytesIO(jpeg(grey)), "label": k}
        writer.add_examples({split: [example | {key: f(k) for key, f in (extra or {}).items()}]})
        grey += 10
    writer.close_all()
    return folder

  return write


@pytest.fixture
def as_tfrecord():
  """as_tfrecord(folder): the folder says that it was prepared as TFRecord."""

  def change(folder):
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    return folder

  return change
