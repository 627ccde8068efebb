"""CIRR: photographs of NLVR2 and a sentence each; the targets of its test are secret.

Both layouts are read: captions/ and image_splits/ in the folder, with img_raw/{train,dev,test1}, or
in cirr/ beside train/, dev/ and test1/. Images elsewhere are found by name.
"""

from pathlib import Path
from typing import Any

from lafg_jax.data.composed import Composed, Query, Training
from lafg_jax.data.composed_readers import common
from lafg_jax.utils.errors import UserError

# composed.split -> CIRR's own name of it.
OWN_NAME = {"train": "train", "val": "val", "test": "test1"}
# Queries and images. The paper's 4,184 queries of val are a misprint.
PUBLISHED = {"train": (28225, 16939), "val": (4181, 2297), "test": (4148, 2315)}
_BASES = ("", "img_raw", "cirr/img_raw")
_MEMBERS = 6


def read(config: Any) -> list[Composed]:
  """One part, 'cirr', whose gallery is the file of the split, whole."""
  root = common.root(config, "CIRR's captions/ and image_splits/, and its images")
  split = config.composed.split
  own = OWN_NAME[split]
  captions = _file(root, f"captions/cap.rc2.{own}.json")
  places = common.json_of(_file(root, f"image_splits/split.rc2.{own}.json"), dict)
  queries = _queries(captions, split != "test")
  folder = common.images_folder(config, root)
  listed = {
    name: [f"{base}/{path}".lstrip("/") for base in _BASES]
    for name, path in ((x, str(place).removeprefix("./")) for x, place in places.items())
  }
  return [
    common.part(
      config,
      queries,
      list(places),
      common.find(config, folder, places, listed),
      name="cirr",
      about=f"{own}, all images of its split file",
      protocol="cirr",
      drop=common.drops(config, True),
      where=folder,
      published=PUBLISHED[split],
    )
  ]


def training(config: Any) -> Training:
  """Raises UserError: the benchmark has nothing to train on."""
  raise common.no_training(config.composed.source)


def _file(root: Path, name: str) -> Path:
  return common.first_there(
    [root / name, root / "cirr" / name],
    "CIRR's annotations are on the branch cirr_dataset of Cuberick-Orion/CIRR, not on main",
  )


def _queries(path: Path, scored: bool) -> list[Query]:
  queries = []
  for k, entry in enumerate(common.json_of(path, list), 1):
    reference = common.field(path, k, entry, "reference", str)
    targets = (common.field(path, k, entry, "target_hard", str),) if scored else ()
    members = common.texts(path, k, common.field(path, k, entry, "img_set", dict), "members")
    named = {reference, *targets}
    if len(set(members)) != _MEMBERS or not named <= set(members):
      raise UserError(
        f"{path} entry {k}: a subset has {_MEMBERS} images, reference and target among them: fetch "
        "it again"
      )
    queries.append(
      Query(
        id=str(common.field(path, k, entry, "pairid", int)),
        reference=reference,
        text=common.field(path, k, entry, "caption", str),
        targets=targets,
        members=members,
      )
    )
  return queries
