"""Batches made by worker processes: one that dies is replaced, and none outlives its parent.

Each worker sends its batches, as bytes, through its own pipe. The parent holds only the reading
end: the death of a worker ends a read at once, even in the middle of a batch. With a queue the
parent would hold the writing end too, and the read would wait for ever. Arrays do not go through
shared memory: it is small in containers, and a killed worker would leave its segments behind.
"""

import multiprocessing

# Its exit handler waits for workers. It is registered at import, and later handlers run before it.
import multiprocessing.util
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
from absl import logging

from lafg_jax.runtime import interrupts
from lafg_jax.utils.errors import UserError

NAME = "lafg_jax-data"
# A worker is replaced after so many deaths in a row, without a batch between them.
RESTARTS = 3
# Seconds between checks whether the batches are still wanted.
_LOOK_S = 0.1


def batches(make: Callable[[int], Any], numbers: range, workers: int, ahead: int) -> Iterator[Any]:
  """Yields make(n) for each of `numbers`, in order, made by `workers` processes.

  Batch k comes from worker k % workers. A worker that dies is replaced, with a warning, by one that
  starts at the batch that did not arrive. Closing the iterator, or dropping it, ends the workers.

  Args:
    make: a pure function of the number, which cloudpickle can pickle.
    workers: processes, 1 or more.
    ahead: batches that each process makes ahead, 1 or more.

  Raises:
    UserError: a worker has died `RESTARTS` + 1 times at the same batch.
    What make raises, with the worker's traceback as a note.
  """
  made = cloudpickle.dumps(make)
  lanes = [_Lane(made, numbers[k::workers], ahead) for k in range(min(workers, len(numbers)))]
  try:
    for lane in lanes:
      lane.thread.start()
    for k in range(len(numbers)):
      good, value = lanes[k % len(lanes)].ready.get()
      if not good:
        raise value
      yield value
  finally:
    for lane in lanes:
      lane.close()


class _Lane:
  """A worker, the thread that reads from it and replaces it, and the batches that have arrived."""

  def __init__(self, make: bytes, numbers: range, ahead: int) -> None:
    self.make, self.numbers = make, numbers
    self.ready: queue.Queue = queue.Queue(ahead)
    self.closed = False
    self.lock = threading.Lock()
    self.process: Any = None
    self.thread = threading.Thread(target=self._read, daemon=True, name=f"{NAME}-reader")

  def close(self) -> None:
    """Kills the worker: it has nothing to clean up."""
    with self.lock:
      self.closed = True
      process = self.process
    if process is not None:
      process.kill()
      process.join()
    if self.thread.is_alive() and self.thread is not threading.current_thread():
      self.thread.join(10)

  def _start(self, numbers: range) -> Any:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(
      target=_work, args=(writer, self.make, numbers), daemon=True, name=NAME
    )
    with self.lock:
      if not self.closed:
        with interrupts.born_deaf():
          process.start()
        self.process = process
    writer.close()
    return reader

  def _read(self) -> None:
    try:
      self._read_all()
    except Exception as error:  # noqa: BLE001
      # It is raised again where the batch is awaited.
      self._put((False, error))

  def _read_all(self) -> None:
    reader, done, deaths = self._start(self.numbers), 0, 0
    while done < len(self.numbers) and not self.closed:
      try:
        message = reader.recv_bytes()
      except (EOFError, OSError):
        reader.close()
        if self.closed:
          return
        deaths += 1
        self._report_death(done, deaths)
        reader = self._start(self.numbers[done:])
        continue
      done, deaths = done + 1, 0
      good, value = pickle.loads(message)
      self._put((good, value))
      if not good:
        # The worker ends itself after an error.
        break
    reader.close()

  def _report_death(self, done: int, deaths: int) -> None:
    self.process.join()
    code, number = self.process.exitcode, self.numbers[done]
    why = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    if deaths > RESTARTS:
      raise UserError(
        f"a data worker died {deaths} times in a row at batch {number} ({why}; SIGKILL often means "
        "that memory ran out): pass fewer --config.data.num_workers, or 0 to decode in threads"
      )
    logging.warning("a data worker died (%s): another one goes on from batch %d", why, number)

  def _put(self, item: tuple[bool, Any]) -> None:
    while not self.closed:
      try:
        return self.ready.put(item, timeout=_LOOK_S)
      except queue.Full:
        continue


def _work(writer: Any, make: bytes, numbers: range) -> None:
  """Runs in a worker: sends (True, batch) for each number, or (False, error) and ends.

  A signal to the whole process group (Ctrl-C, Slurm) is ignored: the parent ends its workers when
  it is done. A parent that is killed cannot do so: workers watch whether it lives.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()

  def send(item: tuple[bool, Any]) -> None:
    writer.send_bytes(pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL))

  try:
    function = cloudpickle.loads(make)
    for number in numbers:
      send((True, function(number)))
  except BrokenPipeError:
    return
  except Exception as error:  # noqa: BLE001
    error.add_note("in a data worker:\n" + traceback.format_exc())
    send((False, error))


def _exit_after(parent: Any) -> None:
  parent.join()
  os._exit(1)
