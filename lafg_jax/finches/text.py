"""Words for the synthetic finches: attributes, class names and written descriptions.

Everything here is text. A finch is a tuple of attribute values in the order of `ATTRIBUTES`;
a claim is a pair (attribute, value) that a sentence or a name makes about a finch.
"""

from collections.abc import Sequence

import numpy as np

Attributes = tuple[str, ...]
Claim = tuple[str, str]

COLOURS = ("black", "blue", "crimson", "olive", "rufous", "slate", "white", "yellow")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
  "body": COLOURS,
  "crown": COLOURS,
  "wing": COLOURS,
  "pattern": ("plain", "barred", "double-barred", "spotted", "fringed"),
  "bill": ("cone", "thin", "hooked", "crossed"),
  "tail": ("short", "forked", "long", "fan"),
  "ring": ("none", "white", "yellow"),
}

# How an LLM's descriptions fall short of the truth. Frozen with the dataset.
SENTENCES_PER_CLASS = 10
MISSING_RATE = 0.15  # share of (class, attribute) pairs that the class's text never mentions
WRONG_RATE = 0.10  # share of claims that state another value than the true one
CHATTER_RATE = 0.15  # share of sentences that say nothing of how the bird looks

_SHADES = {
  "black": ("black", "black", "jet-black"),
  "blue": ("blue", "blue", "azure"),
  "crimson": ("crimson", "crimson", "deep red"),
  "olive": ("olive", "olive", "olive-green"),
  "rufous": ("rufous", "rufous", "chestnut"),
  "slate": ("slate", "slate-grey", "slate-grey"),
  "white": ("white", "white", "snow-white"),
  "yellow": ("yellow", "yellow", "golden"),
}

# {c} is a shade, {a} the same with its article.
_COLOUR_NOUNS = {
  "body": ("{a} body", "{a} breast", "{c} underparts", "a mainly {c} body", "{c} body plumage"),
  "crown": ("{a} crown", "{a} cap", "a neat {c} cap", "a clear-cut {c} crown"),
  "wing": ("{c} wings", "{c} flight feathers", "folded wings of {c}", "{a} wing"),
}
_SHAPE_NOUNS = {
  "pattern": {
    "plain": ("plain, unmarked wings", "wings without bars or spots", "a plain wing"),
    "barred": ("a single wing-bar", "one bold bar across the wing", "a wing with one bar"),
    "double-barred": (
      "two wing-bars",
      "a double bar across the wing",
      "a pair of parallel wing-bars",
    ),
    "spotted": ("spotted wings", "rows of spots on the wing", "a wing dotted with small spots"),
    "fringed": (
      "fringed wing feathers",
      "a contrasting fringe along the wing",
      "wing feathers edged with a thin line",
    ),
  },
  "bill": {
    "cone": ("a short, conical bill", "a stout, cone-shaped bill", "a thick seed-eater's bill"),
    "thin": ("a long, thin bill", "a slender, needle-like bill", "a thin, pointed bill"),
    "hooked": ("a hooked bill", "a bill that hooks down at the tip", "a strongly hooked beak"),
    "crossed": ("a bill with crossed tips", "crossed mandibles", "a beak whose tips cross"),
  },
  "tail": {
    "short": ("a short tail", "a short, stubby tail", "a stub of a tail"),
    "forked": ("a forked tail", "a deeply forked tail", "a tail with a clear fork"),
    "long": ("a long tail", "a long, narrow tail", "a slim tail of great length"),
    "fan": ("a fan-shaped tail", "a broad tail spread like a fan", "a wide, fanned tail"),
  },
  "ring": {
    "none": (
      "a bare-looking face with no eye-ring",
      "a dark eye without a ring",
      "a face that lacks any eye-ring",
    ),
    "white": ("a white eye-ring", "a thin white ring around the eye", "a bright white eye-ring"),
    "yellow": ("a yellow eye-ring", "a yellow ring around the eye", "a golden eye-ring"),
  },
}

_COLOUR_CLAUSES = {
  "body": ("the body is {c}", "the underparts are {c}", "breast and belly are {c}"),
  "crown": ("the crown is {c}", "the cap is {c}", "the top of the head is {c}"),
  "wing": ("the wings are {c}", "the folded wing is {c}", "the wing feathers are {c}"),
}

