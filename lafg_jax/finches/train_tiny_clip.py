"""Trains the tiny CLIP, the frozen vision-language model of the synthetic finches.

python -m lafg_jax.finches.train_tiny_clip --out=/tmp/tiny_clip

It learns from renderings of random finches and sentences about them, never from an attribute
combination of any of the 100 classes, seen or unseen. The result is a folder in transformers'
own format: config, float16 weights, tokenizer and image preprocessor.
"""

import functools
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags, logging

from lafg_jax.finches import classes
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.drawing import IMAGE_SIZE
from lafg_jax.finches.text import ATTRIBUTES, Attributes, Claim, choose
from lafg_jax.utils import packages, places
from lafg_jax.utils.errors import UserError

# The end token is not number 2, which transformers takes for that of an old, broken config.
SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[UNK]", "[EOS]")
VOCABULARY_SIZE = 800
CONTEXT_LENGTH = 80
MEAN = STD = (0.5, 0.5, 0.5)
_POOL = 20_000
_HELD_OUT = 200  # random combinations that training leaves aside, to measure progress on
# What training must never see.
_CLASSES = frozenset(finch.attributes for finch in classes.SEEN + classes.UNSEEN)


def sample_combinations(
  n: int, rng: np.random.Generator, exclude: frozenset[Attributes] = frozenset()
) -> list[Attributes]:
  """n random attribute combinations, none of them of a class or in `exclude`."""
  found: list[Attributes] = []
  while len(found) < n:
    one = tuple(choose(rng, values) for values in ATTRIBUTES.values())
    if one not in _CLASSES and one not in exclude:
      found.append(one)
  return found


def combinations_of_training(
  pool: int, rng: np.random.Generator
) -> tuple[list[Attributes], list[Attributes]]:
  """(those set aside to measure progress on, the `pool` ones that training shows)."""
  held_out = sample_combinations(_HELD_OUT, rng)
  return held_out, sample_combinations(pool, rng, frozenset(held_out))


def seen_by_the_shipped() -> frozenset[Attributes]:
  """The combinations that the shipped tiny CLIP was trained on: with the flags' defaults."""
  return frozenset(combinations_of_training(_POOL, np.random.default_rng((0, 3)))[1])


def sample_caption(attributes: Attributes, rng: np.random.Generator) -> tuple[str, set[Claim]]:
  """A true text about a finch and the claims it makes.

  It is a sentence with all seven attributes, one with 1-3 of them, or a prompt with a name.
  """
  every = finch_text.claims_of(attributes)
  form = rng.random()
  if form < 0.4:
    return finch_text.full_sentence(attributes, rng), set(every)
  name, said = finch_text.random_name(attributes, rng)
  if form < 0.6:
    return choose(rng, ("a photo of a {}", "a photo of {}", "{}", "a {}")).format(name), set(said)
  claims = finch_text.shuffled(rng, every)[: 1 + int(rng.random() * 3)]
  if rng.random() < 0.7:
    return finch_text.sentence(claims, rng), set(claims)
  return finch_text.sentence(claims, rng, name), set(claims) | set(said)


def render_all(combinations: list[Attributes], seed: int) -> np.ndarray:
  """One picture of each combination: uint8 [n, 48, 48, 3]."""
  return np.stack(
    [classes.render(c, np.random.default_rng((seed, i))) for i, c in enumerate(combinations)]
  )


def matches(claims: list[set[Claim]], attributes: list[Attributes]) -> np.ndarray:
  """Which texts are true of which finches: bool [texts, finches]."""
  column = dict(zip(ATTRIBUTES, np.array(attributes).T, strict=True))
  true = [np.all([column[a] == value for a, value in said], 0) for said in claims]
  return np.stack([np.broadcast_to(row, len(attributes)) for row in true])


def learned_bpe(texts: list[str], size: int, alphabet: str):
  """A lower-cased BPE tokenizer of `size` tokens, learnt from texts, with `SPECIAL_TOKENS` first.

  The same texts give the same tokens and numbers. `alphabet`: signs that have a token in any case.
  """
  import tokenizers as tk

  bpe = tk.Tokenizer(tk.models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
  bpe.normalizer = tk.normalizers.Sequence([tk.normalizers.NFKC(), tk.normalizers.Lowercase()])
  bpe.pre_tokenizer = tk.pre_tokenizers.Whitespace()
  bpe.decoder = tk.decoders.BPEDecoder(suffix="</w>")
  trainer = tk.trainers.BpeTrainer(
    vocab_size=size,
    special_tokens=list(SPECIAL_TOKENS),
    end_of_word_suffix="</w>",
    initial_alphabet=list(alphabet),
    show_progress=False,
  )
  bpe.train_from_iterator(texts, trainer)
  # The library numbers tokens in an order that changes from run to run.
  learnt = json.loads(bpe.to_str())
  words = sorted(set(learnt["model"]["vocab"]) - set(SPECIAL_TOKENS))
  learnt["model"]["vocab"] = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *words])}
  bpe = tk.Tokenizer.from_str(json.dumps(learnt))
  ids = [(token, bpe.token_to_id(token)) for token in ("[BOS]", "[EOS]")]
  bpe.post_processor = tk.processors.TemplateProcessing("[BOS] $A [EOS]", None, ids)
  return bpe


