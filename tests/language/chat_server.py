"""A chat-completions endpoint on 127.0.0.1 that behaves well or badly; run by tests, as a process.

python chat_server.py LATENCY_SECONDS

Prints its port. What a class gets depends on its name: "Kind 7 refusal" is always refused, "Kind 3
status-500 once" answers 500 to its first request. GET /requests lists [class, start, status] of
all that was asked so far.
"""

import email.utils
import http.server
import json
import re
import sys
import threading
import time

LATENCY = float(sys.argv[1])
SENTENCES = ("has a round head of gold", "shows four bars on the wing", "differs by a short tail")

lock = threading.Lock()
requests: list[list] = []


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  # Small answers leave at once.
  disable_nagle_algorithm = True
  wbufsize = -1

  def log_message(self, *args):
    pass

  def do_GET(self):
    with lock:
      self.send(200, json.dumps(requests))

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    name = re.search(r"sentences about: (.*)", body["messages"][0]["content"])[1]
    with lock:
      record = [name, time.monotonic(), "begun"]
      earlier = sum(request[0] == name for request in requests)
      requests.append(record)
    time.sleep(LATENCY)
    once = name.endswith("once")
    fault = name.split()[2] if len(name.split()) > 2 and not (once and earlier) else ""
    record[2] = fault or "answered"
    self.behave(fault, name)

  def behave(self, fault, name):
    key = self.headers["Authorization"]
    lines = [f"{name} {sentence}." for sentence in SENTENCES]
    good = "Here you are:\n" + "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    if fault.startswith("status-"):
      self.send(int(fault[7:]), json.dumps({"error": {"message": f"no, and your key is {key}"}}))
    elif fault == "pause":
      self.send(429, "{}", {"Retry-After": "1.2"})
    elif fault == "date":
      self.send(503, "{}", {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)})
    elif fault == "late":
      time.sleep(3)
      self.send(200, completion(good))
    elif fault == "closed":
      self.close_connection = True
      self.connection.close()
    elif fault == "cut":
      self.close_connection = True
      self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
      self.wfile.write(b'Content-Length: 4000\r\n\r\n{"choices": [{"mess')
      self.wfile.flush()
      self.connection.close()
    else:
      self.send(200, BODIES.get(fault) or completion(good))

  def send(self, status, text, headers=None):
    data = text.encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(data)))
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(data)
    self.wfile.flush()


def completion(text, finish_reason="stop"):
  message = {"role": "assistant", "content": text}
  choice = {"index": 0, "message": message, "finish_reason": finish_reason}
  return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]})


BODIES = {
  "broken": '{"id": "1", "choices": [{"message"',
  "page": "<html>busy</html>",
  "shape": '{"choices": []}',
  "number": '{"choices": [{"message": {"content": 3}}]}',
  "list": "[1, 2]",
  "refusal": completion("I'm sorry, but as an AI I can't see it. \ud800"),
  "empty": completion("  "),
  "long": completion('["It has a long', "length"),
  "prose": completion("It is a nice kind of thing, and it has a red head."),
}


class Server(http.server.ThreadingHTTPServer):
  request_queue_size = 256
  daemon_threads = True

  def handle_error(self, request, client_address):
    # Clients are killed in these tests.
    pass


if __name__ == "__main__":
  server = Server(("127.0.0.1", 0), Handler)
  print(server.server_address[1], flush=True)
  server.serve_forever()
