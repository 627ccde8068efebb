"""The shipped tiny CLIP: what it was trained on, and what it knows of finches it never saw."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.finches import classes as synthetic
from lafg_jax.finches import drawing, train_tiny_clip
from lafg_jax.finches import text as finch_text
from lafg_jax.finches.text import ATTRIBUTES
from lafg_jax.utils.errors import UserError

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

FOLDER = Path(train_tiny_clip.__file__).parent / "tiny_clip"
CLASSES = {finch.attributes for finch in synthetic.SEEN + synthetic.UNSEEN}


@dataclasses.dataclass
class Clip:
  model: object
  tokenizer: object
  processor: object

  def scores(self, pictures: np.ndarray, sentences: list[str]) -> np.ndarray:
    """Cosines [pictures, sentences], by transformers alone."""
    tokens = self.tokenizer(sentences, padding=True, return_tensors="pt")
    pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
      output = self.model(
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        pixel_values=pixels,
      )
    return (output.image_embeds @ output.text_embeds.T).numpy()


@pytest.fixture(scope="module")
def clip():
  import transformers

  model, loaded = transformers.CLIPModel.from_pretrained(
    FOLDER, dtype=torch.float32, output_loading_info=True
  )
  assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  return Clip(
    model.eval(),
    transformers.AutoTokenizer.from_pretrained(FOLDER),
    transformers.AutoImageProcessor.from_pretrained(FOLDER),
  )


def listing(attributes) -> str:
  """A full description in words of this test's own, but of the known vocabulary."""
  body, crown, wing, pattern, bill, tail, ring = attributes
  wings = {
    "plain": "plain, unmarked wings",
    "barred": "a single wing-bar",
    "double-barred": "two wing-bars",
    "spotted": "spotted wings",
    "fringed": "fringed wing feathers",
  }[pattern]
  bills = {"cone": "a short, conical", "thin": "a long, thin", "hooked": "a hooked"}
  beak = bills[bill] + " bill" if bill in bills else "a bill with crossed tips"
  tails = {"fan": "a fan-shaped tail"}.get(tail, f"a {tail} tail")
  rings = "no eye-ring" if ring == "none" else f"a {ring} eye-ring"
  return (
    f"A finch with a {body} body, a {crown} crown, {wing} wings, {wings}, {beak}, {tails} "
    f"and {rings}."
  )


def share_ranked_first(clip, combinations, first_seed: int, each: int = 6) -> float:
  pictures = np.stack(
    [
      synthetic.render(birds, np.random.default_rng((first_seed, i, j)))
      for i, birds in enumerate(combinations)
      for j in range(each)
    ]
  )
  scores = clip.scores(pictures, [listing(birds) for birds in combinations])
  own = np.repeat(np.arange(len(combinations)), each)
  return float((scores.argmax(1) == own).mean())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_training_combinations_are_never_those_of_a_class(seed):
  rng = np.random.default_rng(seed)
  drawn = train_tiny_clip.sample_combinations(500, rng)
  assert len(drawn) == 500
  assert not CLASSES & set(drawn)


def test_the_sampler_rejects_a_class_that_chance_proposes():
  """Feeds the draws that spell out each class, which an unguarded sampler would return."""

  class Replay:
    def __init__(self, values):
      self.values = iter(values)

    def random(self):
      return next(self.values)

  def draws(attributes):
    pairs = zip(ATTRIBUTES.values(), attributes, strict=True)
    return [(values.index(value) + 0.5) / len(values) for values, value in pairs]

  free = next(bird for bird in [tuple(v[0] for v in ATTRIBUTES.values())] if bird not in CLASSES)
  stream = [x for birds in [*sorted(CLASSES), free] for x in draws(birds)]
  assert train_tiny_clip.sample_combinations(1, Replay(stream)) == [free]
  held_out = frozenset([free])
  other = (*free[:-1], "yellow")
  assert other not in CLASSES
  found = train_tiny_clip.sample_combinations(1, Replay(draws(free) + draws(other)), held_out)
  assert found == [other]


