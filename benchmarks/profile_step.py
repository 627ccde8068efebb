"""Where the time of a training step goes: a trace of `train_step.py`'s, by kind of work.

  python benchmarks/profile_step.py [--size small] [--batch 32] [--steps 3] [--dtype float32]
  python benchmarks/profile_step.py --trace FOLDER    # keeps the trace, for TensorBoard or Perfetto

The trace is jax.profiler's. Each instruction that XLA runs has the name of the layer it comes from;
one that XLA fused from several has that of the last. Instants at which several instructions run
are shared among them, so that the rows add up to the steps' time. "Host and waiting" is when none
runs. The same command reads the trace of a GPU.
"""

import argparse
import glob
import re
import tempfile
from collections import Counter
from collections.abc import Iterable

import jax
import numpy as np
import side_by_side
import train_step

from lafg_jax.models.options import SIZES

IDLE = "host and waiting"
# The first that is found in an instruction's kind and layer names its row.
KINDS = (
  ("attention: its two products", r"attention/(?!query|key|value|out).*dot_general"),
  ("attention: softmax", r"attention/.*(reduce_|exp|div|sub|mul|max|softmax|neg|select)[\w_]*$"),
  ("attention: changes of layout", r"attention/(?!query|key|value|out).*|attention/.*transpose$"),
  ("products of layers", r"(dot_general|conv_general_dilated)$|^(dot|convolution) "),
  ("LayerNorm", r"/norm(_1|_2)?/"),
  ("GELU", r"erf|tanh|gelu|block_\d+/(mul|div|exp|neg|integer_pow|sqrt)$"),
  ("optimiser and norms of gradients", r" jit\(\w+\)/[^/]*$"),
  ("copies without a layer", r"^copy|^transpose|transpose$"),
)


def instructions(text: str) -> dict[str, str]:
  """Of each instruction of a compiled program: its kind and the layer it comes from.

  A fusion without a layer that holds a convolution counts as one: they are gradients of kernels.
  """
  found, within, with_products = {}, "", set()
  for line in text.splitlines():
    if head := re.match(r"(?:ENTRY )?%([\w.-]+) \(.*{$", line):
      within = head[1]
    # name = type kind(operands), calls=%computation, metadata={op_name="layer" ...}
    match = re.match(r"\s*(?:ROOT )?%([\w.-]+) = .*?(?<=[\])}]) ([\w-]+)\(", line)
    if match:
      kind, layer = match[2], re.search(r'op_name="([^"]*)"', line)
      called = re.search(r"calls=%([\w.-]+)", line)
      if kind in ("dot", "convolution"):
        with_products.add(within)
      if not layer and called and called[1] in with_products:
        kind = "convolution"
      found[match[1]] = f"{kind} {layer[1] if layer else ''}"
  return found


def row_of(instruction: str) -> str:
  return next((row for row, words in KINDS if re.search(words, instruction)), "other")


def innermost(events: Iterable[tuple[int, int, str]]) -> Iterable[tuple[int, int, str]]:
  """Of nested (start, stop, row) of one thread: each instant goes to the innermost."""
  open_: list[tuple[int, str]] = []
  last = 0
  for start, stop, row in sorted(events, key=lambda x: (x[0], -x[1])):
    while open_ and open_[-1][0] <= start:
      end, ended = open_.pop()
      if end > last:
        yield last, end, ended
        last = end
    if open_ and start > last:
      yield last, start, open_[-1][1]
    last = max(last, start)
    open_.append((stop, row))
  while open_:
    end, ended = open_.pop()
    if end > last:
      yield last, end, ended
      last = end


def shares(spans: Iterable[tuple[int, int, str]]) -> Counter:
  """Nanoseconds of each row; an instant at which several run is shared among them."""
  edges = sorted(edge for start, stop, row in spans for edge in ((start, 1, row), (stop, -1, row)))
  running: Counter = Counter()
  total: Counter = Counter()
  last = 0
  for at, change, row in edges:
    count = running.total()
    if not count:
      total[IDLE] += at - (last or at)
    for name, times in running.items():
      total[name] += (at - last) * times / count if count else 0
    running[row] += change
    last = at
  return total


def read(folder: str, program: dict[str, str]) -> Counter:
  """Nanoseconds of each row of a trace, summed over its steps."""
  (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
  spans: list[tuple[int, int, str]] = []
  for plane in jax.profiler.ProfileData.from_file(path).planes:
    for line in plane.lines:
      events = []
      for event in line.events:
        name = event.name
        if name not in program and plane.name.startswith("/device:"):
          # A GPU's kernels have names of their own.
          name = dict(event.stats).get("hlo_op", "")
        if name in program:
          start = int(event.start_ns)
          events.append((start, start + int(event.duration_ns), row_of(program[name])))
      spans += innermost(events)
  return shares(spans)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", default="small", choices=SIZES)
  parser.add_argument("--batch", type=int, default=32)
  parser.add_argument("--steps", type=int, default=3)
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--trace", help="a new folder for the trace")
  args = parser.parse_args()
  images = np.random.default_rng(0).integers(0, 256, (args.batch, 224, 224, 3), np.uint8)
  compiled, step = train_step.our_program(args.size, args.batch, args.dtype, images)
  step()
  options = jax.profiler.ProfileOptions()
  # Python's own calls would take longer than they do, and fill the trace.
  options.python_tracer_level = 0
  with tempfile.TemporaryDirectory() as folder:
    folder = args.trace or folder

    def traced() -> None:
      with jax.profiler.trace(folder, profiler_options=options):
        for _ in range(args.steps):
          step()

    machine = side_by_side.machine("jax")
    seconds = min(side_by_side.seconds_of(step, args.steps))
    traced()
    found = read(folder, instructions(compiled.as_text()))
  milliseconds = {row: x / 1e6 / args.steps for row, x in found.most_common()}
  print(machine, jax.default_backend())
  print(f"ViT of size {args.size}, batch of {args.batch}, {args.dtype}")
  print(f"{seconds * 1e3:.0f} ms a step without a trace, the quickest of {args.steps}; with one:")
  print("| | ms | share |\n|---|---|---|")
  for row, x in milliseconds.items():
    print(f"| {row} | {x:.0f} | {x / sum(milliseconds.values()):.1%} |")
  print(f"| all | {sum(milliseconds.values()):.0f} | |")
  kept = {"milliseconds": milliseconds, "seconds_without_trace": seconds}
  side_by_side.keep(f"profile-{args.size}-{args.dtype}-{jax.default_backend()}", machine, kept)


if __name__ == "__main__":
  main()
