"""Rows of composed retrieval: `composed`, `captioner`, `editor`, `mapping` and `query`."""

import re

from lafg_jax.config.record import BOOL, POSITIVE, TEXT, Key, ReadBy, Rule, at_least, one_of, within

SOURCES = ("finches", "fashioniq", "cirr", "circo", "listed", "attributes")
PUBLISHED = ("fashioniq", "cirr", "circo")
_READ = (*PUBLISHED, "listed", "attributes")
# Editors and captioners that ask a model.
LLM = ("transformers", "openai")
METHODS = ("cvsi", "image", "text", "sum", "pic2word", "searle", "lincir", "cirevl")
MAPPINGS = ("lincir", "searle", "pic2word")
_FRACTION = Rule(lambda x: 0 <= x <= 1, "a number from 0 to 1")
_URL = Rule(
  lambda x: x == "" or bool(re.fullmatch(r"https?://[^\s@{}]+", x)),
  "an http:// or https:// URL without a user or key in it, or nothing",
)
_NAMES = Rule(
  lambda x: isinstance(x, tuple) and all(isinstance(name, str) and name for name in x),
  "a tuple of names, such as \"('colour', 'gender')\"",
)
_ENV = Rule(
  lambda x: bool(re.fullmatch(r"[A-Z_][A-Z0-9_]*", x)),
  "the name of an environment variable, in capitals, never the key itself",
)


def _endpoint(section: str) -> tuple[Key, ...]:
  return (
    Key(f"{section}.base_url", "", _URL, "nothing",
        "Endpoint, as http://localhost:11434/v1; '' is $OPENAI_BASE_URL or OpenAI's.", secret=True),
    Key(f"{section}.api_key_env", "OPENAI_API_KEY", _ENV, "nothing",
        "Environment variable with the endpoint's key, which no config or log has.", secret=True),
    Key(f"{section}.concurrency", 8, within(1, 1025), "nothing",
        "Requests to the endpoint at once."),
    Key(f"{section}.timeout_s", 120.0, POSITIVE, "nothing",
        "Seconds that the endpoint may be silent."),
    Key(f"{section}.retries", 4, at_least(0), "nothing",
        "Attempts after the first: on trouble with the endpoint, and on an unusable answer."),
  )  # fmt: skip


