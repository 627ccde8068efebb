"""Batches made by worker processes: one that dies is replaced, and none outlives its parent.

Each worker sends its batches, as bytes, through a pipe of its own of which the parent holds the
reading end alone. So the death of a worker ends a read at once, however much of a batch had
arrived; with a queue, whose writing end the parent holds too, that read would wait for ever. Arrays
do not go through shared memory: containers keep it small, and a kill leaves segments behind.
"""

import functools
import multiprocessing

# Its exit handler waits for workers; those that are registered after it come first.
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
# Deaths in a row, without a batch between them, that are put down to bad luck.
RESTARTS = 3
# Seconds between looks at whether anybody still waits for a batch.
_LOOK_S = 0.1


def batches(make: Callable[[int], Any], numbers: range, workers: int, ahead: int) -> Iterator[Any]:
  """Yields make(n) for each of `numbers`, in order, made by `workers` processes.

  Batch k comes from worker k % workers. A worker that dies is replaced, with a warning, by one that
  starts at the batch that did not arrive. Closing the iterator, or dropping it, ends the workers.

  Args:
    make: a function of the number alone, of which two calls give the same; cloudpickle takes it.
    workers: processes, 1 or more.
    ahead: batches that each of them is ahead of what was asked for, 1 or more.

  Raises:
    UserError: one worker has died over and over at the same batch.
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
    """Ends the worker at once: nothing that it holds needs a farewell."""
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
      # Whatever it is, it belongs to whoever waits for the batch.
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
        self._mourn(done, deaths)
        reader = self._start(self.numbers[done:])
        continue
      done, deaths = done + 1, 0
      good, value = pickle.loads(message)
      self._put((good, value))
      if not good:
        # It ends, of its own accord: nobody comes for the batches after that.
        break
    reader.close()

  def _mourn(self, done: int, deaths: int) -> None:
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
  """The life of a worker: it sends (True, batch), or (False, error) in place of the first failure.

  A signal to the whole process group (Ctrl-C, Slurm) is for the parent, which ends its workers when
  it is done; and a parent that was killed cannot tell them, so they watch for it.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()
  send = functools.partial(_send, writer)
  try:
    function = cloudpickle.loads(make)
    for number in numbers:
      send((True, function(number)))
  except BrokenPipeError:
    return
  except Exception as error:  # noqa: BLE001
    # Of any kind: it is raised again where the batch was asked for.
    error.add_note("in a data worker:\n" + traceback.format_exc())
    send((False, error))


def _send(writer: Any, item: tuple[bool, Any]) -> None:
  writer.send_bytes(pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL))


def _exit_after(parent: Any) -> None:
  parent.join()
  os._exit(1)
