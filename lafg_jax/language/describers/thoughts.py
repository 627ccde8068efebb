"""What a reasoning model thought, told from what it answers."""

import re


class Unusable(ValueError):
  """An answer without descriptions; the message says why."""


# <think_fast>, <longcat_think>, <grok:think>, <thought-process>, <inner monologue>, ...
_WORD = (
  r"(?:[\w:.▁-]*(?:think|thought|reasoning|reflection|scratch_?pad|analysis|monologue|deliberation|"
  r"chain[_-]of|brainstorm|critique|rationale)[\w:.▁-]*|reason|reflect|cot|planning|plan|drafts?|"
  r"inner|internal)"
)
# Between brackets or braces, where a word may also stand in a sentence.
_PLAIN_WORD = (
  r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratch_?pad|analysis|thought process)"
)
_WAY = r"(?:begin|start|end)(?:[_▁]of)?[_▁]"
# <think>, <thinking mode="x">, [THINK], {think}, ◁think▷, <|thinking|>, <|begin_of_thought|>,
# <|START_THINKING|>, <unused94>thought and <|channel>thought of Gemma; and the same closed.
_MARK = re.compile(
  rf"\\?<\s*(?P<close>/?)\s*(?P<way0>{_WAY})?{_WORD}(?:\s[^<>]*)?(?P<empty>/?)\s*\\?>|"
  rf"\[(?P<close2>/?)(?P<way3>{_WAY})?{_PLAIN_WORD}\]|\{{(?P<close5>/?){_PLAIN_WORD}\}}|"
  rf"◁(?P<close3>/?){_WORD}▷|"
  rf"<[|｜](?P<close4>/?)(?P<way>{_WAY})?{_WORD}(?P<way2>_(?:start|end))?[|｜]>|"
  rf"<unused94>thought|<\|channel>\s*{_WORD}|(?P<close6><unused95>|<channel\|>)|"
  # What is left of <|im_start|>think, and what Ollama's console prints.
  r"<\|im_start\|>\s*think\w*|(?P<close7><\|im_start\|>\s*(?:answer|final)\b)|"
  r"^\s*Thinking\.\.\.[ \t]*$|(?P<close8>^\s*\.\.\.\s*done thinking\.?[ \t]*$)",
  re.IGNORECASE | re.MULTILINE,
)
# Blocks that some front ends put thoughts into, maybe unfinished.
_BLOCK = re.compile(
  rf"<details[^>]*\b(?:type|class)=\W?{_WORD}[^>]*>.*?(?P<end></details>|\Z)|"
  rf"<details[^>]*>\s*<summary>[^<]*\b{_WORD}\b.*?(?P<end2></details>|\Z)|"
  rf"^[ \t]*(?P<fence>```|~~~)[ \t]*{_WORD}[ \t]*\n.*?(?P<end3>(?P=fence)|\Z)",
  re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
# Other tags around a part of an answer; those of HTML and those that may hold descriptions stay.
_TAG = re.compile(r"<(?P<tag>[A-Za-z][\w:.-]*)(?:\s[^<>]*)?>.*?</(?P=tag)\s*>", re.DOTALL)
_KEPT_TAG = re.compile(
  r"(?:ol|ul|li|p|b|i|u|s|em|strong|mark|small|sub|sup|table|t[rdh]|thead|tbody|div|span|html|body|"
  r"main|section|article|code|pre|h\d|a|font|dl|dt|dd|details|root|xml|data|text|content|assistant|"
  r"\w*(?:answer|output|response|final|result|solution|description|sentence|item|list|json)\w*)",
  re.IGNORECASE,
)
# A model's words before what it thinks.
_OPENER = re.compile(
  r"\s*(?:(?i:here(?:['’]s| is| are) my (?:thought process|thoughts|thinking|reasoning)"
  r"(?: steps)?\s*:)|analysis(?=[A-Z]))"
)
# The channels of gpt-oss: what stands in 'final' is the answer, all others are thoughts.
_CHANNEL = re.compile(
  r"<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>",
  re.IGNORECASE,
)
_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>", re.IGNORECASE)
# The same where the marks are lost, as a tokenizer drops special tokens.
_BARE_CHANNELS = re.compile(r"\s*analysis.*?assistant\s*final(?=\W|[A-Z])", re.DOTALL)
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
  r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?s>|<(?:pad|eos|bos|unk|(?:start|end)_of_turn)>|\[/?(?:INST|ANSWER|OUTPUT|RESPONSE)\]"
)
_WHAT = r"(?:answer|list|output|response|version|sentences|descriptions)"
# 'Final answer:', '## Answer', '[BEGIN FINAL RESPONSE]'.
_FINAL = re.compile(
  r"^[\W_]*(?:(?:and )?(?:here(?:['’]s| is| are) )?(?:begin |my |the |your )?"
  rf"(?:final|actual|revised|improved|polished|corrected) {_WHAT}|answer|response|output|revised|"
  r"here(?:['’]s| is) my response)[*_]*\s*(?::[*_]*|\][ \t]*|[\s#*_=-]*$)",
  re.IGNORECASE | re.MULTILINE,
)
_FINAL_END = re.compile(r"\[END FINAL RESPONSE\].*", re.DOTALL)
# Keys of JSON whose values are thoughts.
_THOUGHT_KEY = re.compile(rf"(?:{_WORD}|notes?|steps?)", re.IGNORECASE)


