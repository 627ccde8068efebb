"""What the page does when a visitor asks: queries, searching on from a hit, why two images match.

Nothing here knows Gradio. A visitor's own state is a `Visit`, which stays on this side: a page
names a hit by its place in the answer, never an image by its path.
"""

from typing import Any, NamedTuple

from lafg_jax.data import images
from lafg_jax.demo_page import uploads
from lafg_jax.demo_page.uploads import Limits
from lafg_jax.gallery import columns, searching, store
from lafg_jax.gallery.model import Model
from lafg_jax.gallery.searching import Answer
from lafg_jax.gallery.store import Gallery, Hit
from lafg_jax.inference import bundle
from lafg_jax.utils.errors import UserError

# Hits of one answer, and letters of a text.
MOST, _LETTERS = 100, 2000
# Classes that a list is offered for; of more, the filter takes their names.
LISTED = 2000


class Desk(NamedTuple):
  """An open gallery, its model, and what is known of both."""

  gallery: Gallery
  model: Model
  total: int
  classes: list[str]
  limits: Limits


class Visit(NamedTuple):
  """What one visitor asked last. image: an upload, or the path of an image of the gallery."""

  image: bytes | str | None = None
  words: str = ""
  hits: tuple[Hit, ...] = ()


def opened(gallery: Gallery, model: Model, limits: Limits) -> Desk:
  """The desk of an open gallery."""
  return Desk(gallery, model, store.count(gallery), store.classes(gallery), limits)


def offers(desk: Desk) -> str:
  """One sentence: what this model can be asked."""
  if not desk.model.reads_texts:
    return "Drop an image. (A model of class retrieval reads no words.)"
  if (found := composing(desk)) is not None:
    phrase, weight = found
    said = f'Drop an image, type words, or both. Beside an image they go on "{phrase} ...".'
    if weight:
      said += (
        " Say as well what you look for, if you like: such a description has the weight "
        f"{weight:.2g} of 1 in this model's query."
      )
    return said
  return (
    'Drop an image, type words, or both: "this, but red". (Both are the sum of the two embeddings: '
    "a baseline, since this model was not trained to change an image by words.)"
  )


def composing(desk: Desk) -> tuple[str, float] | None:
  """How a model of composed retrieval reads words beside an image; None of other models.

  The words go on a phrase ("a photo of this that"), where the image's pseudo word stands for
  "this". Beside it the weight of a description of what is looked for, 0 where none is read.
  """
  if desk.model.task != "composed_retrieval":
    return None
  config = desk.model.retriever.config
  before, after, _ = (task := bundle.task_of(config)).spoken(config)
  return f"{before} this {after.partition('{text}')[0]}".strip(), task.description_weight(config)


def received(desk: Desk, content: bytes) -> Visit:
  """A visit that begins with an upload. Raises UserError, one line, where it is refused."""
  uploads.checked(content, desk.limits)
  return Visit(image=content)


def asked(
  desk: Desk, visit: Visit, words: str, label: str, where: str, k: int, described: str = ""
) -> tuple[Visit, Answer]:
  """Searches for the visit's image, words, or both.

  Args:
    described: beside both, what is looked for, for a model that reads it; '' is nothing.
    label: a class that hits must have; '' takes any.
    where: a filter of Milvus beside it; '' is none.
    k: hits, 1 to MOST.

  Raises UserError, one line, where nothing was asked, or the filter or the words cannot be read.
  """
  words, where, described = words.strip(), where.strip(), described.strip()
  if visit.image is None and not words:
    raise UserError(f"nothing asked: {offers(desk)}")
  if described and (visit.image is None or not words):
    raise UserError(
      "what you look for is said beside an image and words that change it; alone, it goes into "
      "the words"
    )
  if max(len(words), len(where), len(described)) > _LETTERS:
    raise UserError(f"words and filters have {_LETTERS:,} letters at most")
  # Alone first: an error is to show what the visitor wrote.
  store.check(desk.gallery, where)
  answer = searching.query(
    desk.gallery,
    desk.model,
    min(max(int(k), 1), MOST),
    image=visit.image,
    text=words or None,
    edited=described or None,
    where=_filter(label, where),
  )
  return visit._replace(words=words, hits=tuple(answer.hits)), answer


def _filter(label: str, where: str) -> str:
  parts = [f"class == {columns.literal(label)}"] if label else []
  parts += [f"({where})"] if where and label else [where] if where else []
  return " and ".join(parts)


def hit_at(visit: Visit, rank: Any) -> Hit:
  """The hit that a page names by its place. Raises UserError where there is none."""
  if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < len(visit.hits):
    raise UserError("there is no such image in the answer any more: search again")
  return visit.hits[rank]


def picture(image: bytes | str) -> Any:
  """The Pillow image of an upload or of an image of the gallery; None where it is gone."""
  try:
    return images.open_image(image)
  except images.UnreadableImage:
    return None
