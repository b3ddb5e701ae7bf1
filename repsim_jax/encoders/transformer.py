"""The parts that every transformer here is built of: attention and the two-layer network after it.

Vaswani et al., "Attention Is All You Need" (NeurIPS 2017).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # CLIP's, from its released code
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Attention(nnx.Module):
    """Multi-head self-attention over the real tokens: softmax(q k^T / sqrt(d / h)) v, then a projection.

    Args:
        width: Features d of a token.
        num_heads: Heads h, a divisor of d.
        qkv_bias: Whether query, key and value have biases.
        rngs: Random streams of the initial weights.
    """

    def __init__(self, width: int, num_heads: int, *, qkv_bias: bool = True, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.query = nnx.Linear(width, width, use_bias=qkv_bias, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=qkv_bias, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=qkv_bias, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b t d"]:
        """Mixes tokens (b, t, d); nobody attends to padding, where ``mask`` (b, t) is false."""
        b, t, d = tokens.shape
        heads = (b, t, self.num_heads, d // self.num_heads)
        query, key, value = (part(tokens).reshape(heads) for part in (self.query, self.key, self.value))
        scores = jnp.einsum("bthd,bshd->bhts", query, key) / np.sqrt(heads[-1])
        if mask is not None:
            # The smallest finite number, not -inf: a text without any real token must not turn into NaN.
            scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), value)
        return self.out(mixed.reshape(b, t, d))


class Mlp(nnx.Module):
    """Two linear layers with an activation between: (b, t, d) to (b, t, d).

    Args:
        width: Features d of a token.
        mlp_width: Features between the layers.
        activation: A key of ``ACTIVATIONS``.
        rngs: Random streams of the initial weights.
    """

    def __init__(self, width: int, mlp_width: int, activation: str, *, rngs: nnx.Rngs):
        self.activation = activation
        self.expand = nnx.Linear(width, mlp_width, rngs=rngs)
        self.project = nnx.Linear(mlp_width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Transforms each token of (b, t, d)."""
        return self.project(ACTIVATIONS[self.activation](self.expand(tokens)))
