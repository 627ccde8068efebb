"""The model of a gallery: opened where it lies, and refused where it is another one."""

import os
from typing import Any, NamedTuple

from lafg_jax.gallery.store import Facts
from lafg_jax.utils import places
from lafg_jax.utils.errors import UserError


class Model(NamedTuple):
  """A retriever, and what a gallery keeps of where it comes from.

  retriever: of `lafg_jax.load_retriever`. identity: `bundle.identity`. reads_texts: whether it
  embeds sentences. source, checkpoint: as `load_retriever` takes them.
  """

  retriever: Any
  identity: str
  task: str
  dim: int
  step: int
  reads_texts: bool
  source: str
  checkpoint: str

  def facts(self, index: str) -> Facts:
    """What a new gallery of this model is."""
    where = (self.source, self.checkpoint)
    return Facts(self.identity, self.task, self.dim, self.step, *where, index)


def read(source: str, checkpoint: str = "newest") -> Model:
  """Restores a model. Raises UserError as `load_retriever` does."""
  from lafg_jax.inference import bundle, retriever

  trained = bundle.read(source, checkpoint)
  found = retriever.of(trained)
  # The gallery may be asked from another folder.
  where = source if places.is_url(source) else os.path.abspath(places.expanded(source))
  return Model(
    retriever=found,
    identity=bundle.identity(trained),
    task=str(trained.config.task),
    dim=found.embedding_dim,
    step=found.step,
    reads_texts=bundle.reads_texts(trained),
    source=where,
    checkpoint=checkpoint,
  )


def of_gallery(facts: Facts, source: str | None, checkpoint: str | None) -> Model:
  """The model of a gallery, from where it was or from another `source`.

  Raises UserError where there is none, or it is another model than the gallery's.
  """
  try:
    model = read(source or facts.source, checkpoint or facts.checkpoint)
  except UserError as error:
    if source:
      raise
    raise UserError(f"the gallery's model: {error}; or pass --model=PLACE") from error
  check(facts, model)
  return model


def check(facts: Facts, model: Model) -> None:
  """Raises UserError where a gallery is of another model."""
  if model.identity != facts.model:
    raise UserError(
      f"the gallery is of model {facts.model} (step {facts.step} of {facts.source}), and "
      f"{model.source} is {model.identity} (step {model.step}): pass --model=PLACE with the "
      "former, or index into another --gallery"
    )
