"""A page in headless Chromium, driven through its DevTools pipe: clicks, uploads, its requests.

Nothing but the browser itself is needed. Messages are JSON, each with a zero byte at its end, on
the file descriptors 3 (to the browser) and 4 (from it).
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

BROWSER = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
  *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
  *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
  *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1"),
  # Whatever is no address of this machine leads nowhere.
  *("--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"),
)


class Page:
  """One tab. `requests`: URLs that it asked for; `errors`: what its console and scripts said."""

  def __init__(self, profile: Path, size: tuple[int, int] = (1280, 900)):
    to_read, self._to = os.pipe()
    self._from, to_write = os.pipe()

    def wire() -> None:
      # Both first out of the way: either may be 3 or 4 itself.
      mine = os.dup(to_read), os.dup(to_write)
      os.dup2(mine[0], 3)
      os.dup2(mine[1], 4)

    self._process = subprocess.Popen(
      [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"],
      preexec_fn=wire,
      close_fds=False,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    self.requests: list[str] = []
    self.errors: list[str] = []
    self._numbers, self._buffer, self._session = itertools.count(1), b"", None
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
    self._session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
      self.call(f"{domain}.enable")
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    self.call("Emulation.setDeviceMetricsOverride", **metrics)

  def __enter__(self) -> "Page":
    return self

  def __exit__(self, *unused) -> None:
    self._process.kill()
    self._process.wait()
    os.close(self._to)
    os.close(self._from)

  def call(self, method: str, **params):
    """One command of the protocol and its answer."""
    number = next(self._numbers)
    message = {"id": number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    data = json.dumps(message).encode() + b"\0"
    while data:
      data = data[os.write(self._to, data) :]
    while True:
      found = self._next(120)
      if found.get("id") == number:
        assert "error" not in found, (method, found["error"])
        return found["result"]

  def _next(self, seconds: float):
    """The next message; events are kept. None where none comes in time."""
    end = time.monotonic() + seconds
    while b"\0" not in self._buffer:
      ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
      assert ready, "the browser does not answer"
      part = os.read(self._from, 1 << 20)
      assert part, "the browser has ended"
      self._buffer += part
    message, _, self._buffer = self._buffer.partition(b"\0")
    found = json.loads(message)
    self._keep(found.get("method"), found.get("params", {}))
    return found

  def _keep(self, method, params) -> None:
    if method == "Network.requestWillBeSent":
      self.requests.append(params["request"]["url"])
    elif method == "Runtime.exceptionThrown":
      self.errors.append(str(params["exceptionDetails"]))
    elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
      self.errors.append(" ".join(str(x.get("value", x)) for x in params["args"]))
    elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
      self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

  def run(self, script: str):
    """The value of an expression on the page."""
    found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in found, (script, found["exceptionDetails"])
    return found["result"].get("value")

  def wait(self, script: str, seconds: float = 120) -> None:
    """Waits until an expression is true."""
    end = time.monotonic() + seconds
    while not self.run(f"!!({script})"):
      assert time.monotonic() < end, f"{script}: {self.run('document.body.innerText')[:2000]}"
      time.sleep(0.05)

  def open(self, url: str) -> None:
    self.call("Page.navigate", url=url)
    self.wait("document.readyState === 'complete'")

  def upload(self, selector: str, path: str | os.PathLike) -> None:
    """Chooses a file in an input."""
    root = self.call("DOM.getDocument")["root"]["nodeId"]
    node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    self.call("DOM.setFileInputFiles", files=[os.fspath(path)], nodeId=node)

  def type(self, selector: str, text: str) -> None:
    """Puts a text into a field, as a person would."""
    self.run(f"document.querySelector({json.dumps(selector)}).focus()")
    self.run(f"document.querySelector({json.dumps(selector)}).select()")
    if text:
      self.call("Input.insertText", text=text)
    else:
      self.press("Delete", 46)

  def press(self, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
      more = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
      self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

  def click(self, selector: str) -> None:
    self.run(f"document.querySelector({json.dumps(selector)}).click()")

  def picture(self, path: str | os.PathLike, whole: bool = False) -> None:
    """A PNG of what the window shows, or of the whole page."""
    found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
    Path(path).write_bytes(base64.b64decode(found["data"]))