# fmt: off
ROWS = (
  Key("composed.source", "finches", one_of(*SOURCES), "evaluation",
      "Where queries come from: 'finches' (drawn); 'fashioniq', 'cirr' or 'circo' (their own "
      "annotations, below composed.root); 'listed' (a JSONL of reference, text and targets); "
      "'attributes' (a table of images and their attributes, of which queries are made)."),
  Key("composed.root", "", TEXT, "nothing",
      "Folder of the annotations of a published benchmark.",
      ReadBy("composed.source", PUBLISHED, unset=""), path=True),
  Key("composed.file", "", TEXT, "nothing",
      "'listed': JSONL of id, reference, text, targets; 'attributes': CSV, JSONL or Parquet with a "
      "row for each image.", ReadBy("composed.source", ("listed", "attributes"), unset=""),
      path=True),
  Key("composed.images", "", TEXT, "nothing",
      "Folder of the images, which are found by name anywhere below it; '' is composed.root, or "
      "the file's folder.",
      ReadBy("composed.source", _READ, unset=""), path=True),
  Key("composed.split", "val", one_of("train", "val", "test"), "evaluation",
      "Which queries: of the published benchmarks 'val' is scored here, and 'test' is written as a "
      "submission. Finches and tables have 'val' and 'test'."),
  Key("composed.gallery", "original", one_of("original", "val"), "evaluation",
      "FashionIQ: the gallery is its category's whole split ('original'), or with 'val' (VAL, "
      "CoSMo) only the images of queries, which gives higher figures.",
      ReadBy("composed.source", ("fashioniq",), unset="original")),
  Key("composed.gallery_file", "", TEXT, "nothing",
      "'circo' and 'listed': file with the images of the gallery, a name or id a line (or a JSON "
      "list, COCO's image_info, or an .npy); '' is COCO's image_info, or all images of the folder.",
      ReadBy("composed.source", ("circo", "listed"), unset=""), path=True),
  Key("composed.missing", "refuse", one_of("refuse", "partial", "annotations"), "evaluation",
      "Where images are missing: 'refuse'; 'partial' goes on without them, with counts, and marks "
      "the result; 'annotations' looks for no image, for features that are there already.",
      ReadBy("composed.source", _READ, unset="refuse")),
  Key("composed.features", "", TEXT, "nothing",
      "npz with `ids` [n] and `vectors` [n, D]: image features f_v that are there already, not "
      "normalised, in place of reading images.", path=True),
  Key("composed.drop_reference", "auto", one_of("auto", "always", "never"), "evaluation",
      "Whether a query's reference image is left out of its ranking; 'auto': as the benchmark has "
      "it (CIRR, finches, tables and lists leave it out; FashionIQ and CIRCO keep it)."),
  Key("composed.shared_concept", False, BOOL, "evaluation",
      "CIRCO: join its shared_concept to the text. Published figures do not.",
      ReadBy("composed.source", ("circo",), unset=False)),
  Key("composed.type_column", "", TEXT, "evaluation",
      "'attributes': the column whose values are kinds of things, of which half are unseen; '' is "
      "'type' or 'class'.", ReadBy("composed.source", ("attributes",), unset="")),
  Key("composed.columns", (), _NAMES,
      "evaluation",
      "'attributes': the columns of which a query changes one or two; () is all with 2 to 60 "
      "values.",
      ReadBy("composed.source", ("attributes",), unset=())),
  Key("composed.agree", (), _NAMES, "evaluation",
      "'attributes': further columns in which right answers agree with the reference, beside the "
      "type and those of composed.columns; () is all with 2 to 60 values.",
      ReadBy("composed.source", ("attributes",), unset=())),
  Key("composed.template", "", TEXT, "words",
      "'attributes': a description made of columns, named in braces: '{colour} {type} for "
      "{gender}'. It describes training images, and right answers (editor.kind='perfect').",
      ReadBy("composed.source", ("attributes",), unset="")),
  Key("composed.test_fraction", 0.2, Rule(lambda x: 0 < x < 1, "above 0 and below 1"), "evaluation",
      "'attributes': part of the images of each seen type in queries and gallery; the others are "
      "training images, as under captions.test_fraction.",
      ReadBy("composed.source", ("attributes",), unset=0.2)),
  Key("composed.types", "unseen", one_of("seen", "unseen", "all"), "evaluation",
      "'attributes': which half of the types is in queries and gallery, by data.split_seed, "
      "data.train_fraction or data.test_classes.",
      ReadBy("composed.source", ("attributes",), unset="unseen")),
  Key("composed.num_queries", 0, at_least(0), "evaluation",
      "'attributes' and finches: at most so many queries, evenly over kinds of changes; 0: 2,000 "
      "of a table, or the finches' own number.",
      ReadBy("composed.source", ("attributes", "finches"), unset=0)),
  Key("composed.wordings", "held_out", one_of("held_out", "known"), "evaluation",
      "Finches: sentences in wordings that the editor's grammar was not written for, or in those "
      "that it knows.", ReadBy("composed.source", ("finches",), unset="held_out")),

  Key("captioner.kind", "none", one_of("none", "file", "attributes", *LLM), "words",
      "Who captions images: 'file' (captioner.file), 'attributes' (CLIP chooses a phrase for each "
      "attribute; no language model), an image-to-text model of 'transformers' (BLIP, BLIP-2), or "
      "'openai' (any OpenAI-compatible endpoint that takes images)."),
  Key("captioner.file", "", TEXT, "words",
      'JSONL of {"id": ..., "captions": [...]}, or a JSON of LDRE; for \'attributes\' a JSON '
      "{attribute: {value: phrase, or list of phrases}} ('': those of finches, or of the columns "
      "of a table).",
      ReadBy("captioner.kind", ("file", "attributes"), unset=""), path=True),
  Key("captioner.model", "", TEXT, "words",
      "Hub id or folder ('transformers'), the model's name ('openai'), or the CLIP of 'attributes' "
      "('': model.pretrained).", path=True),
  Key("captioner.number", 15, at_least(1), "words", "N: captions of an image."),
  Key("captioner.gallery", True, BOOL, "words",
      "Caption the gallery too; False: the reference images alone (gamma is 0 then)."),
  Key("captioner.prompt", "auto", TEXT, "words",
      "What a caption begins with (BLIP and its like), or what a model that chats is told; 'auto': "
      "'a photo of', or a request of our own."),
  Key("captioner.max_tokens", 30, at_least(1), "words", "Longest caption, in tokens."),
  Key("captioner.top_p", 0.9, Rule(lambda x: 0 < x <= 1, "above 0 and at most 1"), "words",
      "Nucleus sampling."),
  Key("captioner.temperature", 1.0, at_least(0), "words", "Sampling temperature; 0 is greedy."),
  Key("captioner.beams", 0, at_least(0), "words",
      "Beams of sampled beam search ('transformers'); 'auto' (or 0): as many as captions.", auto=0),
  Key("captioner.seed", 0, at_least(0), "words",
      "Seed of the sampling ('transformers'), and of captioner.wrong."),
  Key("captioner.batch_size", 8, at_least(1), "nothing",
      "Images read at once; 'transformers' captions them one by one, so that a resume changes "
      "nothing."),
  Key("captioner.wrong", 0.0, _FRACTION, "words",
      "Control: share of attributes that 'attributes' reads wrongly on purpose."),
  *_endpoint("captioner"),

  Key("editor.kind", "none", one_of("none", "file", "grammar", "perfect", *LLM), "words",
      "Who writes the edited description: 'file' (editor.file), 'grammar' (a few rules for finches "
      "and for captions by 'attributes', no language model), a language model ('transformers', "
      "'openai'); 'perfect' takes the truth, where it is known (ceiling)."),
  Key("editor.file", "", TEXT, "words",
      'JSONL of {"id": ..., "edited": [...], "added": ...}, or a JSON of LDRE.',
      ReadBy("editor.kind", ("file",), unset=""), path=True),
  Key("editor.llm", "", TEXT, "words",
      "Language model: hub id or folder of a chat model ('transformers'), or its name ('openai').",
      path=True),
  Key("editor.prompt", "auto", one_of("auto", "contextual", "structural", "fashion"), "words",
      "The prompt: 'auto' is 'contextual' for CIRR, 'fashion' for FashionIQ, else 'structural'."),
  Key("editor.form", "joined", one_of("joined", "per_caption"), "words",
      "'joined': all captions in one request, one edited description (CVSI's code); 'per_caption': "
      "a request and a description each (its figure)."),
  Key("editor.added", True, BOOL, "words", "Ask for the objects that are most likely added, too."),
  Key("editor.max_tokens", 700, at_least(1), "words", "Longest answer, in tokens."),
  Key("editor.temperature", 0.0, at_least(0), "words", "Sampling temperature; 0 is greedy."),
  Key("editor.seed", 0, at_least(0), "words",
      "Seed of its sampling ('transformers'), and of editor.wrong."),
  Key("editor.batch_size", 8, at_least(1), "nothing", "Requests in one batch ('transformers')."),
  Key("editor.wrong", 0.0, _FRACTION, "words",
      "Control: share of queries whose edit is another query's."),
  *_endpoint("editor"),

  Key("mapping.method", "lincir", one_of(*MAPPINGS), "training",
      "How the mapping network Phi is trained: 'lincir' (texts alone), 'searle' (inversion of "
      "images, then distillation), 'pic2word' (images, contrastive)."),
  Key("mapping.source", "", TEXT, "embedding",
      "Phi that is trained already: a torch checkpoint of SEARLE, LinCIR or Pic2Word, or a "
      "workdir; '' trains one.", path=True),
  Key("mapping.texts", "", TEXT, "training",
      "File with a text a line, or a CSV with a column caption: what 'lincir' trains on, and whose "
      "nouns are the concepts of 'searle'; '' takes the captions of the source's training images.",
      path=True),
  Key("mapping.images", "", TEXT, "training",
      "'searle' and 'pic2word': folder of training images; '' takes those of the source.",
      path=True),
  Key("mapping.num_images", 0, at_least(0), "training",
      "'searle' and 'pic2word': at most so many training images, evenly spaced; 0: all. An "
      "inversion takes seconds an image.",
      ReadBy("mapping.method", ("searle", "pic2word"))),
  Key("mapping.views", 4, at_least(0), "training",
      "'pic2word': random crops of an image (data.crop_scale) whose features are computed once, "
      "and of which epochs take one after the other; 0: the centre crop.",
      ReadBy("mapping.method", ("pic2word",), unset=4)),
  Key("mapping.phrases", "rules", one_of("rules", "spacy"), "training",
      "'lincir': key phrases by lists of words and endings of English, or by spaCy's "
      "en_core_web_sm as published.",
      ReadBy("mapping.method", ("lincir",), unset="rules")),
  Key("mapping.hidden", 0, at_least(0), "embedding",
      "Width of Phi's two hidden layers; 'auto' (or 0): 4 d, or 512 for 'pic2word'.", auto=0),
  Key("mapping.dropout", 0.5, within(0, 1), "training", "Dropout of Phi (Pic2Word's is 0.1)."),
  Key("mapping.noise", 1.0, at_least(0), "training",
      "'lincir': scale of the noise u n on text features, u ~ U(0, 1), n ~ N(0, I).",
      ReadBy("mapping.method", ("lincir",), unset=1.0)),
  Key("mapping.batch_size", 512, at_least(2), "training", "Texts or images of a batch."),
  Key("mapping.inversion_steps", 350, at_least(1), "training",
      "'searle': steps of the inversion of an image.",
      ReadBy("mapping.method", ("searle",), unset=350)),
  Key("mapping.inversion_rate", 2e-2, POSITIVE, "training", "'searle': its learning rate.",
      ReadBy("mapping.method", ("searle",), unset=2e-2)),
  Key("mapping.concepts", "", TEXT, "training",
      "'searle': file with a concept word a line; '' takes the source's own words.",
      ReadBy("mapping.method", ("searle",), unset=""), path=True),
  Key("mapping.concept_phrases", "", TEXT, "training",
      "'searle': JSON {concept: [phrase, ...]}; '' makes phrases of the concepts by templates.",
      ReadBy("mapping.method", ("searle",), unset=""), path=True),

  Key("query.method", "cvsi", one_of(*METHODS), "evaluation",
      "What makes a query: 'cvsi', or a baseline: 'image', 'text', 'sum' (of both), 'pic2word', "
      "'searle', 'lincir' (Phi of that training and the plain template), 'cirevl' (the first "
      "edited description alone; published with captioner.number=1)."),
  Key("query.alpha", 0.6, _FRACTION, "evaluation", "Weight of q_m, the edited descriptions."),
  Key("query.beta", 0.4, _FRACTION, "evaluation",
      "Weight of q_f, the text with the pseudo word; q_v, the image, has 1 - alpha - beta."),
  Key("query.gamma", 0.2, _FRACTION, "evaluation",
      "Weight of captions in the gallery: t = (1 - gamma) t_v + gamma t_c."),
  Key("query.use_edit", True, BOOL, "evaluation",
      "q_m; without a term the weights of the others are scaled up to 1."),
  Key("query.use_phi", True, BOOL, "evaluation", "q_f."),
  Key("query.use_image", True, BOOL, "evaluation", "q_v."),
  Key("query.use_captions", True, BOOL, "evaluation", "t_c; without it gamma is 0."),
  Key("query.use_added", True, BOOL, "evaluation", "The added objects in q_f's text."),
  Key("query.words", "own", one_of("own", "other"), "evaluation",
      "Control: 'other' puts another reference image's pseudo word into q_f."),
  Key("query.normalize_captions", False, BOOL, "evaluation",
      "Normalise t_c, the mean over an image's captions, again (CVSI's code: FashionIQ alone)."),
  Key("query.normalize_fused", False, BOOL, "evaluation",
      "Cosine (CVSI's figure) in place of the dot product of the sums (its code)."),
  Key("query.oti", False, BOOL, "evaluation",
      "'searle': invert each reference image in place of Phi (SEARLE-OTI).",
      ReadBy("query.method", ("searle",), unset=False)),
)
# fmt: on
