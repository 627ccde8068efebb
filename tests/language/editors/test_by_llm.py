"""Editors that ask a model: a real local endpoint that misbehaves, kills, a tiny chat model."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from lafg_jax.language.describers import openai_api
from lafg_jax.language.editors import by_llm, prompt
from lafg_jax.language.editors.record import Asked, Edit
from lafg_jax.tasks.composed_retrieval import default
from lafg_jax.utils.errors import Incomplete, UserError

KEY = "sk-very-secret-0123"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(openai_api, "_FIRST_DELAY", 0.01)
  monkeypatch.setenv("OPENAI_API_KEY", KEY)


def section(endpoint=None, **changes):
  editor = default.get_config().editor
  editor.update(kind="openai", llm="some-model", retries=2, timeout_s=600.0)
  editor.base_url = endpoint.url if endpoint else ""
  editor.update(changes)
  return editor


def queries(*texts):
  captions = ("a bird on a wire", "a small bird outside", "a bird on a wire")
  return [Asked("part", str(i), captions, text) for i, text in enumerate(texts)]


def asked_of(request):
  """(the call, the captions, the instruction) of a request."""
  *_, content, instruction, label = request["messages"][0]["content"].split("\n")
  call = "added" if label == "Objects most likely added:" else "edited"
  return call, content.removeprefix("Image Content: "), instruction.removeprefix("Instruction: ")


def edits(*args):
  return dict(by_llm.run(*args))


def lines(path):
  return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


def good(request):
  call, content, text = asked_of(request)
  return f"<{text}> of {content}" if call == "edited" else f"things of {text}"


FAULTS = {
  "pause": (429, "{}", {"Retry-After": "0.05"}),
  "status-500": (500, {"error": {"message": f"no, and your key is {KEY}"}}),
  "status-400": (400, {"error": {"message": "no"}}),
  "broken": (200, '{"id": "1", "choices": [{"message"'),
  "page": (200, "<html>busy</html>"),
  "shape": (200, '{"choices": []}'),
  "closed": None,
  "empty": "  ",
  "bare label": "Edited Description:",
  "refusal": "I'm sorry, I can't see it. \ud800",
  "half json": '{"edited": "a',
}
# What a model said: asking again would give the same, so the captions stand in.
SAID = ("empty", "bare label", "refusal", "half json")


def misbehaving(request, earlier):
  call, content, text = asked_of(request)
  fault = next((name for name in FAULTS if text.startswith(name)), "")
  # The edits alone misbehave; an answer that could not be used is asked for in another message.
  again = "Your last answer could not be used" in request["messages"][0]["content"]
  if not fault or call == "added" or (text.endswith("once") and (earlier or again)):
    return good(request)
  return FAULTS[fault]


def test_every_query_is_edited_or_listed(chat_endpoint, tmp_path, caplog):
  once = [f"{fault} once" for fault in FAULTS if fault != "status-400"]
  never = ["status-500", "status-400", "closed"]
  asked = queries("is red", *once, *never, *SAID)
  endpoint = chat_endpoint(misbehaving)
  editor = section(endpoint, concurrency=8)
  with pytest.raises(Incomplete, match="no answer about 3 queries") as raised:
    edits(editor, tmp_path, "structural", asked)
  assert str(tmp_path / "edits_failed.jsonl") in str(raised.value)
  failed = {asked[int(row["id"])].text: row for row in lines(tmp_path / "edits_failed.jsonl")}
  assert set(failed) == set(never) and "HTTP 500" in failed["status-500"]["reason"]
  counts = Counter(asked_of(request)[::2] for request in endpoint.requests)
  assert {counts["edited", text] for text in ["is red"]} == {1}
  assert {counts["edited", text] for text in once} == {2}
  assert [counts["edited", text] for text in never] == [3, 1, 3]
  assert {counts["edited", text] for text in SAID} == {3}
  assert {counts["added", text] for text in ["is red", *once, *never, *SAID]} == {1}
  written = [path.read_text() for path in tmp_path.iterdir()]
  assert not any(KEY in text for text in [*written, caplog.text, str(raised.value)])

  # The same command asks what failed, and only that.
  before = len(endpoint.requests)
  with pytest.raises(Incomplete):
    edits(editor, tmp_path, "structural", asked)
  assert {asked_of(request)[2] for request in endpoint.requests[before:]} == set(never)
  # Without them no request is left, and no list of failures.
  rest = [x for x in asked if x.text not in never]
  before = len(endpoint.requests)
  found = {x.text: said for x, said in edits(editor, tmp_path, "structural", rest).items()}
  assert len(endpoint.requests) == before and not (tmp_path / "edits_failed.jsonl").exists()
  content = ", ".join(asked[0].captions)
  for text in ["is red", *once]:
    assert found[text].edit == Edit((f"<{text}> of {content}",), f"things of {text}")
    assert found[text].fallback == ()
  for text in SAID:
    assert found[text].edit == Edit(asked[0].captions, f"things of {text}")
    assert found[text].fallback == ("edited",)
    assert found[text].raw["edited"][0].startswith(FAULTS[text].strip()[:8])


def test_an_answer_that_does_not_come_is_asked_for_again(chat_endpoint, tmp_path):
  import time

  def late(request, earlier):
    if not earlier:
      time.sleep(1.5)
    return good(request)

  endpoint = chat_endpoint(late)
  found = edits(section(endpoint, timeout_s=0.4, retries=9), tmp_path, "fashion", queries("is red"))
  assert [x.edit.added for x in found.values()] == ["things of is red"]
  assert len(endpoint.requests) >= 4


def test_parameters_that_are_refused_are_left_out(chat_endpoint, tmp_path, caplog):
  def answer(request, earlier):
    for name in ("temperature", "max_tokens"):
      if name in request:
        return 400, {"error": {"message": f"Unsupported parameter: '{name}'", "param": name}}
    return good(request)

  endpoint = chat_endpoint(answer)
  found = edits(section(endpoint), tmp_path, "contextual", queries("a", "b", "c"))
  assert len(found) == 3 and not any(said.fallback for said in found.values())
  assert endpoint.requests[-1]["max_completion_tokens"] == 700
  assert endpoint.requests[0]["temperature"] == 0 and "stop" not in endpoint.requests[0]


def test_nothing_added_is_no_fault(chat_endpoint, tmp_path):
  endpoint = chat_endpoint(
    lambda request, _: {"edited": "a red bird"}.get(asked_of(request)[0], "nothing")
  )
  (said,) = edits(section(endpoint), tmp_path, "structural", queries("is red")).values()
  assert said.edit == Edit(("a red bird",), "") and said.fallback == ()
  assert said.raw == {"edited": ["a red bird"], "added": "nothing"}


@pytest.mark.parametrize(("added", "requests"), [(True, 3), (False, 2)])
def test_per_caption_asks_about_each_caption_once(chat_endpoint, tmp_path, added, requests):
  endpoint = chat_endpoint(lambda request, _: good(request))
  editor = section(endpoint, form="per_caption", added=added)
  (said,) = edits(editor, tmp_path, "structural", queries("is red")).values()
  # One of three captions is there twice: it weighs twice in the mean, and is asked about once.
  assert said.edit.edited == tuple(
    f"<is red> of a {what}" for what in ("bird on a wire", "small bird outside", "bird on a wire")
  )
  assert len(endpoint.requests) == requests
  assert said.edit.added == ("things of is red" if added else "")
  assert ("added" in said.raw) == added


def test_a_caption_stands_in_for_its_own_edit_alone(chat_endpoint, tmp_path):
  def answer(request, earlier):
    return "" if "small" in asked_of(request)[1] else "a red bird"

  editor = section(chat_endpoint(answer), form="per_caption", added=False)
  (said,) = edits(editor, tmp_path, "structural", queries("is red")).values()
  assert said.edit.edited == ("a red bird", "a small bird outside", "a red bird")
  assert said.fallback == ("edited",)


def test_other_words_are_asked_again_and_going_back_does_not(chat_endpoint, tmp_path, monkeypatch):
  endpoint = chat_endpoint(lambda request, _: good(request))
  asked = queries("is red", "is blue")
  other = [asked[0]._replace(captions=("a whale",)), asked[1]]

  def requests(queries, kind="structural", **changes):
    before = len(endpoint.requests)
    edits(section(endpoint, **changes), tmp_path, kind, queries)
    return len(endpoint.requests) - before

  assert requests(asked) == 4
  # Other captions: both calls of this query.
  assert requests(other) == 2
  # Another prompt changes the edits, and not what is added.
  assert requests(asked, "fashion") == 2
  assert requests(asked, temperature=0.5) == 4
  assert requests(asked, llm="another-model") == 4
  monkeypatch.setitem(prompt._PROMPTS["added"], "rules", "Other words.")
  assert requests(asked) == 2
  monkeypatch.undo()
  assert requests(asked) == requests(other) == requests(asked, concurrency=1, retries=0) == 0


def test_twenty_cuts_at_any_byte_lose_no_whole_line_and_repeat_none(chat_endpoint, tmp_path):
  endpoint, rng = chat_endpoint(lambda request, _: good(request)), random.Random(0)
  asked, editor = queries(*(f"is {i}" for i in range(30))), section(endpoint)
  whole = edits(editor, tmp_path, "structural", asked)
  (path,) = tmp_path.glob("edits.partial-*.jsonl")
  for _ in range(20):
    data = path.read_bytes()
    cut = data[: rng.randrange(len(data) - 600, len(data))]
    path.write_bytes(cut)
    before = len(endpoint.requests)
    assert edits(editor, tmp_path, "structural", asked) == whole
    assert len(endpoint.requests) - before == 60 - cut.count(b"\n")
  assert len(lines(path)) == 60


def test_a_damaged_line_is_asked_again(chat_endpoint, tmp_path, caplog):
  endpoint = chat_endpoint(lambda request, _: good(request))
  asked, editor = queries("is red", "is blue"), section(endpoint, concurrency=1)
  whole = edits(editor, tmp_path, "structural", asked)
  (path,) = tmp_path.glob("edits.partial-*.jsonl")
  first, *rest = path.read_bytes().split(b"\n")
  for middle in (b"{}", b"\0\0", b"3", b'{"asked": 1, "answer": "x"}', b"\xff"):
    path.write_bytes(b"\n".join([middle, *rest]))
    before = len(endpoint.requests)
    assert edits(editor, tmp_path, "structural", asked) == whole
    assert len(endpoint.requests) - before == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_setup_stops_before_the_first_answer(chat_endpoint, tmp_path, status):
  endpoint = chat_endpoint(lambda *_: (status, {"error": {"message": f"no: {KEY}"}}))
  with pytest.raises(
    UserError, match=f"editor.base_url.*editor.llm=some-model.*{status}"
  ) as raised:
    edits(section(endpoint), tmp_path, "structural", queries(*(str(i) for i in range(50))))
  assert KEY not in str(raised.value) and len(endpoint.requests) < 40


# --- a chat model in this process ---


def save_chain(folder, chain):
  """A tiny Llama whose every word is decided by the word before it; it begins after '<bot>'."""
  import torch
  import transformers
  from tokenizers import Tokenizer, models, pre_tokenizers

  words = ["<pad>", "<unk>", "<user>", "<bot>", "</s>", *dict.fromkeys(chain)]
  vocab = {word: i for i, word in enumerate(words)}
  tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
  )
  fast.add_special_tokens({"additional_special_tokens": ["<user>", "<bot>"]})
  fast.chat_template = "{% for m in messages %}<user> {{ m.content }} {% endfor %}<bot>"
  fast.save_pretrained(folder)
  config = transformers.LlamaConfig(
    vocab_size=len(fast), hidden_size=16, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=4096, bos_token_id=None, pad_token_id=0,
    eos_token_id=vocab["</s>"], tie_word_embeddings=False,
  )  # fmt: skip
  model = transformers.LlamaForCausalLM(config)
  with torch.no_grad():
    for name, weights in model.named_parameters():
      if "layernorm" not in name and "norm" not in name:
        weights.zero_()
    model.model.embed_tokens.weight.copy_(torch.eye(len(fast), 16))
    for before, after in zip(["<bot>", *chain], [*chain, "</s>"], strict=True):
      model.lm_head.weight[vocab[after], vocab[before]] = 1
  model.save_pretrained(folder)
  return str(folder)


def test_a_chat_model_in_this_process_edits(tmp_path):
  llm = save_chain(tmp_path / "model", ["Edited", "Description:", "a", "red", "bird"])
  editor = section(kind="transformers", llm=llm, max_tokens=8, batch_size=3)
  found = edits(editor, tmp_path, "structural", queries("is red", "is blue", "is green"))
  assert {said.edit for said in found.values()} == {Edit(("a red bird",), "a red bird")}
  raw = "Edited Description: a red bird"
  assert all(said.raw == {"edited": [raw], "added": raw} for said in found.values())
  # The rest is read from the file: the model is not even there.
  for path in Path(llm).iterdir():
    path.unlink()
  assert edits(editor, tmp_path, "structural", queries("is red", "is blue", "is green")) == found
  with pytest.raises(UserError, match="editor.llm"):
    edits(editor, tmp_path, "structural", queries("is grey"))


def test_a_chat_model_that_does_not_end_is_cut_and_the_captions_stand_in(tmp_path):
  llm = save_chain(tmp_path / "model", ["a", "red", "bird"])
  editor = section(kind="transformers", llm=llm, max_tokens=2, retries=1, added=False)
  (said,) = edits(editor, tmp_path, "structural", queries("is red")).values()
  assert said.edit.edited == queries("")[0].captions and said.fallback == ("edited",)
  (row,) = lines(next(tmp_path.glob("edits.partial-*.jsonl")))
  assert row["raw"] == "a red" and re.search(r"editor\.max_tokens", row["reason"])
  editor = section(kind="transformers", llm=llm, max_tokens=4096)
  with pytest.raises(UserError, match=r"editor\.max_tokens=4096.* 4096 that editor\.llm reads"):
    edits(editor, tmp_path, "structural", queries("is red"))
