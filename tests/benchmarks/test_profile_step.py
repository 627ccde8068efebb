"""The sums of a trace by hand, and the rows that real instructions go to."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import profile_step
  return profile_step


def test_each_instant_is_counted_once(script):
  # a holds b, which holds c; nothing runs from 10 to 12.
  one = script.innermost([(12, 15, "d"), (3, 4, "c"), (0, 10, "a"), (2, 5, "b")])
  spans = list(one)
  assert sorted(spans) == [
    *((0, 2, "a"), (2, 3, "b"), (3, 4, "c"), (4, 5, "b"), (5, 10, "a"), (12, 15, "d"))
  ]
  # Another thread runs from 1 to 3 and from 12 to 13.
  found = script.shares([*spans, (1, 3, "x"), (12, 13, "x")])
  assert dict(found) == {
    "a": 6.5, "b": 1.5, "c": 1, "d": 2.5, "x": 1.5, script.IDLE: 2
  }  # fmt: skip
  assert found.total() == 15


def test_the_layer_of_an_instruction_is_read_from_the_program(script):
  def attention(x):
    with jax.named_scope("block_0/attention/query"):
      y = x @ x
    with jax.named_scope("block_0/attention"):
      return jax.nn.softmax(y @ x)

  text = jax.jit(attention).lower(jnp.ones((16, 16))).compile().as_text()
  rows = {script.row_of(x) for x in script.instructions(text).values()}
  assert {"products of layers", "attention: its two products", "attention: softmax"} <= rows


def test_a_fusion_without_a_layer_is_what_it_holds(script):
  text = """
%fused.1 (a: f32[4,8], b: f32[8,4]) -> f32[4,4] {
  %a = f32[4,8]{1,0} parameter(0)
  ROOT %c = f32[4,4]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

ENTRY %main (a: f32[4,8], b: f32[8,4]) -> f32[4,4] {
  %ynn.1 = f32[4,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused.1, backend_config={}
  %other.2 = f32[4,4]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused.2
  ROOT %t.3 = (f32[4,4]{1,0}) tuple(%ynn.1)
}
"""
  found = script.instructions(text)
  assert found["ynn.1"] == "convolution " and script.row_of(found["ynn.1"]) == "products of layers"
  assert script.row_of(found["other.2"]) == "other" and found["t.3"] == "tuple "


@pytest.mark.parametrize(
  ("instruction", "row"),
  [
    ("fusion jit(step)/transpose(jvp(E))/backbone/block_3/mlp_1/dot_general", "products of layers"),
    ("fusion jit(step)/jvp(E)/backbone/patch/conv_general_dilated", "products of layers"),
    ("dot jit(step)/transpose(jvp(E))/backbone/block_3/mlp_1/transpose", "products of layers"),
    ("fusion jit(step)/jvp(E)/backbone/block_3/attention/key/dot_general", "products of layers"),
    ("fusion jit(step)/jvp(E)/block_3/attention/cond/bhtd,bhsd->bhts/dot_general",
     "attention: its two products"),
    ("fusion jit(step)/jvp(E)/block_3/attention/cond/reduce_max", "attention: softmax"),
    ("fusion jit(step)/jvp(E)/block_3/attention/cond/transpose", "attention: changes of layout"),
    ("fusion jit(step)/jvp(E)/backbone/block_11/norm_2/rsqrt", "LayerNorm"),
    ("fusion jit(step)/jvp(E)/backbone/block_3/erfc", "GELU"),
    ("fusion jit(step)/integer_pow", "optimiser and norms of gradients"),
    ("copy ", "copies without a layer"),
    ("fusion jit(step)/jvp(E)/backbone/block_3/add", "other"),
  ],
)  # fmt: skip
def test_rows(script, instruction, row):
  assert script.row_of(instruction) == row