def answer_in(text: str) -> str:
  """What is left of a model's text without its thoughts, marks and wrappers.

  What stands before a closing mark that nothing opened is a thought too: the template opened it.

  Raises:
    Unusable: it ends amid its thoughts, or holds nothing but thoughts.
  """
  text = _unescaped(text)
  blocks = list(_BLOCK.finditer(text))
  cut = any(not (block["end"] or block["end2"] or block["end3"]) for block in blocks)
  kept, opened, thought = _outside(_final_channel(_BLOCK.sub("", text)))
  opened = opened or cut
  bare = _SPECIAL.sub("", kept)
  kept = _wrapped(_untagged(kept)).strip()
  if _OPENER.match(bare) and not _FINAL.search(bare):
    raise Unusable("it ends amid its thoughts")
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
    or re.fullmatch(
      r"<\|(?:channel|message|start|end|constrain)\|>|<unused9[45]>|<\|channel>|<channel\|>",
      token.strip(),
    )
  )


def opening_in(prompt: str) -> str:
  """The mark with which a prompt opens the model's thoughts, '' without one."""
  found = list(_MARK.finditer(prompt.rstrip()))
  last = found[-1] if found else None
  ends = last is not None and last.end() == len(prompt.rstrip()) and not _closes(last)
  return last[0] if last is not None and ends else ""


def is_key(key: str) -> bool:
  """Whether a key of a JSON object says that its value is a thought."""
  return bool(_THOUGHT_KEY.fullmatch(key.strip()))


def _untagged(text: str) -> str:
  """A text without what stands in tags of unknown names, unless nothing else does.

  A name that occurs again and again marks the items of a list.
  """
  tags = [found["tag"].lower() for found in _TAG.finditer(text)]
  left = _TAG.sub(
    lambda found: (
      found[0] if _KEPT_TAG.fullmatch(found["tag"]) or tags.count(found["tag"].lower()) > 1 else ""
    ),
    text,
  )
  return left if re.search(r"\w\W+\w", left) else text


def _unescaped(text: str) -> str:
  text = re.sub(rf"＜(/?{_WORD})＞", r"<\1>", text, flags=re.IGNORECASE)
  escaped = re.search(rf"&lt;/?{_WORD}&gt;", text, re.IGNORECASE)
  return text.replace("&lt;", "<").replace("&gt;", ">") if escaped else text


def _closes(mark: re.Match) -> bool:
  ways = f"{mark['way0'] or ''}{mark['way'] or ''}{mark['way2'] or ''}{mark['way3'] or ''}".lower()
  return any(mark[f"close{k}"] for k in ("", 2, 3, 4, 5, 6, 7, 8)) or "end" in ways


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
  text = _FINAL_END.sub("", _SPECIAL.sub("", text))
  wrappers = [found["text"] for found in _WRAPPER.finditer(text) if found["text"].strip()]
  text = wrappers[-1] if wrappers else text
  finals = [found.end() for found in _FINAL.finditer(text) if text[found.end() :].strip()]
  return text[finals[-1] :] if finals else text
