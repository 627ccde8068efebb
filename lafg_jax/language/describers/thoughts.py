"""What a reasoning model thought, told from what it answers."""

import re


class Unusable(ValueError):
  """An answer without descriptions; the message says why."""


_WORD = (
  r"(?:seed:|ant)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|analysis|"
  r"inner_?monologue|chain_?of_?thought|cot|planning|plan|draft|internal)"
  r"(?:_content)?"
)
# <think>, <thinking mode="x">, [THINK], ◁think▷, <|thinking|>, <|begin_of_thought|>,
# <|START_THINKING|>; and the same closed.
_MARK = re.compile(
  rf"<\s*(?P<close>/?)\s*{_WORD}(?:\s[^<>]*)?(?P<empty>/?)\s*>|\[(?P<close2>/?)THINK(?:ING)?\]|"
  rf"◁(?P<close3>/?){_WORD}▷|"
  rf"<[|｜](?P<close4>/?)(?P<way>(?:begin|start|end)(?:_of)?_)?{_WORD}(?P<way2>_(?:start|end))?[|｜]>",
  re.IGNORECASE,
)
# Blocks that some front ends put thoughts into.
_BLOCK = re.compile(
  rf"<details[^>]*\b(?:type|class)=\W?{_WORD}[^>]*>.*?</details>|```{_WORD}\s.*?```",
  re.DOTALL | re.IGNORECASE,
)
# The channels of gpt-oss: what stands in 'final' is the answer, all others are thoughts.
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
# The same where the marks are lost, as a tokenizer drops special tokens.
_BARE_CHANNELS = re.compile(r"\s*analysis(?=[A-Z\W]).*?assistant\s*final(?=\W|[A-Z])", re.DOTALL)
_WRAPPER = re.compile(
  r"<\s*(?P<tag>answer|output|response|final|final_answer|result|solution)(?:\s[^<>]*)?>"
  r"(?P<text>.*?)(?:</\s*(?P=tag)\s*>|\Z)",
  re.DOTALL | re.IGNORECASE,
)
_SOLUTION = re.compile(
  r"<[|｜](?:begin_of_solution|start_response)[|｜]>(.*?)(?:<[|｜]end|\Z)",
  re.DOTALL | re.IGNORECASE,
)
# Other marks of chat templates: the end of a turn, padding.
_SPECIAL = re.compile(
  r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?s>|<(?:pad|eos|bos|unk|(?:start|end)_of_turn)>|\[/?INST\]"
)
_FINAL = re.compile(
  r"^[\W_]*(?:(?:and )?(?:here is )?(?:my|the|your)? ?(?:final|actual) "
  r"(?:answer|list|output|response)|answer|response|output|here is my response)[*_]*\s*:[*_]*",
  re.IGNORECASE | re.MULTILINE,
)


def answer_in(text: str) -> str:
  """What is left of a model's text without its thoughts, marks and wrappers.

  What stands before a closing mark that nothing opened is a thought too: the template opened it.

  Raises:
    Unusable: it ends amid its thoughts, or holds nothing but thoughts.
  """
  kept, opened, thought = _outside(_final_channel(_BLOCK.sub("", _unescaped(text))))
  kept = _wrapped(kept).strip()
  if not kept and opened:
    raise Unusable("it ends amid its thoughts")
  if not kept and thought:
    raise Unusable("it is empty after its thoughts")
  return kept


def are_open(text: str) -> bool:
  """Whether a text ends amid a thought."""
  try:
    return _outside(_final_channel(_unescaped(text)))[1]
  except Unusable:
    return True


def is_mark(token: str) -> bool:
  """Whether a token tells thoughts from the answer."""
  return bool(
    _MARK.fullmatch(token.strip())
    or re.fullmatch(r"<\|(?:channel|message|start|end|constrain)\|>", token.strip())
  )


def opening_in(prompt: str) -> str:
  """The mark with which a prompt opens the model's thoughts, '' without one."""
  found = list(_MARK.finditer(prompt.rstrip()))
  last = found[-1] if found else None
  ends = last is not None and last.end() == len(prompt.rstrip()) and not _closes(last)
  return last[0] if last is not None and ends else ""


def _unescaped(text: str) -> str:
  escaped = re.search(rf"&lt;/?{_WORD}&gt;", text, re.IGNORECASE)
  return text.replace("&lt;", "<").replace("&gt;", ">") if escaped else text


def _closes(mark: re.Match) -> bool:
  ways = f"{mark['way'] or ''}{mark['way2'] or ''}".lower()
  return any(mark[f"close{k}"] for k in ("", 2, 3, 4)) or "end" in ways


def _outside(text: str) -> tuple[str, bool, bool]:
  """(what stands outside of thoughts, whether the last one is open, whether there is any)."""
  kept, at, opened, any_thought = "", 0, False, False
  for mark in _MARK.finditer(text):
    if mark["empty"]:
      continue
    any_thought = True
    if not opened:
      kept += text[at : mark.start()]
    if _closes(mark):
      # Without an opening mark everything so far was thought.
      kept = kept if opened else ""
      opened = False
    else:
      opened = True
    at = mark.end()
  return (kept if opened else kept + text[at:]), opened, any_thought


def _final_channel(text: str) -> str:
  marks = list(_CHANNEL.finditer(text))
  if not marks:
    return _BARE_CHANNELS.sub("", text, count=1)
  final = [mark for mark in marks if mark["name"].lower() in ("final", "answer")]
  if not final:
    raise Unusable("it ends amid its thoughts")
  return _END.split(text[final[-1].end() :], maxsplit=1)[0]


def _wrapped(text: str) -> str:
  solutions = _SOLUTION.findall(text)
  if solutions and solutions[-1].strip():
    text = solutions[-1]
  text = _SPECIAL.sub("", text)
  wrappers = [found["text"] for found in _WRAPPER.finditer(text) if found["text"].strip()]
  text = wrappers[-1] if wrappers else text
  finals = [found.end() for found in _FINAL.finditer(text) if text[found.end() :].strip()]
  return text[finals[-1] :] if finals else text
