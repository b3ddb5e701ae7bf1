"""How much do results hang on the damping? Shown by a sweep, without labels and without training again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.counterfactual import spearman
from repsim_jax.influence.curvature import Curvature
from repsim_jax.influence.damping import Damping
from repsim_jax.influence.derivatives import Mode, dots, measured_gradients
from repsim_jax.influence.measurements import Measurement
from repsim_jax.influence.problems import Problem
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.scores import self_influence
from repsim_jax.linalg import precise_jit

# The part of curvature at which it has as much to say as damping.
_BALANCE = 0.5


class DampingSweep(NamedTuple):
    """Self-influence under several dampings.

    Attributes:
        relative: (k,) shares of the mean eigenvalue.
        values: (k, n) self-influence.
        split_half: (k,) Spearman's correlation over examples between the scores of one half of the views and the other:
            what is below one is noise of the views.
        agreement: (k, k) Spearman's correlation between dampings: what is near one does not hang on the choice.
    """

    relative: np.ndarray
    values: np.ndarray
    split_half: np.ndarray
    agreement: np.ndarray


def damping_sweep(
    key: jax.Array,
    posed: Problem,
    *,
    curvature: Curvature,
    relative: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0),
    mode: Mode = "batch",
    on_progress: Told | None = None,
    **options: Any,
) -> DampingSweep:
    """Self-influence under several dampings, and how reliable and how alike the rankings are.

    The curvature is fitted once, and nothing is compiled anew. Reliability alone does not tell which damping foresees
    retraining best: endless damping is the product of gradients, which is reliable too.

    Args:
        key: As in ``self_influence``.
        posed: The problem, of four views at least.
        curvature: As in ``self_influence``.
        relative: Shares of the mean eigenvalue, each > 0.
        mode: As in ``self_influence``.
        on_progress: Called as ``on_progress(done, all)`` between dampings.
        **options: Others of ``self_influence`` (``measurement``, ``block``, ``mesh``).

    Returns:
        The sweep.

    Raises:
        BadArrayError: If there are fewer than four views, or no dampings.
    """
    views = posed.train.num_views
    if views < 4 or not len(relative):
        raise BadArrayError(
            f"damping_sweep needs four views, two for each half, and at least one damping: got {views} views and "
            f"{len(relative)} dampings."
        )
    halves = [replace(posed, train=posed.train.some_views(np.arange(start, views, 2))) for start in (0, 1)]
    values, reliability = [], []
    for number, share in enumerate(relative, 1):
        found = [
            self_influence(
                key, one, curvature=curvature, mode=mode, damping=Damping(share), view_groups=0, **options
            ).values
            for one in (posed, *halves)
        ]
        values.append(found[0])
        reliability.append(spearman(found[1], found[2]))
        if on_progress is not None:
            on_progress(number, len(relative))
    agreement = np.array([[spearman(one, other) for other in values] for one in values])
    return DampingSweep(np.asarray(relative), np.stack(values), np.asarray(reliability), agreement)


def balanced_damping(
    posed: Problem,
    *,
    curvature: Curvature,
    measurement: Measurement | None = None,
    relative: Sequence[float] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0),
    absolute: float = 0.0,
    num_queries: int = 64,
) -> Damping:
    r"""The damping that has as large a part as curvature in what gradients are divided by: a rule without retraining.

    With :math:`q(\lambda) = \sum_j g_j^T (C + \lambda)^{-1} g_j` of the gradients g of measurements, the part of
    curvature is :math:`1 + d \log q / d \log \lambda`: one without damping, zero where damping is all. The rule takes
    a half, between the dampings of a grid along the logarithm.

    Args:
        posed: The problem.
        curvature: From ``ekfac`` and others.
        measurement: Of single queries; None: the problem's stability.
        relative: A grid of relative dampings that rise.
        absolute: Known damping besides, such as the weight decay of training.
        num_queries: The first so many training examples are measured.

    Returns:
        The damping; the end of the grid where the part is above, or below, a half all over it.

    Raises:
        BadArrayError: If the grid has fewer than two dampings, does not rise from above zero, or curvature knows no
            damping (``Identity``).

    Source:
        After the aim of arXiv 2505.24261, to choose the regularization of influence from the full model alone.

    Differs:
        That paper's own indicator is another one; this one needs no more than ``curvature.solve``.
    """
    grid = np.asarray(relative, float)
    if grid.ndim != 1 or len(grid) < 2 or grid[0] <= 0 or (np.diff(grid) <= 0).any():
        raise BadArrayError(f"balanced_damping needs at least two dampings above zero that rise, got {relative}.")
    measured = measurement or posed.stability
    queries = posed.train.rows(slice(0, min(num_queries, len(posed.train))))
    _, gradients = measured_gradients(posed, queries, measured, size=len(queries))
    parts = np.array([float(_part_of_curvature(curvature, gradients, at, absolute)) for at in grid])
    if (parts == 1).all():
        raise BadArrayError(f"{type(curvature).__name__} is not damped, so that no damping balances it.")
    below = np.flatnonzero(parts < _BALANCE)
    if not len(below) or below[0] == 0:
        return Damping(float(grid[-1] if not len(below) else grid[0]), absolute)
    high, low = parts[below[0] - 1], parts[below[0]]
    steps = np.log(grid[below[0] - 1 : below[0] + 1])
    return Damping(float(np.exp(steps[0] + (high - _BALANCE) / (high - low) * (steps[1] - steps[0]))), absolute)


@precise_jit()
def _part_of_curvature(curvature: Any, gradients: Any, relative: Any, absolute: Any) -> Float[Array, ""]:
    def logarithm(log_scale: Any) -> Any:
        scale = jnp.exp(log_scale)
        solved = curvature.solve(gradients, Damping(relative * scale, absolute * scale))
        return jnp.log(dots(gradients, solved).sum())

    return 1 + jax.grad(logarithm)(0.0)