def build_tokenizer(seed: int):
  """A small lower-cased BPE tokenizer learnt from sampled captions, classes' own words included.

  Learning from words (never from combinations) makes every attribute word one token.
  """
  import transformers

  rng = np.random.default_rng((seed, 1))
  corpus = [sample_caption(c, rng)[0] for c in sample_combinations(20000, rng)]
  corpus += [*finch_text.NEUTRAL_EPITHETS, *finch_text.NEUTRAL_GENERA] * 20
  corpus += [*finch_text.CHATTER] * 20
  bpe = learned_bpe(corpus, VOCABULARY_SIZE, "abcdefghijklmnopqrstuvwxyz0123456789-',.()")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    model_max_length=CONTEXT_LENGTH,
    **dict(zip(("pad_token", "bos_token", "unk_token", "eos_token"), SPECIAL_TOKENS, strict=True)),
  )


def build_model(tokenizer):
  """An untrained transformers.CLIPModel of about 0.8 million parameters."""
  import transformers

  ids = {
    f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")
  }
  # Transformers takes an end token of 2 for an old, broken config and pools elsewhere.
  assert ids["eos_token_id"] != 2
  shared = {"num_attention_heads": 4, "projection_dim": 64, "hidden_act": "gelu"}
  text = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
    "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT_LENGTH, **shared, **ids,
  }  # fmt: skip
  vision = {
    "hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 5,
    "image_size": IMAGE_SIZE, "patch_size": 8, **shared,
  }  # fmt: skip
  config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=64, **ids)
  return transformers.CLIPModel(config)


