"""Every shape of answer that a language model gives: lists, thoughts, wrappers, refusals."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.language.describers import answers, thoughts

A, B, C = "It has a red head.", "The tail is forked and long.", "Unlike others, its bill is thin."
THREE = [A, B, C]

USABLE = {
  "json list": json.dumps(THREE),
  "indented json": json.dumps(THREE, indent=2),
  "fenced": f"```json\n{json.dumps(THREE)}\n```",
  "fenced amid prose": f"Sure, here it is:\n\n```\n{json.dumps(THREE)}\n```\nI hope it helps!",
  "prose around json": f"Here you are: {json.dumps(THREE)} Enjoy.",
  "prose with brackets before json": f"As [asked] in {{1}}: {json.dumps(THREE)}",
  "object with a list": json.dumps({"descriptions": THREE}),
  "object by topic": json.dumps({"global semantics": A, "parts": [B], "differences": {"x": C}}),
  "object with its name": json.dumps({"name": "A very red kind", "sentences": THREE}),
  "list of objects": json.dumps([{"category": "one of the parts", "text": t} for t in THREE]),
  "list of lists": json.dumps([[A], [B, [C]]]),
  "list with other values": json.dumps([A, 3, None, B, True, C, ""]),
  "unclosed object around a list": json.dumps({"descriptions": THREE})[:-1].replace("{", "So: {"),
  "bullets": "\n".join(f"- {t}" for t in THREE),
  "stars": "\n".join(f"* {t}" for t in THREE),
  "dots": "\n".join(f"• {t}" for t in THREE),
  "numbers": "\n".join(f"{i}. {t}" for i, t in enumerate(THREE, 1)),
  "numbers in brackets": "\n".join(f"  ({i}) {t}" for i, t in enumerate(THREE, 1)),
  "letters": "\n".join(f"{i}) {t}" for i, t in zip("abc", THREE, strict=True)),
  "prose around bullets": f"Here:\n\n- {A}\n- {B}\n\n- {C}\nThat is all I know of it.",
  "blank lines and returns": f"1. {A}\r\n\r\n2. {B}\r\n\r\n3. {C}\r\n",
  "nested under headings": f"1. **Global semantics:**\n   - {A}\n2. Parts:\n   - {B}\n   - {C}",
  "bold labels": f"- **Overall**: {A}\n- **Parts:** {B}\n- __Differences__ - {C}",
  "bold words": f"- It has a **red** head.\n- {B}\n- {C}",
  "going on in the next line": f"- It has a\n  red head.\n- {B}\n- {C[:15]}\n\t{C[15:]}",
  "quoted items": "\n".join(f'- "{t}"' for t in THREE),
  "after thoughts": f"<think>Is it [one], or - two things?</think>\n{json.dumps(THREE)}",
  "repeated": json.dumps([A, A.upper(), B, " " + B, C, A[:-1]]),
  "byte order and spaces": f"  \n\t{json.dumps(THREE)}  ",
}


ROWS = "\n".join(f"| {i} | {t} |" for i, t in enumerate(THREE, 1))
USABLE |= {
  "html": "<ol>" + "".join(f"<li>{t}</li>" for t in THREE) + "</ol>",
  "json in json": json.dumps(json.dumps(THREE)),
  "comments": "[\n" + "\n".join(f'  "{t}", // part' for t in THREE) + "\n]",
  "json lines of strings": "\n".join(json.dumps(t) for t in THREE),
  "json lines of objects": "\n".join(json.dumps({"sentence": t}) for t in THREE),
  "json lines with the class": "\n".join(
    json.dumps({"class": "A very red kind", "description": t}) for t in THREE
  ),
  "json lines, fenced, amid prose": "Here:\n```jsonl\n"
  + "\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(THREE))
  + "\n```\nThat is all.",
  "json lines of lists": "\n".join(json.dumps([t]) for t in THREE),
  "objects with commas": ",\n".join(json.dumps({"text": t}) for t in THREE),
  "strings with commas": ",\n".join(json.dumps(t) for t in THREE),
  "object by class": json.dumps({"A very red kind": THREE}),
  "python list": str(THREE),
  "python list with an apostrophe": "['It has a red head.', 'The tail is forked and long.', "
  "'Unlike others, its bill is thin.',]",
  "trailing comma": f'["{A}", "{B}", "{C}",]',
  "trailing comma, fenced": f'```json\n[\n  "{A}",\n  "{B}",\n  "{C}",\n]\n```',
  "a comma missing": f'[\n"{A}"\n"{B}",\n"{C}"\n]',
  "smart quotes": f"[“{A}”, “{B}”, “{C}”]",
  "smart quotes, by key": f"{{“sentences”: [“{A}”, “{B}”, “{C}”]}}",
  "guillemets": "\n".join(f"«{t}»," for t in THREE),
  "strings over two lines": json.dumps(THREE).replace("red head", "red\nhead"),
  "numbered strings": json.dumps([f"{i}. {t}" for i, t in enumerate(THREE, 1)]),
  "draft, then the list": f"Draft: {json.dumps(THREE[::-1])}\nBetter: {json.dumps(THREE)}",
  "list, then a note with a list": f'{json.dumps(THREE)}\nKeys: ["global parts and more"]',
  "bold numbers": "\n".join(f"**{i}.** {t}" for i, t in enumerate(THREE, 1)),
  "escaped numbers": "\n".join(f"{i}\\. {t}" for i, t in enumerate(THREE, 1)),
  "numbers without a space": "\n".join(f"{i}.{t}" for i, t in enumerate(THREE, 1)),
  "number, dash": "\n".join(f"{i} - {t}" for i, t in enumerate(THREE, 1)),
  "sentence n": "\n".join(f"Sentence {i}: {t}" for i, t in enumerate(THREE, 1)),
  "roman": "\n".join(f"{i}. {t}" for i, t in zip(("i", "ii", "iii"), THREE, strict=True)),
  "full width": "\n".join(f"{i}、{t}" for i, t in enumerate(THREE, 1)),
  "keycaps": "\n".join(f"{i}\ufe0f\u20e3 {t}" for i, t in enumerate(THREE, 1)),
  "circled": "\n".join(f"{i} {t}" for i, t in zip("①②③", THREE, strict=True)),
  "bullets without a space": "\n".join(f"•{t}" for t in THREE),
  "checkmarks": "\n".join(f"✅ {t}" for t in THREE),
  "boxes": "\n".join(f"- [ ] {t}" for t in THREE),
  "quoted block": "\n".join(f"> - {t}" for t in THREE),
  "table": f"| No. | Sentence |\n|---|:---|\n{ROWS}",
  "headers between": f"## Overall\n- {A}\n## Parts\n- {B}\n- {C}\n\nHope that helps!",
  "a sentence a line": "Here are three sentences:\n\n" + "\n".join(THREE) + "\n\nEnjoy!",
  "a sentence a paragraph": "\n\n".join(THREE),
}
# A draft that must never be kept.
D = json.dumps([f"Draft {i}: it may have wings." for i in range(4)])
G = json.dumps(THREE)
USABLE |= {
  f"thought {i}: {before} {after}": f"{before}{D}{after}{G}{end}"
  for i, (before, after, end) in enumerate(
    (
      ("Let me see. ", "\n</think>\n", ""),
      ("", "</THINK>", ""),
      ("<think>", "</think>", ""),
      ("<Think>\n", "</Think>\n", ""),
      ("<thinking>", "</thinking>", ""),
      ('<thinking mode="long" n=3>', "</thinking>", ""),
      ("<thought>", "</thought>", ""),
      ("<thoughts>", "</thoughts >", ""),
      ("<reasoning>", "</reasoning>", ""),
      ("<reflection>", "</reflection>", ""),
      ("<scratchpad>", "</scratchpad>", ""),
      ("<seed:think>", "</seed:think>", ""),
      ("[THINK]", "[/THINK]", ""),
      ("◁think▷", "◁/think▷", ""),
      ("&lt;think&gt;", "&lt;/think&gt;", ""),
      ("<|begin_of_thought|>", "<|end_of_thought|><|begin_of_solution|>", "<|end_of_solution|>"),
      ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>", "<|END_RESPONSE|>"),
      ("<think>a<think>b</think>", "</think>", ""),
      ("<think>", "</think><think>Fine.</think>", "<think>Done.</think>"),
      ("<think>a</think><reflection>", "</reflection>", ""),
      ("<think>", "</think><answer>", "</answer>"),
      ("<think>", "</think>\n<output>\n", "\n</output>\nBye."),
      ("<think>", "</think><answer>", ""),
      ("", "<answer>", "</answer>"),
      ("Let me draft: ", "\n\n**Final answer:**\n", ""),
      (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
      ),
      (
        "<|start|>assistant<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
        "<|end|>",
      ),
      ("analysisWe need a list. ", "assistantfinal", ""),
      ("<think>", "</think>", "<|im_end|>"),
      ("<reasoning_content>", "</reasoning_content>", ""),
      ('<details type="reasoning">', "</details>", ""),
      ("```thinking\n", "\n```\n", ""),
      ("~~~thinking\n", "\n~~~\n", ""),
      ("<unused94>thought\n", "<unused95>", ""),
      ("<|channel>thought\n", "<channel|>", ""),
      ("<start_of_thought>", "<end_of_thought>", ""),
      (
        "<|CHANNEL|>analysis<|MESSAGE|>",
        "<|END|><|START|>assistant<|CHANNEL|>final<|MESSAGE|>",
        "",
      ),
      ("analysiswe need a list. ", "assistantfinal", ""),
      ("<｜begin▁of▁thought｜>", "<｜end▁of▁thought｜>", ""),
      ("Here's my thought process:\n", "\nHere's my response:\n", ""),
      ("Here are my steps:\n", "\n[BEGIN FINAL RESPONSE]\n", "\n[END FINAL RESPONSE]<|end|>"),
      ("<inner monologue>", "</inner monologue>", ""),
      ("<inner_thoughts>", "</inner_thoughts>", ""),
      ("<grok:think>", "</grok:think>", ""),
      ("<thought-process>", "</thought-process>", ""),
      ("<think_fast>", "</think_fast>", ""),
      ("<self_reflection>", "</self_reflection>", ""),
      ("<notes>", "</notes>", ""),
      ("<tool_call>", "</tool_call>", ""),
      ("\\<think\\>", "\\</think\\>", ""),
      ("＜think＞", "＜/think＞", ""),
      ("[reasoning]", "[/reasoning]", ""),
      ("[THOUGHT]", "[/THOUGHT][ANSWER]", "[/ANSWER]"),
      ("{think}", "{/think}", ""),
      ("## Thinking\n", "\n\n## Answer\n", ""),
      ("Draft:\n", "\nFinal list\n", ""),
      ("#Thinking#\n", "\n#Answer#\n", ""),
      ("Thinking...\n", "\n...done thinking.\n\n", ""),
      ("<|im_start|>think\n", "<|im_end|>\n<|im_start|>answer\n", "<|im_end|>"),
      ("<details>\n<summary>Thought for 3 seconds</summary>\n", "\n</details>\n", ""),
    )
  )
}


# The same as numbered lists, which no parser of JSON tells apart.
NUMBERED = "\n".join(f"{i}. {t}" for i, t in enumerate(json.loads(D), 1))
USABLE |= {
  f"{shape}, numbered": text.replace(D, f"\n{NUMBERED}\n").replace(
    G, "\n" + "\n".join(f"{i}. {t}" for i, t in enumerate(THREE, 1)) + "\n"
  )
  for shape, text in list(USABLE.items())
  if shape.startswith("thought ")
}
USABLE |= {
  f"{key} beside the sentences": json.dumps({key: ["It may have wings."] * 2, "list": THREE})
  for key in ("thoughts", "reasoning", "scratchpad", "chain_of_thought", "draft", "Rationale")
}
USABLE |= {
  "a thought for each sentence": json.dumps([{"thought": "It may fly.", "text": t} for t in THREE]),
  "two lists without a word": f"{D}\n\n{G}",
  "tags of sentences": "".join(f"<feature>{t}</feature>\n" for t in THREE),
  "a word in brackets": "\n".join(f"- {t}" for t in [A, B, C]) + "\n[inner]",
}


@pytest.mark.parametrize("shape", USABLE)
def test_usable_answers_give_their_sentences(shape):
  assert answers.parse(USABLE[shape], "stop", "A very red kind", 3) == THREE


UNUSABLE = {
  "nothing": ("", "empty"),
  "spaces": (" \n\t ", "empty"),
  "an empty fence": ("```json\n```", "empty"),
  "thoughts alone": ("<think>It has - maybe - a head.</think>", "empty"),
  "unfinished thoughts": (f"<think>Perhaps\n- {A}\n- {B}", "thoughts"),
  "sorry": ("I'm sorry, but I can't help with that.", "refusal"),
  "sorry, curly": ("I’m sorry, I have not seen one.", "refusal"),
  "an AI": ("As an AI language model, I have no eyes.", "refusal"),
  "a large model": ("As a large language model I can not see.", "refusal"),
  "cannot": ("I cannot describe this kind.", "refusal"),
  "unable": ("I am unable to help. Try\n- a book of birds\n- a web search engine", "refusal"),
  "refusal in json": (
    json.dumps(["I'm sorry, I can't do that.", "As an AI, I see nothing."]),
    "ref",
  ),
  "refusal in a bullet": ("- I cannot describe this kind.", "refusal"),
  "an empty list": ("[]", "no list"),
  "an empty object": ("{}", "no list"),
  "numbers alone": ("[1, 2, 3]", "no list"),
  "a number": ("3", "no list"),
  "null": ("null", "no list"),
  "empty strings": ('["", " ", "-."]', "no list"),
  "its name again and again": (json.dumps(["A very red kind"] * 3), "no list"),
  "words, no sentences": ('["red", "big head"]', "no list"),
  "prose": (f"{A} {B} {C}", "no list"),
  "broken json": (json.dumps(THREE)[:-1], "broken JSON"),
  "json cut in a string": (json.dumps(THREE)[:-9], "broken JSON"),
  "fenced broken json": (f'```json\n["{A}", "{B}\n```', "broken JSON"),
  "thoughts cut off": (f"Well. <thinking>{G}", "list|thoughts"),
  "thoughts in brackets cut off": (f"[THINK]{G}", "amid its thoughts"),
  "a block of thoughts cut off": (f"```thinking\n{G}", "amid its thoughts"),
  "a folded block cut off": (f"<details><summary>Thinking</summary>{G}", "amid its thoughts"),
  "Gemma's thoughts cut off": (f"<unused94>thought\n{G}", "amid its thoughts"),
  "Granite's thoughts alone": (f"Here is my thought process: {G}", "amid its thoughts"),
  "bare channels, no final": (f"analysisWe need a list. {G}", "amid its thoughts"),
  "no final channel": (f"<|channel|>analysis<|message|>{G}", "amid its thoughts"),
  "nothing after a closing mark": (f"{G}</think>", "after its thoughts"),
  "too few": (json.dumps([A]), "1 of 3"),
  "one in many forms": (json.dumps([A, A, A.upper(), A.lower()]), "1 of 3"),
  "deep brackets": ("[" * 100_000, "broken JSON"),
  "a huge number": ("[" + "9" * 5000 + "]", "no list"),
  "bullets without text": ("-\n- \n* \n1. ", "no list"),
}


@pytest.mark.parametrize("shape", UNUSABLE)
def test_unusable_answers_say_why(shape):
  text, reason = UNUSABLE[shape]
  with pytest.raises(answers.Unusable, match=reason):
    answers.parse(text, "stop", "A very red kind", 3)


def test_a_cut_answer_is_unusable_even_where_it_reads_well():
  with pytest.raises(answers.Unusable, match="language.max_tokens"):
    answers.parse(json.dumps(THREE), "length", "x", 3)


def test_why_nothing_usable_came_is_said():
  for text, reason in ((f"<think>{G}", "max_tokens, amid its thoughts"), (G, "max_tokens$")):
    with pytest.raises(answers.Unusable, match=reason):
      answers.parse(text, "length", "x", 3)
  with pytest.raises(answers.Unusable, match="content filter"):
    answers.parse("", "content_filter", "x", 3)


def test_a_prompt_that_opens_the_thoughts_is_told():
  for prompt, mark in (
    ("<user>Hi<bot><think>\n", "<think>"),
    ("<bot>[THINK]", "[THINK]"),
    ("Write <think> or not.<bot>", ""),
    ("<bot><think>\n\n</think>\n\n", ""),
    ("", ""),
  ):
    assert thoughts.opening_in(prompt) == mark


def test_sentences_of_scripts_without_spaces_are_sentences():
  texts = ["头部是红色的。", "尾巴又长又分叉。", "与其他不同，嘴很细。"]
  for text in ("\n".join(f"{i}、{t}" for i, t in enumerate(texts, 1)), json.dumps(texts)):
    assert answers.parse(text, "stop", "红鸟", 3) == texts


def test_at_most_as_many_as_asked_and_half_is_enough():
  sentences = [f"It has {i} red bars." for i in range(9)]
  assert answers.parse(json.dumps(sentences), "stop", "x", 4) == sentences[:4]
  assert answers.parse(json.dumps(sentences[:2]), "stop", "x", 4) == sentences[:2]


PIECES = st.sampled_from(
  [
    *'[]{}":,-*\n\t\\',
    *("1. ", "- ", "```", "<think>", "</think>", '["', '"]', "I'm sorry", "\ud800"),
  ]
  + [A, B, "a", " ", "**", "null", "\x00", "é", "\u2028"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=200))
def test_any_text_gives_clean_sentences_or_a_reason(text):
  try:
    found = answers.parse(text, "stop", "Kind", 4)
  except answers.Unusable as reason:
    assert str(reason) and "\n" not in str(reason)
    return
  assert 2 <= len(found) <= 4 and len({s.casefold() for s in found}) == len(found)
  for sentence in found:
    assert sentence == " ".join(sentence.split()) and len(sentence.split()) >= 3
    sentence.encode("utf-8")


WORDS = st.lists(st.from_regex(r"[a-z]{2,9}", fullmatch=True), min_size=4, max_size=9)
SENTENCES = st.lists(
  WORDS.map(lambda words: "Its " + " ".join(words) + "."), min_size=1, max_size=12, unique=True
)


@settings(max_examples=100, deadline=None)
@given(SENTENCES, st.data())
def test_whatever_form_sentences_are_written_in_they_come_back(sentences, data):
  forms = [
    json.dumps(sentences, indent=data.draw(st.sampled_from([None, 0, 4]))),
    json.dumps({f"part {i}": s for i, s in enumerate(sentences)}),
    "\n".join(f"{data.draw(st.sampled_from('-*•'))} {s}" for s in sentences),
    "\n\n".join(f"{i}. **Part {i}**: {s}" for i, s in enumerate(sentences, 1)),
  ]
  before, after = data.draw(st.sampled_from([("", ""), ("Sure!\n", "\nDone."), ("```\n", "\n```")]))
  for form in forms:
    assert answers.parse(before + form + after, "stop", "Kind", len(sentences)) == sentences
  # Cut anywhere inside, JSON is never taken for whole.
  cut = data.draw(st.integers(1, len(forms[0]) - 1))
  with pytest.raises(answers.Unusable):
    answers.parse(forms[0].rstrip()[:cut].rstrip("]"), "stop", "Kind", len(sentences))
