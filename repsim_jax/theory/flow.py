"""What does training do to the kernel? Gradient flow by a fine integrator, with the tangent kernel along the way."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.theory.networks import Network, Params, apply, tangent_kernel
from repsim_jax.theory.objectives import Objective

# Halving the step divides the error of the method by 2^4.
_FOURTH_ORDER = 16


class Trajectory(NamedTuple):
    """Gradient flow, looked at now and then.

    Attributes:
        times: (t,) when it was looked at.
        change: (t,) relative Frobenius change of the tangent kernel since the start.
        largest_change: (t,) of its entries: the largest change relative to the largest entry at the start.
        loss: (t,) values.
        outputs: (t, n, k) embeddings.
        moved: (t,) distance of all weights from their start.
        output_norm: (t,) squared norm of the output weights relative to the start: conserved by every loss of cosines.
        params: At the end.
    """

    times: Float[Array, " t"]
    change: Float[Array, " t"]
    largest_change: Float[Array, " t"]
    loss: Float[Array, " t"]
    outputs: Float[Array, "t n k"]
    moved: Float[Array, " t"]
    output_norm: Float[Array, " t"]
    params: Params


@partial(jax.jit, static_argnames=("network", "objective", "num_records", "num_substeps"))
def gradient_flow(
    params: Params,
    x: Float[Array, "n d"],
    *,
    network: Network,
    objective: Objective,
    horizon: float | Float[Array, ""],
    num_records: int = 20,
    num_substeps: int = 20,
) -> Trajectory:
    r"""Integrates :math:`\dot\theta = -\nabla L(\theta)` by the classical Runge-Kutta method of order four.

    Args:
        params: Where it starts.
        x: Inputs: anchors, positives and negatives, one after the other.
        network: What is trained.
        objective: The loss.
        horizon: Time at the end.
        num_records: How often it is looked at, evenly.
        num_substeps: Steps between two looks; ``resolve`` finds how many are enough.

    Returns:
        The trajectory.
    """
    step = horizon / (num_records * num_substeps)
    start = tangent_kernel(params, x, network)
    norm, largest = jnp.linalg.norm(start), jnp.abs(start).max()

    def slope(at: Params) -> Params:
        return jax.grad(lambda p: -objective(apply(p, x, network)))(at)

    def ahead(at: Params, by: float | jax.Array, direction: Params) -> Params:
        return jax.tree.map(lambda a, b: a + by * b, at, direction)

    def advance(at: Params, _: None) -> tuple[Params, None]:
        first = slope(at)
        second = slope(ahead(at, step / 2, first))
        third = slope(ahead(at, step / 2, second))
        fourth = slope(ahead(at, step, third))
        mixed = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth)
        return ahead(at, step, mixed), None

    def look(at: Params, _: None) -> tuple[Params, tuple[jax.Array, ...]]:
        at, _ = jax.lax.scan(advance, at, None, length=num_substeps)
        difference = tangent_kernel(at, x, network) - start
        outputs = apply(at, x, network)
        moved = jnp.sqrt(sum(jnp.sum(jnp.square(a - b)) for a, b in zip(at, params, strict=True)))
        return at, (
            jnp.linalg.norm(difference) / norm, jnp.abs(difference).max() / largest, objective(outputs), outputs,
            moved, jnp.sum(jnp.square(at[-1])) / jnp.sum(jnp.square(params[-1])),
        )  # fmt: skip

    end, seen = jax.lax.scan(look, params, None, length=num_records)
    times = horizon * jnp.arange(1, num_records + 1) / num_records
    return Trajectory(times, *seen, params=end)


def flow_error(coarse: Trajectory, fine: Trajectory) -> Float[Array, ""]:
    """How far two integrations of the same flow part: the largest relative difference of the embeddings at any look.

    Args:
        coarse: With some number of substeps.
        fine: With twice as many, or more.

    Returns:
        The error of the coarse one, to leading order; of the kernels' changes it is of the same size.
    """
    difference = jnp.linalg.norm(coarse.outputs - fine.outputs, axis=(1, 2))
    return jnp.max(difference / jnp.linalg.norm(fine.outputs, axis=(1, 2)))


class Resolved(NamedTuple):
    """How finely a flow must be integrated.

    Attributes:
        num_substeps: Steps between two looks.
        error: Of the integration with as many, from one with half of them; infinity where none was enough.
    """

    num_substeps: int
    error: float


def resolve(
    params: Params,
    x: Float[Array, "n d"],
    *,
    network: Network,
    objective: Objective,
    horizon: float,
    num_records: int = 20,
    tolerance: float = 1e-3,
    start: int = 5,
    most: int = 160,
) -> Resolved:
    """Doubles the number of steps until the flow no longer depends on it.

    Args:
        params: Where it starts.
        x: Inputs.
        network: What is trained.
        objective: The loss.
        horizon: Time at the end.
        num_records: Looks.
        tolerance: Error that is allowed, relative, see ``flow_error``.
        start: Steps between two looks to begin with.
        most: Where to give up.

    Returns:
        The steps, and the error that they leave: of order four, so that one sixteenth of the difference to half as
        many steps is left.
    """

    def run(num_substeps: int) -> Trajectory:
        return gradient_flow(
            params, x, network=network, objective=objective, horizon=horizon, num_records=num_records,
            num_substeps=num_substeps,
        )  # fmt: skip

    coarse = run(start)
    while start < most:
        start *= 2
        fine = run(start)
        error = float(flow_error(coarse, fine)) / _FOURTH_ORDER
        if error <= tolerance:
            return Resolved(start, error)
        coarse = fine
    return Resolved(start, float("inf"))
