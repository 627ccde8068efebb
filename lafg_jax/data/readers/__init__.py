"""One module a data set: `read(data) -> (training half, test half)` as `datasets.Dataset`s.

The module of a data set has the name that `data.name` has. Nothing is imported here: the check of
a config, before flags are parsed, reads the table below.
"""

# data.name -> what lies in the folder data.root.
LAYOUTS = {
  "aircraft": "data/variants.txt and data/images/",
  "cars": "devkit/ and cars_train/, or train/CLASS/ and test/CLASS/, or data/train-*.parquet",
  "cub": "images.txt, image_class_labels.txt, classes.txt and images/",
  "inshop": "Eval/list_eval_partition.txt and Img/img/",
  "sop": "Ebay_train.txt, Ebay_test.txt and the folders bicycle_final/ to toaster_final/",
}
# The finches are drawn in memory: there is nothing to read.
NAMES = (*LAYOUTS, "synthetic")

# Those that come with boxes, for data.box_crop.
BOXED = ("aircraft", "cars", "cub", "inshop")
