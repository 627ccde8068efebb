"""Signs of life between the processes of a run: one that hangs or has ended is named in one line.

Each process has two threads. One writes `<sign> <step> <host> <what it waits for>` under its number
to the key-value store of jax's coordination service, and reads the others' signs. The other judges
them: it needs its own thread, because a call to a coordinator that hangs does not return. It ends
the process, because a wait inside a collective cannot be interrupted.
"""

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from lafg_jax.utils.errors import PeerLost

_SIGNS, _GONE, _HEARD = "lafg_jax/sign/", "lafg_jax/gone/", "lafg_jax/heard/"
_INTERVAL_S = 1.0
# After a failed collective, a process without a sign for so many intervals counts as silent.
_SILENT = 5
_GO_ON = "the same command on all processes goes on from the last checkpoint"


class _Sign(NamedTuple):
  number: str
  step: int
  host: str
  waits_for: str
  since: float


class Watch:
  """The signs of this process, number `index` of `count`, and its judgement of the others' signs.

  client: of jax's coordination service. timeout_s: the longest time without a sign or a step.
  """

  def __init__(self, client: Any, index: int, count: int, timeout_s: float) -> None:
    self.client, self.index, self.count, self.timeout_s = client, index, count, timeout_s
    # With many processes each reads the others less often.
    self.interval_s = min(_INTERVAL_S * (1 + count / 64), timeout_s / 5)
    self.step, self.waits_for = 0, ""
    self.last_beat: float | None = None
    self.last_exchange = self.begun = time.monotonic()
    self.signs: dict[int, _Sign] = {}
    self.gone: dict[int, tuple[int, str]] = {}
    self.failing = False
    self.stopped = threading.Event()
    self.exchange(next(numbers := itertools.count()))
    for work in (lambda: self._keep_exchanging(numbers), self._keep_judging):
      threading.Thread(target=work, daemon=True).start()

  def beat(self, step: int) -> None:
    """Reports that `step` has ended; from now on the next must end within the time-out."""
    self.step, self.last_beat = step, time.monotonic()

  def rest(self) -> None:
    """From now on no step is expected."""
    self.last_beat = None

  @contextlib.contextmanager
  def waiting(self, name: str) -> Iterator[None]:
    """Wraps a wait of the main thread for other processes; no step is expected meanwhile."""
    resting, self.last_beat, self.waits_for = self.last_beat, None, name
    yield
    self.waits_for = ""
    self.last_beat = None if resting is None else time.monotonic()

  def exchange(self, number: int) -> None:
    """Gives the sign with this number, and reads the others' signs."""
    sign = f"{number} {self.step} {socket.gethostname()} {self.waits_for}"
    self.client.key_value_set(f"{_SIGNS}{self.index}", sign, allow_overwrite=True)
    now = time.monotonic()
    for index, (seen, step, host, waits_for) in self._entries(_SIGNS, 3):
      before = self.signs.get(index)
      since = before.since if before and before.number == seen else now
      self.signs[index] = _Sign(seen, int(step), host, waits_for, since)
    self.gone |= {k: (int(code), message) for k, (code, message) in self._entries(_GONE, 1)}
    self.last_exchange = now

  def _entries(self, folder: str, splits: int) -> list[tuple[int, list[str]]]:
    found = self.client.key_value_dir_get(folder)
    return [(int(key.rsplit("/", 1)[1]), text.split(" ", splits)) for key, text in found]

  def _keep_exchanging(self, numbers: Iterator[int]) -> None:
    while not self.stopped.wait(self.interval_s):
      # A coordinator that fails for a moment is asked again; the judge counts the seconds.
      with contextlib.suppress(RuntimeError):
        self.exchange(next(numbers))

  def _keep_judging(self) -> None:
    while not self.stopped.wait(self.interval_s):
      verdict = self.judge(time.monotonic())
      if verdict and not self.stopped.is_set():
        code, message = verdict
        print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
        self.say_gone(message, code)
        os._exit(code)

  def judge(self, now: float) -> tuple[int, str] | None:
    """The exit code and the message about a lost process; None while all is well."""
    if self.failing:
      return None
    for index in sorted(self.gone.keys() - {self.index}):
      code, message = self.gone[index]
      return code, f"{self.name(index)} ended: {message}"
    if now - self.last_exchange > self.timeout_s:
      return self._lost(0, "does not answer", now - self.last_exchange)
    for index in self._silent(now, self.timeout_s):
      return self._lost(index, "gives no sign", now - self._since(index))
    if self.last_beat is not None and now - self.last_beat > self.timeout_s:
      return 1, self._stalled(now, now - self.last_beat)
    return None

  def _lost(self, index: int, how: str, seconds: float) -> tuple[int, str]:
    return 1, f"{self.name(index)} {how} for {seconds:.0f} s (--peer_timeout_s): {_GO_ON}"

  def _since(self, index: int) -> float:
    return self.signs[index].since if index in self.signs else self.begun

  def _silent(self, now: float, seconds: float) -> list[int]:
    others = (k for k in range(self.count) if k != self.index)
    return [k for k in others if now - self._since(k) > seconds]

  def _stalled(self, now: float, seconds: float) -> str:
    quiet = self._silent(now, 3 * self.interval_s)
    last = min(sign.step for sign in self.signs.values())
    behind = quiet or [k for k, sign in sorted(self.signs.items()) if sign.step == last]
    if not quiet and len(behind) == self.count:
      return (
        f"no step has ended for {seconds:.0f} s (--peer_timeout_s) and all {self.count} processes "
        f"stand at step {last}: look at the network between them; {_GO_ON}"
      )
    named = ", ".join(f"{self.name(k)} at step {self.signs[k].step}" for k in behind)
    return f"{named} hangs: no step has ended for {seconds:.0f} s (--peer_timeout_s); {_GO_ON}"

  def name(self, index: int) -> str:
    """'process 3 of 8 (host-b)'."""
    host = f" ({self.signs[index].host})" if index in self.signs else ""
    return f"process {index} of {self.count}{host}"

  def say_gone(self, message: str, code: int) -> None:
    """Tells the others why this process ends; process 0 waits until they have read it."""
    self.failing = True
    if time.monotonic() - self.last_exchange > _SILENT * self.interval_s:
      # A call to a coordinator that does not answer would not return.
      return
    with contextlib.suppress(RuntimeError):
      key, text = f"{_HEARD if self.gone else _GONE}{self.index}", " ".join(message.split())
      self.client.key_value_set(key, f"{code} {text}", allow_overwrite=True)
      until = time.monotonic() + 5 * self.interval_s
      # The coordinator is part of process 0: when it ends, all messages are lost.
      while self.index == 0 and time.monotonic() < until:
        self.client.key_value_set(f"{_HEARD}0", "0", allow_overwrite=True)
        heard = {k for place in (_HEARD, _GONE) for k, _ in self._entries(place, 1)}
        if len(heard) == self.count:
          return
        time.sleep(self.interval_s / 5)

  def explain(self, error: BaseException) -> PeerLost | None:
    """The error that names the silent process behind a failed collective; None without one."""
    import jax

    if not isinstance(error, jax.errors.JaxRuntimeError):
      return None
    # If that process told why it ends, the judge reads it meanwhile and ends this process.
    time.sleep((_SILENT + 2) * self.interval_s)
    first = str(error).splitlines()[0]
    for index in self._silent(time.monotonic(), _SILENT * self.interval_s):
      return PeerLost(f"{self.name(index)} ended without a word ({first}): {_GO_ON}")
    return None
