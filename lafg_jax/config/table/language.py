"""Rows of `config.language`: descriptions, text encoder, vocabulary and prototypes."""

import re

from lafg_jax.config.record import BOOL, POSITIVE, TEXT, Key, ReadBy, Rule, at_least, one_of, within

# Values of language.describer that use a language model.
LLM = ("transformers", "openai")

# fmt: off
ROWS = (
  Key("language.describer", "file", one_of("file", "shipped", "synthetic", "skeleton", *LLM),
      "words",
      "Source of descriptions: 'file' (language.descriptions), 'shipped' (in this package, for "
      "birds of CUB, cars of Cars-196, and SOP), 'synthetic' (of the finches), or a language "
      "model: 'transformers' (in this process) or 'openai' (any OpenAI-compatible endpoint). "
      "'skeleton', with --stage=describe, writes the file language.descriptions with all class "
      "names, to be filled in."),
  Key("language.descriptions", "", TEXT, "words",
      'JSON {class: [sentence, ...]}, JSONL of {"class": ..., "description": ...}, or CSV with '
      "those two columns. If set, it is used in place of language.describer.", path=True),
  Key("language.llm", "", TEXT, "words",
      "Language model: hub id or folder of a chat model ('transformers'), or its name ('openai').",
      path=True),
  Key("language.base_url", "",
      Rule(lambda x: x == "" or bool(re.fullmatch(r"https?://[^\s@{}]+", x)),
           "an http:// or https:// URL without a user or key in it, or nothing"), "nothing",
      "Endpoint, as http://localhost:11434/v1; '' is $OPENAI_BASE_URL or OpenAI's.", secret=True),
  Key("language.api_key_env", "OPENAI_API_KEY",
      Rule(lambda x: bool(re.fullmatch(r"[A-Z_][A-Z0-9_]*", x)),
           "the name of an environment variable, in capitals, never the key itself"), "nothing",
      "Environment variable with the endpoint's key, which no config or log has.", secret=True),
  Key("language.concurrency", 8, within(1, 1025), "nothing", "Requests to the endpoint at once."),
  Key("language.timeout_s", 120.0, POSITIVE, "nothing", "Seconds that the endpoint may be silent."),
  Key("language.retries", 4, at_least(0), "nothing",
      "Attempts after the first: on trouble with the endpoint, and on an unusable answer."),
  Key("language.sentences_per_class", 10, at_least(1), "words",
      "n: sentences per class that the language model is asked for."),
  Key("language.num_neighbours", 3, at_least(0), "words",
      "Visually closest training classes that the prompt names, to be told apart."),
  Key("language.neighbours", "", TEXT, "words",
      "JSON {class: [class, ...]} of those; '' finds them with language.encoder, by class names.",
      path=True),
  Key("language.max_tokens", 1024, at_least(1), "words", "Longest answer, in tokens."),
  Key("language.temperature", 0.7, at_least(0), "words", "Sampling temperature; 0 is greedy."),
  Key("language.llm_seed", 0, at_least(0), "words", "Seed of its sampling ('transformers')."),
  Key("language.llm_batch_size", 8, at_least(1), "nothing",
      "Classes in one batch of the model ('transformers')."),
  Key("language.encoder", "openai/clip-vit-large-patch14",
      Rule(bool, "a hub id, a folder, or tiny_clip"), "features",
      "Text encoder: a hub id or a folder in transformers' format, or 'tiny_clip' (shipped).",
      path=True),
  Key("language.encoder_runtime", "auto", one_of("auto", "flax", "transformers"), "nothing",
      "What computes the encoder: 'flax' (CLIP, SigLIP, SigLIP 2; on JAX's devices), "
      "'transformers' (any text encoder; needs the extra torch), or 'auto': Flax where it reads "
      "the encoder. Features are the same up to rounding."),
  Key("language.prompt", "a photo of {}",
      Rule(lambda x: x.count("{}") == 1 and not re.search(r"[{}]", x.replace("{}", "")),
           "a text with one {} where the class name goes"), "features",
      "Class query t_c: this prompt with the class name."),
  Key("language.query", "name", one_of("name", "descriptions", "image"), "prototypes",
      "'name': the prompt alone (LaFG). 'descriptions': plus the mean of the class's descriptions. "
      "'image': plus the mean feature of its training images by the same encoder (CLIP, SigLIP), "
      "for classes without names, such as SOP's, whose prompt has the super-class."),
  Key("language.num_attributes", 0, at_least(0), "prototypes",
      "N: entries of the attribute vocabulary (K-means centres over all descriptions). 0: 256, or "
      "fewer where there are few sentences or classes; the prototypes stage prints the number.",
      auto=0),
  Key("language.top_k", 10, at_least(1), "prototypes",
      "K: entries that a class attends to; with num_attributes=0 at most half of them."),
  Key("language.tau_k", 0.05, POSITIVE, "prototypes",
      "tau_k: temperature of that attention. 1 is the paper's text, and nearly uniform."),
  Key("language.kmeans_seed", 0, at_least(0), "prototypes", "Seed of K-means."),
  Key("language.kmeans_restarts", 4, at_least(1), "prototypes", "K-means runs; the best is kept."),
  Key("language.minibatch_above", 50_000, at_least(0), "prototypes",
      "With more sentences K-means uses mini-batches: faster, a little worse."),
  Key("language.spherical", False, BOOL, "prototypes",
      "Normalise the centres in every round of K-means; False: only at the end."),
  Key("language.drop_generic", 0.0, within(0, 1), "prototypes",
      "Fraction of sentences to leave out, those that fit all classes alike; 0 keeps all."),
  Key("language.wrong_sentences", 0.0,
      Rule(lambda x: 0 <= x <= 1, "a number from 0 to 1"), "prototypes",
      "Control: fraction of sentences, drawn by language.kmeans_seed, that go to other classes."),
  Key("language.batch_size", 256, at_least(1), "nothing", "Sentences encoded at once."),
  Key("language.long_sentences", "split", one_of("split", "cut"), "features",
      "Sentences longer than the encoder's context: 'split' at sentences and clauses, or 'cut'."),
  Key("language.cache", "~/.cache/lafg_jax/features", TEXT, "nothing",
      "Folder that keeps encoded features for all runs, at most 4 GiB; '' keeps none. It may be "
      "deleted anytime.",
      path=True),
  Key("language.prototype", "attention",
      one_of("attention", "profile", "query", "descriptions", "images"), "targets",
      "The class's prototype in training: 'attention' (LaFG's T_c) or 'profile' (how much its "
      "sentences say of each attribute); without the vocabulary, 'query' (t_c) or 'descriptions' "
      "(their mean). Control without words: 'images', the mean feature of the class's training "
      "images by language.encoder (CLIP, SigLIP)."),
  Key("language.tau_profile", 0.05, POSITIVE, "prototypes",
      "'profile': temperature of a sentence's shares in the attributes; small: few attributes.",
      ReadBy("language.prototype", ("profile",))),
  Key("language.centre", True, BOOL, "targets",
      "Subtract the mean over the training classes from the prototypes before training, or in the "
      "'vocabulary' form that of the attributes."),
  Key("language.shuffle", "", one_of("", "all", "prototypes", "teacher"), "targets",
      "Control that gives each class what belongs to another: 'prototypes'; 'teacher', what "
      "language.encoder sees in the images (loss.image_alignment); 'all', both; '' is off."),
  Key("language.inspect_all", False, BOOL, "nothing",
      "--stage=inspect shows all described classes, also of validation and test, and names that "
      "the data set lacks; it writes only the page. False: the training classes."),
)
