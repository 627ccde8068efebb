"""Answers of one line: what is kept of whatever a language model writes around it."""

import pytest

from lafg_jax.language.describers import one_line
from lafg_jax.language.describers.chat import Answer
from lafg_jax.language.describers.thoughts import Unusable

LABEL = "Edited Description"
REQUEST = ("Image Content", "Instruction")
KEPT = "a red bird on a wire"


@pytest.mark.parametrize(
  "text",
  [
    KEPT,
    f"  \n\n{KEPT}  \n\nImage Content: another\nEdited Description: a third",
    f"Edited Description: {KEPT}",
    f"edited description : {KEPT}",
    f"**Edited Description:** {KEPT}",
    f"**Edited Description**: {KEPT}",
    f"Edited Description:\n{KEPT}\nA remark.",
    f"Here is the edited description:\n\n{KEPT}",
    f"Sure, I can do that.\nEdited Description: {KEPT}",
    f"Image Content: a bird\nInstruction: is red\nEdited Description: {KEPT}",
    f"Caption: {KEPT}",
    f"The new description: {KEPT}",
    f"Edited Description：{KEPT}",
    f'"{KEPT}"',
    f'Edited Description: "{KEPT}"',
    f"- {KEPT}\n- a blue bird",
    f"<think>It wants red.\nSo red.</think>\n{KEPT}",
    f"```\n{KEPT}\n```",
    f'```json\n{{"edited_description": "{KEPT}"}}\n```',
    f'{{"answer": {{"text": "{KEPT}"}}}}',
    f'["{KEPT}"]',
    f"\ufeff{KEPT}",
  ],
)
def test_the_line_is_kept_and_nothing_else(text):
  assert one_line.read(Answer(text), LABEL, "editor", REQUEST) == KEPT


@pytest.mark.parametrize(
  "text",
  [
    # Colons and quotes that are part of what is said.
    "Colourful objects seen from the top: a pile of scissors and a spoon.",
    'a cake shaped like the numbers "70"',
    "output devices on a desk",
    "a description of a town on a wall",
    "3 birds: two red and one blue",
  ],
)
def test_what_only_looks_like_a_label_stays(text):
  assert one_line.read(Answer(text), LABEL, "editor", REQUEST) == text


def test_a_label_that_is_part_of_a_pattern_is_taken_literally():
  answer = Answer("Objects (most likely): a flag, a dog")
  assert one_line.read(answer, "Objects (most likely)", "editor") == "a flag, a dog"


@pytest.mark.parametrize(
  ("answer", "reason"),
  [
    (Answer(""), "empty"),
    (Answer(" \n\t"), "empty"),
    (Answer("Edited Description:"), "empty"),
    (Answer("..."), "empty"),
    (Answer("I'm sorry, I cannot see the image."), "refusal"),
    (Answer("Edited Description: I can't do that"), "refusal"),
    (Answer('{"edited": "a red'), "broken JSON"),
    (Answer("a red bird on a", "length"), "cut off at editor.max_tokens"),
    (Answer("<think>It wants", "length"), "amid its thoughts"),
    (Answer("<think>It wants red.</think>"), "empty after its thoughts"),
    (Answer("a", "content_filter"), "content filter"),
  ],
)
def test_what_holds_no_line_says_why(answer, reason):
  with pytest.raises(Unusable, match=reason):
    one_line.read(answer, LABEL, "editor", REQUEST)


def test_a_line_that_was_whole_before_the_cut_is_kept():
  answer = Answer(f"{KEPT}\nImage Content: a horse\nInstruc", "length")
  assert one_line.read(answer, LABEL, "editor", REQUEST) == KEPT
