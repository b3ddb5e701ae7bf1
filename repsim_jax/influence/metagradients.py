r"""What does a little more of a training example change, through every step of training? Exact, for small models.

.. math:: I_{ji} = \frac{\partial m_j(\theta_T(w))}{\partial w_i} \Big|_{w = 1}

:math:`\theta_T(w)` is where T steps of training arrive with weight :math:`w_i` of example i. No curvature, no damping,
and no assumption that training has come to an end: Maclaurin et al. 2015 (arXiv 1502.03492); for attribution, Ilyas and
Engstrom 2025, "MAGIC" (arXiv 2504.16430).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.derivatives import measured_gradients
from repsim_jax.influence.examples import Examples
from repsim_jax.influence.measurements import Measurement
from repsim_jax.influence.problems import Problem, with_params
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.retraining import Plan, State, begun, checked_plan, drawn, retrained, updated
from repsim_jax.influence.scores import Influence, grouped
from repsim_jax.linalg import precise_jit


def metagradient(
    key: jax.Array,
    posed: Problem,
    queries: Examples,
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    measurement: Measurement | None = None,
    views_per_step: int | None = None,
    target_decay: float | None = None,
    block: int = 32,
    on_progress: Told | None = None,
) -> Influence:
    """The derivative of every measurement by the weight of every training example, through the whole training.

    Training is gone back through once for each block of measurements. Of every :math:`\\sqrt{T}`-th step the state is
    kept, and the steps between are computed again: memory grows with the root of the number of steps.

    Args:
        key: Random key of batches and views; the same as in ``retrained`` for the same training.
        posed: The problem, with the parameters to start from.
        queries: From ``augmented`` or ``with_views``.
        optimizer: From optax, differentiable: Adam needs ``eps_root`` > 0, since the root of zero has no derivative.
        num_steps: Updates.
        measurement: What is measured of the queries; None: their stability, as the problem has it.
        views_per_step: As in ``retrained``.
        target_decay: As in ``retrained``.
        block: Measurements that are followed back at once.
        on_progress: Called as ``on_progress(done, all)`` between blocks.

    Returns:
        Values (m, n), above zero where including the example raises the measurement; without standard errors.

    Raises:
        BadArrayError: If an option is out of range, queries do not divide into pairs, or a value is not finite.

    Source:
        arXiv 2504.16430, section 3, for weights of examples in a loss that couples them.
    """
    plan = checked_plan(posed, optimizer=optimizer, views_per_step=views_per_step, target_decay=target_decay)
    if num_steps < 1 or block < 1:
        raise BadArrayError(f"metagradient needs num_steps >= 1 and block >= 1, got {num_steps} and {block}.")
    measured = measurement or posed.stability
    groups = grouped(len(queries), measured)
    options = {"optimizer": optimizer, "views_per_step": views_per_step, "target_decay": target_decay}
    everything = np.ones((1, len(posed.train)), bool)
    arrived = retrained(key, posed, everything, num_steps=num_steps, **options)
    trained = with_params(posed, jax.tree.map(lambda leaf: leaf[0], arrived))
    keys = jax.random.split(key, num_steps)
    size = min(block, len(groups))
    starts = range(0, len(groups), size)
    values, measurements = [], []
    for done, first in enumerate(starts, 1):
        which = np.minimum(np.arange(first, first + size), len(groups) - 1)
        seen, gradients = measured_gradients(trained, queries.rows(groups[which].ravel()), measured, size=size)
        values.append(np.asarray(_followed_back(posed, keys, gradients, plan=plan)))
        measurements.append(np.asarray(seen))
        if on_progress is not None:
            on_progress(done, len(starts))
    found = np.concatenate(values)[: len(groups)]
    if not np.isfinite(found).all():
        raise BadArrayError(
            "metagradient is NaN or infinite. Adam has no derivative at gradients of zero: give it eps_root > 0, such "
            "as optax.adam(1e-3, eps_root=1e-12); a training that diverges has none either: lower its rate."
        )
    how = {"mode": "metagradient", "num_steps": num_steps, "objective": type(posed.objective).__name__}
    how |= {"measurement": type(measured).__name__, "views_per_step": views_per_step, "target_decay": target_decay}
    return Influence(found, None, np.concatenate(measurements)[: len(groups)], how)


@precise_jit(static_argnames=("plan",))
def _followed_back(
    posed: Problem, keys: Array, gradients: list[Float[Array, "m *shape"]], *, plan: Plan
) -> Float[Array, "m n"]:
    def arrived(weights: Float[Array, " n"]) -> list[Array]:
        state = begun(posed, plan)
        long = int(np.sqrt(len(keys)))
        whole = len(keys) // long * long
        many = jax.checkpoint(lambda state, some: (_steps(posed, plan, weights, state, some), None))
        state = jax.lax.scan(many, state, keys[:whole].reshape(-1, long))[0]
        return with_params(posed, _steps(posed, plan, weights, state, keys[whole:]).params).leaves().arrays

    ones = jnp.ones(len(posed.train), gradients[0].dtype)
    _, back = jax.vjp(arrived, ones)
    return jax.vmap(lambda one: back(one)[0])(gradients)


def _steps(posed: Problem, plan: Plan, weights: Float[Array, " n"], state: State, keys: Array) -> State:
    @partial(jax.checkpoint, prevent_cse=False)
    def step(state: State, key: Array) -> tuple[State, Any]:
        unit, rows = drawn(key, posed, plan)
        return updated(posed, plan, state, unit, weights[rows]), None

    return jax.lax.scan(step, state, keys)[0]
