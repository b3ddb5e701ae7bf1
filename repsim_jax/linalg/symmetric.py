r"""What is the second moment of features, :math:`X^T X`, when one half of it tells the other?"""

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

# Strips of the upper triangle: four compute 10 of 16 blocks; more of them are too narrow for a fast product.
_STRIPS = 4
# Fewer columns are multiplied as they are.
_NARROW = 256


def column_gram(x: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """The products of all pairs of columns, of which those below the diagonal are copied.

    Args:
        x: Any matrix.

    Returns:
        X^T X, symmetric to the last bit where it is wide enough to be computed in strips.
    """
    d = x.shape[1]
    if d < _NARROW:
        return x.T @ x
    edges = [-(-d * i // _STRIPS) for i in range(_STRIPS + 1)]
    strips = [x[:, start:stop].T @ x[:, start:] for start, stop in itertools.pairwise(edges)]
    upper = jnp.concatenate([jnp.pad(strip, ((0, 0), (start, 0))) for strip, start in zip(strips, edges, strict=False)])
    return jnp.triu(upper) + jnp.triu(upper, 1).T
