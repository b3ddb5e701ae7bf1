r"""What would have happened without these examples, and how well did influence foretell it?

Linear datamodeling score: Park et al. 2023, "TRAK" (arXiv 2303.14186), definition 2.3, after Ilyas et al. 2022.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.examples import Examples
from repsim_jax.influence.measurements import Measurement
from repsim_jax.influence.problems import Problem
from repsim_jax.linalg import average_ranks, precise_jit


def random_subsets(key: jax.Array, n: int, *, num_subsets: int, share: float = 0.5) -> np.ndarray:
    """Random subsets of one size.

    Args:
        key: Random key.
        n: Number of examples.
        num_subsets: How many.
        share: Part of the examples that is in each, in (0, 1).

    Returns:
        (num_subsets, n) booleans.

    Raises:
        BadArrayError: If the subsets would hold fewer than two examples, or all.
    """
    size = round(share * n)
    if not 2 <= size < n or num_subsets < 1:
        raise BadArrayError(
            f"random_subsets needs num_subsets >= 1 and subsets of 2 to n - 1 examples: got {num_subsets} of {size} "
            f"of {n}."
        )
    keys = jax.random.split(key, num_subsets)
    order = np.asarray(jax.vmap(lambda one: jax.random.permutation(one, n))(keys))
    masks = np.zeros((num_subsets, n), bool)
    np.put_along_axis(masks, order[:, :size], True, axis=1)
    return masks


def leave_one_out(n: int) -> np.ndarray:
    """All examples but one, for each example.

    Args:
        n: Number of examples.

    Returns:
        (n, n) booleans.
    """
    return ~np.eye(n, dtype=bool)


def outcomes(posed: Problem, params: Any, queries: Examples, measurement: Measurement | None = None) -> np.ndarray:
    """What is measured of queries in each of many models.

    Args:
        posed: The problem.
        params: From ``retrained``.
        queries: The queries.
        measurement: None: the problem's stability.

    Returns:
        (s, m) measurements.
    """
    measured = measurement or posed.stability
    size = measured.num_queries or len(queries)
    return np.asarray(_outcomes(posed, params, queries, measured, size=size))


@precise_jit(static_argnames=("size",))
def _outcomes(posed: Problem, params: Any, queries: Examples, measurement: Any, *, size: int) -> Float[Array, "s m"]:
    seen = queries.seen()
    groups = seen.reshape(-1, size, *seen.shape[1:])

    def of_model(one: Any) -> Float[Array, " m"]:
        model = replace(posed, params=one)
        seeing = model.seeing(model.leaves().arrays)
        return jax.vmap(lambda group: measurement(seeing, group))(groups)

    return jax.lax.map(of_model, params, batch_size=8)


class DatamodelingScore(NamedTuple):
    """How well sums of influence rank the outcomes of subsets.

    Attributes:
        value: The mean of ``by_query``, in [-1, 1].
        interval: (2,) of 95 %, of a normal distribution as wide as the score is over resampled subsets.
        by_query: (m,) Spearman's correlations over subsets.
    """

    value: float
    interval: tuple[float, float]
    by_query: np.ndarray


def datamodeling_score(
    key: jax.Array, values: np.ndarray, masks: np.ndarray, measured: np.ndarray, *, num_resamples: int = 200
) -> DatamodelingScore:
    r"""Linear datamodeling score: Spearman's correlation of :math:`\sum_{i \in S} I_{ji}` with the outcome of S.

    Args:
        key: Random key of the bootstrap.
        values: Influence (m, n).
        masks: (s, n) booleans, at least three subsets.
        measured: (s, m), from ``outcomes``.
        num_resamples: Bootstrap resamples of subsets.

    Returns:
        The score.

    Raises:
        BadArrayError: If shapes do not belong together.

    Source:
        arXiv 2303.14186, definition 2.3.
    """
    values, masks, measured = np.asarray(values), np.asarray(masks, float), np.asarray(measured)
    if values.shape != (measured.shape[1], masks.shape[1]) or len(masks) != len(measured) or len(masks) < 3:
        raise BadArrayError(
            "datamodeling_score takes values (m, n), masks (s, n) and outcomes (s, m), s >= 3: got "
            f"{values.shape}, {masks.shape} and {measured.shape}."
        )
    foretold = jnp.asarray(masks @ values.T)
    draws = jax.random.randint(key, (num_resamples, len(masks)), 0, len(masks))
    by_query, resampled = _correlated(foretold, jnp.asarray(measured), draws)
    # not the resamples' own quantiles: subsets that are drawn twice tie in rank, which lowers every resample
    value, half = float(by_query.mean()), 1.96 * float(np.std(resampled))
    return DatamodelingScore(value, (max(value - half, -1.0), min(value + half, 1.0)), np.asarray(by_query))


@precise_jit()
def _correlated(
    foretold: Float[Array, "s m"], measured: Float[Array, "s m"], draws: Array
) -> tuple[Float[Array, " m"], Float[Array, " r"]]:
    resampled = jax.lax.map(lambda rows: _spearman(foretold[rows], measured[rows]).mean(), draws)
    return _spearman(foretold, measured), resampled


def _spearman(left: Float[Array, "s m"], right: Float[Array, "s m"]) -> Float[Array, " m"]:
    sides = []
    for side in (left, right):
        ranks = jax.vmap(average_ranks, in_axes=1, out_axes=1)(side)
        centered = ranks - ranks.mean(0)
        size = jnp.linalg.norm(centered, axis=0)
        sides.append(centered / jnp.where(size > 0, size, 1.0))
    return (sides[0] * sides[1]).sum(0)


@precise_jit()
def column_correlations(left: Float[Array, "s m"], right: Float[Array, "s m"]) -> Float[Array, " m"]:
    """Spearman's rank correlation of each column with the same column of another array; 0 where one is constant.

    Args:
        left: Any numbers.
        right: Likewise.

    Returns:
        In [-1, 1].
    """
    return _spearman(left, right)


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side is constant.

    Args:
        left: (s,).
        right: (s,).

    Returns:
        In [-1, 1].
    """
    return float(_spearman(jnp.asarray(left)[:, None], jnp.asarray(right)[:, None])[0])


