"""DCAR on FDRD: CLIP ViT-B/32, captions of a domain of fine-grained photographs, 224 px.

  python -m lafg_jax.main --config configs/image_text/fdrd.py:cars \\
      --config.captions.file=train.json --config.captions.test_file=test.json \\
      --config.data.root=/data/stanford_cars

The files are those of the repository wyf202322/DCAR (one JSON a split; captions.layout says which
domain's, where the name does not), the folder is the data set's own. Variants: caltech101,
oxford_pets, cars, flowers102, food101, aircraft, sun397, dtd, ucf101; they differ in the steps of
10 epochs alone. A baseline is one value: --config.prompts.method=maple.

The paper's recipe could not be read. The optimiser (SGD 0.002, as CoOp), the batch of 128, the
epochs, k = 4, the re-weighting's form and scale, K, alpha and lambda are ours; shared by all
methods. Published (README of the repository; CLIP ViT-B/32, no seeds, no intervals), R@1 image ->
text / text -> image, the whole test split as the gallery, a match is the image's own caption:

  domain         CLIP           CoOp           MaPLe          DCAR
  Caltech101     38.99 / 32.17  45.13 / 29.70  46.26 / 29.69  48.13 / 36.78
  OxfordPets     40.77 / 30.69  49.88 / 31.59  49.40 / 30.50  52.88 / 39.82
  StanfordCars   25.88 / 18.60  34.33 / 21.63  43.50 / 26.78  45.52 / 32.90
  Flowers102     16.08 / 12.87  24.33 / 12.11  24.38 / 12.38  26.04 / 18.56
  Food101        13.83 /  6.98  18.77 /  8.50  19.50 /  8.00  21.80 / 13.03
  FGVCAircraft   19.41 / 18.93  23.80 / 12.84  26.12 / 14.12  28.94 / 20.47
  SUN397         34.94 / 23.48  43.05 / 19.03  45.60 / 18.62  47.34 / 34.30
  DTD            37.94 / 29.49  45.93 / 18.32  44.39 / 20.39  47.10 / 30.73
  UCF101         15.49 / 12.34  18.53 / 10.65  19.60 / 11.62  21.12 / 18.62
  mean           27.04 / 20.62  33.75 / 18.26  35.42 / 19.12  37.65 / 27.25

Also published: CLIP-Adapter 29.20 / 17.34, FineCLIP 33.68 / 24.63, FILIP 29.98 / 21.59, ALIP
30.62 / 23.02 on average. A split of one's own (captions.split=images or classes) is comparable
with none of these.
"""

from lafg_jax.tasks.class_retrieval.default import check_variant
from lafg_jax.tasks.image_text_retrieval import default

EPOCHS, BATCH = 10, 128
# Training images of each domain (CoOp's splits, train and val together).
IMAGES = {
  "cars": 8144,
  "caltech101": 5777,
  "oxford_pets": 3680,
  "flowers102": 5726,
  "food101": 70700,
  "aircraft": 6667,
  "sun397": 19850,
  "dtd": 3948,
  "ucf101": 9537,
}


def get_config(variant: str = "cars"):
  """DCAR's recipe as far as it is known; `variant`: the domain."""
  check_variant("configs/image_text/fdrd.py", variant, tuple(IMAGES))
  config = default.get_config()
  config.captions.update(source="fdrd", batch_size=BATCH)
  steps = EPOCHS * (IMAGES[variant] // BATCH)
  config.train.update(steps=steps, checkpoint_every=max(1, steps // EPOCHS), warmup=1 / EPOCHS)
  return config
