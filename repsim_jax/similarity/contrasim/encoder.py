"""The learned map of ContraSim: a small network on each row, whose output has unit length (arXiv 2303.16992)."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Params = dict[str, Any]


def init(key: jax.Array, sizes: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    r"""Random weights of linear layers, uniform in :math:`\pm 1 / \sqrt{\text{inputs}}` (PyTorch's default).

    Args:
        key: Random key.
        sizes: Widths from input to output, at least two.

    Returns:
        A layer for each step between widths: ``weight`` (inputs, outputs) and ``bias`` (outputs,).
    """
    layers = []
    for inputs, outputs in pairwise(sizes):
        key, key_weight, key_bias = jax.random.split(key, 3)
        bound = inputs**-0.5
        layers.append(
            {
                "weight": jax.random.uniform(key_weight, (inputs, outputs), minval=-bound, maxval=bound),
                "bias": jax.random.uniform(key_bias, (outputs,), minval=-bound, maxval=bound),
            }
        )
    return layers


def encode(
    trunk: list[dict[str, jax.Array]], x: Float[Array, "*batch d"], *, residual: bool = False
) -> Float[Array, "*batch q"]:
    """Maps rows to unit vectors: linear layers with ReLU between them, then division by the Euclidean norm.

    Args:
        trunk: From ``init``.
        x: Rows.
        residual: Whether the layers' output is added to their input, which then must be as wide.

    Returns:
        Rows of norm one; zero where the network gives zero.

    Source:
        arXiv 2303.16992, released code: (512, 256, 128), no normalization layers, no dropout.
    """
    batch = x.shape[:-1]
    # Rows side by side: the gradient of a product over two axes makes XLA copy what it multiplies.
    x = start = x.reshape(-1, x.shape[-1])
    for layer in trunk[:-1]:
        x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
    x = x @ trunk[-1]["weight"] + trunk[-1]["bias"]
    x = x + start if residual else x
    # The square is kept away from zero, where the norm has no gradient.
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))
    return x.reshape(*batch, -1)
