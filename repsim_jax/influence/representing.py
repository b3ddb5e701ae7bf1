"""What are the representations of many examples, a block at a time?"""

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.influence.problems import Problem
from repsim_jax.linalg import precise_jit


def representations(posed: Problem, x: jax.Array | np.ndarray, *, block: int = 256) -> np.ndarray:
    """Representations that are measured, of training examples or others.

    Args:
        posed: The problem.
        x: Examples (n, ...).
        block: How many are computed at once.

    Returns:
        (n, d) float32.
    """
    found, size = [], min(block, len(x))
    for start in range(0, len(x), size):
        rows = np.minimum(np.arange(start, start + size), len(x) - 1)  # the last block is as large, or it would compile
        found.append(np.asarray(_rows(posed, jnp.asarray(x[rows])), np.float32)[: len(x) - start])
    return np.concatenate(found)


@precise_jit()
def _rows(posed: Problem, x: jax.Array) -> jax.Array:
    return posed.seeing(posed.leaves().arrays).rows(x)
