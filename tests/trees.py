"""Small copies of data sets in their exact native layouts, with real file names and quirks.

Every image is grey but for a box, BOX, whose red is the shade of the class, so that a test can tell
from the pixels what it is and whether it was cropped.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, BOX, GREY = (40, 32), (8, 8, 24, 24), (96, 96, 96)


def shade(k):
  return 20 + 18 * (k % 13)


def photo(path, k, below=0):
  """An image of class number k; `below` adds a white banner of that height."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.new("RGB", (SIZE[0], SIZE[1] + below), "white")
  image.paste(GREY, (0, 0, *SIZE))
  image.paste((shade(k), 0, 0), BOX)
  # The box ends where the blocks of a JPEG do: no colour runs over.
  image.save(path, "JPEG", quality=100, subsampling=0)


def lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("\n".join(rows) + "\n")


def damage(path, old=None, new=""):
  """Replaces the first `old` of a text file; without one, removes the file."""
  if old is None:
    path.unlink()
    return
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


def cub(root, classes=(1, 2, 22, 124, 126, 100, 101, 141, 200), per_class=3):
  """CUB_200_2011/: lists by image id; the last class has a space behind it, as in the wild."""
  folders = (Path(__file__).parent / "data" / "cub_classes.txt").read_text().splitlines()
  images, labels, boxes = [], [], []
  for k in classes:
    folder = folders[k - 1].split()[1]
    for _ in range(per_class):
      number = len(images) + 1
      file = f"{folder}/{folder[4:].title()}_{number:04d}_{number * 7919}.jpg"
      photo(root / "images" / file, k)
      images.append(f"{number} {file}")
      labels.append(f"{number} {k}")
      boxes.append(f"{number} 8.0 8.0 16.0 16.0")
  lines(root / "classes.txt", [*folders[:-1], folders[-1] + " "])
  lines(root / "images.txt", images)
  lines(root / "image_class_labels.txt", labels)
  lines(root / "bounding_boxes.txt", boxes)
  return root


INSHOP_ITEMS = {
  "train": (
    *("WOMEN/Dresses/id_00000002", "WOMEN/Tees_Tanks/id_00000004", "MEN/Denim/id_00000080"),
    *("MEN/Jackets_Vests/id_00000105", "WOMEN/Rompers_Jumpsuits/id_00000227"),
  ),
  "test": ("WOMEN/Tees_Tanks/id_00000001", "MEN/Denim/id_00000089", "WOMEN/Skirts/id_00007982"),
}


def inshop(root, images="Img"):
  """Eval/, Anno/ and Img/img/: a count, names of columns wide apart, boxes padded with zeros."""
  rows = []
  for item in INSHOP_ITEMS["train"]:
    rows += [(item, view, "train") for view in ("02_1_front", "02_2_side", "02_4_full")]
  for item in INSHOP_ITEMS["test"]:
    # The lists are not sorted: gallery and query images of an item stand side by side.
    views = (("01_1_front", "gallery"), ("01_2_side", "query"), ("03_7_additional", "gallery"))
    rows += [(item, view, status) for view, status in views]
  listed, boxes = [], []
  for item, view, status in rows:
    file = f"img/{item}/{view}.jpg"
    photo(root / images / file, int(item[-8:]))
    listed.append(f"{file:<70} {item.split('/')[-1]}     {status}")
    boxes.append(f"{file:<70} 3 1 008 008 024 024")
  header = f"{'image_name':<70} item_id     evaluation_status"
  lines(root / "Eval/list_eval_partition.txt", [str(len(rows)), header, *listed])
  header = f"{'image_name':<70} clothes_type pose_type x_1 y_1 x_2 y_2"
  lines(root / "Anno/list_bbox_inshop.txt", [str(len(rows)), header, *boxes])
  return root


AIRCRAFT = (
  *("707-320", "727-200", "747-400", "A340-600", "C-130", "DHC-8-300"),
  *("F-16A/B", "F/A-18", "Falcon 2000", "Il-76", "MD-11", "Spitfire"),
)


def aircraft(root):
  """fgvc-aircraft-2013b/data/: variants with '/' and spaces; 20 pixels of banner."""
  split = {"train": [], "val": [], "test": []}
  boxes, folder = [], root / "data"
  for k, variant in enumerate(AIRCRAFT):
    for n, name in enumerate(split):
      key = f"{1025794 + 3 * k + n:07d}"
      photo(folder / "images" / f"{key}.jpg", k, below=20)
      split[name].append(f"{key} {variant}")
      boxes.append(f"{key} 9 9 24 24")
  lines(folder / "variants.txt", AIRCRAFT)
  lines(folder / "images_box.txt", boxes)
  for name, rows in split.items():
    lines(folder / f"images_variant_{name}.txt", rows)
  return root


def sop(root):
  """Ebay_train.txt and Ebay_test.txt; items 1-6 train and 11319-11322 test, three images each."""
  kinds = ("bicycle", "coffee_maker", "kettle")
  for split, items in (("train", range(1, 7)), ("test", range(11319, 11323))):
    rows = []
    for item in items:
      for view in range(3):
        file = f"{kinds[item % 3]}_final/{111085122871 + item}_{view}.JPG"
        photo(root / file, item)
        rows.append(f"{3 * item + view} {item} {1 + item % 3} {file}")
    lines(root / f"Ebay_{split}.txt", ["image_id class_id super_class_id path", *rows])
  return root


# Of the official list: ids 1, 3, 98, 99, 174 and 196.
CARS = {
  1: "AM General Hummer SUV 2000",
  3: "Acura TL Sedan 2012",
  98: "Eagle Talon Hatchback 1998",
  99: "FIAT 500 Abarth 2012",
  174: "Ram C/V Cargo Van Minivan 2012",
  196: "smart fortwo Convertible 2012",
}


def cars_folders(root):
  """{train,test}/CLASS/*.jpg; a '/' in a name is '-' in its folder."""
  for k, name in CARS.items():
    for split, count in (("train", 2), ("test", 1)):
      for n in range(count):
        photo(root / split / name.replace("/", "-") / f"{100 * k + n:05d}.jpg", k)
  return root


def cars_parquet(root, order=tuple(CARS), names=True):
  """data/{train,test}-*.parquet; `order` of the classes gives the values of the label."""
  import pyarrow
  import pyarrow.parquet

  value = {k: n for n, k in enumerate(order)}
  features = {
    "image": {"_type": "Image"},
    "label": {"names": [CARS[k] for k in order], "_type": "ClassLabel"},
  }
  kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
  schema = pyarrow.schema([("image", kind), ("label", pyarrow.int64())])
  if names:
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
  (root / "data").mkdir(parents=True)
  for split, shards in (("train", 2), ("test", 1)):
    for shard in range(shards):
      rows = []
      for k in CARS:
        photo(root / "one.jpg", k)
        path = f"{k:05d}.jpg"
        rows.append({"image": {"bytes": (root / "one.jpg").read_bytes(), "path": path}})
        rows[-1]["label"] = value[k]
      file = root / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
      table = pyarrow.Table.from_pylist(rows, schema=schema)
      pyarrow.parquet.write_table(table, file, row_group_size=4)
  (root / "one.jpg").unlink()
  return root


def look(image):
  """(red of the box, size) of an image shown whole, or of its box alone."""
  pixels = np.asarray(image).astype(int)
  inside = pixels[8:24, 8:24] if image.size[0] == SIZE[0] else pixels
  assert np.ptp(inside[..., 0]) <= 4 and inside[..., 1].max() <= 4
  return int(inside[..., 0].mean().round()), image.size
