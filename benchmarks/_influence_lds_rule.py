r"""A rule for the damping that needs no retraining, and that did not stand the test of influence_lds.py.

With :math:`q(\lambda) = \sum_j g_j^T (C + \lambda)^{-1} g_j` of the gradients g of measurements, the part of
curvature in what they are divided by is :math:`1 + d \log q / d \log \lambda`: one without damping, zero where damping
is all. The rule takes a half, after the aim of arXiv 2505.24261, whose own indicator is another one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.influence import Damping, Problem
from repsim_jax.influence.derivatives import dots, measured_gradients
from repsim_jax.linalg import precise_jit

GRID = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


def balanced_damping(posed: Problem, *, curvature: Any, absolute: float) -> Damping:
    """The damping that has as large a part as curvature in what gradients are divided by.

    Args:
        posed: The trained problem.
        curvature: Fitted.
        absolute: The weight decay of training.

    Returns:
        The damping, between those of a grid along the logarithm.
    """
    queries = posed.train.rows(slice(0, min(64, len(posed.train))))
    _, gradients = measured_gradients(posed, queries, posed.stability, size=len(queries))
    parts = np.array([float(_part_of_curvature(curvature, gradients, at, absolute)) for at in GRID])
    below = np.flatnonzero(parts < 0.5)
    if not len(below) or below[0] == 0:
        return Damping(GRID[-1] if not len(below) else GRID[0], absolute)
    high, low = parts[below[0] - 1], parts[below[0]]
    steps = np.log(GRID[below[0] - 1 : below[0] + 1])
    return Damping(float(np.exp(steps[0] + (high - 0.5) / (high - low) * (steps[1] - steps[0]))), absolute)


@precise_jit()
def _part_of_curvature(curvature: Any, gradients: Any, relative: Any, absolute: Any) -> jax.Array:
    def logarithm(log_scale: Any) -> jax.Array:
        scale = jnp.exp(log_scale)
        solved = curvature.solve(gradients, Damping(relative * scale, absolute * scale))
        return jnp.log(dots(gradients, solved).sum())

    return 1 + jax.grad(logarithm)(0.0)
