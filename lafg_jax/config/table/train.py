"""Rows of `config.train` and `config.evaluate`."""

from lafg_jax.config.record import (
  BOOL,
  POSITIVE,
  REGEX,
  TEXT,
  Key,
  ReadBy,
  Rule,
  at_least,
  one_of,
  within,
)

# Values of evaluate.source that embed images; any other value is the path of an embeddings.npz.
OF_MODELS = ("checkpoint", "best", "pretrained", "untrained")

TRACKERS = ("wandb", "mlflow")

# fmt: off
ROWS = (
  Key("train.steps", 1800, at_least(1), "training", "Optimiser steps, each on N x m images."),
  Key("train.optimizer", "sgd", one_of("sgd", "adamw"), "training",
      "'sgd' (momentum 0.9) or 'adamw'."),
  Key("train.learning_rate", 1e-5, POSITIVE, "training",
      "Peak learning rate, after warm-up."),
  Key("train.schedule", "cosine", one_of("cosine", "constant"), "training",
      "After warm-up the rate decays to 0 along a 'cosine', or stays ('constant')."),
  Key("train.adam_b2", 0.999, within(0, 1), "training",
      "'adamw': decay of the second moment.", ReadBy("train.optimizer", ("adamw",))),
  Key("train.adam_eps", 1e-8, POSITIVE, "training",
      "'adamw': what is added to its root.", ReadBy("train.optimizer", ("adamw",))),
  Key("train.warmup", 0.05, within(0, 1), "training",
      "Part of the steps, in [0, 1), in which the rate rises linearly."),
  Key("train.weight_decay", 1e-4, at_least(0), "training",
      "Weight decay of kernels other than embeddings, projectors, proxies, LoRA and prompts."),
  Key("train.clip_norm", 3.0, at_least(0), "training", "Largest gradient norm; 0 does not clip."),
  Key("train.freeze", "", REGEX, "training",
      "Regular expression for paths of parameters, as 'backbone/block_0/', that stay fixed."),
  Key("train.layer_decay", 1.0, Rule(lambda x: 0 < x <= 1, "above 0 and at most 1"), "training",
      "A block of the ViT, and what is before the first, learns at this factor of the rate of what "
      "is behind it (BEiT, Bao et al., 2022); 1 is one rate for all."),
  Key("train.ema", 0.0, within(0, 1), "training",
      "Decay of a moving average of all learned weights, which is validated, evaluated and "
      "restored in their place; at step t it is at most (1 + t) / (10 + t). 0 = off."),
  Key("train.interpolate", 1.0,
      Rule(lambda x: x == -1 or 0 <= x <= 1, "a number from 0 to 1, or auto"), "training",
      "WiSE-FT (Wortsman et al., 2022): alpha of the weights (1 - alpha) start + alpha trained, "
      "which are evaluated and restored; 'auto' (-1): the one of 0, 0.25, 0.5, 0.75 and 1 with "
      "the best MAP@R on the validation classes. 1 are the trained weights.", auto=-1.0),
  Key("train.frozen_backbone", False, BOOL, "training",
      "Only head, projectors and class vectors learn, on features of the fixed backbone that are "
      "computed once and kept in <workdir>/features."),
  Key("train.feature_views", 0, at_least(0), "training",
      "Crops of an image for these features: 0 is the centre crop, k are k fixed random crops."),
  Key("train.rows_per_chunk", 0, at_least(0), "nothing",
      "Rows of a batch that a device embeds at a time; the loss sees all rows of all devices. "
      "Fewer rows need less memory and a third more time. 0: all, or as many as fit into memory."),
  Key("train.log_every", 20, at_least(1), "nothing", "Steps between lines of metrics."),
  Key("train.checkpoint_every", 200, at_least(1), "nothing",
      "Steps between checkpoints; the last step always has one."),
  Key("train.keep_checkpoints", 2, at_least(1), "nothing", "Newest checkpoints kept."),
  Key("train.validate_every", 0, at_least(0), "nothing",
      "Steps between evaluations on the validation classes (data.num_val_classes), with one after "
      "the last step; 0 = off. Recall@1 and MAP@R go to metrics.jsonl."),
  Key("train.keep_best", False, BOOL, "nothing",
      "Keep the step with the best MAP@R of these in <workdir>/best, for evaluate.source=best."),
  Key("train.allow_changed", False, BOOL, "nothing",
      "Resume from checkpoints of another config, with a warning, if their arrays fit the model."),
  Key("train.tracker", "", one_of("", *TRACKERS), "nothing",
      "Experiment tracker that gets config, command, versions, figures and the retrieval picture: "
      "'wandb' (Weights & Biases) or 'mlflow', by the extra of that name. One that fails costs a "
      "warning, never the run."),
  Key("train.tracker_project", "", TEXT, "nothing",
      "W&B's project or MLflow's experiment; '' is $WANDB_PROJECT or $MLFLOW_EXPERIMENT_NAME, else "
      "lafg_jax.", ReadBy("train.tracker", TRACKERS, "")),
  Key("train.tracker_name", "", TEXT, "nothing",
      "Name of the run there; '' is $WANDB_NAME or $MLFLOW_RUN_NAME, else the workdir's name.",
      ReadBy("train.tracker", TRACKERS, "")),
  Key("train.tracker_tags", (),
      Rule(lambda x: isinstance(x, tuple) and all(isinstance(tag, str) and tag for tag in x),
           "texts, such as ('baseline','no words')"), "nothing",
      "Tags of the run there, beside the task's and the data set's name.",
      ReadBy("train.tracker", TRACKERS, ())),
  Key("evaluate.source", "checkpoint",
      Rule(bool, f"{', '.join(OF_MODELS)}, or the path of an embeddings.npz"), "evaluation",
      "What is evaluated: 'checkpoint' (newest of the workdir), 'best' (of train.keep_best), "
      "'pretrained' (the backbone's own feature, no training), 'untrained' (the model before "
      "training), or the path of an embeddings.npz.", path=True),
  Key("evaluate.split", "test", one_of("test", "val"), "evaluation",
      "Classes of the evaluation: 'test', or 'val' (data.num_val_classes) for model selection."),
  Key("evaluate.ks", (1, 2, 4, 8),
      Rule(lambda x: isinstance(x, tuple) and x != () and all(type(k) is int and k > 0 for k in x),
           "one or more whole numbers, such as (1,2,4,8)"), "evaluation", "K of Recall@K."),
  Key("evaluate.references", True, BOOL, "nothing",
      "Measure the model before training beside the trained one, and of pretrained weights the "
      "backbone as it is and centred; once a workdir.", ReadBy("task", ("class_retrieval",), True)),
  Key("evaluate.expand", 0, Rule(lambda x: type(x) is int and x >= 0, "0 or a number of images"),
      "evaluation",
      "Also measure queries that are expanded by this many neighbours (alpha-QE); 0 does not.",
      ReadBy("task", ("class_retrieval",), 0)),
  Key("evaluate.expand_alpha", 3.0, at_least(0), "evaluation",
      "Of evaluate.expand: a neighbour weighs its cosine to this power.",
      ReadBy("task", ("class_retrieval",), 3.0)),
  Key("evaluate.batch_size", 256, at_least(1), "nothing", "Images at once, over all devices."),
  Key("evaluate.compare", (),
      Rule(lambda x: isinstance(x, tuple) and all(isinstance(run, str) and run for run in x),
           "folders, such as ('runs/other',)"), "nothing",
      "Workdirs of other runs on the same data that report.html compares this one with; "
      "--compare=RUN,RUN sets it.", path=True),
)
