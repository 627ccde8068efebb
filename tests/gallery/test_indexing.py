"""New and changed images alone are embedded; what is gone leaves; kills lose and double nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lafg_jax.gallery import building, milvus, store
from lafg_jax.utils.errors import UserError

from .conftest import file_only, vector_of  # isort: skip


def told(counts):
  return {k: len(v) if k == "skipped" else v for k, v in counts._asdict().items() if v}


def check(rows, folder):
  """Each readable file has one row, with the vector of its content."""
  files = {str(p): p.read_bytes() for p in folder.rglob("*.jpg")}
  files = {path: content for path, content in files.items() if not content.startswith(b"broken")}
  assert rows.keys() == files.keys()
  for path, content in files.items():
    np.testing.assert_allclose(rows[path][1], vector_of(content), atol=1e-6)


def test_a_second_run_embeds_what_is_new_or_changed_alone(photos, index, rows, fake):
  facts, counts = index(photos)
  assert told(counts) == {"added": 30} and facts.complete
  assert rows()[str(photos / "class 1/1.jpg")][0].label == "class 1"
  fake.retriever.embedded.clear()
  assert told(index(photos)[1]) == {"kept": 30} and not fake.retriever.embedded

  (photos / "class 0/0.jpg").write_bytes(b"another")
  os.utime(photos / "class 1/1.jpg", (5, 5))
  (photos / "class 2/2.jpg").unlink()
  (photos / "class 2/new.jpg").write_bytes(b"new")
  (photos / "class 2/broken.jpg").write_bytes(b"broken")
  (photos / "class 2/5.jpg").write_bytes(b"broken now")
  _, counts = index(photos)
  wanted = {"added": 1, "changed": 1, "updated": 1, "dropped": 2, "skipped": 2, "kept": 26}
  assert told(counts) == wanted
  assert [Path(x).name for x in fake.retriever.embedded] == ["0.jpg", "new.jpg"]
  check(rows(), photos)
  # The touched file is unchanged from now on; those that are broken are looked at again.
  assert told(index(photos)[1]) == {"kept": 29, "skipped": 2}


def test_same_size_and_date_is_unchanged_and_same_content_keeps_its_vector(photos, index, fake):
  index(photos)
  fake.retriever.embedded.clear()
  path = photos / "class 0/0.jpg"
  before = path.stat()
  path.write_bytes(b"IMAGE 0")
  os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
  assert told(index(photos)[1]) == {"kept": 30}
  os.utime(path, ns=(1, 1))
  assert told(index(photos)[1]) == {"kept": 29, "changed": 1}


def test_two_folders_live_in_one_gallery_and_each_drops_its_own(photos, index, rows, tmp_path):
  other = tmp_path / "other"
  other.mkdir()
  for name in "ab":
    (other / f"{name}.jpg").write_bytes(name.encode())
  index(photos)
  index(other)
  assert len(rows()) == 32
  (other / "a.jpg").unlink()
  assert told(index(other)[1]) == {"kept": 1, "dropped": 1}
  # A folder inside of another one: an image has one row.
  assert told(index(photos / "class 1")[1]) == {"updated": 10}
  assert told(index(photos)[1]) == {"kept": 20, "updated": 10}
  assert len(rows()) == 31


def test_a_manifests_columns_are_rewritten_without_embedding(photos, index, rows, fake, tmp_path):
  manifest = tmp_path / "m.csv"
  manifest.write_text(
    "path,class,colour,id\nphotos/class 0/0.jpg,x,red,1\nphotos/class 1/1.jpg,y,,2\n"
    "photos/gone.jpg,y,,3\n"
  )
  facts, counts = index(manifest)
  assert told(counts) == {"added": 2, "skipped": 1}
  assert facts.columns == {str(manifest): ["colour", "id"]}
  path = str(photos / "class 0/0.jpg")
  assert rows()[path][0].metadata == {"colour": "red", "id": 1}
  manifest.write_text("path,class,year\nphotos/class 0/0.jpg,z,2001\nphotos/class 1/1.jpg,y,2002\n")
  fake.retriever.embedded.clear()
  facts, counts = index(manifest)
  assert told(counts) == {"updated": 2} and not fake.retriever.embedded
  hit = rows()[path][0]
  assert (hit.label, hit.metadata) == ("z", {"year": 2001})
  assert facts.own_columns() == ["year"]


def test_a_gallery_of_another_model_is_refused_and_stays(photos, index, rows, fake):
  index(photos)
  with pytest.raises(UserError, match="gallery is of model 0123456789abcdef .* is fedc"):
    index(photos, model=fake._replace(identity="fedcba9876543210"))
  assert len(rows()) == 30


def test_a_disk_that_is_not_mounted_empties_no_gallery(photos, index, rows, tmp_path):
  manifest = tmp_path / "m.csv"
  manifest.write_text("path\n" + "".join(f"{p}\n" for p in photos.rglob("*.jpg")))
  index(manifest)
  photos.rename(tmp_path / "away")
  with pytest.raises(UserError, match="is its disk mounted"):
    index(manifest)
  assert len(rows()) == 30


def test_names_with_tags_and_quotes_are_kept_and_line_breaks_skipped(photos, index, rows):
  names = ["<b>'\"&.jpg", "a%_\\n.jpg", "é ünï 中.jpg", "-k.jpg", "$meta['x'].jpg"]
  for name in [*names, "line\nbreak.jpg"]:
    (photos / name).write_bytes(name.encode())
  _, counts = index(photos)
  assert told(counts) == {"added": 35, "skipped": 1}
  assert {str(photos / name) for name in names} <= rows().keys()
  assert told(index(photos)[1]) == {"kept": 35, "skipped": 1}


def test_what_is_no_file_is_skipped(photos, index):
  os.mkfifo(photos / "pipe.jpg")
  (photos / "round.jpg").symlink_to("round.jpg")
  (photos / "notes.txt").write_text("x")
  _, counts = index(photos)
  assert counts.added == 30 and len(counts.skipped) == 3


@file_only
def test_another_process_that_has_it_open_is_one_line(photos, index, place, tmp_path):
  import fcntl

  index(photos)
  with open(os.path.join(place, "LOCK"), "ab") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process has it open"):
      index(photos)
  assert told(index(photos)[1]) == {"kept": 30}


def test_a_gallery_of_another_format_is_one_line(photos, index, place):
  facts, _ = index(photos)
  with milvus.connected(place) as client:
    store.write_facts(client, place, facts._replace(format=99))
  with pytest.raises(UserError, match="has format 99, .* one reads 1"):
    index(photos)


@pytest.mark.parametrize("at", range(3))
def test_a_kill_between_the_collections_is_mended(photos, index, place, fake, rows, at):
  with milvus.connected(place) as client:
    facts = fake.facts("FLAT")
    if at:
      store.write_facts(client, place, facts)
    if at == 2:
      store.create(client, place, facts)
  assert (building.facts_of(place) is None) == (not at)
  assert told(index(photos)[1]) == {"added": 30}
  check(rows(), photos)


KILLED = """
import sys, time
sys.path[:0] = {path!r}
from tests.gallery.conftest import Fake, building, sources
from lafg_jax.gallery import indexing
from lafg_jax.gallery.model import Model
indexing.BATCH = 8
indexing.run.__defaults__ = (8,)
class Slow(Fake):
  def embed_readable(self, paths):
    print("batch", flush=True)
    time.sleep(0.01)
    return super().embed_readable(paths)
  def embed_text(self, texts):
    print("floors", flush=True)
    return super().embed_text(texts)
