"""Ranks with ties, and numbers rounded so that what is equal up to rounding is tied."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def average_ranks(values: Float[Array, " n"]) -> Float[Array, " n"]:
    """Ranks from 1 to n; equal values share the mean of their ranks.

    Args:
        values: Finite numbers.

    Returns:
        Ranks as floats, in the order of ``values``.
    """
    ordered = jnp.sort(values)
    below = jnp.searchsorted(ordered, values, side="left", method="sort")
    upto = jnp.searchsorted(ordered, values, side="right", method="sort")
    return (below + upto + 1).astype(values.dtype) / 2


def round_significant(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Drops the last seven bits of the mantissa, so that values computed along different routes compare equal.

    Args:
        values: Finite numbers; in float32 the relative step is 2^-16, about 1e-5.

    Returns:
        Rounded values.
    """
    bits = jnp.finfo(values.dtype).nmant - 7
    mantissa, exponent = jnp.frexp(values)
    return jnp.ldexp(jnp.round(mantissa * 2.0**bits), exponent - bits)
