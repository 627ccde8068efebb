"""What the tests of several tasks share: a small CLIP of transformers, and scripts on devices."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def two_block_clip():
  """`two_block_clip(text)`: transformers' CLIPModel with random weights, of two blocks a tower.

  text: keys of its text_config beside the sizes.
  """

  def make(text):
    import torch
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"intermediate_size": 48} | text
    vision = sizes | {"hidden_size": 24, "intermediate_size": 40, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
      for x in model.parameters():
        # Enough that a mistake shows: transformers starts near zero.
        x.add_(0.1 * torch.randn(x.shape))
      model.logit_scale.fill_(2.0)
    return model

  return make


@pytest.fixture
def on_devices(tmp_path):
  """`on_devices(script, counts)`: the .npz that a script writes on each number of CPU devices."""

  def run(script, counts):
    found = []
    for count in counts:
      flags = f"--xla_force_host_platform_device_count={count}"
      environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
      path = tmp_path / f"{count}.npz"
      command = [sys.executable, script, str(path)]
      done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
      assert done.returncode == 0, done.stderr
      found.append(np.load(path))
    return found

  return run
