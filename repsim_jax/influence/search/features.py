r"""Which training examples move a query the most? Influence as an inner product of stored features.

.. math:: I_{ji} = - \psi_j \cdot \phi_i, \quad \phi_i = P \nabla F_i, \quad
    \psi_j = (P C P^T + \lambda)^{-1} P \nabla m_j

Features of training examples are stored once, before any query or damping is known: Choe et al. 2024 (LoGra,
arXiv 2405.13954), Park et al. 2023 (TRAK, arXiv 2303.14186).
"""

import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.damping import Damping, checked_damping
from repsim_jax.influence.derivatives import Mode, contributions, measured_gradients
from repsim_jax.influence.examples import Examples
from repsim_jax.influence.measurements import Measurement
from repsim_jax.influence.problems import Problem, in_batches
from repsim_jax.influence.projections import LoGra, RandomProjection
from repsim_jax.influence.pseudo import Told
from repsim_jax.influence.search.exact import Exact
from repsim_jax.influence.search.index import Found, Index
from repsim_jax.linalg import precise_jit
from repsim_jax.resumable import fingerprint

Projection = LoGra | RandomProjection
# Examples whose views tell one augmentation from another.
_FINGERPRINTED = 8


class TopInfluence(NamedTuple):
    """The training examples of the largest influence on each query.

    Attributes:
        raising: Values above zero as a rule, falling: including them raises the measurement, which for a stability
            means that views of the query come apart.
        lowering: Values below zero as a rule, rising: including them lowers it.
    """

    raising: Found
    lowering: Found


def top_influence(index: Index, queries: Float[np.ndarray, "m d"], *, k: int = 10) -> TopInfluence:
    """Finds the examples of the largest influence of either sign.

    Args:
        index: Holds features of training examples, from ``store_features``.
        queries: From ``query_features``, with the same curvature.
        k: How many of each sign, in [1, n].

    Returns:
        Influences and ids.

    Raises:
        BadArrayError: If queries have another width, are not finite, or k is out of range.
    """
    found = index.ends(queries, k=k)
    return TopInfluence(_negated(found.smallest), _negated(found.largest))


def _negated(found: Found) -> Found:
    return Found(-found.values, found.ids)


def store_features(
    key: jax.Array, posed: Problem, folder: str | os.PathLike[str], *, curvature: Projection, mode: Mode = "batch",
    dtype: str = "float32", block: int = 64, on_progress: Told | None = None,
) -> Exact:  # fmt: skip
    """Stores the features of all training examples, batch by batch; a run that was stopped goes on where it was.

    Args:
        key: As in ``influence``: deals examples into batches, where there is more than one.
        posed: The problem.
        folder: Of the store; one per problem, curvature, mode and key. Ids are the numbers of examples.
        curvature: From ``logra`` or ``random_projection``.
        mode: As in ``influence``.
        dtype: "float32", or "float16" for half the room.
        block: Gradients of examples that are held at once.
        on_progress: Called as ``on_progress(done, all)`` between batches.

    Returns:
        The store.

    Raises:
        BadArrayError: If features are not finite, ``block`` is below 1, or another curvature came.
        StoreMismatchError: If the folder holds features of another model, curvature, mode, key or other examples.
        NoSpaceError: If there is no room; what was stored stays, and the same call goes on from there.
    """
    _check_projection(curvature)
    if block < 1:
        raise BadArrayError(f"store_features needs block >= 1, got {block}.")
    store = Exact(folder, dtype=dtype, about=_fingerprint(key, posed, curvature, mode))
    stored = set(store.ids().tolist())
    batches = in_batches(key if mode == "batch" else None, len(posed.train), posed.batch_size)
    scale = 1 / len(batches.rows) if mode == "batch" else 1.0
    for number, (rows, weights) in enumerate(zip(*batches, strict=True)):
        present = np.flatnonzero(weights)
        if not stored.issuperset(rows[present].tolist()):
            made = batch_features(posed, curvature, rows, weights, mode=mode, block=block)
            store.add(scale * made[present], rows[present])
        if on_progress is not None:
            on_progress(number + 1, len(batches.rows))
    return store


def _fingerprint(key: jax.Array, posed: Problem, curvature: Projection, mode: str) -> str:
    """Of all that features depend on but for code: parameters, examples, directions, batches, and views."""
    train = posed.train
    told = (_data(key), _data(train.draws), _directions(curvature), posed.batch_size)
    views = train.rows(slice(0, _FINGERPRINTED)).seen()  # the same keys give other views by another augmentation
    options = (posed.objective, posed.stability)
    return f"{mode} {type(posed.objective).__name__} " + fingerprint(
        (posed.leaves().arrays, train.x, views, options, told)
    )


def _data(key: jax.Array) -> jax.Array:
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def _directions(curvature: Projection) -> Any:
    if isinstance(curvature, LoGra):
        return curvature.inputs, curvature.outputs
    return _data(curvature.key), curvature.moment.shape[0]