def pixels(images: np.ndarray):
  """Normalised float32 torch tensor [n, 3, S, S] of uint8 images [n, S, S, 3]."""
  import torch

  scaled = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
  return (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def contrastive_loss(logits, true):
  """CLIP's symmetric loss; other pairs that are true as well do not count as negatives.

  Args:
    logits: [B, B], texts by images, the pairs on the diagonal.
    true: bool [B, B], whether a text holds for an image.
  """
  import torch

  others = true & ~torch.eye(len(true), dtype=torch.bool)
  logits = logits.masked_fill(others, -1e4)
  target = torch.arange(len(logits))
  cross_entropy = torch.nn.functional.cross_entropy
  return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def attribute_loss(guess, birds: list[Attributes]):
  """Cross-entropy of all attributes of [B] birds under logits [B, values of all], averaged."""
  import torch

  parts = guess.split([len(values) for values in ATTRIBUTES.values()], dim=1)
  losses = [
    torch.nn.functional.cross_entropy(part, torch.tensor([values.index(x) for x in own]))
    for part, values, own in zip(parts, ATTRIBUTES.values(), zip(*birds, strict=True), strict=True)
  ]
  return sum(losses) / len(ATTRIBUTES)


def _outputs(model, tokenizer, texts: list[str], images: np.ndarray):
  """What the model says of texts and uint8 images [B, S, S, 3]."""
  tokens = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
  return model(**tokens, pixel_values=pixels(images))


def _held_out_accuracy(model, tokenizer, held_out: list[Attributes]) -> float:
  """Share of renderings, two of each combination, whose own full sentence ranks first of 40."""
  import torch

  model.eval()
  right = []
  for seed, first in enumerate(range(0, len(held_out), 40)):
    group = held_out[first : first + 40]
    rng = np.random.default_rng((seed, 2))
    texts = [finch_text.full_sentence(c, rng) for c in group]
    pictures = render_all([c for c in group for _ in range(2)], seed + 1000)
    with torch.inference_mode():
      best = _outputs(model, tokenizer, texts, pictures).logits_per_image.argmax(1).numpy()
    right.append(best == np.repeat(np.arange(len(group)), 2))
  model.train()
  return float(np.mean(right))


def _optimizer(model, steps: int, rate: float):
  import torch

  decayed = [p for p in model.parameters() if p.ndim > 1]
  free = [p for p in model.parameters() if p.ndim <= 1]
  groups = [{"params": decayed, "weight_decay": 0.05}, {"params": free, "weight_decay": 0.0}]
  optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
  warm = max(1, min(200, steps // 10))

  def scale(step: int) -> float:
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))

  return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


def _losses(model, attribute_head, tokenizer, images: np.ndarray, birds, rng):
  """(contrastive loss, attribute loss) of a batch, its captions freshly worded."""
  import torch

  texts, claims = zip(*[sample_caption(bird, rng) for bird in birds], strict=True)
  output = _outputs(model, tokenizer, list(texts), images)
  true = torch.from_numpy(matches(list(claims), birds))
  guess = attribute_head(8 * output.image_embeds)
  return contrastive_loss(output.logits_per_text, true), attribute_loss(guess, birds)


def train(steps: int, batch: int, pool: int, rate: float, seed: int):
  """Trains a model.

  Returns:
    (model in eval mode, tokenizer, accuracy on held-out random combinations among 40).
  """
  import torch

  torch.manual_seed(seed)
  rng = np.random.default_rng((seed, 3))
  held_out, combinations = combinations_of_training(pool, rng)
  began = time.time()
  images = render_all(combinations, seed)
  logging.info("drew %d pictures in %.0f s", pool, time.time() - began)
  tokenizer = build_tokenizer(seed)
  model = build_model(tokenizer).train()
  logging.info("%d parameters", sum(p.numel() for p in model.parameters()))
  # Naming attributes from the picture speeds up learning. The head is not saved.
  values = sum(map(len, ATTRIBUTES.values()))
  attribute_head = torch.nn.Linear(model.config.projection_dim, values)
  optimizer, schedule = _optimizer(torch.nn.ModuleList([model, attribute_head]), steps, rate)
  began, running = time.time(), 0.0
  order = np.empty(0, int)
  for step in range(1, steps + 1):
    if len(order) < batch:
      order = np.concatenate([order, rng.permutation(pool)])
    rows, order = order[:batch], order[batch:]
    birds = [combinations[row] for row in rows]
    loss, naming = _losses(model, attribute_head, tokenizer, images[rows], birds, rng)
    optimizer.zero_grad()
    (loss + naming).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    with torch.no_grad():
      model.logit_scale.clamp_(max=math.log(100))
    running += loss.item()
    if step % 50 == 0 or step == steps:
      took = time.time() - began
      logging.info(
        "step %d/%d  loss %.3f  temperature 1/%.1f  %.0f img/s  ETA %.0f s",
        *(step, steps, running / (step % 50 or 50), model.logit_scale.exp().item()),
        *(step * batch / took, took / step * (steps - step)),
      )
      running = 0.0
    if step % 200 == 0 or step == steps:
      accuracy = _held_out_accuracy(model, tokenizer, held_out)
      logging.info("held-out combinations, right one of 40: %.1f %%", 100 * accuracy)
  return model.eval(), tokenizer, accuracy


def save(model, tokenizer, out: Path) -> None:
  """Writes a transformers folder into the existing `out`, each file whole or not at all."""
  import torch

  preprocessor = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True, "size": {"shortest_edge": IMAGE_SIZE},
    "do_center_crop": True, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    "do_convert_rgb": True, "resample": 3,
  }  # fmt: skip
  with tempfile.TemporaryDirectory(dir=out) as folder:
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # The name that every release of transformers knows this kind of tokenizer by.
    path = Path(folder, "tokenizer_config.json")
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n")
    Path(folder, "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    for path in Path(folder).iterdir():
      path.chmod(0o644)  # a temporary file is private
      os.replace(path, out / path.name)


def define_flags() -> flags.FlagValues:
  """The command's flags, apart from absl's global ones: importing this module adds none there."""
  own = flags.FlagValues()
  whole = functools.partial(flags.DEFINE_integer, flag_values=own)
  flags.DEFINE_string("out", None, "Folder to write the model to.", own, required=True)
  whole("steps", 1100, "Training steps.", lower_bound=1)
  whole("batch", 128, "Pairs in a batch.", lower_bound=2)
  whole("pool", _POOL, "Pictures, drawn once before training.", lower_bound=2)
  whole("seed", 0, "Seed of weights, pictures and sentences.", lower_bound=0)
  whole("threads", 1, "CPU threads.", lower_bound=1)
  flags.DEFINE_float("rate", 1.5e-3, "Peak learning rate of AdamW.", 0.0, flag_values=own)
  return own


def main(argv: list[str]) -> None:
  """Parses `argv`, trains and saves.

  Raises:
    UserError: a flag is unknown, missing or impossible.
  """
  own = define_flags()
  if {"--help", "-help", "-h"} & set(argv[1:]):
    print(f"{__doc__}\nFlags:{own.module_help(__name__)}")
    return
  try:
    rest = own(argv)
  except flags.Error as error:
    raise UserError(f"{error}; see --help") from error
  if len(rest) > 1:
    raise UserError(f"leftover word {rest[1]!r} on the command line: flags are --name=value")
  out = places.expanded(own.out or "")
  if not out:
    raise UserError("--out is empty: pass the folder to write the model to")
  if own.pool < own.batch:
    raise UserError(f"--pool={own.pool} is less than --batch={own.batch}: draw more pictures")
  packages.require("torch", "torch", "transformers")
  try:
    Path(out).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={out} cannot be made: {error.strerror}") from error
  import torch

  torch.set_num_threads(own.threads)
  began = time.time()
  model, tokenizer, accuracy = train(own.steps, own.batch, own.pool, own.rate, own.seed)
  save(model, tokenizer, Path(out))
  minutes = (time.time() - began) / 60
  logging.info("%.1f %% after %.1f minutes, in %s", 100 * accuracy, minutes, out)


if __name__ == "__main__":
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  try:
    main(sys.argv)
  except UserError as mistake:
    print("error: " + " ".join(str(mistake).split()), file=sys.stderr)
    sys.exit(2)
