"""How much memory will a curvature take? Known before it is begun, from shapes alone."""

from typing import NamedTuple

import numpy as np

from repsim_jax.errors import UnknownNameError
from repsim_jax.influence.problems import Problem

CURVATURES = ("ekfac", "logra", "projection", "woodbury", "low-rank", "dense", "identity")
# What random gradients hold at once while a curvature is fitted (``pseudo``), and what they are made from.
_HELD = 3 * 2**28
_MOST_WHOLE = 2048  # as in ``kronecker``


class Memory(NamedTuple):
    """Bytes, beside the model, the examples and JAX itself.

    Attributes:
        fit: While the curvature is fitted.
        curvature: Of the curvature.
        score: While influence is computed, for one block of queries.
    """

    fit: int
    curvature: int
    score: int

    @property
    def most(self) -> int:
        """The larger of the two stages."""
        return max(self.fit, self.curvature + self.score)


def memory_of(posed: Problem, kind: str, *, rank: int = 16, num_samples: int = 512, block: int = 32) -> Memory:
    """Estimates the memory of a curvature and of scores with it.

    Args:
        posed: The problem.
        kind: "ekfac", "logra", "projection", "woodbury", "low-rank", "dense" or "identity".
        rank: Of LoGra; dimension of a projection; pairs of a low-rank curvature.
        num_samples: Random gradients; rows of the Woodbury form.
        block: Queries whose gradients are held at once.

    Returns:
        The estimate.

    Raises:
        UnknownNameError: If there is no such curvature.
    """
    if kind not in CURVATURES:
        raise UnknownNameError.of("curvature", kind, CURVATURES)
    leaves = posed.leaves().arrays
    number = max(leaf.dtype.itemsize for leaf in leaves)
    p = posed.num_params()
    sides = [(int(np.prod(leaf.shape[:-1])) + 1, leaf.shape[-1]) for leaf in leaves if leaf.ndim > 1]
    whole = [min(leaf.size, _MOST_WHOLE) ** 2 for leaf in leaves if leaf.ndim < 2]
    held = {
        "ekfac": sum(k * k + f * f + k * f for k, f in sides) + sum(whole),
        "logra": sum((min(k, rank) * min(f, rank)) ** 2 + k * rank + f * rank for k, f in sides),
        "projection": rank * rank,
        "woodbury": num_samples * p + num_samples**2,
        "low-rank": rank * p,
        "dense": p * p,
        "identity": 0,
    }[kind]
    # a fit holds its sums twice (moments, then what is made from them); eigenvectors are found in float64
    times = {"dense": 3 + 2 * 8 / number, "low-rank": 4, "woodbury": 2, "ekfac": 2}.get(kind, 1)
    fitting = 0 if kind == "identity" else _HELD
    # gradients of a block, what the curvature makes of them, and the tangents that run through the model with them
    return Memory(int(times * held * number + fitting), int(held * number), int(4 * block * p * number))
