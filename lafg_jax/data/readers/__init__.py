"""One module a data set: `read(data) -> (training half, test half)` as `datasets.Dataset`s.

The module of a data set has the name that `data.name` has. Nothing is imported here: the check of
a config, before flags are parsed, reads the table below.
"""

# data.name -> what lies in the folder data.root.
LAYOUTS = {
  "cars": "devkit/ and cars_train/",
  "sop": "Ebay_train.txt, Ebay_test.txt and the folders bicycle_final/ to toaster_final/",
}
# The finches are drawn in memory: there is nothing to read.
NAMES = (*LAYOUTS, "synthetic")
