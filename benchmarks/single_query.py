"""Milliseconds of one query against a gallery that lies on the device: the median and the 95th.

  python benchmarks/single_query.py [--size small] [--rounds 100]

A ViT of patches of 16 px at 224 px with random weights; galleries in the size of the test halves of
CUB-200 and of Stanford Online Products. The query is an embedding, a uint8 array or a JPEG file of
500 x 375 px. Beside it: NumPy's product of the gallery and the query, and argpartition. Jobs take
turns.
"""

import argparse
import tempfile

import jax
import numpy as np
import side_by_side
from PIL import Image

import lafg_jax
from lafg_jax.evaluate.embed import make_embed
from lafg_jax.models import embedder as embedders
from lafg_jax.models.options import SIZES

GALLERIES, K = (5924, 60502), 10


def retriever_of(size: str) -> lafg_jax.Retriever:
  config = side_by_side.vit_config(size, "float32")
  config.model.embedding_dim = 0
  config.data.update(image_size=224, resize_size=256)
  return lafg_jax.Retriever(
    *(config, 0, "newest", SIZES[size][0], (), {}),
    embed_batch=make_embed(*embedders.init_model(config)),
  )


def by_numpy(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  scores = gallery @ query
  best = np.argpartition(scores, -K)[-K:]
  best = best[np.argsort(-scores[best])]
  return scores[best], best


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", default="small", choices=SIZES)
  parser.add_argument("--rounds", type=int, default=100)
  args = parser.parse_args()
  side_by_side.restart_without("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
  machine = f"{side_by_side.machine('jax', 'numpy', 'pillow')}, {jax.default_backend()}"
  print(machine)
  retriever, rng = retriever_of(args.size), np.random.default_rng(0)
  pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
  photo = Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC)
  jobs = {}
  with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
    photo.save(file.name, quality=90)
    for count in GALLERIES:
      gallery = rng.standard_normal((count, retriever.embedding_dim), np.float32)
      gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
      placed, query = retriever.place(gallery), gallery[7] + 0
      rows = retriever.search(query, placed, K)[1][0]
      assert rows.tolist() == by_numpy(query, gallery)[1].tolist()
      given = {"embedding": query, "array": np.asarray(photo), "JPEG file": file.name}
      jobs[f"NumPy, embedding, {count:,}"] = lambda g=gallery, q=query: by_numpy(q, g)
      for name, x in given.items():
        jobs[f"{name}, {count:,}"] = lambda x=x, p=placed: retriever.search(x, p, K)
    seconds = side_by_side.turns(jobs, args.rounds, pause=0.1)
  print("| query, rows of the gallery | median, ms | 95th percentile, ms |\n|---|---|---|")
  for name, found in seconds.items():
    print("| {} | {:.2f} | {:.2f} |".format(name, *np.percentile(found, (50, 95)) * 1e3))
  side_by_side.keep(f"single_query-{args.size}", machine, {"seconds": seconds})


if __name__ == "__main__":
  main()