def test_captions_are_true_and_their_claims_complete():
  rng = np.random.default_rng(0)
  lengths = set()
  for birds in train_tiny_clip.sample_combinations(200, rng):
    text, claims = train_tiny_clip.sample_caption(birds, rng)
    assert claims <= set(zip(ATTRIBUTES, birds, strict=True))
    lengths.add(len(claims))
    # A text with a plain colour word must claim that colour of something.
    said = {value for _, value in claims}
    words = set(re.findall(r"[a-z]+", text.lower()))
    assert {word for word in finch_text.COLOURS if word in words} <= said, text
  assert {0, 1, 2, 3, 7} <= lengths


def test_loss_ignores_other_true_pairs_and_equals_clip_without_any():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(5, 5))
  true = np.eye(5, dtype=bool)
  true[0, 3] = True
  keep = ~(true & ~np.eye(5, dtype=bool))

  def oracle(keep):
    total = 0.0
    for i in range(5):
      total += np.log(np.exp(logits[i])[keep[i]].sum()) - logits[i, i]
      total += np.log(np.exp(logits[:, i])[keep[:, i]].sum()) - logits[i, i]
    return total / 10

  for mask, kept in ((true, keep), (np.eye(5, dtype=bool), np.ones((5, 5), bool))):
    loss = train_tiny_clip.contrastive_loss(torch.from_numpy(logits), torch.from_numpy(mask))
    np.testing.assert_allclose(loss.item(), oracle(kept), rtol=1e-9)


def test_matches_is_truth_of_all_claims():
  birds = [finch.attributes for finch in synthetic.SEEN[:6]]
  claims = [set(), {("bill", birds[0][4])}, set(zip(ATTRIBUTES, birds[2], strict=True))]
  expected = [
    [all(b[list(ATTRIBUTES).index(a)] == v for a, v in said) for b in birds] for said in claims
  ]
  np.testing.assert_array_equal(train_tiny_clip.matches(claims, birds), expected)


def test_folder_is_small_and_complete(clip):
  weights = list(FOLDER.glob("*.safetensors"))
  assert [path.name for path in weights] == ["model.safetensors"]
  assert weights[0].stat().st_size <= 2 * 2**20
  assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 2.5 * 2**20
  assert not [path for path in FOLDER.iterdir() if path.suffix in (".bin", ".pt", ".py")]
  assert clip.processor.size["shortest_edge"] == drawing.IMAGE_SIZE
  pixels = train_tiny_clip.pixels(
    np.stack([synthetic.image(synthetic.class_names("seen")[0], j) for j in range(30)])
  )
  pictures = np.stack([synthetic.image(synthetic.class_names("seen")[0], j) for j in range(30)])
  prepared = clip.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
  torch.testing.assert_close(prepared, pixels, rtol=0, atol=1e-5)


def test_every_attribute_word_is_one_known_token(clip):
  words = {word for values in ATTRIBUTES.values() for v in values for word in v.split("-")}
  words = words - {"none"} | {"no"}  # the word for "none" in sentences
  words |= {"conical", "crown", "cap", "wing", "wings", "tail", "bill", "ring", "body", "chestnut"}
  for word in sorted(words):
    ids = clip.tokenizer(word)["input_ids"]
    assert len(ids) == 3, word
    assert clip.tokenizer.unk_token_id not in ids
  for name in synthetic.class_names("seen") + synthetic.class_names("unseen"):
    assert clip.tokenizer.unk_token_id not in clip.tokenizer(name)["input_ids"]
  longest = max(
    len(clip.tokenizer(s)["input_ids"])
    for texts in synthetic.describe(synthetic.class_names("unseen")).values()
    for s in texts
  )
  assert (
    longest
    <= clip.tokenizer.model_max_length
    == clip.model.config.text_config.max_position_embeddings
  )


