"""Which few directions hold most of the curvature? Found from products with vectors alone, at any size.

Schioppa et al. 2022, "Scaling Up Influence Functions" (arXiv 2112.03052).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.curvature import Eigen, gauss_newton_product, objective_hessian_product
from repsim_jax.influence.problems import Problem, checked_of, in_batches
from repsim_jax.influence.pseudo import flat, unflat
from repsim_jax.linalg import lanczos, precise_jit


def low_rank(
    key: jax.Array, posed: Problem, *, rank: int = 64, of: Literal["objective", "alignment", "hessian"] = "hessian",
    num_steps: int | None = None,
) -> Eigen:  # fmt: skip
    """Curvature of low rank: each step is one pass over the training examples.

    Args:
        key: Random key of batches and of the vector to start from.
        posed: The problem.
        rank: Eigenpairs that are kept, those of largest magnitude.
        of: As in ``dense``; of the Hessian the magnitudes are taken.
        num_steps: Products with vectors; None is twice the rank.

    Returns:
        The curvature. Its mean eigenvalue, for relative damping, is of the pairs that are kept: all others count as
        zero.

    Raises:
        BadArrayError: If the rank is not positive, or above the steps or the number of parameters.
        UnknownNameError: If there is no such ``of``.

    Source:
        arXiv 2112.03052, section 3.1 (Arnoldi's iteration, which is Lanczos' for symmetric matrices).

    Differs:
        Directions that are not kept are damped like directions without curvature, not dropped.
    """
    checked_of(of, ("objective", "alignment", "hessian"))
    steps = min(num_steps or 2 * rank, posed.num_params())
    if not 1 <= rank <= steps:
        raise BadArrayError(
            f"low_rank needs a rank from 1 to the number of steps and of parameters: got rank {rank}, {steps} steps, "
            f"{posed.num_params()} parameters."
        )
    key_batches, key_start = jax.random.split(key)
    batches = in_batches(key_batches, len(posed.train), 1 if of == "alignment" else posed.batch_size)
    return _low_rank(key_start, posed, *map(jnp.asarray, batches), of=of, rank=rank, num_steps=steps)


@precise_jit(static_argnames=("of", "rank", "num_steps"))
def _low_rank(
    key: jax.Array, posed: Problem, rows: jax.Array, weights: jax.Array, *, of: Any, rank: int, num_steps: int
) -> Eigen:
    like = [array[None] for array in posed.leaves().arrays]

    def product(v: Float[Array, " p"]) -> Float[Array, " p"]:
        direction = unflat(v[None], like)
        if of == "hessian":
            return objective_hessian_product(posed, rows, weights, direction)
        return gauss_newton_product(posed, rows, weights, direction, of)

    found = lanczos(key, product, flat(like)[0], num_steps=num_steps)
    kept = jnp.argsort(-jnp.abs(found.values))[:rank]
    values = jnp.abs(found.values[kept])
    return Eigen(values, found.vectors[:, kept], values.sum() / posed.num_params())
