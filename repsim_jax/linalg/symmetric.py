r"""What is the second moment of features, :math:`X^T X`, when one half of it tells the other?"""

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

# Strips of the upper triangle: four compute 10 of 16 blocks; more of them are too narrow for a fast product.
_STRIPS = 4
# Fewer columns are multiplied as they are.
_NARROW = 256


def upper_strips(x: Float[Array, "n d"]) -> list[Float[Array, "_ _"]]:
    """Products of columns on and above the diagonal, in strips of rows; those of parts of X add up to those of X.

    Args:
        x: Any matrix.

    Returns:
        Strips of X^T X, each from its diagonal block on; a single one where X is narrow.
    """
    d = x.shape[1]
    edges = [-(-d * i // _STRIPS) for i in range(_STRIPS + 1)] if d >= _NARROW else [0, d]
    return [x[:, start:stop].T @ x[:, start:] for start, stop in itertools.pairwise(edges)]


def mirrored(strips: list[Float[Array, "_ _"]]) -> Float[Array, "d d"]:
    """A symmetric matrix from its ``upper_strips``.

    Args:
        strips: Its strips.

    Returns:
        The matrix; what is below the diagonal is copied.
    """
    d = strips[0].shape[1]
    upper = jnp.concatenate([jnp.pad(strip, ((0, 0), (d - strip.shape[1], 0))) for strip in strips])
    return jnp.triu(upper) + jnp.triu(upper, 1).T
