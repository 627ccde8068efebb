"""Folders that are the halves of a class split, by their names: train and test, in any spelling."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lafg_jax.data.listing import Listing
from lafg_jax.utils.counted import listed
from lafg_jax.utils.errors import UserError

# The words for each part, in lower case. Those of _WEAK are words of classes too.
_WORDS = {
  "train": ("train", "training", "trainings", "trn", "tr", "seen"),
  "val": ("val", "vals", "valid", "validate", "validating", "validation", "validations", "vld")
  + ("dev", "devel", "development"),
  "test": ("test", "tests", "testing", "tst", "te", "ts", "eval", "evaluate", "evaluation")
  + ("holdout", "heldout", "unseen"),
  "query": ("query", "queries", "probe", "probes"),
  "gallery": ("gallery", "galleries", "index", "database", "reference"),
}
# The same in other languages; part of a split only beside another part.
_FOREIGN = {
  "train": "trainings trainingsdaten apprentissage entrainement entraînement entrenamiento treino "
  "treinamento addestramento обучение обучающая 训练 訓練 学習 훈련 학습",
  "val": "validierung validierungs validación validacion validação validacao validazione "
  "валидация 验证 驗證 検証 검증",
  "test": "teste testes prueba pruebas prova essai evaluación evaluacion évaluation testdaten "
  "тест тестовая 测试 測試 テスト 評価 테스트 평가",
}
_KIND = {word: kind for kind, words in _WORDS.items() for word in words}
_KIND |= {word: kind for kind, words in _FOREIGN.items() for word in words.split()}
_WEAK: tuple[str, ...] = ("tr", "te", "ts", "dev", "devel", "development", "seen", "unseen")
_WEAK += ("valid", "eval", "evaluate", "evaluation", *_WORDS["query"], *_WORDS["gallery"])
_WEAK += tuple(word for words in _FOREIGN.values() for word in words.split())
# Words beside them that say nothing: 'training_set', 'images-train', 'train_mini'.
_FILLERS = (
  "set sets data dataset split part partition folder dir mini image images img imgs photo photos "
  "picture pictures jpg class classes bounding box cropped crops sample samples "
  "daten datos dados données 集 数据 數據 数据集 資料 資料集 图片 图像 用 "
  "用データ データ セット 画像 세트 데이터"
).split()
_GLUED = re.compile(rf"({'|'.join(_KIND)})({'|'.join(_FILLERS)})")
_UNDERSTOOD = (
  "understood are train, val and test, or query and gallery, in any usual spelling, each with a "
  "folder for each class; where they are classes, pass --config.data.split_folders=classes"
)
# Levels below the root at which split folders are looked for.
_LEVELS = 3

Lists = Callable[[Path], Listing]


class Found(NamedTuple):
  """The folders of a split."""

  parts: dict[str, str]  # 'train', 'val', 'test', 'query' or 'gallery' -> path below the root
  beside: list[str]  # paths of other folders, which are left out


class _Named(NamedTuple):
  name: str
  kind: str
  weak: bool
  rest: str  # the words that the folders of one split share: 'cars' of cars_train and cars_test


def part_of(name: str) -> str:
  """'train', 'val', 'test', 'query' or 'gallery' where a name says nothing else; else ''."""
  named = _named(name)
  return named.kind if named and not named.rest else ""


def find(root: Path, lists: Lists, below: str = "", levels: int = _LEVELS) -> Found | None:
  """The split folders in `root`, or in a folder within it; None where there are none.

  Raises UserError where folders are called as parts of a split, but are not laid out as one.
  """
  here = root / below if below else root
  top = lists(here)
  group = _group(here, top.folders)
  if group:
    found = _parts(here, group, top.folders, lists, deeper=bool(below))
    return found and Found(
      {kind: _join(below, found.parts[kind]) for kind in _WORDS if kind in found.parts},
      [_join(below, path) for path in found.beside],
    )
  if not levels or any(lists(here / name).images for name in top.folders):
    return None
  inner = {}
  for name in top.folders:
    if found := find(root, lists, _join(below, name), levels - 1):
      inner[name] = found
  if len(inner) > 1:
    raise UserError(
      f"{here}: {listed(inner)} each hold folders of a split: point --config.data.root at one of "
      "them, or pass --config.data.split_folders=classes"
    )
  for name, one in inner.items():
    others = [_join(below, other) for other in top.folders if other != name]
    return Found(one.parts, others + one.beside)
  return None


def _named(name: str) -> _Named | None:
  """What a name says of a part; None where it names none, or several."""
  # Accents as one sign, letters of full width as others.
  plain = unicodedata.normalize("NFKC", name)
  spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W\d_]+", " ", plain).lower()
  spaced = re.sub(r"\bh[eo]ld out\b", "holdout", spaced)
  words = [part for word in spaced.split() for part in _unglued(word)]
  told = [word for word in words if word in _KIND]
  kinds = {_KIND[word] for word in told}
  if len(kinds) > 1:
    kinds = {"train"} if kinds == {"train", "val"} else set()
  if len(kinds) != 1:
    return None
  rest = " ".join(word for word in words if word not in (*_FILLERS, *told))
  return _Named(name, kinds.pop(), all(word in _WEAK for word in told), rest)


def _unglued(word: str) -> Sequence[str]:
  """'trainset' and 'trainval' as two words."""
  if word == "trainval":
    return "train", "val"
  glued = _GLUED.fullmatch(word)
  return glued.groups() if glued else (word,)


def _group(here: Path, folders: Sequence[str]) -> list[_Named]:
  """The folders that are called as parts of one split."""
  named = [found for name in folders if (found := _named(name))]
  groups: dict[str, list[_Named]] = {}
  for one in named:
    groups.setdefault(one.rest, []).append(one)
  plain = groups.pop("", [])
  if len({one.kind for one in plain}) > 1 or not all(one.weak for one in plain):
    return plain
  # 'bullet train' alone is a class; cars_train and cars_test are not.
  halved = [g for g in groups.values() if {"train"} < {one.kind for one in g}]
  if len(halved) > 1:
    names = [one.name for group in halved for one in group]
    raise UserError(f"{here} has the folders of several splits, {listed(names)}: {_UNDERSTOOD}")
  return halved[0] if halved else []


def _parts(
  here: Path, group: list[_Named], folders: Sequence[str], lists: Lists, deeper: bool
) -> Found | None:
  full = [one for one in group if lists(here / one.name).folders]
  flat = [one for one in group if one not in full and lists(here / one.name).images]
  others = [name for name in folders if name not in {one.name for one in group}]
  with_images = [name for name in others if _has_images(here / name, lists)]
  kinds = {one.kind for one in full}
  if not full:
    # A train may be a vehicle.
    vehicle = [one.name.lower() for one in flat] == ["train"] and (with_images or deeper)
    if not flat or vehicle:
      return None
    names = listed([one.name for one in flat])
    raise UserError(f"{here}: no class folders in {names}: {_UNDERSTOOD}")
  if len(kinds) == 1 and with_images:
    names = listed([one.name for one in full])
    raise UserError(
      f"{here} has {names} beside {with_images[0]}, and both hold images: a split or classes? "
      f"{_UNDERSTOOD}; else move {with_images[0]} away"
    )
  for kind in kinds:
    twice = [one.name for one in full if one.kind == kind]
    if len(twice) > 1:
      raise UserError(
        f"{here} has {listed(twice)}: point --config.data.root at one of them, or put them together"
      )
  if "train" not in kinds:
    raise UserError(
      f"{here} has {listed([one.name for one in full])} and no folder to train on: {_UNDERSTOOD}"
    )
  parts = {one.kind: one.name for one in full}
  left = [*others, *(one.name for one in group if one not in full)]
  return Found(_with_lists(here, parts, lists), left)


def _with_lists(here: Path, parts: dict[str, str], lists: Lists) -> dict[str, str]:
  """The parts, with query and gallery in place of a test that has them; UserError where odd."""
  test = parts.get("test", "")
  inner = {part_of(name): name for name in lists(here / test).folders} if test else {}
  if set(inner) == {"query", "gallery"} and not {"query", "gallery"} & set(parts):
    del parts["test"]
    return parts | {kind: f"{test}/{name}" for kind, name in inner.items()}
  if "query" in parts and "gallery" not in parts and test:
    # Market-1501: the queries search bounding_box_test.
    parts["gallery"] = parts.pop("test")
  if ("query" in parts) != ("gallery" in parts) or {"test", "query"} <= set(parts):
    raise UserError(
      f"{here} has {listed(list(parts.values()))}: the test takes either test, or query and gallery"
    )
  return parts


def _has_images(folder: Path, lists: Lists) -> bool:
  """Whether a folder, or one in it, holds images."""
  top = lists(folder)
  return bool(top.images) or any(lists(folder / name).images for name in top.folders)


def _join(below: str, name: str) -> str:
  return f"{below}/{name}" if below else name
