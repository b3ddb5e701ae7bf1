r"""Which training examples raise or lower a measurement of a query, and which ones keep themselves in place?

.. math:: I_{ji} = - \nabla m_j^T (C + \lambda)^{-1} \nabla F_i

m is the measurement, and F what an example adds to training. In the paper F is the example's own stability. Here it is,
by default, the derivative of the training objective by the weight of the example, which sees it also as what repels
others: Deng et al. 2024 (arXiv 2412.01335) for losses that do not fall apart into examples.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.influence.curvature import Curvature
from repsim_jax.influence.damping import Damping, checked_damping
from repsim_jax.influence.derivatives import Mode, all_products, dots, measured_gradients, own_products
from repsim_jax.influence.examples import Examples
from repsim_jax.influence.measurements import Measurement, Stability
from repsim_jax.influence.problems import Batches, Problem, in_batches
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.whitened import gradients_at_once, squared_norms, stability_products, whitened_at_once

# Groups of views for standard errors: each takes as long as the scores themselves.
_VIEW_GROUPS = 4
# ``kept(name, compute)`` gives what was computed under this name before, or computes and keeps it (``stored.Shards``).
Kept = Callable[[str, Callable[[], dict[str, np.ndarray]]], dict[str, np.ndarray]]


class Influence(NamedTuple):
    """Influence of training examples on measurements.

    Attributes:
        values: (m, n); above zero where including the example raises the measurement.
        standard_errors: (m, n), over views; None where they were not asked for.
        measurements: (m,) of the model as it is.
        options: What was chosen, by name.
    """

    values: np.ndarray
    standard_errors: np.ndarray | None
    measurements: np.ndarray
    options: dict[str, Any]


class SelfInfluence(NamedTuple):
    """Influence of training examples on themselves.

    Attributes:
        values: (n,); by how much leaving the example out raises its own measurement.
        standard_errors: (n,), over views; None where they were not asked for.
        measurements: (n,) of the model as it is.
        options: What was chosen, by name.
    """

    values: np.ndarray
    standard_errors: np.ndarray | None
    measurements: np.ndarray
    options: dict[str, Any]


def influence(
    key: jax.Array,
    posed: Problem,
    queries: Examples,
    *,
    curvature: Curvature,
    measurement: Measurement | None = None,
    mode: Mode = "batch",
    damping: Damping = Damping(),  # noqa: B008 (frozen)
    view_groups: int = 0,
    block: int = 32,
    mesh: jax.sharding.Mesh | None = None,
    kept: Kept | None = None,
    on_progress: Told | None = None,
) -> Influence:
    r"""Influence of every training example on every measurement.

    In ``mode="batch"`` a value predicts, to first order, by how much the measurement would rise if the example were
    included in training rather than left out. In ``mode="paper"`` it is the paper's product of alignment gradients,
    which predicts it up to the factor 1 / n. Each mode wants the curvature of its own side: "batch" one of
    ``of="objective"`` or the Hessian, "paper" one of ``of="alignment"``. With the other's, "batch" foretold nothing of
    retraining by SimCLR and Barlow Twins, and half as much by VICReg (``benchmarks/influence_lds.py``).

    Args:
        key: Random key; deals training examples into batches, where there is more than one.
        posed: From ``problem``.
        queries: From ``augmented`` or ``with_views``; training examples or others.
        curvature: From ``ekfac``, ``logra``, ``low_rank``, ``woodbury``, ``random_projection``, ``dense``, or
            ``Identity()``.
        measurement: What is measured of the queries; None: their stability, as the problem has it.
        mode: "batch", the derivative of the training objective by the weights of examples; "paper", the gradient of
            their own stability.
        damping: What is added to the curvature.
        view_groups: Into how many groups views are split for standard errors (jackknife: each is left out in turn, on
            both sides, while the curvature stays), which takes so many times longer; 0: no standard errors.
        block: Queries whose gradients are held at once.
        mesh: Devices over which the batches of training examples are spread, whatever its axes.
        kept: Keeps each block of queries, so that an interrupted run goes on: ``stored.Shards``. It must be of the same
            problem, queries and options.
        on_progress: Called as ``on_progress(done, all)`` between blocks.

    Returns:
        Values (m, n); m is the number of queries, of pairs of queries, or 1, as the measurement has it.

    Raises:
        BadArrayError: If the damping, ``block`` or ``view_groups`` is out of range, queries have another shape than
            training examples or do not divide into pairs, or a value is not finite.
        UnknownNameError: If there is no such mode.

    Source:
        arXiv 2412.17170 for ``mode="paper"``, as far as its abstract and opening tell; arXiv 2412.01335 for
        ``mode="batch"``.

    Differs:
        The paper leaves open which side is augmented (``Stability.side``), the number of views, whether a projector
        takes part (``problem``'s ``represent``), the matrix behind the curvature (``of``) and the damping: each is an
        option here, recorded in the result.
    """
    measured = measurement or posed.stability
    _check(posed, queries, curvature, mode, damping, block, view_groups)
    groups = grouped(len(queries), measured)

    def score(posed: Problem, queries: Examples, kept: Kept, told: Told | None) -> Scored:
        return _pairwise(key, posed, queries, measured, groups, curvature, mode, damping, block, mesh, kept, told)

    (values, measurements), errors = _jackknifed(score, posed, queries, view_groups, kept, on_progress)
    return Influence(
        values, errors, measurements, _options(posed, measured, curvature, mode, damping, queries, view_groups)
    )


def self_influence(
    key: jax.Array,
    posed: Problem,
    *,
    curvature: Curvature,
    measurement: Measurement | None = None,
    mode: Mode = "batch",
    damping: Damping = Damping(),  # noqa: B008 (frozen)
    view_groups: int | None = None,
    block: int = 32,
    mesh: jax.sharding.Mesh | None = None,
    kept: Kept | None = None,
    on_progress: Told | None = None,
) -> SelfInfluence:
    """By how much leaving a training example out would raise its own measurement: high where it was memorized.

    The negative diagonal of ``influence(key, posed, posed.train, ...)``, without the rest of it. In ``mode="paper"``
    with the stability for measurement it is never negative.

    Args:
        key: As in ``influence``.
        posed: As in ``influence``.
        curvature: As in ``influence``.
        measurement: As in ``influence``; of single queries.
        mode: As in ``influence``.
        damping: As in ``influence``.
        view_groups: As in ``influence``; None is four groups, three of three views, or none of two views.
        block: As in ``influence``.
        mesh: As in ``influence``.
        kept: Keeps each batch, as in ``influence``.
        on_progress: As in ``influence``.

    Returns:
        Values (n,).

    Raises:
        BadArrayError: As ``influence``, and for measurements of several queries together.
        UnknownNameError: If there is no such mode.

    Source:
        As ``influence``.
    """
    measured = measurement or posed.stability
    if view_groups is None:
        view_groups = min(_VIEW_GROUPS, posed.train.num_views) if posed.train.num_views > 2 else 0
    _check(posed, posed.train, curvature, mode, damping, block, view_groups)
    if measured.num_queries != 1:
        raise BadArrayError(
            f"self_influence needs a measurement of single queries; {type(measured).__name__} is of several together. "
            "Take influence(key, problem, queries, ...) for it."
        )

    def score(posed: Problem, _: Examples, kept: Kept, told: Told | None) -> Scored:
        return _own(key, posed, measured, curvature, mode, damping, block, mesh, kept, told)

    (values, measurements), errors = _jackknifed(score, posed, posed.train, view_groups, kept, on_progress)
    options = _options(posed, measured, curvature, mode, damping, posed.train, view_groups)
    return SelfInfluence(values, errors, measurements, options)


def _check(
    posed: Problem, queries: Examples, curvature: Curvature, mode: str, damping: Damping, block: int, view_groups: int
) -> None:
    if not isinstance(queries, Examples) or not hasattr(curvature, "solve"):
        raise BadArrayError(
            "influence needs queries from augmented or with_views and a curvature from ekfac or its like: got "
            f"{type(queries).__name__} and {type(curvature).__name__}."
        )
    if mode not in ("batch", "paper"):
        raise UnknownNameError.of("mode", str(mode), ("batch", "paper"))
    checked_damping(damping)
    if queries.x.shape[1:] != posed.train.x.shape[1:] or queries.x.dtype != posed.train.x.dtype:
        raise BadArrayError(
            f"influence needs queries like the training examples, {posed.train.x.shape[1:]} {posed.train.x.dtype}: "
            f"got {queries.x.shape[1:]} {queries.x.dtype}."
        )
    fewest = min(queries.num_views, posed.train.num_views)
    most_left_out = -(-fewest // view_groups) if view_groups > 1 else 0
    if block < 1 or view_groups < 0 or view_groups == 1 or view_groups > fewest or fewest - most_left_out < 2:
        raise BadArrayError(
            f"influence needs block >= 1, and view_groups 0, or from 2 to the number of views ({fewest}) so that two "
            f"views remain when a group is left out: got block={block}, view_groups={view_groups}."
        )


def grouped(n: int, measurement: Measurement) -> np.ndarray:
    """Which queries each measurement is of.

    Args:
        n: Number of queries.
        measurement: What is measured.

    Returns:
        (m, g) numbers of queries.

    Raises:
        BadArrayError: If queries do not divide, or are too few for the measurement.
    """
    fewest = getattr(measurement, "fewest", 1)
    if n < fewest:
        raise BadArrayError(f"{type(measurement).__name__} is of at least {fewest} queries, got {n}.")
    size = measurement.num_queries or n
    if n % size:
        raise BadArrayError(f"{type(measurement).__name__} is of {size} queries at a time: {n} queries do not divide.")
    return np.arange(n).reshape(-1, size)


def _options(
    posed: Problem, measurement: Measurement, curvature: Curvature, mode: str, damping: Damping, queries: Examples,
    view_groups: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "mode": mode,
        "objective": type(posed.objective).__name__,
        "measurement": type(measurement).__name__,
        "stability_side": (measurement if isinstance(measurement, Stability) else posed.stability).side,
        "curvature": type(curvature).__name__,
        "damping_relative": float(damping.relative),
        "damping_absolute": float(damping.absolute),
        "train_views": posed.train.num_views,
        "query_views": queries.num_views,
        "view_groups": view_groups,
        "batch_size": posed.batch_size,
        "represents": "the embeddings" if posed.represent is None else "another output",
    }


Scored = tuple[np.ndarray, np.ndarray]


def _jackknifed(
    score: Callable[[Problem, Examples, Kept, Told | None], Scored], posed: Problem, queries: Examples,
    view_groups: int, kept: Kept | None, on_progress: Told | None,
) -> tuple[Scored, np.ndarray | None]:  # fmt: skip
    """The scores of all views, and their standard errors from leaving each group of views out."""

    def named(without: str) -> Kept:
        given = kept
        if given is None:
            return lambda _, compute: compute()
        return lambda name, compute: given(f"{without}-{name}", compute)

    def told(round_: int) -> Told | None:
        given = on_progress
        if given is None:
            return None
        return lambda done, each: given(round_ * each + done, (view_groups + 1) * each)

    whole = score(posed, queries, named("all"), told(0))
    if not np.isfinite(whole[0]).all():
        bad = np.argwhere(~np.isfinite(whole[0]))
        raise BadArrayError(
            f"influence is NaN or infinite for {len(bad)} values, the first at {tuple(map(int, bad[0]))}. A zero "
            "representation has no cosine; too little damping overflows: look at the example, or raise the damping."
        )
    if not view_groups:
        return whole, None
    left_out = []
    for group in range(view_groups):
        of_train, of_queries = (
            np.flatnonzero(np.arange(side.num_views) % view_groups != group) for side in (posed.train, queries)
        )
        reduced = replace(posed, train=posed.train.some_views(of_train))
        rest = queries.some_views(of_queries)
        left_out.append(score(reduced, rest, named(f"without-{group}-of-{view_groups}"), told(group + 1))[0])
    spread = np.stack(left_out) - np.mean(left_out, axis=0)
    return whole, np.sqrt((view_groups - 1) / view_groups * np.square(spread).sum(0))


def _dealt(key: jax.Array, posed: Problem, mode: Mode, mesh: Any) -> Batches:
    """Batches of the objective; in the paper's mode, in which examples do not meet, merely blocks of that size."""
    multiple = 1 if mesh is None else mesh.devices.size
    return in_batches(key if mode == "batch" else None, len(posed.train), posed.batch_size, multiple=multiple)


def _pairwise(
    key: jax.Array, posed: Problem, queries: Examples, measurement: Any, groups: np.ndarray, curvature: Curvature,
    mode: Mode, damping: Damping, block: int, mesh: Any, kept: Kept, told: Told | None,
) -> Scored:  # fmt: skip
    batches = _dealt(key, posed, mode, mesh)
    scale = 1 / np.count_nonzero(batches.weights.any(1))
    size = min(block, len(groups))
    values, measurements = [], []
    count = -(-len(groups) // size)

    def one(number: int) -> dict[str, np.ndarray]:
        which = np.minimum(np.arange(number * size, (number + 1) * size), len(groups) - 1)
        seen, gradients = measured_gradients(posed, queries.rows(groups[which].ravel()), measurement, size=size)
        directions = curvature.solve(gradients, damping)
        found = -_products(posed, directions, batches, scale, mode, mesh)
        return {"values": found, "measurements": np.asarray(seen)}

    for number in range(count):
        found = kept(f"queries-{number}-of-{count}-by-{size}", partial(one, number))
        values.append(found["values"])
        measurements.append(found["measurements"])
        if told is not None:
            told(number + 1, count)
    return np.concatenate(values)[: len(groups)], np.concatenate(measurements)[: len(groups)]


def _products(posed: Problem, directions: Any, batches: Batches, scale: float, mode: Mode, mesh: Any) -> np.ndarray:
    """Derivatives (m, n) of what each training example adds along directions."""
    n = len(posed.train)
    if mode == "batch":
        dealt = jnp.asarray(batches.rows), jnp.asarray(batches.weights)
        return batches.scattered(np.asarray(all_products(posed, directions, *dealt, scale, mode=mode, mesh=mesh)), n)
    # examples do not meet: they are taken in blocks of one length, the last filled with its last example
    devices = 1 if mesh is None else mesh.devices.size
    size = -(-min(n, gradients_at_once(posed, posed.stability)) // devices) * devices
    blocks = np.minimum(np.arange(-(-n // size) * size), n - 1).reshape(-1, size)
    found = [stability_products(posed, directions, jnp.asarray(rows), mesh=mesh) for rows in blocks]
    return np.concatenate([np.asarray(one) for one in found], axis=1)[:, :n]


def _own(
    key: jax.Array, posed: Problem, measurement: Any, curvature: Curvature, mode: Mode, damping: Damping, block: int,
    mesh: Any, kept: Kept, told: Told | None,
) -> Scored:  # fmt: skip
    batches = _dealt(key, posed, mode, mesh)
    devices = 1 if mesh is None else mesh.devices.size
    scale = 1 / np.count_nonzero(batches.weights.any(1))
    num_batches, b = batches.rows.shape
    values, measurements = np.zeros((2, num_batches, b))
    # where both sides are the same gradient, it is taken once
    same = mode == "paper" and measurement is posed.stability
    squared = whitened_at_once(posed, curvature, measurement) if same else 0
    size = min(block, b, squared or block)
    starts, first_places = range(0, num_batches, devices), range(0, b, size)

    def block_of(examples: Examples, taken: jax.Array, weights: jax.Array, places: np.ndarray) -> Scored:
        if squared:
            measured, products = squared_norms(posed, curvature, examples, measurement, damping, mesh=mesh)
            return np.asarray(products), np.asarray(measured)
        measured, gradients = measured_gradients(posed, examples, measurement, size=len(examples), mesh=mesh)
        directions = curvature.solve(gradients, damping)
        if mode == "paper":
            _, own = measured_gradients(posed, examples, posed.stability, size=len(examples), mesh=mesh)
            return np.asarray(dots(directions, own)), np.asarray(measured)
        at = jnp.asarray(places)
        products = own_products(posed, directions, taken, weights, at, scale, mode=mode, mesh=mesh)
        return np.asarray(products), np.asarray(measured)

    def one(i: int, number: int) -> dict[str, np.ndarray]:
        found, seen = np.zeros((2, len(batches.rows[i : i + devices]), b))
        taken, weights = (jnp.asarray(side[i : i + devices]) for side in batches)
        for done, j in enumerate(first_places, 1):
            places = np.minimum(np.arange(j, j + size), b - 1)
            scored = block_of(posed.train.rows(taken[:, places].ravel()), taken, weights, places)
            found[:, places], seen[:, places] = (side.reshape(-1, size) for side in scored)
            if told is not None:
                told(number * len(first_places) + done, len(starts) * len(first_places))
        return {"values": found, "measurements": seen}

    for number, i in enumerate(starts):
        part = kept(f"own-{number}-of-{len(starts)}", partial(one, i, number))
        values[i : i + devices], measurements[i : i + devices] = part["values"], part["measurements"]
    return batches.scattered(values, len(posed.train)), batches.scattered(measurements, len(posed.train))