_NOUN_SENTENCES = (
  "{S} has {list}.",
  "{S} shows {list}.",
  "{S} can be told by {list}.",
  "Look for {list}.",
  "Adults have {list}.",
  "Both sexes show {list}.",
  "The most useful field marks are {list}.",
  "Among similar finches it stands out by {list}.",
  "Seen well, it shows {list}.",
  "Birds in fresh plumage have {list}.",
  "A small finch with {list}.",
  "Unlike its relatives, {s} has {list}.",
)
_SUBJECTS = ("it", "this finch", "this bird", "the species")
_CLAUSE_ENDS = ("", "", " in both sexes", " in most birds", ", often strikingly so")
_FULL_STARTS = ("A finch with", "A small bird with", "This finch has", "A photo of a finch with")
CHATTER = (
  "It is often seen at feeders in winter.",
  "The song is a hurried, tinkling warble.",
  "Pairs nest in dense thorn bushes and raise two broods a year.",
  "It feeds on grass seeds, buds and small insects.",
  "Flocks gather at woodland edges after the breeding season.",
  "Juveniles are duller and harder to tell apart.",
  "It was long thought to be a form of a more widespread species.",
  "The flight is light and bouncing.",
  "It favours open country with scattered trees.",
  "Males sing from a high perch at dawn.",
  "The call is a soft, rising whistle.",
  "Its range has grown over the last century.",
  "The nest is a neat cup of moss and spider silk.",
  "It can be confiding where it is not disturbed.",
)

# Part of a name -> the claim it makes. {C} is the plain colour word, capitalised.
_COLOUR_EPITHETS = {
  "body": ("{C}-breasted", "{C}-bellied"),
  "crown": ("{C}-capped", "{C}-crowned"),
  "wing": ("{C}-winged",),
}
_SHAPE_EPITHETS = {
  ("pattern", "barred"): ("Bar-winged",),
  ("pattern", "double-barred"): ("Double-barred",),
  ("pattern", "spotted"): ("Spot-winged",),
  ("pattern", "fringed"): ("Fringe-winged",),
  ("ring", "white"): ("White-eyed",),
  ("ring", "yellow"): ("Yellow-eyed",),
}
_SHAPE_GENERA = {
  ("bill", "cone"): ("Conebill",),
  ("bill", "thin"): ("Needlebill",),
  ("bill", "hooked"): ("Hookbill",),
  ("bill", "crossed"): ("Crossbill",),
  ("tail", "short"): ("Stubtail",),
  ("tail", "forked"): ("Forktail",),
  ("tail", "long"): ("Longtail",),
  ("tail", "fan"): ("Fantail",),
}
NEUTRAL_EPITHETS = (
  "Lindqvist's", "Harrow's", "Okoro's", "Varga's", "Meyrick's", "Tanaka's", "Delacour's",
  "Highland", "Marsh", "Island", "Northern", "Southern", "Cloud-forest", "Savanna", "Coastal",
  "Common", "Lesser", "Greater", "Thicket", "Orchard", "Thorn", "Canyon",
)  # fmt: skip
NEUTRAL_GENERA = (
  "Finch", "Siskin", "Linnet", "Serin", "Bunting", "Twite", "Seedeater", "Grosbeak", "Brambling",
  "Euphonia", "Rosefinch", "Mountain-finch", "Waxbill", "Sparrow", "Towhee", "Munia",
)  # fmt: skip


def choose(rng: np.random.Generator, options: Sequence):
  """One of `options`, by a single uniform draw (whose stream NumPy keeps stable)."""
  return options[int(rng.random() * len(options))]


def shuffled(rng: np.random.Generator, items: Sequence) -> list:
  """`items` in random order, by uniform draws."""
  return [items[i] for i in np.argsort(rng.random(len(items)), kind="stable")]


def epithets(attributes: Attributes) -> list[tuple[str, tuple[Claim, ...]]]:
  """Every first part of a name that is true of a finch, with the claims it makes."""
  found: list[tuple[str, tuple[Claim, ...]]] = []
  for claim in zip(ATTRIBUTES, attributes, strict=True):
    for form in _COLOUR_EPITHETS.get(claim[0], ()):
      found.append((form.format(C=claim[1].capitalize()), (claim,)))
    found += [(form, (claim,)) for form in _SHAPE_EPITHETS.get(claim, ())]
  return found


