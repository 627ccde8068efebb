"""Why a hit matched, as far as the model can be read."""

import html

from lafg_jax.demo_page import cards
from lafg_jax.demo_page.desk import Desk, Visit
from lafg_jax.gallery.store import Hit


def panel(served: Desk, visit: Visit, hit: Hit) -> str:
  """The query beside a hit, and what is known of why they match. Raises UserError."""
  query = ""
  if visit.image is not None:
    query = (
      f"<figure>{cards.thumbnail(visit.image, 'the query')}<figcaption>query</figcaption></figure>"
    )
  name = html.escape(hit.label or hit.path)
  found = f"<figure>{cards.thumbnail(hit.path, 'the hit')}<figcaption>{name}</figcaption></figure>"
  return (
    f'<h3>Why this one?</h3><div class="lafg-pair">{query}{found}</div>{why(served, visit, hit)}'
  )


def why(served: Desk, visit: Visit, hit: Hit) -> str:
  """HTML of the reasons."""
  del served
  return f"<p>Cosine with the query: {hit.score:.3f}.</p>"
