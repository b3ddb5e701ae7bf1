"""What does training do to the kernel? Gradient flow with controlled error, and the tangent kernel along the way."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from repsim_jax.theory.integrator import load_diffrax
from repsim_jax.theory.networks import Network, Params, apply, tangent_kernel

# Weights that have moved as far as the output weights are long have left the linear regime for good: to follow them
# further costs more and more steps, and says nothing.
_RUNAWAY = 1.0
# A flow that needs more steps than this is too stiff for an explicit method.
MOST_STEPS = 1000


class Trajectory(NamedTuple):
    """Gradient flow, looked at now and then; infinite from where the integration ended.

    Attributes:
        times: (t,) when it was looked at.
        change: (t,) relative Frobenius change of the tangent kernel since the start.
        loss: (t,) values.
        outputs: (t, n, k) embeddings.
        moved: (t,) distance of all weights from their start.
        output_norm: (t,) squared norm of the output weights relative to the start: conserved by every loss of cosines.
        ran_away: Whether it ended because the weights ran away.
        num_steps: Steps of the integrator, rejected ones included.
    """

    times: Float[Array, " t"]
    change: Float[Array, " t"]
    loss: Float[Array, " t"]
    outputs: Float[Array, "t n k"]
    moved: Float[Array, " t"]
    output_norm: Float[Array, " t"]
    ran_away: Bool[Array, ""]
    num_steps: Int[Array, ""]


@partial(jax.jit, static_argnames=("network", "objectives", "most_steps"))
def gradient_flow(
    params: Params,
    x: Float[Array, "n d"],
    times: Float[Array, " t"],
    *,
    network: Network,
    objectives: tuple[Callable[[Float[Array, "n k"]], Float[Array, ""]], ...],
    which: int | Int[Array, ""] = 0,
    tolerance: float | Float[Array, ""] = 1e-4,
    most_steps: int = MOST_STEPS,
) -> Trajectory:
    r"""Integrates :math:`\dot\theta = -\nabla L(\theta)` by Tsitouras' method of order five with adaptive steps.

    It ends before the last time where the weights run away to infinity, or where more than ``most_steps`` are needed.

    Args:
        params: Where it starts.
        x: Inputs: anchors, positives and negatives, one after the other.
        times: When to look, rising, positive.
        network: What is trained.
        objectives: Losses of all embeddings that one program serves, such as ``Objective``; hashable.
        which: Number of the loss that is followed.
        tolerance: Error that a step may make, relative to the weights; traced.
        most_steps: Where to give up.

    Returns:
        The trajectory.

    Raises:
        MissingPackageError: If diffrax is not installed.
    """
    diffrax = load_diffrax()
    start = tangent_kernel(params, x, network)
    norm, weights = jnp.linalg.norm(start), jnp.sum(jnp.square(params[-1]))

    def loss(at: Params) -> jax.Array:
        return jax.lax.switch(which, objectives, apply(at, x, network))

    def slope(_time: Any, at: Params, _args: Any) -> Params:
        return jax.tree.map(jnp.negative, jax.grad(loss)(at))

    def moved(at: Params) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(a - b)) for a, b in zip(at, params, strict=True)))

    def look(_time: Any, at: Params, _args: Any) -> tuple[jax.Array, ...]:
        difference = tangent_kernel(at, x, network) - start
        return (
            jnp.linalg.norm(difference) / norm, loss(at), apply(at, x, network),
            moved(at), jnp.sum(jnp.square(at[-1])) / weights,
        )  # fmt: skip

    def runs_away(_time: Any, at: Params, _args: Any, **_: Any) -> jax.Array:
        return moved(at) > _RUNAWAY * jnp.sqrt(weights)

    solved = diffrax.diffeqsolve(
        diffrax.ODETerm(slope), diffrax.Tsit5(), t0=0.0, t1=times[-1], dt0=times[0] / 16, y0=params,
        saveat=diffrax.SaveAt(ts=times, fn=look), event=diffrax.Event(runs_away), max_steps=most_steps, throw=False,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=1e-3 * tolerance),
    )  # fmt: skip
    ran_away = solved.result == diffrax.RESULTS.event_occurred
    return Trajectory(times, *solved.ys, ran_away=ran_away, num_steps=solved.stats["num_steps"])


def flow_error(coarse: Trajectory, fine: Trajectory, *, floor: float = 0.0) -> Float[Array, " t"]:
    """How far two integrations of one flow part: the relative difference of the kernel's change at every look.

    Args:
        coarse: At some tolerance.
        fine: At a much smaller one.
        floor: Change of the kernel below which differences are relative to this.

    Returns:
        The error of the coarse one; infinity where one of them had ended.
    """
    difference = jnp.abs(coarse.change - fine.change) / jnp.maximum(fine.change, floor)
    return jnp.where(jnp.isfinite(difference), difference, jnp.inf)
