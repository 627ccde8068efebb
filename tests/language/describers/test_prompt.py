"""The question put to a language model, and every shape of answer that comes back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.language.describers import prompt

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


@pytest.mark.parametrize("shape", USABLE)
def test_usable_answers_give_their_sentences(shape):
  assert prompt.parse(USABLE[shape], "stop", "A very red kind", 3) == THREE


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
  "single quotes": (str(THREE), "broken JSON"),
  "a comma too many": (f'["{A}", "{B}",]', "broken JSON"),
  "fenced broken json": (f'```json\n["{A}", "{B}\n```', "broken JSON"),
  "too few": (json.dumps([A]), "1 of 3"),
  "one in many forms": (json.dumps([A, A, A.upper(), A.lower()]), "1 of 3"),
  "deep brackets": ("[" * 100_000, "broken JSON"),
  "a huge number": ("[" + "9" * 5000 + "]", "broken JSON"),
  "bullets without text": ("-\n- \n* \n1. ", "no list"),
}


@pytest.mark.parametrize("shape", UNUSABLE)
def test_unusable_answers_say_why(shape):
  text, reason = UNUSABLE[shape]
  with pytest.raises(prompt.Unusable, match=reason):
    prompt.parse(text, "stop", "A very red kind", 3)


def test_a_cut_answer_is_unusable_even_where_it_reads_well():
  with pytest.raises(prompt.Unusable, match="language.max_tokens"):
    prompt.parse(json.dumps(THREE), "length", "x", 3)


def test_at_most_as_many_as_asked_and_half_is_enough():
  sentences = [f"It has {i} red bars." for i in range(9)]
  assert prompt.parse(json.dumps(sentences), "stop", "x", 4) == sentences[:4]
  assert prompt.parse(json.dumps(sentences[:2]), "stop", "x", 4) == sentences[:2]


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
    found = prompt.parse(text, "stop", "Kind", 4)
  except prompt.Unusable as reason:
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
    assert prompt.parse(before + form + after, "stop", "Kind", len(sentences)) == sentences
  # Cut anywhere inside, JSON is never taken for whole.
  cut = data.draw(st.integers(1, len(forms[0]) - 1))
  with pytest.raises(prompt.Unusable):
    prompt.parse(forms[0].rstrip()[:cut].rstrip("]"), "stop", "Kind", len(sentences))


def test_the_question_names_the_class_its_neighbours_and_what_is_wanted():
  text = prompt.question("Audi {TT} Coupe 2012", ("Audi TTS 2012", "BMW Z4 2012"), 7)
  for word in ("Audi {TT} Coupe 2012", "Audi TTS 2012; BMW Z4 2012", "7 sentences"):
    assert word in text
  for topic in ("Global semantics", "Fine texture and parts", "Differences", "JSON list of 7"):
    assert topic in text
  assert "could not be used" not in text
  again = prompt.question("Audi {TT} Coupe 2012", (), 7, "it is broken JSON")
  assert "could not be used: it is broken JSON." in again and "Do not name" in again


def test_a_super_class_is_asked_for_the_differences_of_its_items():
  text = prompt.about_variants("coffee maker", 40)
  for words in ("about: coffee maker", "40 sentences", "some items of this kind have", "of 40 str"):
    assert words in text
  again = prompt.about_variants("coffee maker", 40, "it is empty")
  assert again.startswith(text) and "could not be used: it is empty." in again


def test_another_text_is_another_version():
  import hashlib

  text = prompt.question("{}", ("a", "b"), 2, "c") + prompt.question("{}", (), 2)
  text += prompt.about_variants("{}", 2)
  digest = hashlib.sha256(text.encode()).hexdigest()[:16]
  # Changed the prompt? Raise PROMPT_VERSION and add a line.
  assert {"1": "8df30db1c9224787"}[prompt.PROMPT_VERSION] == digest
