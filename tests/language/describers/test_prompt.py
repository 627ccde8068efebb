"""The question put to a language model."""

from lafg_jax.language.describers import prompt


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
  text += prompt.about_variants("{}", 2) + prompt.plain_question("{}", 2)
  digest = hashlib.sha256(text.encode()).hexdigest()[:16]
  # Changed the prompt? Raise PROMPT_VERSION and add a line.
  assert {"2": "340ea90723a3d801"}[prompt.PROMPT_VERSION] == digest
