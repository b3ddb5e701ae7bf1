r"""Is a neighbor a copy, or merely the nearest of many others? A threshold from gaps, without labels.

Where examples are spread like the points of a Poisson process, of m dimensions near an example, the volumes
:math:`r_g^m` within its nearest neighbors grow by independent steps: :math:`g \log(r_{g+1} / r_g)` is exponential with
rate m (Levina and Bickel 2004, "Maximum Likelihood Estimation of Intrinsic Dimension"; Facco et al. 2017, arXiv
1803.06992, for g = 1). Copies are nearer than that: the gap behind the last copy is improbably large. How improbable
is known at each example from its own farther neighbors, whatever the density and dimension there; which pairs are
copies follows from the share of false ones that is allowed: Benjamini and Hochberg 1995.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Neighbors that are looked at, and the most of them that may be copies: the others tell what is usual.
_NEIGHBORS = 20
_MOST_COPIES = 8
# Fewer rows than this have no neighbors from which one could tell what is usual.
FEWEST_ROWS = 12
# Distances below are rounding of float32 products.
_ROUNDING = 1e-3


class GapPairs(NamedTuple):
    """Pairs of rows that are among the nearest of each other.

    Attributes:
        pairs: (k, 2), the lower row first.
        p_values: (k,) of the gap behind the pair, the larger one of its two rows.
        distances: (k,) of the pair.
    """

    pairs: Int[np.ndarray, "k 2"]
    p_values: Float[np.ndarray, " k"]
    distances: Float[np.ndarray, " k"]


def num_neighbors(n: int) -> int:
    """How many neighbors ``gap_pairs`` wants.

    Args:
        n: Number of rows, at least ``FEWEST_ROWS``.

    Returns:
        At most n - 1.
    """
    return min(_NEIGHBORS, n - 1)


def gap_pairs(neighbors: Int[np.ndarray, "n k"], distances: Float[np.ndarray, "n k"]) -> GapPairs:
    """How improbable it is that two rows are so near to each other, if neither is a copy of the other.

    Args:
        neighbors: Nearest rows of each row, nearest first.
        distances: Theirs, rising.

    Returns:
        All pairs of rows of which each has the other among its nearest.
    """
    p_values = _row_p_values(distances)
    n, most = p_values.shape
    rows = np.repeat(np.arange(n), most)
    others, values, lengths = (one[:, :most].ravel() for one in (neighbors, p_values, distances))
    first, second = np.minimum(rows, others), np.maximum(rows, others)
    order = np.lexsort((second, first))
    first, second, values, lengths = first[order], second[order], values[order], lengths[order]
    # a pair stands twice, once from each of its rows, where each has the other among its nearest
    mutual = np.flatnonzero((first[1:] == first[:-1]) & (second[1:] == second[:-1]))
    pairs = np.stack([first[mutual], second[mutual]], axis=1)
    return GapPairs(pairs, np.maximum(values[mutual], values[mutual + 1]), lengths[mutual])


def _row_p_values(distances: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n g"]:
    """Of each of the nearest neighbors: the least p-value of the gaps behind it, for as many as are looked at."""
    radii = np.maximum(distances.astype(np.float64), _ROUNDING)
    k = radii.shape[1]
    most = min(_MOST_COPIES, k // 2)
    steps = np.arange(1, k) * np.log(radii[:, 1:] / radii[:, :-1])
    shape, scale = _usual(steps[:, most:])
    p_values = np.empty((len(radii), most))
    for g in range(most):
        rest = steps[:, g + 1 :]
        p_values[:, g] = (1 + steps[:, g] / (scale + rest.sum(1))) ** -(shape + rest.shape[1])
    behind = np.minimum.accumulate(p_values[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(1.0, most * behind)


def _usual(steps: Float[np.ndarray, "n c"]) -> tuple[float, float]:
    """Shape and scale of a gamma distribution of local dimensions, from moments of the steps of all rows.

    With it the predictive distribution of a further step is Lomax's, so that few neighbors are not taken for certain.
    """
    means, count = steps.mean(1), steps.shape[1]
    mean = max(float(means.mean()), np.finfo(float).tiny)
    spread = float(means.var() - np.square(means).mean() / (count + 1))
    shape = 2 + mean**2 / max(spread, 1e-3 * mean**2)  # of 1 / m, whose mean and variance these are
    return shape, mean * (shape - 1)


def largest_p_value(p_values: Float[np.ndarray, " k"], *, tests: int, false_share: float) -> float:
    """Up to which p-value pairs are taken so that the expected share of false ones is at most as asked.

    Args:
        p_values: Of all pairs.
        tests: How many pairs could have been found by chance, at least.
        false_share: In (0, 1).

    Returns:
        The largest p-value that is taken; 0 where none is.

    Source:
        Benjamini and Hochberg 1995, "Controlling the False Discovery Rate".
    """
    ordered = np.sort(p_values)
    below = np.flatnonzero(ordered <= false_share * np.arange(1, len(ordered) + 1) / tests)
    return float(ordered[below[-1]]) if below.size else 0.0