model = Model(Slow(), "0123456789abcdef", "class_retrieval", 8, 3, True, "/a/model", "newest")
print("ready", flush=True)
print(building.build({place!r}, model, sources.read({photos!r}), "HNSW")[1], flush=True)
"""


@file_only
def test_ten_kills_while_indexing_lose_and_double_nothing(tmp_path, place, rows):
  photos = tmp_path / "photos"
  photos.mkdir()
  for k in range(400):
    (photos / f"{k}.jpg").write_bytes(b"image %d" % k)
  written = {str(path): [path.read_bytes()] for path in photos.iterdir()}
  root = str(Path(__file__).resolve().parents[2])
  code = KILLED.format(path=[root], place=place, photos=str(photos))
  draw, seen = random.Random(0), []
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  for kill in range(10):
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    # In the first, as the gallery is made; in two others, as the index is.
    until, count = ("floors", 1) if kill in (5, 9) else ("batch", draw.randint(1, 5))
    until, count = ("ready", 1) if not kill else (until, count)
    while count:
      line = process.stdout.readline()
      assert line, (kill, seen, process.stderr.read())
      count -= line == f"{until}\n"
    time.sleep(draw.uniform(0, 0.3 if until == "floors" else 0.02))
    process.send_signal(signal.SIGKILL)
    process.wait()
    if os.path.exists(place):
      found = rows() if building.facts_of(place) else {}
      seen.append(len(found))
      for path, (_, vector) in found.items():
        content = written[path]
        assert any(np.allclose(vector, vector_of(x), atol=1e-6) for x in content)
    # What changes between two runs is seen by the next.
    for k in range(40 * kill, 40 * kill + 39):
      path, content = photos / f"{k}.jpg", b"changed %d" % k
      path.write_bytes(content)
      written[str(path)].append(content)
    (photos / f"{40 * kill + 39}.jpg").unlink()
  # Each batch that was written before a kill is there after it.
  assert max(seen) > 300 and any(0 < x < 300 for x in seen), seen
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  check(rows(), photos)
