"""A folder of one's own images, with a folder a class: Hyp-ViT's recipe on a ViT-S at 224 px.

  python -m lafg_jax.main --config configs/folder.py --config.data.root=/data/my_birds \
      --config.language.descriptions=my_birds.json

The file has some sentences about each class to train on: {class: [sentence, ...]}. Without any,
--config.loss.alignment=orthogonal trains without words; --config.language.describer=transformers
and --config.language.llm=MODEL have a language model write them.

The folder is one of
  my_birds/CLASS/*.jpg                              the class split by the keys below
  my_birds/train/CLASS/*.jpg and test/CLASS/*.jpg   those are the split, in any usual spelling;
                                                    no class is in both, or they are pooled by
                                                    --config.data.split_folders=pool
  my_birds/SUPER_CATEGORY/CLASS/*.jpg               iNaturalist 2017 and 2018
  inat/train/00042_Plantae_..._genus_species/*.jpg  iNaturalist 2021
The first half of the classes trains, in the order of the folders' names; the other half, unseen, is
the test. --config.data.train_fraction=0.8 is another part, --config.data.split_seed=0 draws the
classes, and --config.data.test_classes=FILE lists those of the test, one name a line. (iNaturalist
2021 is numbered by kinship: there, a seed makes the halves alike.) docs/guide/data.md has more.

AdamW, 3e-5, gradient norm 3, random resized crops and flips are Hyp-ViT's (Ermolov et al., CVPR
2022) for a ViT-S pretrained on ImageNet-21k; its batch is 900. A class with fewer than
data.images_per_class images repeats some in a batch, with other crops. A test class of one image
has no match to find: it is left out of the queries, and counted.
"""

from lafg_jax.tasks.class_retrieval import default


def get_config():
  """16 classes of 8 images a batch fit one GPU, and folders of 32 classes or more."""
  return default.own_images("folder")
