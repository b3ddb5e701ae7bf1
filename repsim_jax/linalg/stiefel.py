"""Matrices with orthonormal columns: where one may move on them, and how one gets back after a step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def tangent(w: Float[Array, "m k"], gradient: Float[Array, "m k"]) -> Float[Array, "m k"]:
    r"""Projects a gradient onto the tangent space at w: :math:`G - W \, \mathrm{sym}(W^T G)`.

    Args:
        w: Orthonormal columns.
        gradient: Of a function at w, in the surrounding space.

    Returns:
        The Riemannian gradient under the Euclidean metric.

    Source:
        Absil, Mahony and Sepulchre 2008, Optimization Algorithms on Matrix Manifolds, equation 3.35.
    """
    inner = w.T @ gradient
    return gradient - w @ ((inner + inner.T) / 2)


def retract(w: Float[Array, "m k"]) -> Float[Array, "m k"]:
    """The orthonormal factor of a QR decomposition, with the signs that make it depend continuously on w.

    Args:
        w: Linearly independent columns, m >= k.

    Returns:
        Orthonormal columns of the same span; w itself where its columns are orthonormal already.

    Source:
        Absil, Mahony and Sepulchre 2008, example 4.1.3.
    """
    basis, upper = jnp.linalg.qr(w)
    signs = jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0).astype(w.dtype)
    return basis * signs


def random_orthonormal(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> Float[Array, "m k"]:
    """Orthonormal columns, uniform among all.

    Args:
        key: Random key.
        shape: (m, k), m >= k.
        dtype: Of the result.

    Returns:
        The matrix.
    """
    return retract(jax.random.normal(key, shape, dtype))
