"""How often 'nothing similar' is right for texts: docs/guide/search.md has the table.

  python -m lafg_jax.finches.files --help
  python experiments/text_floor.py --gallery=FILE.db [--texts=FILE]

--gallery is of a model that reads texts. --texts has a text about something in the gallery on each
line; without it they are phrases for what finches of unseen classes have ("a crimson crown").
Beside them stand 60 texts about nothing in it (`ELSEWHERE`), none of which makes the floor. They
were written before any figure was seen.

Two rules are compared, by some quantiles of the sentences that make the floor: the best score
itself, and the best score above the text's mean score over the gallery (lafg_jax's). Intervals are
95 %, by the bootstrap over texts. The last rows are what the gallery's own floor says.
"""

from pathlib import Path

import numpy as np
from absl import app, flags

from lafg_jax.explain.faithfulness import interval
from lafg_jax.finches import classes
from lafg_jax.finches import text as finch_text
from lafg_jax.gallery import model as models
from lafg_jax.gallery import statistics, store

_GALLERY = flags.DEFINE_string("gallery", None, "FILE.db.", required=True)
_TEXTS = flags.DEFINE_string("texts", "", "A file of texts about what is in the gallery.")

ELSEWHERE = (
  *("a rusty bicycle against a fence", "two lawyers in a court room"),
  *("the periodic table of elements", "a bowl of tomato soup", "an oil platform in a storm"),
  *("a woman playing the piano", "a crowded subway train", "an astronaut on the moon"),
  *("a jar of strawberry jam", "a broken window pane", "a church organ", "a stack of euro coins"),
  *("a tennis match at night", "a waiter carrying three plates"),
  *("a circuit board with resistors", "a farmer milking a goat", "a glass of orange juice"),
  *("the ruins of an abbey", "a satellite image of a hurricane", "a baby in a pram"),
  *("a wooden staircase", "a roundabout with heavy traffic", "an elevator door"),
  *("a bouquet of tulips in a vase", "a slice of chocolate cake", "a man repairing a roof"),
  *("a graph of stock prices", "a cave with stalactites", "a candle in the dark"),
  *("an aquarium shop", "quarterly revenue grew by four percent"),
  *("please send the invoice by friday", "the train to berlin leaves at nine"),
  *("how do i reset my password", "integral of x squared", "once upon a time there was a king"),
  *("to be or not to be", "breaking news from parliament", "a recipe for lentil curry"),
  *("terms and conditions apply", "xyzzy plugh frobnicate", "lorem ipsum dolor sit amet"),
  *("qwerty uiop asdf", "ein teller mit kartoffeln", "la tour eiffel sous la pluie"),
  *("un coche rojo en la calle", "table lamp seven under whisper", "green ideas sleep furiously"),
  *("seven of nine divided by zero", "the of and to in", "a truck full of gravel"),
  *("a red double-decker bus", "a black grand piano", "a white refrigerator"),
  *("a yellow submarine", "a blue swimming cap", "a brown leather sofa", "a grey battleship"),
  *("an olive branch on a coin", "a crimson sunset over the sea"),
)


def of_finches() -> list[str]:
  """Two phrases for each attribute that an unseen class has."""
  claims = {
    claim
    for finch in classes.UNSEEN
    for claim in zip(finch_text.ATTRIBUTES, finch.attributes, strict=True)
  }
  return sorted({phrase for claim in claims for phrase in finch_text.phrases(claim)[:2]})


def measures(texts: np.ndarray, vectors: np.ndarray) -> dict[str, np.ndarray]:
  """{rule: what it compares with a floor} of each text's vector."""
  scores = texts @ vectors.T
  return {"best": scores.max(axis=1), "above the mean": scores.max(axis=1) - scores.mean(axis=1)}


def main(unused: list[str]) -> None:
  del unused
  about = Path(_TEXTS.value).read_text().splitlines() if _TEXTS.value else of_finches()
  with store.opened(_GALLERY.value) as gallery:
    embed = models.of_gallery(gallery.facts, None, None).retriever.embed_text
    vectors, floors = store.everything(gallery)[1], gallery.facts.floors
  everyday = measures(embed(list(statistics.EVERYDAY)), vectors)
  sides = {"elsewhere": list(ELSEWHERE), "in the gallery": about}
  for side, texts in sides.items():
    said = embed(texts)
    for rule, found in measures(said, vectors).items():
      for quantile in (0.5, 0.75, 0.9):
        _print(side, f"{rule}, {quantile}", found < np.quantile(everyday[rule], quantile))
    own = [statistics.floor_of(floors, "text", x[None]) for x in said]
    _print(side, "the gallery's own", (said @ vectors.T).max(axis=1) < np.array(own))


def _print(side: str, rule: str, below: np.ndarray) -> None:
  mean, low, high = (round(100 * x) for x in interval(below))
  print(f"| {side} ({len(below)}) | {rule} | {mean} [{low}, {high}] |", flush=True)


if __name__ == "__main__":
  app.run(main)
