"""Squared Euclidean distances between all rows, accurate where a few directions dwarf the rest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Trained networks have "massive activations" in a handful of directions; four is enough for those seen in practice.
_DEFLATED = 4
_POWER_STEPS = 3
# Rows that differ by less than this many units of rounding are equal: their distance is zero, not noise.
_RESOLUTION = 8


def unit_rows(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Scales every row to unit Euclidean norm; a zero row stays zero.

    Args:
        x: Rows of any magnitude.

    Returns:
        Rows of norm one, or zero.
    """
    scaled = x / jnp.maximum(jnp.max(jnp.abs(x), axis=1, keepdims=True), jnp.finfo(x.dtype).tiny)
    squared = jnp.sum(jnp.square(scaled), axis=1, keepdims=True)
    return jnp.where(squared > 0, scaled * jax.lax.rsqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)


class SplitRows(NamedTuple):
    """Rows split by a rotation into a few large directions and the rest.

    Attributes:
        large: (n, k) coordinates along the largest directions.
        rest: (n, d) remainder.
    """

    large: Float[Array, "*n k"]
    rest: Float[Array, "*n d"]


def split_rows(x: Float[Array, "n d"]) -> SplitRows:
    """Splits off the largest directions, so that ``sq_distances`` keeps its digits.

    Args:
        x: Rows, finite; center them first where a common offset is large.

    Returns:
        Both parts; ``x = large @ directions.T + rest``.
    """
    directions = _largest_directions(x, min(_DEFLATED, *x.shape))
    large = x @ directions
    return SplitRows(large, x - large @ directions.T)


def sq_distances(left: SplitRows, right: SplitRows) -> Float[Array, "i j"]:
    r"""Squared distances :math:`\|x_i - x_j\|^2` between two blocks of rows, through one matrix product.

    The usual expansion :math:`r_i + r_j - 2 x_i^T x_j` loses every digit when a few directions are thousands of times
    larger than the rest. Distances do not change under rotation, so the differences along the largest directions are
    taken directly, and the expansion serves the remainder only.

    Args:
        left: Rows i.
        right: Rows j of the same split.

    Returns:
        Non-negative (i, j) array.
    """
    rest = jnp.add.outer(*(jnp.sum(jnp.square(side.rest), axis=-1) for side in (left, right)))
    squared = jnp.maximum(rest - 2 * left.rest @ right.rest.T, 0.0)
    for a, b in zip(left.large.T, right.large.T, strict=True):
        squared = squared + jnp.square(a[:, None] - b[None, :])
    sizes = rest + jnp.add.outer(*(jnp.sum(jnp.square(side.large), axis=-1) for side in (left, right)))
    noise = _RESOLUTION * jnp.finfo(squared.dtype).eps
    return jnp.where(squared > jnp.square(noise) * sizes, squared, 0.0)


def pairwise_sq_distances(x: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Squared distances of all rows of x, zero on the diagonal; see ``sq_distances``.

    Args:
        x: Rows, finite; center them first where a common offset is large.

    Returns:
        Symmetric non-negative (n, n) array.
    """
    rows = split_rows(x)
    return jnp.where(jnp.eye(x.shape[0], dtype=bool), 0.0, sq_distances(rows, rows))


def _largest_directions(x: Float[Array, "n d"], k: int) -> Float[Array, "d k"]:
    """Orthonormal directions near the top right-singular vectors; orthonormality must be exact, optimality need not."""
    start = x[jnp.linspace(0, x.shape[0] - 1, k).astype(int)].T
    probe = jnp.cos(jnp.arange(x.shape[1] * k, dtype=x.dtype)).reshape(x.shape[1], k)  # never orthogonal to everything
    basis = jnp.linalg.qr(start + jnp.max(jnp.abs(start)) * 0.1 * probe)[0]
    for _ in range(_POWER_STEPS):
        basis = jnp.linalg.qr(x.T @ (x @ basis) + 1e-30 * probe)[0]
    return jax.lax.stop_gradient(basis)