def genera(attributes: Attributes) -> list[tuple[str, tuple[Claim, ...]]]:
  """Every last part of a name that tells a finch's bill or tail, with its claim."""
  claims = zip(ATTRIBUTES, attributes, strict=True)
  return [(word, (claim,)) for claim in claims for word in _SHAPE_GENERA.get(claim, ())]


def random_name(attributes: Attributes, rng: np.random.Generator) -> tuple[str, tuple[Claim, ...]]:
  """A name from the same grammar as the classes' names, and the claims (0-2) it makes."""
  neutral_first = [(word, ()) for word in NEUTRAL_EPITHETS]
  neutral_last = [(word, ()) for word in NEUTRAL_GENERA]
  first, said = choose(rng, epithets(attributes) if rng.random() < 0.75 else neutral_first)
  last, more = choose(rng, genera(attributes) if rng.random() < 0.5 else neutral_last)
  return f"{first} {last}", said + more


def _article(words: str) -> str:
  return ("an " if words[0] in "aeiou" else "a ") + words


def _noun(claim: Claim, rng: np.random.Generator) -> str:
  attribute, value = claim
  if attribute in _COLOUR_NOUNS:
    shade = choose(rng, _SHADES[value])
    return choose(rng, _COLOUR_NOUNS[attribute]).format(c=shade, a=_article(shade))
  return choose(rng, _SHAPE_NOUNS[attribute][value])


def _join(phrases: Sequence[str]) -> str:
  if len(phrases) == 1:
    return phrases[0]
  return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def sentence(claims: Sequence[Claim], rng: np.random.Generator, name: str = "") -> str:
  """A sentence making 1-3 claims, worded at random.

  Args:
    claims: what to say, in order.
    rng: where the choice of words comes from.
    name: the class's name, used as the subject now and then; '' never uses one.
  """
  if len(claims) == 1 and claims[0][0] in _COLOUR_CLAUSES and rng.random() < 0.6:
    attribute, value = claims[0]
    clause = choose(rng, _COLOUR_CLAUSES[attribute]).format(c=choose(rng, _SHADES[value]))
    return clause[0].upper() + clause[1:] + choose(rng, _CLAUSE_ENDS) + "."
  named = (name if "'s " in name else f"the {name}",) if name else ()
  subject = choose(rng, (*_SUBJECTS, *named))
  form = choose(rng, _NOUN_SENTENCES)
  if len(claims) == 1:
    form = form.replace("marks are", "mark is")
  phrases = _join([_noun(claim, rng) for claim in claims])
  return form.format(S=subject[0].upper() + subject[1:], s=subject, list=phrases)


def full_sentence(attributes: Attributes, rng: np.random.Generator) -> str:
  """One sentence that lists every attribute of a finch, truthfully, in random order."""
  claims = shuffled(rng, list(zip(ATTRIBUTES, attributes, strict=True)))
  return f"{choose(rng, _FULL_STARTS)} {_join([_noun(claim, rng) for claim in claims])}."


def _maybe_wrong(claim: Claim, rng: np.random.Generator) -> Claim:
  attribute, value = claim
  if rng.random() >= WRONG_RATE:
    return claim
  return attribute, choose(rng, [other for other in ATTRIBUTES[attribute] if other != value])


def noisy_description(
  name: str, attributes: Attributes, rng: np.random.Generator
) -> list[tuple[str, tuple[Claim, ...]]]:
  """Text about one class as an LLM would write it: incomplete and partly wrong.

  Returns:
    `SENTENCES_PER_CLASS` distinct sentences, each with the claims it makes (none for chatter).
  """
  known = [
    claim for claim in zip(ATTRIBUTES, attributes, strict=True) if rng.random() >= MISSING_RATE
  ]
  written: dict[str, tuple[Claim, ...]] = {}
  queue: list[Claim] = []
  while len(written) < SENTENCES_PER_CLASS:
    if not known or rng.random() < CHATTER_RATE:
      written.setdefault(choose(rng, CHATTER), ())
      continue
    wanted = min(1 + int(rng.random() * 3), len(known))
    # Going round all known attributes keeps any of them from being left out by chance.
    while len(queue) < wanted:
      queue += [claim for claim in shuffled(rng, known) if claim not in queue]
    taken, queue = queue[:wanted], queue[wanted:]
    claims = tuple(_maybe_wrong(claim, rng) for claim in taken)
    written.setdefault(sentence(claims, rng, name), claims)
  return list(written.items())