def noise_ceiling(repeats: np.ndarray, *, judged_on: int | None = None) -> float:
    r"""What a perfect predictor of the expected outcome would score against the mean of repeated trainings.

    With :math:`\rho` the mean correlation of two repeats, the mean of r repeats has the reliability
    :math:`R = r \rho / (1 + (r - 1) \rho)` (Spearman and Brown), and the ceiling is :math:`\sqrt R`.

    Args:
        repeats: (r, s, m) outcomes of the same subsets, trained r >= 2 times with other seeds.
        judged_on: Of how many trainings the mean is what predictors are held to: 1 where a score is of one training;
            None: all repeats.

    Returns:
        In [0, 1].

    Raises:
        BadArrayError: If there are fewer than two repeats, or ``judged_on`` is below 1.
    """
    repeats = np.asarray(repeats)
    if repeats.ndim != 3 or len(repeats) < 2 or (judged_on is not None and judged_on < 1):
        raise BadArrayError(
            f"noise_ceiling needs outcomes (r, s, m) of r >= 2 repeats and judged_on >= 1, got shape {repeats.shape} "
            f"and {judged_on}."
        )
    pairs = [(i, j) for i in range(len(repeats)) for j in range(i)]
    each = [float(_spearman(jnp.asarray(repeats[i]), jnp.asarray(repeats[j])).mean()) for i, j in pairs]
    rho = max(0.0, float(np.mean(each)))
    r = judged_on or len(repeats)
    return float(np.sqrt(r * rho / (1 + (r - 1) * rho)))
