"""The Python of docs/guide/use.md, run as it stands."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import lafg_jax
from lafg_jax.inference import bundle
from lafg_jax.models.weights import files

PAGE = Path(__file__).resolve().parents[2] / "docs/guide/use.md"


def as_torch(phi):
  """A Phi as LinCIR's checkpoints have it."""
  state = {}
  for number in range(3):
    layer = phi[f"layer_{number}"]
    kernel, bias = (torch.tensor(np.array(layer[name])) for name in ("kernel", "bias"))
    state |= {f"layers.{3 * number}.weight": kernel.T, f"layers.{3 * number}.bias": bias}
  return state


def test_the_python_of_the_page_does_what_it_says(
  trained_run, text_model, composed_model, tmp_path, monkeypatch, capsys
):
  rng = np.random.default_rng(0)
  for name in ("photos/b/1.png", "photos/a.png", "query.jpg"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8))
    pixels.save(tmp_path / name, "PNG")
  pixels.save(tmp_path / "photos/c.png")
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs/demo").symlink_to(trained_run)
  (tmp_path / "runs/captions").symlink_to(text_model)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "runs/composed").symlink_to(composed_model)
  code, of_texts, composed, of_config = re.findall(
    r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
  )
  found: dict = {}
  exec(code, found)
  assert found["vector"].shape == (1, 16) and found["gallery"].shape == (3, 16)
  printed = capsys.readouterr().out.splitlines()
  # The query's own pixels are in the gallery once more.
  assert printed[0].startswith("['photos/c.png', ") and len(printed) == 6
  assert all(line.startswith("Attribute(row=") for line in printed[1:])
  want = lafg_jax.load_retriever(trained_run).embed(["photos/a.png", "photos/b/1.png"])
  np.testing.assert_allclose(found["gallery"][:2], want, atol=1e-6)
  exec(of_texts, found)
  assert found["texts"].shape == (2, 64) and found["rows"].shape == (1, 1)
  assert capsys.readouterr().out.strip() in found["captions"]
  exec(composed, found)
  assert found["query"].shape == (1, 64) and found["rows"].shape == (1, 2)
  phi = bundle.read(str(composed_model)).params["mapping"]
  torch.save({"Phi": as_torch(phi)}, tmp_path / "phi_best_base_openai.pt")
  (tmp_path / "clip-vit-base-patch32").symlink_to(files.local("tiny_clip"))
  (tmp_path / "configs").symlink_to(PAGE.parents[2] / "configs")
  exec(of_config, found)
  assert found["retriever"].step == 0 and found["retriever"].embed_text("red").shape == (1, 64)
