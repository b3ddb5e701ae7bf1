"""Do some groups of examples influence the model more than others? Slices by what is known of them, and by pixels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.curation.densities import Values, checked_values
from repsim_jax.linalg import average_ranks

_PERMUTATIONS, _RESAMPLES = 10_000, 2_000
_FEWEST = 2
# Numbers that are permuted or drawn at once.
_ELEMENTS = 2**22


class SliceTest(NamedTuple):
    """Means of slices, and whether they differ from those of all other examples.

    Attributes:
        names: (s,) of the slices.
        counts: (s,) examples in each.
        means: (s,) of the values.
        intervals: (s, 2) of 95 %, from resampled examples of the slice.
        effects: (s,) difference to the mean of the others, in standard deviations of all values.
        raw_p_values: (s,) two-sided, from permuted labels.
        p_values: (s,) the same, corrected for the number of slices (Holm).
    """

    names: np.ndarray
    counts: np.ndarray
    means: np.ndarray
    intervals: np.ndarray
    effects: np.ndarray
    raw_p_values: np.ndarray
    p_values: np.ndarray


def slice_test(
    key: jax.Array,
    values: Values,
    labels: Sequence[object] | np.ndarray,
    *,
    num_permutations: int = _PERMUTATIONS,
    num_resamples: int = _RESAMPLES,
) -> SliceTest:
    """Compares each slice with all other examples.

    Args:
        key: Random key of permutations and resamples.
        values: Of the examples, such as ``self_influence(...).values``.
        labels: The slice of each example; slices of a single example are left out.
        num_permutations: Of the labels; the smallest p-value is one over one more than this.
        num_resamples: Of the bootstrap.

    Returns:
        The comparison, slices in the order of their names.

    Raises:
        BadArrayError: If there are fewer than two slices, values are not finite, or numbers do not fit.

    Source:
        Phipson and Smyth 2010, "Permutation p-values should never be zero"; Holm 1979.
    """
    each = np.asarray([str(label) for label in labels])
    checked = checked_values("values", values, len(each))
    names, numbers, counts = np.unique(each, return_inverse=True, return_counts=True)
    tested = np.flatnonzero((counts >= _FEWEST) & (counts < len(each)))
    if not len(tested) or min(num_permutations, num_resamples) < 1:
        raise BadArrayError(
            f"slice_test needs at least two slices, one of two examples or more, and permutations and resamples: got "
            f"{dict(zip(names[:5].tolist(), counts[:5].tolist(), strict=True))}, {num_permutations}, {num_resamples}."
        )
    standard = (checked - checked.mean()) / (checked.std() or 1.0)
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    effects, raw = _permuted(draws, standard, (numbers[None, :] == tested[:, None]).astype(float), num_permutations)
    means = np.asarray([checked[numbers == which].mean() for which in tested])
    intervals = np.stack([_interval(draws, checked[numbers == which], num_resamples) for which in tested])
    return SliceTest(names[tested], counts[tested], means, intervals, effects, raw, holm(raw))


def _permuted(
    draws: np.random.Generator, values: Float[np.ndarray, " n"], member: Float[np.ndarray, "s n"], num: int
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Differences of each slice to the others, and how often permuted values differ as much."""
    counts = member.sum(1)

    def differences(rows: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b s"]:
        sums = rows @ member.T
        return sums / counts - (rows.sum(1, keepdims=True) - sums) / (len(values) - counts)

    return differences(values[None])[0], _as_large(draws, values, differences, num)


def _as_large(draws: np.random.Generator, values: np.ndarray, statistic: Any, num: int) -> Float[np.ndarray, " s"]:
    """The share of permutations in which a statistic is as far from zero as in truth, which itself counts as one.

    Permutations are drawn on the host, where shuffling takes a tenth of the time of the sorts that XLA makes of it.
    """
    seen = np.abs(statistic(values[None])[0])
    size = max(1, min(num, _ELEMENTS // len(values)))
    count = np.zeros(len(seen))
    for start in range(0, num, size):
        rows = draws.permuted(np.broadcast_to(values, (min(size, num - start), len(values))), axis=1)
        # equal up to rounding is as large, so that tied values are not called surprising
        count += (np.abs(statistic(rows)) >= seen * (1 - 1e-9)).sum(0)
    return (count + 1) / (num + 1)


def _interval(draws: np.random.Generator, values: Float[np.ndarray, " m"], num: int) -> Float[np.ndarray, " 2"]:
    """Percentiles of the means of resampled values."""
    size = max(1, min(num, _ELEMENTS // len(values)))
    means = [
        values[draws.integers(0, len(values), (min(size, num - start), len(values)))].mean(1)
        for start in range(0, num, size)
    ]
    return np.quantile(np.concatenate(means), [0.025, 0.975])


def holm(p_values: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
    """Corrects p-values for their number, so that the probability of any false finding keeps its level.

    Args:
        p_values: Of s tests.

    Returns:
        Corrected ones, in the same order.
    """
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


class Correlations(NamedTuple):
    """Rank correlations of values with statistics of pixels.

    Attributes:
        names: (s,) of the statistics.
        correlations: (s,) Spearman's.
        p_values: (s,) two-sided, from permutations, corrected for their number (Holm).
    """

    names: np.ndarray
    correlations: np.ndarray
    p_values: np.ndarray


def statistic_correlations(
    key: jax.Array,
    values: Values,
    statistics: Mapping[str, Values],
    *,
    num_permutations: int = _PERMUTATIONS,
) -> Correlations:
    """Whether values go with simple statistics of the pixels, such as a uniform border: a background at work.

    Args:
        key: Random key.
        values: Of the examples, such as ``self_influence(...).values``.
        statistics: From ``image_statistics``.
        num_permutations: Of the values.

    Returns:
        The correlations; 0 where a statistic is constant.

    Raises:
        BadArrayError: If numbers do not fit or are not finite.
    """
    n = np.size(values)
    if n < 3 or not statistics or num_permutations < 1:
        raise BadArrayError(f"statistic_correlations needs at least three examples and one statistic, got n={n}.")
    columns = np.stack([checked_values(name, column, n) for name, column in statistics.items()])
    own, others = _ranked(checked_values("values", values, n)), np.stack([_ranked(column) for column in columns])
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    raw = _as_large(draws, own, lambda rows: rows @ others.T, num_permutations)
    return Correlations(np.asarray(list(statistics)), others @ own, holm(raw))


def _ranked(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Centered ranks of norm one, whose products are Spearman's correlations; zeros where all are equal."""
    ranks = np.asarray(average_ranks(jnp.asarray(values, jnp.float32)), np.float64)
    centered = ranks - ranks.mean()
    size = np.linalg.norm(centered)
    return centered / (size or 1.0)
