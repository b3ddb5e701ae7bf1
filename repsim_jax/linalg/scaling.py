"""Shift and scale representations so that float32 is enough, whatever their offset and units."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def power_of_two_scale(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Divides by the power of two that brings the largest magnitude into [1/2, 1): exact, and safe from overflow.

    Args:
        x: Any array.

    Returns:
        The scaled array; unchanged where all entries are zero.
    """
    _, exponent = jnp.frexp(jnp.max(jnp.abs(x), initial=0.0))
    half = exponent // 2  # two factors, since one of 2^-128 would be flushed to zero
    return jnp.ldexp(jnp.ldexp(x, -half), half - exponent)


def center(x: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d"]:
    """Subtracts each feature's mean, twice, and makes constant features exactly zero.

    One float32 pass leaves a residue of the order of eps * offset; the second pass removes it.

    Args:
        x: Representations, examples on the second-last axis.

    Returns:
        Centered representations.
    """
    constant = jnp.max(x, axis=-2, keepdims=True) == jnp.min(x, axis=-2, keepdims=True)
    once = x - jnp.mean(x, axis=-2, keepdims=True)
    return jnp.where(constant, 0.0, once - jnp.mean(once, axis=-2, keepdims=True))


def standardize(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    r"""Centers every feature and divides by the Frobenius norm: :math:`(X - \bar X) / \|X - \bar X\|_F`.

    Args:
        x: Representations (n, d) of finite values; any offset and scale.

    Returns:
        Centered representations of unit Frobenius norm; NaN where all features are constant.
    """
    centered = power_of_two_scale(center(power_of_two_scale(x)))
    return centered * jax.lax.rsqrt(jnp.sum(jnp.square(centered)))
