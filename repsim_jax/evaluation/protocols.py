"""Does a measure find what belongs together?  The two tasks of ContraSim's paper, for any measure, with intervals.

Layer prediction: among the layers of another network, is the corresponding one the most similar (Kornblith et al. 2019,
arXiv 1905.00414)? Choice: among several candidate sets of rows, is the true one the most similar (arXiv 2303.16992)?
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import nearest_rows

Pairs = Callable[[Sequence[jax.Array], Sequence[jax.Array]], jax.Array]


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval.

    Attributes:
        mean: Over all decisions.
        low: 2.5th percentile of the resampled means.
        high: 97.5th percentile.
        decisions: How many decisions the mean is over.
        units: How many independent units (models, pairs, fits) were resampled.
    """

    mean: float
    low: float
    high: float
    decisions: int
    units: int


class Trials(NamedTuple):
    """Choices to be made.

    Attributes:
        rows: (trials, n) the rows of x in each trial.
        candidates: (trials, 1 + alternatives, n) the rows of y; candidate 0 is the true one.
    """

    rows: np.ndarray
    candidates: np.ndarray


def layer_accuracy(scores: np.ndarray) -> np.ndarray:
    """Layer prediction: the share of layers whose counterpart in the other network is the most similar one.

    Args:
        scores: (models, models, layers, layers), ``scores[a, b, i, j]`` of layer i of a and layer j of b; larger is
            more similar. Not-a-number counts as no answer.

    Returns:
        (models, models) shares; NaN on the diagonal, where a network is compared with itself.

    Raises:
        BadArrayError: If the shape is another.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 4 or scores.shape[0] != scores.shape[1] or scores.shape[2] != scores.shape[3]:
        raise BadArrayError(f"layer_accuracy needs (models, models, layers, layers) scores, got {scores.shape}.")
    chosen = np.where(np.isnan(scores), -np.inf, scores).argmax(3)
    right = (chosen == np.arange(scores.shape[2])) & ~np.isnan(scores).all(3)
    accuracy = right.mean(2)
    np.fill_diagonal(accuracy, np.nan)
    return accuracy


def trials(
    generator: np.random.Generator,
    y: np.ndarray,
    *,
    size: int,
    kind: Literal["random", "hard"],
    repeats: int = 1,
    alternatives: int = 10,
) -> Trials:
    """Draws choices among the true set of rows and wrong ones.

    Args:
        generator: Draws everything.
        y: (N, d) representation that the candidates are taken from.
        size: Rows n of each set; every example is used ``repeats`` times, what does not fill a set is left out.
        kind: ``random``: wrong sets are drawn with replacement, as in the paper. ``hard``: wrong set j replaces every
            row by its j-th nearest neighbor in y.
        repeats: Partitions of the examples into sets.
        alternatives: Wrong candidates.

    Returns:
        The trials.

    Raises:
        BadArrayError: If there are fewer rows than a set or than neighbors needs.
    """
    total = len(y)
    if not 1 <= size <= total or total <= alternatives:
        raise BadArrayError(f"trials needs more than {max(size, alternatives)} rows for sets of {size}, got {total}.")
    near = None if kind == "random" else np.asarray(nearest_rows(jnp.asarray(y), k=alternatives))
    rows, candidates = [], []
    for _ in range(repeats):
        order = generator.permutation(total)
        for start in range(0, total - size + 1, size):
            true = order[start : start + size]
            wrong = generator.integers(0, total, (alternatives, size)) if near is None else near[true].T
            rows.append(true)
            candidates.append(np.concatenate([true[None], wrong]))
    return Trials(np.stack(rows), np.stack(candidates))


def choices(pairs: Pairs, x: Any, y: Any, given: Trials) -> np.ndarray:
    """Whether a measure takes the true candidate in each trial.

    Args:
        pairs: ``pairs(xs, ys)`` scores all pairs of two lists of (n, d) arrays, as registered measures do.
        x: (N, dx).
        y: (N, dy), row i the same example.
        given: From ``trials``.

    Returns:
        (trials,) booleans; a candidate without a score is never taken, and a tie with a wrong one is no success.
    """
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    scores = np.asarray(_choice_scores(x, y, jnp.asarray(given.rows), jnp.asarray(given.candidates), pairs=pairs))
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    return scores[:, 0] > scores[:, 1:].max(1)


@partial(jax.jit, static_argnames=("pairs",))
def _choice_scores(x: jax.Array, y: jax.Array, rows: jax.Array, candidates: jax.Array, *, pairs: Pairs) -> jax.Array:
    def one(rows: jax.Array, candidates: jax.Array) -> jax.Array:
        return pairs([x[rows]], [y[candidate] for candidate in candidates])[0]

    return jax.lax.map(lambda trial: one(*trial), (rows, candidates))


def mean_cosine_pairs(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> Float[Array, "la lb"]:
    """Mean product of rows of all pairs of layers: ContraSim of layers that are encoded already.

    Args:
        xs: L_A layers (n, q) of unit rows.
        ys: L_B layers (n, q) of the same examples.

    Returns:
        (L_A, L_B).
    """
    z, other = jnp.stack(xs), jnp.stack(ys)
    return z.reshape(len(xs), -1) @ other.reshape(len(ys), -1).T / z.shape[1]


def bootstrap_models(
    generator: np.random.Generator, accuracy: Sequence[np.ndarray], *, layers: int, draws: int = 2000
) -> Interval:
    """Mean accuracy over pairs of models, with an interval over models.

    Args:
        generator: Draws the models.
        accuracy: For each independent fit the (models, models) shares of ``layer_accuracy``.
        layers: Decisions behind each share.
        draws: Resamples.

    Returns:
        The interval. Fits are resampled, and within each its models, each pair counting as often as both were drawn; a
        pair of interest is one of different models.
    """
    tables = [np.asarray(table, float) for table in accuracy]
    means = np.empty(draws)
    for draw in range(draws):
        sums = weights = 0.0
        for pick in generator.integers(0, len(tables), len(tables)):
            table = tables[pick]
            count = np.bincount(generator.integers(0, len(table), len(table)), minlength=len(table))
            weight = np.outer(count, count) * ~np.isnan(table)
            sums, weights = sums + (weight * np.nan_to_num(table)).sum(), weights + weight.sum()
        means[draw] = sums / weights if weights else np.nan
    every = np.concatenate([table[~np.isnan(table)] for table in tables])
    low, high = np.nanquantile(means, (0.025, 0.975))
    return Interval(float(every.mean()), float(low), float(high), every.size * layers, sum(map(len, tables)))


def bootstrap_units(generator: np.random.Generator, right: Sequence[np.ndarray], *, draws: int = 2000) -> Interval:
    """Mean of decisions that come in units (pairs of models, fits), with an interval over units and decisions.

    Args:
        generator: Draws units, and decisions within them.
        right: For each unit its decisions: booleans, or differences of two measures' booleans.
        draws: Resamples.

    Returns:
        The interval; each unit counts alike.
    """
    values = np.unique(np.concatenate([np.asarray(unit, float) for unit in right]))
    shares = np.stack([[np.mean(unit == value) for value in values] for unit in right])
    counts = np.asarray([len(unit) for unit in right])
    picked = generator.integers(0, len(right), (draws, len(right)))
    means = (generator.multinomial(counts[picked], shares[picked]) @ values / counts[picked]).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float((shares @ values).mean()), float(low), float(high), int(counts.sum()), len(right))
