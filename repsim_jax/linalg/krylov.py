"""Which eigenvalues of a symmetric operator are largest in magnitude, when all it can do is multiply a vector?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Ritz(NamedTuple):
    """Approximate eigenpairs.

    Attributes:
        values: (k,) in ascending order.
        vectors: (p, k) orthonormal.
        residuals: (k,) norms of A v - value v.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "p k"]
    residuals: Float[Array, " k"]


def lanczos(
    key: jax.Array, product: Callable[[Float[Array, " p"]], Float[Array, " p"]], like: Float[Array, " p"],
    *, num_steps: int,
) -> Ritz:  # fmt: skip
    """Lanczos' iteration with full reorthogonalization; the extreme pairs converge first, at both ends.

    Where the space of all powers of the operator is exhausted, as it is early for eigenvalues that come more than once,
    it goes on from another random vector.

    Args:
        key: Random key of the vectors to start from.
        product: The operator times a vector; symmetric.
        like: An array of the shape and dtype of a vector.
        num_steps: Products k, from 1 to p.

    Returns:
        The pairs of the space that was searched.

    Source:
        Golub and Van Loan, "Matrix Computations", 4th edition, section 10.3.
    """
    p = len(like)

    def clean(vector: jax.Array, basis: jax.Array) -> jax.Array:
        for _ in range(2):  # once loses orthogonality where vectors are nearly parallel
            vector = vector - basis @ (basis.T @ vector)
        return vector

    def step(state: tuple[jax.Array, jax.Array], number: jax.Array) -> tuple[Any, Any]:
        basis, vector = state
        basis = basis.at[:, number].set(vector)
        image = product(vector)
        rest = clean(image, basis)
        length = jnp.linalg.norm(rest)
        goes_on = length > 100 * jnp.finfo(like.dtype).eps * jnp.linalg.norm(image)
        other = clean(jax.random.normal(jax.random.fold_in(key, number + 1), (p,), like.dtype), basis)
        following = jnp.where(goes_on, rest, other)
        size = jnp.linalg.norm(following)
        following = jnp.where(size > 0, following / jnp.where(size > 0, size, 1.0), 0.0)
        return (basis, following), (image @ vector, jnp.where(goes_on, length, 0.0))

    first = jax.random.normal(jax.random.fold_in(key, 0), (p,), like.dtype)
    state = jnp.zeros((p, num_steps), like.dtype), first / jnp.linalg.norm(first)
    (basis, _), (along, lengths) = jax.lax.scan(step, state, jnp.arange(num_steps))
    tridiagonal = jnp.diag(along) + jnp.diag(lengths[:-1], 1) + jnp.diag(lengths[:-1], -1)
    values, rotation = jnp.linalg.eigh(tridiagonal)
    return Ritz(values, basis @ rotation, jnp.abs(lengths[-1] * rotation[-1]))
