"""Which values of each row are the largest? Sorting a few runs of each row instead of all of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Values of which only the largest is looked at first.
_RUN = 128


def largest(values: Float[Array, "m s"], *, k: int) -> tuple[Float[Array, "m k"], Int[Array, "m k"]]:
    """The k largest values of each row and their places, as ``jax.lax.top_k`` gives them but for the order of ties.

    The k largest values stand in the k runs whose own largest values are the largest, so that only these are sorted.

    Args:
        values: No NaN.
        k: How many, at most s.

    Returns:
        Values, falling, and their columns.
    """
    m, s = values.shape
    runs = -(-s // _RUN)
    if k >= runs:
        found = jax.lax.top_k(values, k)
        return found[0], found[1]
    padded = jnp.pad(values, ((0, 0), (0, runs * _RUN - s)), constant_values=-jnp.inf).reshape(m, runs, _RUN)
    chosen = jnp.sort(jax.lax.top_k(padded.max(2), k)[1], axis=1)  # ascending: of equal values the first is taken
    inside = jnp.take_along_axis(padded, chosen[:, :, None], axis=1)
    taken, order = jax.lax.top_k(inside.reshape(m, k * _RUN), k)
    return taken, jnp.take_along_axis(chosen, order // _RUN, axis=1) * _RUN + order % _RUN
