r"""How does a model come out that is trained on less of some examples? Many such models, trained at once."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.objectives import BYOL, with_target
from repsim_jax.influence.problems import Problem, Unit
from repsim_jax.influence.pseudo import Told
from repsim_jax.linalg import precise_jit

# Steps in one compiled program: progress is told between programs.
_CHUNK = 100


def retrained(
    key: jax.Array,
    posed: Problem,
    weights: Shaped[np.ndarray, "s n"],
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    views_per_step: int | None = None,
    target_decay: float | None = None,
    lanes: int = 32,
    on_progress: Told | None = None,
) -> Any:
    """Trains the problem's model anew on each of many subsets, many at once.

    All start from the problem's parameters, which should be those before training, and see the same batches and views,
    in which an absent example has weight zero. A model differs from another in nothing but the examples that it lacks.

    Args:
        key: Random key; draws batches of the problem's ``batch_size`` where there are more examples than that, and
            views where not all are used at each step.
        posed: The problem, with the parameters to start from.
        weights: How much of each example each training holds: booleans, from ``random_subsets`` or ``leave_one_out``,
            or numbers >= 0.
        optimizer: From optax; Adam wants ``eps_root`` > 0 where parameters have no gradient.
        num_steps: Updates.
        views_per_step: So many views, at random, of each example at each step, as two are usual in training; None:
            all of them, whose pairs take longer with the square of their number.
        target_decay: For ``BYOL``, whose target is then the moving average of the parameters, from the first ones on,
            that keeps this share of itself at each step, in [0, 1); None: the objective's own ``target_params``, or
            the parameters themselves.
        lanes: Models that are trained at once.
        on_progress: Called as ``on_progress(done, all)``.

    Returns:
        Parameters, every leaf with a leading axis of s.

    Raises:
        BadArrayError: If weights are of another number of examples, below zero or not finite, or hold fewer than two
            examples; or an option is out of range.
    """
    weights = _checked_weights(weights, len(posed.train))
    plan = checked_plan(posed, optimizer=optimizer, views_per_step=views_per_step, target_decay=target_decay)
    size = min(lanes, len(weights))
    trained = []
    starts = range(0, len(weights), size)
    keys = jax.random.split(key, num_steps)
    rounds = -(-num_steps // _CHUNK)
    for number, first in enumerate(starts):
        held = jnp.asarray(weights[np.minimum(np.arange(first, first + size), len(weights) - 1)])
        state = jax.vmap(lambda _: begun(posed, plan))(held)
        for done, step in enumerate(range(0, num_steps, _CHUNK), 1):
            state = _train(posed, state, held, keys[step : step + _CHUNK], plan=plan)
            if on_progress is not None:
                jax.block_until_ready(state)  # what was only dispatched is not done
                on_progress(number * rounds + done, len(starts) * rounds)
        trained.append(jax.tree.map(np.asarray, state.params))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[: len(weights)], *trained)


class Plan(NamedTuple):
    """How a model is trained.

    Attributes:
        optimizer: From optax.
        views_per_step: How many views of each example a step sees; None: all.
        target_decay: How much of itself BYOL's target keeps at each step; None: there is no such target.
    """

    optimizer: optax.GradientTransformation
    views_per_step: int | None
    target_decay: float | None


class State(NamedTuple):
    """A model in training.

    Attributes:
        params: Parameters.
        optimizer: State of the optimizer.
        target: Parameters of BYOL's target; None where there is none.
    """

    params: Any
    optimizer: Any
    target: Any


def checked_plan(
    posed: Problem, *, optimizer: optax.GradientTransformation, views_per_step: int | None, target_decay: float | None
) -> Plan:
    """Refuses options that the problem cannot be trained with.

    Args:
        posed: The problem.
        optimizer: From optax.
        views_per_step: As in ``retrained``.
        target_decay: As in ``retrained``.

    Returns:
        The plan.

    Raises:
        BadArrayError: If an option is out of range, or there is no target.
    """
    if views_per_step is not None and not 2 <= views_per_step <= posed.train.num_views:
        raise BadArrayError(
            f"training again needs views_per_step from 2 to the number of views, {posed.train.num_views}, or None for "
            f"all: got {views_per_step}."
        )
    follows = isinstance(posed.objective, BYOL) and posed.objective.target_params is None
    if target_decay is not None and not (follows and 0 <= target_decay < 1):
        raise BadArrayError(
            f"training again takes target_decay in [0, 1), and for BYOL only: got {target_decay} for "
            f"{type(posed.objective).__name__}. No other objective has a target that follows the model, and BYOL has "
            "one where its target_params are None."
        )
    return Plan(optimizer, views_per_step, target_decay)


def _checked_weights(weights: Any, n: int) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or weights.shape[1] != n or not len(weights):
        raise BadArrayError(f"retrained needs weights (s, {n}), one row for each training, got shape {weights.shape}.")
    if not np.isfinite(weights).all() or weights.min() < 0 or (weights > 0).sum(1).min() < 2:
        raise BadArrayError(
            "retrained needs weights that are finite and >= 0, above zero for at least two examples in each row."
        )
    return weights


def begun(posed: Problem, plan: Plan) -> State:
    """The model before its first step.

    Args:
        posed: The problem, with the parameters to start from.
        plan: How it is trained.

    Returns:
        Its state.
    """
    target = None if plan.target_decay is None else posed.params
    return State(posed.params, plan.optimizer.init(posed.params), target)


@precise_jit(static_argnames=("plan",))
def _train(posed: Problem, state: State, weights: Float[Array, "s n"], keys: Array, *, plan: Plan) -> State:
    def step(state: State, key: Array) -> tuple[State, None]:
        unit, rows = drawn(key, posed, plan)
        return jax.vmap(lambda one, held: updated(posed, plan, one, unit, held[rows]))(state, weights), None

    return jax.lax.scan(step, state, keys)[0]


def drawn(key: Array, posed: Problem, plan: Plan) -> tuple[Unit, Int[Array, " b"]]:
    """What every training sees at one step.

    Args:
        key: Random key of the step.
        posed: The problem.
        plan: How it is trained.

    Returns:
        Examples with views, and their numbers.
    """
    key_rows, key_views = jax.random.split(key)
    n, rows = len(posed.train), jnp.arange(len(posed.train))
    if posed.batch_size < n:
        rows = jax.random.choice(key_rows, n, (posed.batch_size,), replace=False)
    if plan.views_per_step is not None:
        which = jax.random.permutation(key_views, posed.train.num_views)[: plan.views_per_step]
        posed = replace(posed, train=posed.train.some_views(which))
    return posed.unit(rows, jnp.ones(len(rows))), rows


def updated(posed: Problem, plan: Plan, state: State, unit: Unit, held: Float[Array, " b"]) -> State:
    """One step of training.

    Args:
        posed: The problem.
        plan: How it is trained.
        state: Before the step.
        unit: What the step sees, from ``drawn``.
        held: How much of each of its examples there is.

    Returns:
        The state after the step.
    """
    followed = state.params if plan.target_decay is None else state.target
    objective = with_target(posed.objective, followed)

    def loss(params: Any) -> Float[Array, ""]:
        model = replace(posed, params=params, objective=objective)
        return model.loss(model.leaves().arrays, unit.seen, held.astype(unit.weights.dtype))

    updates, optimizer_state = plan.optimizer.update(jax.grad(loss)(state.params), state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    kept, target = plan.target_decay, state.target
    if kept is not None:
        target = jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, target, params)
    return State(params, optimizer_state, target)
