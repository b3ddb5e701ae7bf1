"""Which layer of one model corresponds to which of another?  One by one, and along a path that keeps their order."""

from typing import NamedTuple

import numpy as np


class BestLayers(NamedTuple):
    """For each layer of the first model, its nearest layer of the second.

    Attributes:
        layers: (la,) int, index of the best layer of the second model; the shallowest where several tie.
        values: (la,) float, its value.
        runners_up: (la,) int, index of the second-best layer; -1 where there is only one.
        margins: (la,) float >= 0, how much better the best is than the second; NaN where there is only one.
    """

    layers: np.ndarray
    values: np.ndarray
    runners_up: np.ndarray
    margins: np.ndarray


class Path(NamedTuple):
    """A correspondence that never goes back: deeper layers of the first get the same or deeper layers of the second.

    Attributes:
        layers: (la,) int, non-decreasing, the layer of the second model for each layer of the first.
        values: (la,) float, the value of each pair.
        mean: Their mean, which no other non-decreasing correspondence beats.
    """

    layers: np.ndarray
    values: np.ndarray
    mean: float


def best_layers(matrix: np.ndarray, *, larger_is_more_similar: bool = True) -> BestLayers:
    """The most similar layer of the second model for each layer of the first, and its lead over the next.

    Args:
        matrix: (la, lb) finite values of one measure.
        larger_is_more_similar: False where small values mean alike (distances).

    Returns:
        Indices, values, runners-up and margins, each (la,).

    Raises:
        ValueError: If ``matrix`` is not a non-empty two-dimensional array of finite numbers.
    """
    matrix = _checked(matrix)
    order = np.argsort(-matrix if larger_is_more_similar else matrix, axis=1, kind="stable")
    rows = np.arange(len(matrix))
    best = order[:, 0]
    if matrix.shape[1] == 1:
        return BestLayers(best, matrix[rows, best], np.full(len(rows), -1), np.full(len(rows), np.nan))
    second = order[:, 1]
    return BestLayers(best, matrix[rows, best], second, np.abs(matrix[rows, best] - matrix[rows, second]))


def best_path(matrix: np.ndarray, *, larger_is_more_similar: bool = True) -> Path:
    """The correspondence of layers with the best mean value among those that keep the order of depth.

    max over j(1) <= j(2) <= ... <= j(la) of sum_i matrix[i, j(i)], by dynamic programming in O(la lb).

    Args:
        matrix: (la, lb) finite values of one measure, layers in depth order.
        larger_is_more_similar: False where small values mean alike; the sum is then minimized.

    Returns:
        The path; the shallowest where several tie.

    Raises:
        ValueError: If ``matrix`` is not a non-empty two-dimensional array of finite numbers.

    Source:
        Dynamic programming over monotone assignments (Sakoe and Chiba 1978, without the symmetric step).

    Differs:
        Every layer of the first model counts once, so a longer path cannot win by its length as in time warping.
    """
    matrix = _checked(matrix)
    gain = matrix if larger_is_more_similar else -matrix
    total = gain[0].copy()
    came_from = np.zeros(matrix.shape, dtype=int)
    for i in range(1, len(gain)):
        best_so_far = np.maximum.accumulate(total)
        is_new_best = np.r_[True, total[1:] > best_so_far[:-1]]
        came_from[i] = np.maximum.accumulate(np.where(is_new_best, np.arange(len(total)), 0))
        total = gain[i] + best_so_far
    layers = np.empty(len(gain), dtype=int)
    layers[-1] = int(np.argmax(total))
    for i in range(len(gain) - 1, 0, -1):
        layers[i - 1] = came_from[i, layers[i]]
    values = matrix[np.arange(len(matrix)), layers]
    return Path(layers, values, float(values.mean()))


def _checked(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise ValueError(
            f"layer matching wants a non-empty matrix (layers of a, layers of b) of finite values: got shape "
            f"{matrix.shape}{' with NaN or Inf' if matrix.size else ''}. Pass Comparison.matrix(measure)."
        )
    return matrix
