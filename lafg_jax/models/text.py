"""The text tower of CLIP (Radford et al., ICML 2021) and SigLIP (Zhai et al., ICCV 2023) in Flax.

Its input is embeddings of tokens, so that pseudo words and prompts stand at any place of a text.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lafg_jax.models.options import Options
from lafg_jax.models.remat import rematerialised
from lafg_jax.models.vit import Block, with_prompts


class TextTower(nn.Module):
  """Embeddings of tokens to one vector per text: [B, dim] float32, not normalised.

  sizes: width, depth, heads and MLP width.
  vocabulary: how many tokens have an embedding.
  context: how many positions there are; a text may be shorter.
  dim: of the output.
  causal: a token reads those before it and itself (CLIP), or all of them (SigLIP). Neither masks
    padding: CLIP's end token never reads it, and SigLIP was trained without a mask.
  pool: 'end' reads the end token of each text (CLIP); 'last' the last position of the whole
    context, up to which a text is padded (SigLIP).
  projection_bias: SigLIP's projection has one.
  dtype: of the blocks. Parameters, positions, the final norm and the projection are float32.
  """

  sizes: tuple[int, int, int, int]
  vocabulary: int
  context: int
  dim: int
  activation: str = "quick_gelu"
  layer_norm_eps: float = 1e-5
  causal: bool = True
  pool: str = "end"
  projection_bias: bool = False
  dtype: Any = jnp.float32
  remat: str = "none"

  def setup(self) -> None:
    width, depth, num_heads, mlp_dim = self.sizes
    normal = nn.initializers.normal
    self.token_embedding = nn.Embed(self.vocabulary, width, embedding_init=normal(0.02))
    self.position_embedding = self.param(
      "position_embedding", normal(0.01), (1, self.context, width)
    )
    options, eps = Options(activation=self.activation), self.layer_norm_eps
    block = rematerialised(Block, self.remat)
    self.block = [
      block(num_heads, mlp_dim, eps, options, self.dtype, self.causal) for _ in range(depth)
    ]
    self.norm = nn.LayerNorm(epsilon=eps)
    self.projection = nn.Dense(self.dim, use_bias=self.projection_bias)

  def embed(self, ids: jax.Array) -> jax.Array:
    """Token ids [B, L] to their embeddings [B, L, width] float32, without positions."""
    return self.token_embedding(ids)

  def __call__(
    self,
    tokens: jax.Array,
    ends: jax.Array,
    prompts: jax.Array | None = None,
    at: int = 1,
    states: bool = False,
  ) -> jax.Array:
    """The features [B, dim] float32 of texts, before L2 normalisation.

    Args:
      tokens: [B, L, width], as `embed` gives them; L is at most the context. Positions are added
        here.
      ends: [B], the place of each text's end token; pool 'last' does not read it.
      prompts: [J - 1, k, width]. prompts[i] stands in place of the k tokens from `at` on before
        block i + 1, without positions; after the last of them the tokens flow on (MaPLe, Khattak et
        al., CVPR 2023).
      at: the first place that `prompts` take.
      states: every token through the final norm and the projection, [B, L, dim].

    Raises:
      ValueError: more tokens than positions or, under pool 'last', fewer; or more prompts than the
        blocks after the first.
    """
    length, depth = tokens.shape[1], self.sizes[1]
    if length > self.context or (self.pool == "last" and length != self.context):
      raise ValueError(f"{length} tokens of a text: the tower has {self.context} positions")
    if prompts is not None and len(prompts) >= depth:
      raise ValueError(f"{len(prompts)} deep prompts: {depth - 1} of {depth} blocks can take them")
    x = (tokens.astype(jnp.float32) + self.position_embedding[:, :length]).astype(self.dtype)
    for i, block in enumerate(self.block):
      if prompts is not None and 0 < i <= len(prompts):
        x = with_prompts(x, prompts[i - 1], at, replace=True)
      x = block(x)
    if not states:
      x = x[:, -1] if self.pool == "last" else x[jnp.arange(x.shape[0]), ends]
    return self.projection(self.norm(x.astype(jnp.float32)))