def batch_features(
    posed: Problem, curvature: Projection, rows: np.ndarray, weights: np.ndarray, *, mode: Mode = "batch",
    block: int = 64,
) -> np.ndarray:  # fmt: skip
    """Projected gradients of what each example of a batch adds to training.

    Args:
        posed: The problem.
        curvature: From ``logra`` or ``random_projection``.
        rows: (b,) numbers of the examples of a batch.
        weights: (b,); zero for those that only fill it.
        mode: As in ``influence``.
        block: Gradients that are held at once.

    Returns:
        (b, d) features; the objective of the batch counts in full.
    """
    size = math.ceil(len(rows) / math.ceil(len(rows) / block))
    found = _batch_features(posed, curvature, jnp.asarray(rows), jnp.asarray(weights), mode=mode, block=size)
    return np.asarray(found)


@precise_jit(static_argnames=("mode", "block"))
def _batch_features(
    posed: Problem, curvature: Projection, rows: jax.Array, weights: jax.Array, *, mode: Mode, block: int
) -> Float[Array, "b d"]:
    arrays = posed.leaves().arrays
    seen, pull = jax.vjp(lambda a: contributions(posed, a, rows, weights, mode), arrays)
    count = -(-len(rows) // block)
    places = jnp.arange(count * block).reshape(count, block)

    def project(block_places: jax.Array) -> jax.Array:
        one_hot = jax.nn.one_hot(block_places, len(rows), dtype=seen.dtype)
        return _joined(curvature, jax.vmap(lambda row: pull(row)[0])(one_hot))

    features = jax.lax.map(project, places)
    return features.reshape(-1, features.shape[-1])[: len(rows)]


class QueryFeatures(NamedTuple):
    """Queries, as a search among stored features takes them.

    Attributes:
        features: (m, d), with the curvature divided out; minus their products with stored ones are influences.
        measurements: (m,) of the model as it is.
    """

    features: np.ndarray
    measurements: np.ndarray


def query_features(
    posed: Problem, queries: Examples, *, curvature: Projection, measurement: Measurement | None = None,
    damping: Damping = Damping(), block: int = 32,  # noqa: B008 (frozen)
) -> np.ndarray:  # fmt: skip
    """Features of measurements, with the curvature divided out: ``measured_features`` without what was measured.

    Args:
        posed: The problem.
        queries: From ``augmented`` or ``with_views``.
        curvature: That of the stored features.
        measurement: Of single queries; None: their stability, as the problem has it.
        damping: What is added to the curvature.
        block: Queries whose gradients are held at once.

    Returns:
        (m, d) features; minus their products with stored ones are influences.

    Raises:
        BadArrayError: As ``measured_features``.
    """
    given: dict[str, Any] = {"curvature": curvature, "measurement": measurement, "damping": damping, "block": block}
    return measured_features(posed, queries, **given).features


def measured_features(
    posed: Problem, queries: Examples, *, curvature: Projection, measurement: Measurement | None = None,
    damping: Damping = Damping(), block: int = 32,  # noqa: B008 (frozen)
) -> QueryFeatures:  # fmt: skip
    """Measurements, and their features with the curvature divided out.

    Args:
        posed: The problem.
        queries: From ``augmented`` or ``with_views``.
        curvature: That of the stored features.
        measurement: Of single queries; None: their stability, as the problem has it.
        damping: What is added to the curvature.
        block: Queries whose gradients are held at once.

    Returns:
        Both.

    Raises:
        BadArrayError: If the damping is out of range, the measurement is of several queries together, or another
            curvature came.
    """
    _check_projection(curvature)
    checked_damping(damping)
    measured: Any = measurement or posed.stability
    if measured.num_queries != 1 or block < 1:
        raise BadArrayError(
            "features of queries need a measurement of single queries and block >= 1: got "
            f"{type(measured).__name__} of {measured.num_queries or 'all'} queries, block={block}."
        )
    size, made, measurements = min(block, len(queries)), [], []
    for start in range(0, len(queries), size):
        which = np.minimum(np.arange(start, start + size), len(queries) - 1)
        seen, gradients = measured_gradients(posed, queries.rows(which), measured, size=size)
        made.append(np.asarray(_divided(curvature, gradients, damping)))
        measurements.append(np.asarray(seen))
    return QueryFeatures(*(np.concatenate(side)[: len(queries)] for side in (made, measurements)))


def _check_projection(curvature: Any) -> None:
    if not isinstance(curvature, Projection):
        raise BadArrayError(
            f"features are of a projection, from logra or random_projection; got {type(curvature).__name__}. "
            "Take influence(key, problem, queries, ...) for other curvatures."
        )


def _joined(curvature: Projection, gradients: Any) -> Float[Array, "m d"]:
    features = curvature.features(gradients)
    return jnp.concatenate(features, axis=1) if isinstance(features, list) else features


@precise_jit()
def _divided(curvature: Projection, gradients: Any, damping: Damping) -> Float[Array, "m d"]:
    if isinstance(curvature, RandomProjection):
        return _solved(curvature.moment, curvature.features(gradients), damping)
    divided = zip(curvature.moments, curvature.features(gradients), strict=True)
    return jnp.concatenate([_solved(moment, one, damping) for moment, one in divided], axis=1)


def _solved(moment: Float[Array, "r r"], features: Float[Array, "m r"], damping: Damping) -> Float[Array, "m r"]:
    mean = jnp.trace(moment) / len(moment)
    added = jnp.where(mean > 0, damping(mean), 1.0)  # what the objective does not use has no features to divide
    factor = jax.scipy.linalg.cho_factor(moment + added * jnp.eye(len(moment), dtype=moment.dtype))
    return jax.scipy.linalg.cho_solve(factor, features.T).T