def test_text_is_pooled_at_its_end_whatever_the_padding(clip):
  texts = ["a photo of a Rufous-capped Forktail", "A finch with a blue body and a long, thin bill."]
  both = clip.tokenizer(texts, padding=True, return_tensors="pt")
  with torch.inference_mode():
    batch = clip.model.get_text_features(**{k: both[k] for k in ("input_ids", "attention_mask")})
    batch = getattr(batch, "pooler_output", batch)
    for row, text in enumerate(texts):
      one = clip.tokenizer(text, return_tensors="pt")
      alone = clip.model.get_text_features(**{k: one[k] for k in ("input_ids", "attention_mask")})
      alone = getattr(alone, "pooler_output", alone)
      torch.testing.assert_close(batch[row], alone[0], rtol=1e-4, atol=1e-5)
  assert torch.nn.functional.cosine_similarity(batch[:1], batch[1:]).item() < 0.9


def test_it_tells_unseen_classes_apart(clip):
  # 40 of the 60 unseen classes, whole genera of look-alikes among them.
  classes = [finch.attributes for finch in synthetic.UNSEEN[:40]]
  assert share_ranked_first(clip, classes, 11) >= 0.30


def test_it_tells_held_out_combinations_apart(clip):
  # The draw that training set aside: the pool of pictures never held these.
  rng = np.random.default_rng((0, 3))
  held_out = train_tiny_clip.sample_combinations(train_tiny_clip._HELD_OUT, rng)
  assert share_ranked_first(clip, held_out[:40], 12) >= 0.30


def test_it_understands_names(clip):
  """Among 8 crown colours in a name, the true one ranks first far above chance."""
  finches = [finch.attributes for finch in synthetic.UNSEEN]
  prompts = [f"a photo of a {colour.capitalize()}-crowned Finch" for colour in finch_text.COLOURS]
  pictures = np.stack(
    [synthetic.render(birds, np.random.default_rng((13, i))) for i, birds in enumerate(finches)]
  )
  best = clip.scores(pictures, prompts).argmax(1)
  right = [finch_text.COLOURS[b] == birds[1] for b, birds in zip(best, finches, strict=True)]
  assert np.mean(right) >= 0.35


def test_script_trains_and_writes_a_folder_that_loads(tmp_path, clip):
  import transformers

  out = tmp_path / "new" / "clip"
  train_tiny_clip.main(["x", f"--out={out}", "--steps=2", "--batch=8", "--pool=16"])
  names = {path.name for path in FOLDER.iterdir()} - {"README.md"}
  assert {path.name for path in out.iterdir()} == names
  model = transformers.CLIPModel.from_pretrained(out, dtype=torch.float32)
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  # The shipped folder was made with this vocabulary and this architecture.
  shapes = {name: p.shape for name, p in model.named_parameters()}
  assert shapes == {name: p.shape for name, p in clip.model.named_parameters()}
  assert set(tokenizer.get_vocab()) == set(clip.tokenizer.get_vocab())
  text = "a photo of a Rufous-capped Forktail"
  assert tokenizer.tokenize(text) == clip.tokenizer.tokenize(text)


def test_tokenizer_reads_the_same_every_time_it_is_learnt():
  # The library may swap merges of equal frequency; numbers and readings must not depend on it.
  first, again = (train_tiny_clip.build_tokenizer(0) for _ in range(2))
  assert first.get_vocab() == again.get_vocab()
  texts = [s for c in synthetic.describe(synthetic.class_names("unseen")).values() for s in c]
  assert first(texts)["input_ids"] == again(texts)["input_ids"]


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--step=3", "step"),
    ("--steps=0", "--steps"),
    ("--pool=10", "--pool=10"),
    ("more", "'more'"),
    ("--out=", "--out"),
  ],
)
def test_misuse_of_the_script_is_one_line(tmp_path, flag, words):
  out = [] if flag.startswith("--out") else [f"--out={tmp_path}"]
  with pytest.raises(UserError, match=words) as caught:
    train_tiny_clip.main(["x", *out, flag])
  assert "\n" not in str(caught.value)
