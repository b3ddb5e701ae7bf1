"""Do the measures tell the same story?  Rank correlation over layer pairs, and the pairs on which they part."""

from typing import NamedTuple

import numpy as np


class Disagreement(NamedTuple):
    """A layer pair that one measure ranks high and another low.

    Attributes:
        layer_a: Index of the layer of the first model.
        layer_b: Index of the layer of the second.
        higher: Index of the measure that ranks the pair highest.
        lower: Index of the measure that ranks it lowest.
        rank_higher: Normalized rank under the first, 0 (least alike of all pairs) to 1 (most alike).
        rank_lower: Normalized rank under the second.
    """

    layer_a: int
    layer_b: int
    higher: int
    lower: int
    rank_higher: float
    rank_lower: float


def normalized_ranks(values: np.ndarray, larger_is_more_similar: tuple[bool, ...]) -> np.ndarray:
    """The rank of every layer pair within each measure, 0 for the least alike to 1 for the most alike.

    Args:
        values: (measures, la, lb), finite.
        larger_is_more_similar: One bool per measure.

    Returns:
        (measures, la, lb) in [0, 1]; tied pairs share their mean rank; 0.5 where there is only one pair.
    """
    ranks = [
        _ranks(m.ravel() if larger else -m.ravel()) for m, larger in zip(values, larger_is_more_similar, strict=True)
    ]
    return np.asarray(ranks).reshape(np.shape(values))


def _ranks(flat: np.ndarray) -> np.ndarray:
    if flat.size == 1:
        return np.array([0.5])
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return ((last - (counts - 1) / 2) / (flat.size - 1))[inverse.ravel()]


def rank_correlations(values: np.ndarray, larger_is_more_similar: tuple[bool, ...]) -> np.ndarray:
    """Spearman's rank correlation between measures over all layer pairs.

    Args:
        values: (measures, la, lb), finite.
        larger_is_more_similar: One bool per measure.

    Returns:
        (measures, measures) in [-1, 1] with 1 on the diagonal; NaN where a measure ranks all pairs the same.
    """
    ranks = normalized_ranks(values, larger_is_more_similar).reshape(len(values), -1)
    centered = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centered, axis=1)
    products = np.outer(norms, norms)
    correlations = np.divide(centered @ centered.T, products, out=np.full(products.shape, np.nan), where=products > 0)
    np.fill_diagonal(correlations, 1.0)
    return np.clip(correlations, -1.0, 1.0)


def mean_agreement(correlations: np.ndarray) -> np.ndarray:
    """How well each measure agrees with the others on average.

    Args:
        correlations: (measures, measures) from ``rank_correlations``.

    Returns:
        (measures,) means of the off-diagonal entries that are defined; NaN where there is none.
    """
    others = correlations.copy()
    np.fill_diagonal(others, np.nan)
    defined = np.isfinite(others)
    counts = defined.sum(axis=1)
    sums = np.where(defined, others, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(others), np.nan), where=counts > 0)


def disagreements(
    values: np.ndarray, larger_is_more_similar: tuple[bool, ...], top: int = 5
) -> tuple[Disagreement, ...]:
    """The layer pairs with the largest difference of normalized ranks between any two measures.

    Args:
        values: (measures, la, lb), finite.
        larger_is_more_similar: One bool per measure.
        top: At most how many pairs.

    Returns:
        Pairs in falling order of disagreement; none that all measures rank the same.
    """
    ranks = normalized_ranks(values, larger_is_more_similar)
    spread = np.ptp(ranks, axis=0)
    order = np.argsort(-spread, axis=None, kind="stable")[:top]
    found = []
    for i, j in zip(*np.unravel_index(order, spread.shape), strict=True):
        if spread[i, j] > 0:
            high, low = int(np.argmax(ranks[:, i, j])), int(np.argmin(ranks[:, i, j]))
            found.append(Disagreement(int(i), int(j), high, low, float(ranks[high, i, j]), float(ranks[low, i, j])))
    return tuple(found)
