"""A headless Chromium that a test drives by its DevTools protocol, over a pipe without a port."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

BROWSER = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
  *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
  *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
  *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1"),
)


class Browser:
  """One tab. `errors`: what the console complained of; `asked`: the addresses that were loaded."""

  def __init__(self, profile, timeout=240):
    (theirs_in, self.to), (self.come, theirs_out) = os.pipe(), os.pipe()
    self.timeout, self.buffer, self.number = timeout, b"", 0
    self.errors, self.asked, self.session = [], [], None

    # Chromium reads its file 3 and writes its file 4. A function between fork and exec would not do
    # beside jax's threads.
    connect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = [BROWSER, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    self.process = subprocess.Popen(
      ["bash", "-c", connect, "bash", *command, "about:blank"],
      pass_fds=(theirs_in, theirs_out),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in), os.close(theirs_out)
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
    self.session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def close(self):
    self.process.kill()
    self.process.wait()
    os.close(self.to), os.close(self.come)

  def call(self, method, **params):
    self.number += 1
    message = {"id": self.number, "method": method, "params": params}
    message |= {"sessionId": self.session} if self.session else {}
    os.write(self.to, json.dumps(message).encode() + b"\0")
    while True:
      found = self._next()
      if found.get("id") == self.number:
        assert "error" not in found, (method, found["error"])
        return found["result"]
      self._note(found)

  def _next(self):
    end = time.monotonic() + self.timeout
    while b"\0" not in self.buffer:
      ready, _, _ = select.select([self.come], [], [], max(end - time.monotonic(), 0))
      assert ready, "chromium does not answer"
      self.buffer += os.read(self.come, 1 << 20)
    line, _, self.buffer = self.buffer.partition(b"\0")
    return json.loads(line)

  def _note(self, event):
    said, method = event.get("params", {}), event.get("method")
    if method == "Runtime.exceptionThrown":
      details = said["exceptionDetails"]
      self.errors.append(details.get("exception", {}).get("description") or details["text"])
    elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
      self.errors.append(" ".join(str(x.get("value", x)) for x in said["args"]))
    elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
      self.errors.append(said["entry"]["text"])
    elif method == "Network.requestWillBeSent" and not said["request"]["url"].startswith("data:"):
      self.asked.append(said["request"]["url"])

  def open(self, page, width=1280, height=1600, dark=False, touch=False):
    """Opens a file and waits until its script is done; returns the seconds until then."""
    self.errors, self.asked = [], []
    self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
              deviceScaleFactor=1, mobile=touch)  # fmt: skip
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    self.call("Emulation.setEmulatedMedia", features=features)
    began = time.monotonic()
    self.call("Page.navigate", url=f"file://{page}")
    self.wait("document.documentElement?.dataset.drawn !== undefined")
    return time.monotonic() - began

  def cpu(self):
    """Seconds of processor time of all pages so far."""
    session, self.session = self.session, None
    found = self.call("SystemInfo.getProcessInfo")["processInfo"]
    self.session = session
    return sum(one["cpuTime"] for one in found if one["type"] == "renderer")

  def js(self, text):
    found = self.call("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in found, found["exceptionDetails"]
    return found["result"].get("value")

  def wait(self, text):
    end = time.monotonic() + self.timeout
    while not self.js(text):
      assert time.monotonic() < end and not self.errors, (text, self.errors)
      time.sleep(0.02)

  def press(self, key, text=""):
    code = {"Tab": 9, "Enter": 13, "Escape": 27}.get(key, 0)
    about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    about |= {"text": text or {"Enter": "\r"}.get(key, "")}
    self.call("Input.dispatchKeyEvent", type="keyDown", **about)
    self.call("Input.dispatchKeyEvent", type="keyUp", **about)

  def move(self, x, y):
    self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

  def shot(self, path, whole=False):
    found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
    path.write_bytes(base64.b64decode(found["data"]))
