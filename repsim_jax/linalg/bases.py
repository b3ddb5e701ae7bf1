"""Orthonormal bases of representations: the thin SVD and its numerical rank, for the CCA and Procrustes families."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Basis(NamedTuple):
    """Left singular vectors and singular values of a centered representation.

    Attributes:
        vectors: (n, p) with p = min(n, d); columns beyond the numerical rank are zero.
        values: (p,) singular values, descending; zero beyond the numerical rank.
        rank: How many columns count.
    """

    vectors: Float[Array, "n p"]
    values: Float[Array, " p"]
    rank: Int[Array, ""]

    def first(self, keep: Int[Array, ""]) -> "Basis":
        """The basis of the ``keep`` largest directions; the other columns become zero.

        Args:
            keep: How many to keep, at most ``rank``.

        Returns:
            A basis of the same shape.
        """
        kept = jnp.arange(self.values.shape[0]) < keep
        return Basis(jnp.where(kept, self.vectors, 0), jnp.where(kept, self.values, 0), jnp.minimum(keep, self.rank))


def compact(x: Float[Array, "n d"]) -> Float[Array, "n p"]:
    """Rotates a representation wider than n into its n coordinates: same Gram matrix, p = min(n, d) features.

    Args:
        x: A representation.

    Returns:
        x itself where d <= n.
    """
    n, d = x.shape
    return x if d <= n else jnp.linalg.qr(x.T, mode="r").T


def orthonormal_basis(x: Float[Array, "n d"]) -> Basis:
    """The thin SVD of x, cut at its numerical rank (singular values above max(n, d) * eps * the largest).

    Args:
        x: A centered representation.

    Returns:
        Its basis.
    """
    vectors, values, _ = jnp.linalg.svd(x, full_matrices=False)
    tolerance = max(x.shape) * jnp.finfo(x.dtype).eps * values[0]
    rank = jnp.sum(values > tolerance)
    return Basis(vectors, values, rank).first(rank)
