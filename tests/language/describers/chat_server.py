"""A chat-completions endpoint on 127.0.0.1 that behaves well or badly; run by tests, as a process.

python chat_server.py LATENCY_SECONDS [TOGETHER TOTAL]

Prints its port. What a class gets depends on its name: "Kind 7 refusal" is always refused, "Kind 3
status-500 once" answers 500 to its first request. GET /requests lists [class, start, status] of
all that was asked so far. GET /kill/PID/COUNT/SECONDS has the server kill that process so many
seconds after the COUNT-th request from now. With TOGETHER no request is answered before that many
stand open, or all that are left of TOTAL; GET /open lists the most that ever did, and whether too
few did for a minute, after which all are answered.
"""

import email.utils
import http.server
import json
import os
import re
import signal
import sys
import threading
import time

LATENCY = float(sys.argv[1])
SENTENCES = ("has a round head of gold", "shows four bars on the wing", "differs by a short tail")

# Far longer than any client here needs to send its next request.
PATIENCE = 60.0

lock = threading.Lock()
requests: list[list] = []
# (number of the request, process, seconds after it).
strikes: list[tuple[int, int, float]] = []


class Gate:
  """Lets one request through whenever `together` stand open, or all that are left of `total`."""

  def __init__(self, together: int = 0, total: int = 0) -> None:
    self.together, self.left, self.changed = together, total, threading.Condition()
    self.standing = self.most = self.impatient = 0

  def wait(self) -> None:
    with self.changed:
      self.standing += 1
      self.most = max(self.most, self.standing)
      self.changed.notify_all()
      enough = lambda: self.standing >= min(self.together, self.left)  # noqa: E731
      if not self.changed.wait_for(enough, PATIENCE):
        self.impatient, self.together = self.impatient + 1, 0
      self.standing -= 1
      self.left -= 1
      self.changed.notify_all()


gate = Gate(*map(int, sys.argv[2:]))


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  # Small answers leave at once.
  disable_nagle_algorithm = True
  wbufsize = -1

  def log_message(self, *args):
    pass

  def do_GET(self):
    with lock:
      if self.path.startswith("/kill/"):
        pid, count, seconds = self.path.split("/")[2:]
        strikes.append((len(requests) + int(count), int(pid), float(seconds)))
      told = [gate.most, gate.impatient] if self.path == "/open" else requests
      self.send(200, json.dumps(told))

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    name = re.search(r"sentences about: (.*)", body["messages"][0]["content"])[1]
    with lock:
      record = [name, time.monotonic(), "begun"]
      earlier = sum(request[0] == name for request in requests)
      requests.append(record)
      struck = [(pid, seconds) for count, pid, seconds in strikes if count == len(requests)]
    for pid, seconds in struck:
      time.sleep(seconds)
      os.kill(pid, signal.SIGKILL)
    gate.wait()
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
      # Until the test ends.
      time.sleep(10_000)
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
