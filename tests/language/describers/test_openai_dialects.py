"""Endpoints that take, refuse and answer what OpenAI's own does not."""

import http.server
import json
import threading

import pytest

from lafg_jax.language.describers import describe, openai_api
from lafg_jax.language.describers import openai_dialects as dialects
from lafg_jax.tasks.class_retrieval import default
from lafg_jax.utils.errors import Incomplete, UserError

GOOD = json.dumps([f"The wing has pale bar number {i} across it." for i in range(3)])


@pytest.fixture
def described(tmp_path, monkeypatch, logged):
  """`described(answer, suffix of the URL)` -> ([requests], the sentences or the error).

  `answer(request, path)` -> (HTTP status, JSON or text, headers).
  """
  monkeypatch.setattr(openai_api, "_FIRST_DELAY", 0.01)
  servers = []

  def run(answer, suffix="/v1", names=("Owl",), retries=1):
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
      def log_message(self, *args):
        pass

      def do_GET(self):
        self.reply(*answer({}, self.path))

      def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        requests.append(request)
        self.reply(*answer(request, self.path))

      def reply(self, status, value, kind="application/json", headers=()):
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        for key, text in (("Content-Type", kind), ("Content-Length", len(body)), *headers):
          self.send_header(key, str(text))
        self.end_headers()
        self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    servers.append(server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    language = default.get_config().language
    language.update(describer="openai", llm="m", sentences_per_class=3, num_neighbours=0)
    language.update(base_url=f"http://127.0.0.1:{server.server_port}{suffix}", retries=retries)
    workdir = tmp_path / f"run{len(servers)}"
    try:
      path = describe.run(language, workdir, list(names))
    except (Incomplete, UserError) as error:
      return requests, str(error)
    return requests, path.read_text(encoding="utf-8")

  yield run
  for server in servers:
    server.shutdown()
    server.server_close()


def completion(text=GOOD, finish="stop", **message):
  return 200, {"choices": [{"message": {"content": text, **message}, "finish_reason": finish}]}


def openai_refuses(name, use=""):
  message = f"Unsupported parameter: '{name}' is not supported with this model. {use}"
  return 400, {"error": {"message": message, "param": name, "code": "unsupported_parameter"}}


def pydantic_refuses(name):
  detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs"}]
  return 422, {"detail": detail}


def text_refuses(name):
  return 400, f"unknown field {name}", "text/plain"


def error_in_200(name):
  return 200, {"error": {"message": f"{name} is not allowed here", "code": "400"}}


@pytest.mark.parametrize("refuse", [openai_refuses, pydantic_refuses, text_refuses, error_in_200])
@pytest.mark.parametrize("names", [["max_tokens"], ["temperature"], ["max_tokens", "temperature"]])
def test_what_an_endpoint_refuses_is_replaced_or_left_out(described, logged, refuse, names):
  def answer(request, path):
    for name in names:
      if name in request:
        return refuse(name)
    return completion()

  requests, written = described(answer, names=[f"Owl {i}" for i in range(8)])
  assert written.count("pale bar") == 24
  assert ("max_completion_tokens" in requests[-1]) == ("max_tokens" in names)
  assert not set(names) & set(requests[-1])
  # Said once, however many requests were refused together.
  assert logged.text.count("does not take") == len(names)


def test_every_limit_of_tokens_may_be_refused(described):
  def answer(request, path):
    name = next((x for x in ("max_completion_tokens", "max_tokens") if x in request), "")
    return openai_refuses(name) if name else completion()

  requests, written = described(answer)
  assert "pale bar" in written and "temperature" in requests[-1]


def test_an_endpoint_that_only_streams_is_read_as_a_stream(described):
  def answer(request, path):
    if not request.get("stream"):
      return 400, {"error": {"message": "This model only support stream mode."}}
    parts = [{"reasoning_content": "Draft of a thought."}, {"content": GOOD[:20]}]
    rows = [{"choices": [{"delta": part}]} for part in [*parts, {"content": GOOD[20:]}]]
    rows.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(row)}\n\n" for row in rows) + "data: [DONE]\n\n"
    return 200, body, "text/event-stream"

  assert described(answer)[1].count("pale bar") == 3


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "Draft"}]}]
PARTS += [{"type": "text", "text": GOOD[:9]}, {"type": "output_text", "text": GOOD[9:]}]


