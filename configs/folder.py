"""A folder of one's own images, with a folder a class: Hyp-ViT's recipe on a ViT-S at 224 px.

  python -m lafg_jax.main --config configs/folder.py --config.data.root=/data/my_birds

takes a ViT-S from the Hugging Face hub and wants a GPU.

  python -m lafg_jax.main --config configs/folder.py:scratch --config.data.root=/data/my_birds

is a small model from random weights at 64 px instead, for two CPU cores and a quarter of an hour,
without the hub. Both take --config.model.pretrained=ID, other weights, which bring their
architecture.

Both start from class names alone: each class has a fixed vector as its target
(loss.alignment=orthogonal). With words, the targets are LaFG's prototypes:
--config.language.descriptions=FILE, some sentences about each class to train on, {class:
[sentence, ...]}; or --config.language.describer=transformers and --config.language.llm=MODEL, a
language model that writes them. Words take an encoder (language.encoder) of the hub, or a folder.

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
--config.data.train_fraction=1 trains on all classes, for use: nothing is left to evaluate on, and
the run says so.

AdamW, 3e-5, gradient norm 3, random resized crops and flips are Hyp-ViT's (Ermolov et al., CVPR
2022) for a ViT-S pretrained on ImageNet-21k; its batch is 900. Here a batch has 128 images at most,
of as many classes as there are ('auto'). Ours is what keeps it near its start: no embedding layer,
class targets of weight 0.1, and weights three quarters of the way from the pretrained to the
trained ones (docs/study/photographs.md). A class with fewer than data.images_per_class images
repeats some in a batch, with other crops. A test class of one image has no match to find: it is
left out of the queries, and counted.
"""

from lafg_jax.tasks.class_retrieval import default

VARIANTS = default.OWN_VARIANTS


def get_config(variant: str = "pretrained"):
  """Hyp-ViT's recipe, or a small model from random weights; `variant`: as above."""
  return default.own_images("folder", variant)
