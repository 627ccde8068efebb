"""A folder and a bucket that are kept equal: what is copied, in which order, and what is left."""

import os
import shutil

import pytest

from lafg_jax.runtime.mirror import Mirror
from lafg_jax.utils import places
from lafg_jax.utils.errors import UserError

URL = "gs://bucket/run"


def write(folder, **files):
  for name, text in files.items():
    path = folder / name.replace("__", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def step(folder, number, text="x", where="checkpoints"):
  """A checkpoint as Orbax lays it out; the meta is neither the first nor the last name."""
  for name in ("_METADATA", "arrays/d/0", "meta/metadata", "zarr"):
    write(folder / where / str(number), **{name.replace("/", "__"): f"{text} {number}"})


def weights(folder, letter, *named_by):
  """A file of frozen weights, and its name in the meta of some steps."""
  write(folder, **{f"frozen__{letter * 64}.safetensors": letter})
  for name in named_by:
    path = folder / name / "meta/metadata"
    path.write_text(path.read_text() + letter * 64)


def content(folder):
  files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
  return {p.relative_to(folder).as_posix(): p.read_text() for p in files}


@pytest.fixture
def here(tmp_path):
  (tmp_path / "here").mkdir()
  return tmp_path / "here"


@pytest.fixture
def there(bucket):
  return bucket / "run"


@pytest.fixture
def mirror(here, there):
  return Mirror(URL, str(here))


@pytest.fixture
def copied(monkeypatch):
  """What every mirror has copied so far, as [(direction, name)]."""
  seen = []
  for name in ("put_file", "get_file", "rm_file"):
    from fsspec.implementations.local import LocalFileSystem

    before = getattr(LocalFileSystem, name)

    def record(self, first, second="", _before=before, _name=name, **kwargs):
      path = second if _name == "put_file" else first
      seen.append((_name.split("_")[0], path.split("/bucket/run/")[1]))
      return _before(self, first, second, **kwargs) if second else _before(self, first)

    monkeypatch.setattr(LocalFileSystem, name, record)
  return seen


def test_only_what_differs_is_copied(mirror, here, there, copied, tmp_path):
  write(here, stages="1", features__a__0="2", tensorboard__events="3")
  step(here, 2)
  step(here, 2, where="best")
  mirror.up()
  assert content(there) == content(here) and len(copied) == 11
  mirror.up()
  Mirror(URL, str(here)).down()
  assert len(copied) == 11
  write(here, stages="one")
  Mirror(URL, str(here)).up()
  assert copied[11:] == [("put", "stages")]
  other = tmp_path / "other"
  other.mkdir()
  Mirror(URL, str(other)).down(lambda name: name.startswith("features/"))
  assert content(other) == {"features/a/0": "2"} and len(copied) == 13


def test_who_changed_a_file_last_is_believed_and_the_bucket_first(mirror, here, there):
  write(here, mine="a", theirs="a", both="a", gone="a", kept="a")
  mirror.up()
  write(here, mine="mine now", both="mine now", new="mine")
  write(there, theirs="theirs now", both="theirs now", added="theirs")
  (there / "gone").unlink()
  # A cache that somebody emptied is no reason to delete anything there.
  (here / "kept").unlink()
  again = Mirror(URL, str(here))
  again.down()
  again.up()
  both = {"mine": "mine now", "theirs": "theirs now", "both": "theirs now", "kept": "a"}
  assert content(here) == content(there) == both | {"new": "mine", "added": "theirs"}


def test_locks_unfinished_files_and_unfinished_steps_stay_where_they_are(mirror, here, there):
  write(here, a="1", **{".lock": "", ".a.12.tmp": "", "features__.0.npz.3.tmp": ""})
  for name in ("4.orbax-checkpoint-tmp-1", "damaged-2-0", "before-2-0"):
    step(here, name)
  write(there, b="2")
  write(there / "checkpoints", notes="no step")
  # What safetensors writes before it renames it.
  write(here, **{"frozen__.tmpA1b2": "", f"frozen__.{'a' * 64}.safetensors.3.tmp": ""})
  mirror.down()
  mirror.up()
  assert content(there) == {"a": "1", "b": "2", "checkpoints/notes": "no step"}
  assert not (here / "checkpoints/notes").exists()


def test_names_that_lead_out_of_the_folder_are_not_taken(mirror, here, monkeypatch):
  names = ("../evil", "a/../../evil", "a//b", "folder/", "good")
  found = {f"{mirror.root}/{name}": {"size": 1, "etag": "1"} for name in names}
  monkeypatch.setattr(type(mirror.system), "find", lambda *unused, **kwargs: found)
  assert list(mirror._listing()) == ["good"]


def test_dropped_checkpoints_are_deleted_there_and_the_newest_never(mirror, here, there, copied):
  for number in (2, 4):
    step(here, number)
  step(here, 2, where="best")
  mirror.up()
  step(here, 6)
  shutil.rmtree(here / "checkpoints/2")
  copied.clear()
  mirror.up()
  deleted = [name for what, name in copied if what == "rm"]
  assert len(deleted) == 4 and deleted[0] == "checkpoints/2/meta/metadata"
  assert content(there) == content(here)
  before = content(there)
  shutil.rmtree(here / "checkpoints")
  shutil.rmtree(here / "best")
  mirror.up()
  assert content(there) == before


def test_frozen_weights_are_deleted_there_when_no_checkpoint_names_them(mirror, here, there):
  for number in (2, 4):
    step(here, number)
  step(here, 2, where="best")
  weights(here, "a", "best/2", "checkpoints/2")
  weights(here, "b", "checkpoints/4")
  mirror.up()
  assert content(there) == content(here)
  (here / f"frozen/{'a' * 64}.safetensors").unlink()
  shutil.rmtree(here / "checkpoints/2")
  mirror.up()
  # The best names them, and one that is there alone might.
  assert (there / f"frozen/{'a' * 64}.safetensors").exists()
  shutil.rmtree(here / "best/2")
  mirror.up()
  assert (there / f"frozen/{'a' * 64}.safetensors").exists()
  step(here, 6, where="best")
  mirror.up()
  assert content(there) == content(here) and len(os.listdir(there / "frozen")) == 1
  # A cache that somebody emptied is no reason to delete anything there.
  before = content(there)
  for name in ("frozen", "checkpoints", "best"):
    shutil.rmtree(here / name)
  mirror.up()
  assert content(there) == before


def test_an_upload_that_breaks_off_leaves_only_whole_checkpoints(here, there, monkeypatch):
  """Wherever it breaks off: what has a meta is whole, and what the others speak of is there."""
  from fsspec.implementations.local import LocalFileSystem

  put, left = LocalFileSystem.put_file, [0]

  def failing(self, *args, **kwargs):
    if not left[0]:
      raise OSError("no route to the bucket")
    left[0] -= 1
    return put(self, *args, **kwargs)

  monkeypatch.setattr(LocalFileSystem, "put_file", failing)
  write(here, metrics="1", **{"stages.json": "{}"})
  step(here, 2)
  step(here, 4)
  step(here, 4, where="best")
  weights(here, "a", "checkpoints/2", "checkpoints/4", "best/4")
  frozen, whole = f"frozen/{'a' * 64}.safetensors", content(here)
  for count in range(len(whole)):
    (here / ".remote.json").unlink(missing_ok=True)
    shutil.rmtree(there, ignore_errors=True)
    left[0] = count
    with pytest.raises(places.errors(), match="no route"):
      Mirror(URL, str(here)).up()
    got = content(there)
    assert len(got) == count and "stages.json" not in got
    for where, number in (("best", 4), ("checkpoints", 4), ("checkpoints", 2)):
      names = [name for name in whole if name.startswith(f"{where}/{number}/")]
      if f"{where}/{number}/meta/metadata" in got:
        assert {*names, frozen} <= got.keys()
      else:
        # Neither the older checkpoint nor, before its best, the newer one has begun.
        assert not (where == "best" and any(name.startswith("checkpoints/") for name in got))
  left[0] = len(whole)
  Mirror(URL, str(here)).up()
  assert content(there) == whole


def test_a_half_uploaded_checkpoint_is_left_and_deleted_when_a_newer_one_is_there(
  mirror, here, there, caplog
):
  step(there, 2)
  step(there, 4)
  (there / "checkpoints/4/meta/metadata").unlink()
  mirror.down()
  assert {name.split("/")[1] for name in content(here)} == {"2"}
  assert "half-uploaded checkpoint gs://bucket/run/checkpoints/4" in caplog.text
  mirror.up()
  assert (there / "checkpoints/4/zarr").exists()
  step(here, 6)
  mirror.up()
  assert content(there) == content(here)


def test_a_checkpoint_that_vanishes_under_the_upload_gets_no_meta(mirror, here, there, monkeypatch):
  from fsspec.implementations.local import LocalFileSystem

  put = LocalFileSystem.put_file
  step(here, 2)

  def dropping(self, path, *args, **kwargs):
    (here / "checkpoints/2/arrays/d/0").unlink(missing_ok=True)
    return put(self, path, *args, **kwargs)

  monkeypatch.setattr(LocalFileSystem, "put_file", dropping)
  mirror.up()
  assert set(content(there)) == {"checkpoints/2/_METADATA"}


def test_what_is_deleted_there_leaves_no_empty_step_here(mirror, here, there):
  write(here, a="1")
  step(here, 2)
  step(here, 4)
  mirror.up()
  shutil.rmtree(there / "checkpoints/4")
  Mirror(URL, str(here)).down()
  assert os.listdir(here / "checkpoints") == ["2"]
  shutil.rmtree(there)
  Mirror(URL, str(here)).down()
  assert content(here) == {} and here.exists()


def test_a_download_that_breaks_off_is_gone_on_with(mirror, here, there, monkeypatch, copied):
  from fsspec.implementations.local import LocalFileSystem

  step(there, 2)
  get = LocalFileSystem.get_file

  def failing(self, path, *args, **kwargs):
    if path.endswith("zarr"):
      raise OSError("connection reset")
    return get(self, path, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(LocalFileSystem, "get_file", failing)
    with pytest.raises(UserError, match="gs://bucket/run cannot be read: .*connection reset"):
      mirror.down()
  assert not (here / "checkpoints/2/meta/metadata").exists()
  copied.clear()
  Mirror(URL, str(here)).down()
  assert content(here) == content(there) and len(copied) == 2