@pytest.mark.parametrize(
  ("reply", "said"),
  [
    (completion(PARTS), "pale bar"),
    (completion([GOOD]), "pale bar"),
    (completion(GOOD, reasoning_content='["Draft a b", "Draft c d", "Draft e f"]'), "pale bar"),
    (completion(None, refusal="no birds"), "a refusal"),
    (completion([{"type": "refusal", "refusal": "no birds"}]), "a refusal"),
    (completion("", reasoning_content=GOOD), "amid its thoughts"),
    (completion(None, "length", reasoning=GOOD), "max_tokens, amid its thoughts"),
    (completion("", "length"), "max_tokens"),
    (completion(None, "content_filter"), "content filter"),
    (completion(None), "it is empty"),
    ((200, {"error": {"message": "out of memory"}}), "out of memory"),
    ((200, {"error": "busy"}), "busy"),
    ((400, {"error": {"message": "The model has crashed."}}), "HTTP 400: The model has crashed"),
    ((502, "<html><title>Bad gateway</title><p>x", "text/html"), "an HTML page .Bad gateway."),
    ((200, "<!DOCTYPE html><h1>Log in</h1>", "text/html"), "an HTML page .Log in. came"),
    ((429, {"error": {"message": "no", "code": "insufficient_quota"}}), "insufficient_quota|no"),
    # How vendors name an answer that was cut off, or filtered.
    *((completion(GOOD, x), "cut off") for x in ("max_tokens", "MAX_TOKENS", "model_length")),
    *((completion(None, x), "content filter") for x in ("SAFETY", "content_filtered")),
    (completion("", "error"), "finish_reason 'error'"),
    ((200, {"choices": [{"error": {"message": "upstream died"}, "message": {"content": GOOD}}]}),)
    + ("upstream died",),
    # Errors of other shapes.
    ((400, [{"error": {"message": "in a list"}}]), "HTTP 400: in a list"),
    ((400, {"detail": "a text"}), "HTTP 400: a text"),
    ((400, {"errors": [{"message": "one of many"}]}), "HTTP 400: one of many"),
    ((400, {"code": 7, "msg": "short"}), "HTTP 400: short"),
    ((200, {"code": 7, "msg": "bad key"}), "no chat completion: bad key"),
    ((200, {"choices": None, "base_resp": {"status_msg": "login fail"}}), "login fail"),
    ((402, {"error": {"message": "Insufficient credits"}}), "does not answer .*credits"),
    ((400, {"error": {"message": "red \x1b[31m text"}}), "HTTP 400: red .31m text"),
    # Sentences where others have none.
    (completion({"list": json.loads(GOOD)}), "pale bar"),
    (completion(json.loads(GOOD)), "pale bar"),
    (completion(None, tool_calls=[{"function": {"name": "f", "arguments": GOOD}}]), "pale bar"),
  ],
)
def test_the_reason_stands_on_the_console(described, reply, said):
  import re

  _, written = described(lambda request, path: reply)
  assert re.search(said, written) and "Draft" not in written
  assert "\x1b" not in written


TOO_LARGE = (
  "max_tokens is too large: {}. This model supports at most 512 completion tokens.",
  "'max_tokens' or 'max_completion_tokens' is too large: {}. This model's maximum context length "
  "is 1536 tokens and your request has 1024 input tokens ({} > 1536 - 1024).",
  "This model's maximum context length is 1536 tokens. However, you requested 2048 tokens (1024 in "
  "the messages, {} in the completion). Please reduce the length of the messages or completion.",
  "`max_tokens` must be less than or equal to `512`",
  "max_tokens: {} > 512, which is the maximum allowed number of output tokens for m",
  "`inputs` tokens + `max_new_tokens` must be <= 700. Given: 188 `inputs` and {} `max_new_tokens`",
  "参数 max_tokens 超出范围 [1, 512]",
)


@pytest.mark.parametrize("message", TOO_LARGE)
def test_a_limit_of_tokens_that_is_too_large_is_lowered(described, logged, message):
  def answer(request, path):
    limit = request.get("max_tokens", 1)
    return (
      (400, {"error": {"message": message.format(limit, limit)}}) if limit > 512 else completion()
    )

  requests, written = described(answer)
  assert "pale bar" in written and 64 <= requests[-1]["max_tokens"] <= 512
  assert "max_completion_tokens" not in requests[-1] and "with max_tokens=" in logged.text


def test_a_message_that_is_too_long_lowers_nothing(described):
  message = "This model's maximum context length is 4097 tokens; your messages resulted in 5000."
  requests, said = described(lambda request, path: (400, {"error": {"message": message}}))
  assert message in said and len(requests) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_a_stream_unasked_is_read_and_one_that_breaks_off_is_not(described, whole):
  text = GOOD if whole else "1. The wing has one bar.\n2. The wing has two bars.\n3. The wi"
  row = {"choices": [{"delta": {"content": text}}]}
  reply = 200, f"data: {json.dumps(row)}\n\n", "text/event-stream"
  requests, written = described(lambda request, path: reply)
  assert ("pale bar" if whole else "the stream broke off") in written and requests[-1]["stream"]


@pytest.mark.parametrize(
  "suffix",
  ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/chat/completions", "/v1/responses"]
  + ["/api/chat", "/api"],
)
def test_base_urls_as_people_copy_them(described, suffix):
  def answer(request, path):
    return completion() if path == "/v1/chat/completions" else (404, "404 page not found")

  assert "pale bar" in described(answer, suffix)[1]


def test_a_wrong_model_is_answered_by_those_that_are_there(described):
  def answer(request, path):
    if path.endswith("/models"):
      return 200, {"data": [{"id": "llama3.1"}, {"id": "m2"}], "object": "list"}
    return 404, {"error": {"message": "model 'm' not found"}}

  assert "it has 'm2', 'llama3.1'" in described(answer)[1]


def test_a_pause_is_read_from_either_header(described):
  for header, text in (("Retry-After", "0.3"), ("retry-after-ms", "300")):
    found = dialects.problem_of(429, "slow down", None, {header.lower(): text})
    assert found.pause == pytest.approx(0.3)


@pytest.mark.parametrize(
  ("text", "pause"),
  [("1s", 1), ("200ms", 0.2), ("2 min", 120), ("soon", 0), ("-5", 0), ("nan", 0), ("", 0)]
  + [("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 9 Oct 99999999999 07:28:00 GMT", 0)],
)
def test_a_pause_may_have_a_unit_or_make_no_sense(text, pause):
  assert dialects.seconds(text) == pytest.approx(pause)
