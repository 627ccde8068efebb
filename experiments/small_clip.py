"""Trains a small CLIP from random weights on photographs with captions, by the project's own loop.

  python experiments/small_clip.py --file=/data/fashion/metadata.csv --out=runs/small_clip
  python experiments/small_clip.py --of=cars --file=/data/fdrd/inter_car_train.json \\
      --root=/data/stanford_cars --out=runs/small_clip_cars

The data are those of configs/image_text/fashion.py (or cars.py), and the training is its variant
:seen, full fine-tuning (prompts.method=finetune) on half of the classes. The same command goes on
where it was stopped.

  OUT/start   random weights, and a BPE tokenizer that learned on the training captions alone
  OUT/run     the workdir of the training, and its test: other photographs of the classes it saw
  OUT/clip    the trained CLIP in transformers' layout, for --config.model.pretrained=OUT/clip
  OUT/unseen  the same CLIP without any adaptation, on classes it has not seen

Recall at 1, 5 and 10 both ways is printed beside chance and the class oracle. No figure is
comparable with a published one.
"""

import json
import runpy
from pathlib import Path
from typing import Any

import jax
import safetensors.numpy
from absl import app, flags, logging
from ml_collections import ConfigDict

from lafg_jax import tasks
from lafg_jax.config import shipped
from lafg_jax.data import captions
from lafg_jax.finches.train_tiny_clip import SPECIAL_TOKENS, learned_bpe
from lafg_jax.models import clip as clips
from lafg_jax.models.text import TextTower
from lafg_jax.models.weights import to_transformers
from lafg_jax.runtime import malloc
from lafg_jax.training import checkpoints
from lafg_jax.utils.files import replacing

# Width, depth, heads and MLP width.
IMAGE, PATCH, TEXT, DIM = (192, 6, 4, 768), 8, (160, 3, 4, 640), 128
VOCABULARY = 2000
# CoOp's prompts stand before a caption; captions of unseen classes are cut into more pieces.
PROMPTS, LONGER = 16, 1.5
OF = ("fashion", "cars")

_OF = flags.DEFINE_enum("of", "fashion", OF, "The config of the data: configs/image_text/NAME.py.")
_FILE = flags.DEFINE_string("file", None, "Captions: metadata.csv, or a JSON of FDRD.")
_ROOT = flags.DEFINE_string("root", "", "Folder of the images (default: that of --file).")
_OUT = flags.DEFINE_string("out", "runs/small_clip", "Folder to write.")
_STEPS = flags.DEFINE_integer("steps", 0, "Training steps (default: the config's).", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and batches.", lower_bound=0)


def main(unused: list[str]) -> None:
  del unused
  logging.set_verbosity(logging.INFO)
  malloc.keep_freed()
  out = Path(_OUT.value)
  seen = config("seen", out / "start")
  start(seen, out / "start")
  (out / "run").mkdir(exist_ok=True)
  if not tasks.run(seen, str(out / "run"), ["train", "evaluate"]):
    print("stopped; the same command goes on")
    return
  save(seen, out / "run", out / "clip")
  unseen = config("unseen", out / "clip")
  unseen.prompts.method = "zero_shot"
  (out / "unseen").mkdir(exist_ok=True)
  tasks.run(unseen, str(out / "unseen"), ["evaluate"])
  print(f"\n--config configs/image_text/{_OF.value}.py --config.model.pretrained={out / 'clip'}")


def config(variant: str, clip: Path) -> ConfigDict:
  """The config of the data, as the flags have it."""
  path = shipped.folder() / "image_text" / f"{_OF.value}.py"
  found = runpy.run_path(str(path))["get_config"](variant)
  found.seed, found.model.pretrained = _SEED.value, str(clip)
  found.captions.file, found.data.root = _FILE.value, _ROOT.value
  if variant == "seen" and _STEPS.value:
    found.train.update(steps=_STEPS.value)
  task = tasks.find(found, "default")
  task.validate(found, task.default_names(found))
  return found


def start(seen: ConfigDict, folder: Path) -> None:
  """Writes a CLIP of random weights; the same one for the same captions and seed."""
  texts = captions.load_splits(seen, ("train",))["train"].captions
  bpe = learned_bpe(texts, VOCABULARY, "abcdefghijklmnopqrstuvwxyz0123456789-',.()&%/")
  longest = max(len(found.ids) for found in bpe.encode_batch(texts))
  context = -(-int(LONGER * longest + PROMPTS) // 8) * 8
  image_size = seen.data.image_size
  special = {f"{name.lower()[1:-1]}_token": name for name in SPECIAL_TOKENS}
  ids = {f"{key}_id": bpe.token_to_id(name) for key, name in special.items() if key != "unk_token"}
  settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, **special}
  folder.mkdir(parents=True, exist_ok=True)
  write(folder / "tokenizer.json", bpe.to_str(pretty=True))
  write(folder / "tokenizer_config.json", json.dumps(settings, indent=2))
  clip = towers(image_size, bpe.get_vocab_size(), context)
  write(folder / "config.json", json.dumps(to_transformers.config(clip, ids), indent=2))
  crops = to_transformers.preprocessor(clip, seen.data.resize_size)
  write(folder / "preprocessor_config.json", json.dumps(crops, indent=2))
  params = clips.init(clip, jax.random.key(seen.seed))
  write_tensors(folder, clip, params)
  count = sum(x.size for x in jax.tree.leaves(params))
  logging.info("%s: %d parameters, %d tokens, context %d", folder, count, clip.text.vocabulary,
               context)  # fmt: skip


def towers(image_size: int, vocabulary: int, context: int) -> clips.Clip:
  """The architecture of the small CLIP."""
  image = clips.ImageTower(IMAGE, PATCH, DIM)
  text = TextTower(TEXT, vocabulary, context, DIM, activation="gelu")
  half = (0.5, 0.5, 0.5)
  return clips.Clip(image, text, DIM, image_size, half, half, "clip", clips.Tokens("", context))


def write_tensors(folder: Path, clip: clips.Clip, params: dict[str, Any]) -> None:
  """model.safetensors of both towers' parameters, under transformers' names."""
  with replacing(folder / "model.safetensors") as temporary:
    found = to_transformers.tensors(clip, params)
    safetensors.numpy.save_file(found, temporary, {"format": "pt"})


def save(seen: ConfigDict, workdir: Path, folder: Path) -> None:
  """The trained CLIP beside the tokenizer and configs of its start."""
  arrays, _ = checkpoints.require(str(workdir), checkpoints.FOLDER)
  folder.mkdir(exist_ok=True)
  names = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
  for name in names:
    write(folder / name, Path(seen.model.pretrained, name).read_text("utf-8"))
  clip, _ = clips.load(seen.model.pretrained)
  write_tensors(folder, clip, checkpoints.subtree(arrays, "state/params"))


def write(path: Path, text: str) -> None:
  with replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
  flags.mark_flag_as_required("file")
  app.run(main)
