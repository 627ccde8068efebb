"""The tasks, a folder each: `config.task` is the folder's name.

`lafg_jax.main` and `lafg_jax.ablate` ask three of a task's modules, restored models a fourth.
`default` imports no jax:

  SECTIONS: the sections of its config.
  STAGES, ON_REQUEST: names of the stages of a bare run, and of those that run when they are named.
  validate(config, names): raises UserError for a config that cannot be, before any work starts.
  default_names(config): the stages of a bare run of this config.

`stages` imports what runs them:

  plan(config, workdir, names) -> (config, stages): resolves 'auto', and checks what would stop the
    run after hours.
  summary(config, workdir, names): prints the results of the stages that ran, and where to look.
  studied(config), figures(config, workdir): the stages of a cell of the study, and its figures.

`restore` is asked by `lafg_jax.inference`, with a config and `facts`, JSON about the model:

  FACTS: those of a checkpoint's meta that the model keeps.
  trees(config, arrays): {'params', 'prototypes', 'readout'} of a checkpoint's arrays.
  embedding_dim(config, facts): D.
  of_images(config, facts), of_texts: pure functions of parameters and rows, to be exported.
  embed_images(config, facts, params), embed_texts(config, facts, params, files): the same compiled;
    a task without texts has neither `of_texts` nor `embed_texts`.
  see_images(config, facts, params): what explanations read, uint8 images [n, S, S, 3] ->
    `lafg_jax.explain.heat.Seen`.
  compose(config, facts, params, files): (features, queries), where an image with a text is a query
    of the task: uint8 images [B, S, S, 3] -> what queries are made of [B, d], and (these, n texts,
    n lists of edited descriptions) -> [n, D] of unit norm; of_queries, the same to be exported,
    and spoken(config), what stands before and after the image in it.
    Without it the query is the sum of both embeddings.

  pretrained(config): (config, params, facts, folder of the tokenizer) of a task whose model is of
    use without training.

`variants` is what the study compares (`tasks/class_retrieval/variants.py` explains its names), with
TUNED, the file of tuned settings, TUNED_BY, the figure that ranks them, hold_out(config, count),
which holds out training data for that, dataset(config), a name, and decided_by(config, trains,
remembered), what the figures of a cell depend on.
"""

import importlib
import pkgutil
from typing import Any

from ml_collections import ConfigDict

from lafg_jax.config import command_line, keys
from lafg_jax.utils.errors import UserError


def find(config: ConfigDict, module: str = "stages") -> Any:
  """That module of the config's task; UserError where there is no such task."""
  known = [found.name for found in pkgutil.iter_modules(__path__) if found.ispkg]
  if config.get("task") not in known:
    raise UserError(f"--config.task={config.get('task')}: it takes one of {', '.join(known)}")
  return importlib.import_module(f"lafg_jax.tasks.{config.task}.{module}")


def run(config: ConfigDict, workdir: str, names: Any) -> bool:
  """Runs the named stages of the config's task in order; prints the results and where to look.

  Returns False where a signal stopped the training, which is saved.
  """
  # Here, so that a misuse and --help are answered before jax is imported.
  from lafg_jax.runtime import jax_settings

  jax_settings.check()
  from lafg_jax import stages
  from lafg_jax.config import starts
  from lafg_jax.data import datasets
  from lafg_jax.runtime import devices, distributed
  from lafg_jax.training import checkpoints, trackers

  devices.keep_compiled()
  keys.expand_paths(config)
  task = find(config)
  with datasets.remembered(), jax_settings.ours():
    config, wanted = task.plan(config, workdir, list(names))
    if distributed.process_index() == 0:
      versions = checkpoints.versions()
      starts.record(workdir, config, command_line.command(), list(names), versions)
    with trackers.session(config, workdir):
      completed = stages.run_all(wanted, config, workdir)
    if completed and distributed.process_index() == 0:
      task.summary(config, workdir, [stage.name for stage in wanted])
  return completed
