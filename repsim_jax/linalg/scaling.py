"""Shift and scale representations so that float32 is enough, whatever their offset and units."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def power_of_two(x: Float[Array, "*shape"]) -> Float[Array, " 2"]:
    """Two powers of two whose product brings the largest magnitude of x into [1/2, 1).

    Multiplying by them is exact, and squares cannot overflow afterwards. Two factors, since one of 2^-128 would be
    flushed to zero.

    Args:
        x: Any array.

    Returns:
        The factors; ones where all entries are zero.
    """
    _, exponent = jnp.frexp(jnp.max(jnp.abs(x), initial=0.0))
    half = -(exponent // 2)
    return jnp.ldexp(jnp.ones(2, x.dtype), jnp.stack([half, -exponent - half]))


def power_of_two_scale(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Multiplies by ``power_of_two``.

    Args:
        x: Any array.

    Returns:
        The scaled array; unchanged where all entries are zero.
    """
    first, second = power_of_two(x)
    return x * first * second


def center(x: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d"]:
    """Subtracts each feature's mean, twice: one float32 pass leaves a residue of the order of eps * offset.

    Args:
        x: Representations, examples on the second-last axis; of moderate size (see ``power_of_two_scale``).

    Returns:
        Centered representations.
    """
    once = x - jnp.mean(x, axis=-2, keepdims=True)
    return once - jnp.mean(once, axis=-2, keepdims=True)


def standardize(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    r"""Centers every feature and divides by the Frobenius norm: :math:`(X - \bar X) / \|X - \bar X\|_F`.

    Args:
        x: Representations (n, d) of finite values; any offset and scale.

    Returns:
        Centered representations of unit Frobenius norm; NaN where all features are constant.
    """
    centered = center(power_of_two_scale(x))
    return centered * jax.lax.rsqrt(jnp.sum(jnp.square(centered)))
