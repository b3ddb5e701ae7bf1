r"""Which pairs of rows are at least so similar? All of them, without comparing all with all.

Rows are sorted into cells (k-means, as SemDeDup does it: Abbas et al. 2023, arXiv 2303.09540). A pair in two cells
spans the plane halfway between their centers, so that one of the two is nearer to the plane than half of their
distance. Only rows so near to another cell are compared with it: nothing is missed, where SemDeDup looks inside cells
alone.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import precise_jit

# Up to so many rows all are compared with all.
_FEW = 8192
_BLOCK = 4096
# Rounds of k-means: cells need not be good, for any are exact.
_ROUNDS = 3
_ROWS_PER_CENTER = 32
# Rounding of float32 products of rows of length one, and of distances to planes.
_SLACK = 1e-5

Told = Callable[[int, int], None]


class ClosePairs(NamedTuple):
    """All pairs of rows whose inner product reaches a threshold.

    Attributes:
        pairs: (k, 2), the lower row first, in order.
        similarities: (k,) inner products.
        compared: Share of all pairs that were looked at.
    """

    pairs: Int[np.ndarray, "k 2"]
    similarities: Float[np.ndarray, " k"]
    compared: float


def close_pairs(
    unit: Float[np.ndarray, "n d"], threshold: float, *, cells: int | None = None, on_progress: Told | None = None
) -> ClosePairs:
    """All pairs of rows of length one whose cosine is at least the threshold.

    Memory besides the rows grows as n, and as the pairs that are found. Rows may be memory-mapped.

    Args:
        unit: Rows of length one, or zero.
        threshold: Cosine in [-1, 1]; pairs within 1e-6 of it may fall to either side.
        cells: Of k-means; None: 2 sqrt(n), or a single one for few rows.
        on_progress: Called as ``on_progress(done, all)`` between cells.

    Returns:
        The pairs.

    Raises:
        BadArrayError: If the threshold is no cosine, or rows are longer than one.
    """
    n = len(unit)
    if not -1 <= threshold <= 1 or unit.ndim != 2:
        raise BadArrayError(f"close_pairs needs rows (n, d) and a cosine: got {unit.shape}, threshold {threshold}.")
    if n and np.square(unit[:: max(1, n // 1000)].astype(np.float64)).sum(1).max() > 1.001:
        raise BadArrayError("close_pairs needs rows of length one; divide them by their lengths.")
    count = cells or (1 if n <= _FEW else 2 * math.isqrt(n))
    centers = np.zeros((1, unit.shape[1]), np.float32) if count == 1 else _centers(unit, count)
    own, visits = _cells(unit, centers, math.sqrt(max(0.0, 2 - 2 * threshold)))
    return _compared(unit, own, visits, threshold, len(centers), on_progress)


def _centers(unit: np.ndarray, count: int) -> np.ndarray:
    """Centers of cells: rows far from each other, moved by k-means, of evenly spaced rows."""
    sample = jnp.asarray(unit[:: max(1, len(unit) // (count * _ROWS_PER_CENTER))], jnp.float32)
    centers = _far_apart(sample, count=count)
    for _ in range(_ROUNDS):
        sums, sizes = np.zeros(centers.shape), np.zeros(count)
        for start in range(0, len(sample), _BLOCK):
            rows = sample[start : start + _BLOCK]
            which = np.asarray(_nearest_center(rows, centers))
            np.add.at(sums, which, np.asarray(rows, np.float64))
            np.add.at(sizes, which, 1)
        moved = sums / np.maximum(sizes, 1)[:, None]
        centers = jnp.asarray(np.where(sizes[:, None] > 0, moved, centers), jnp.float32)
    return np.asarray(centers)


@precise_jit(static_argnames=("count",))
def _far_apart(sample: Float[Array, "s d"], *, count: int) -> Float[Array, "c d"]:
    """Each row is the one that is farthest from those before it, so that no cluster is without a cell."""

    def choose(alike: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        chosen = sample[jnp.argmin(alike)]
        return jnp.maximum(alike, sample @ chosen), chosen

    return jax.lax.scan(choose, jnp.full(len(sample), -1.0, sample.dtype), length=count)[1]


@precise_jit()
def _nearest_center(rows: Float[Array, "s d"], centers: Float[Array, "c d"]) -> Int[Array, " s"]:
    return jnp.argmax(rows @ centers.T - jnp.square(centers).sum(1) / 2, axis=1)


def _cells(unit: np.ndarray, centers: np.ndarray, reach: float) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The cell of each row, and which rows are near to which other cells."""
    own, rows, cells = [], [], []
    on_device = jnp.asarray(centers)
    between = jnp.sqrt(jnp.maximum(_squared(on_device, on_device), 1e-12))
    for start in range(0, len(unit), _BLOCK):
        block = np.zeros((_BLOCK, unit.shape[1]), np.float32)
        block[: len(unit[start : start + _BLOCK])] = unit[start : start + _BLOCK]
        which, near = _near_cells(jnp.asarray(block), on_device, between, reach)
        size = min(_BLOCK, len(unit) - start)
        own.append(np.asarray(which)[:size])
        i, c = np.nonzero(np.asarray(near)[:size])
        rows.append(start + i)
        cells.append(c)
    if not own:
        return np.zeros(0, int), (np.zeros(0, int), np.zeros(0, int))
    return np.concatenate(own), (np.concatenate(rows), np.concatenate(cells))


@precise_jit()
def _squared(x: Float[Array, "i d"], y: Float[Array, "j d"]) -> Float[Array, "i j"]:
    return jnp.square(x).sum(1)[:, None] + jnp.square(y).sum(1) - 2 * x @ y.T


@precise_jit()
def _near_cells(
    rows: Float[Array, "s d"], centers: Float[Array, "c d"], between: Float[Array, "c c"], reach: Any
) -> tuple[Int[Array, " s"], Bool[Array, "s c"]]:
    squared = _squared(rows, centers)
    own = jnp.argmin(squared, axis=1)
    # distance to the plane halfway between both centers, times their distance
    beyond = (squared - jnp.take_along_axis(squared, own[:, None], axis=1)) / 2
    near = beyond <= (reach / 2 + _SLACK) * between[own] + _SLACK
    return own, near & (jnp.arange(len(centers)) != own[:, None])


def _compared(
    unit: np.ndarray, own: np.ndarray, visits: tuple[np.ndarray, np.ndarray], threshold: float, count: int,
    on_progress: Told | None,
) -> ClosePairs:  # fmt: skip
    members = np.split(np.argsort(own, kind="stable"), np.cumsum(np.bincount(own, minlength=count))[:-1])
    order = np.argsort(visits[1], kind="stable")
    visitors = np.split(visits[0][order], np.cumsum(np.bincount(visits[1], minlength=count))[:-1])
    found, similar, looked = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)], 0
    for cell, (here, come) in enumerate(zip(members, visitors, strict=True)):
        looked += len(here) * (len(here) - 1) // 2 + len(here) * len(come)
        for pairs, values in _close(unit, here, np.concatenate([here, come]), len(here), threshold):
            found.append(pairs)
            similar.append(values)
        if on_progress is not None:
            on_progress(cell + 1, count)
    pairs, values = np.sort(np.concatenate(found), axis=1), np.concatenate(similar)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    fresh = np.ones(len(order), bool)  # a pair stands twice where each visits the other's cell
    fresh[1:] = (pairs[order][1:] != pairs[order][:-1]).any(1)
    pairs, values = pairs[order][fresh], values[order][fresh]
    return ClosePairs(pairs, values, looked / max(1, len(unit) * (len(unit) - 1) // 2))


def _close(
    unit: np.ndarray, here: np.ndarray, all_: np.ndarray, own: int, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of the members of a cell with each other, each once, and with its visitors."""
    for start in range(0, len(here), _BLOCK):
        left = here[start : start + _BLOCK]
        for first in range(start, len(all_), _BLOCK):
            right = all_[first : first + _BLOCK]
            products = _products(_padded(unit, left), _padded(unit, right))
            close = np.asarray(products)[: len(left), : len(right)] >= threshold
            i, j = np.nonzero(close)
            later = (first + j > start + i) | (first + j >= own)
            i, j = i[later], j[later]
            if len(i):
                yield np.stack([left[i], right[j]], axis=1), np.asarray(products)[i, j]


def _padded(unit: np.ndarray, rows: np.ndarray) -> jax.Array:
    """Some rows, filled up to a power of two, so that few shapes are compiled."""
    size = max(64, 1 << (len(rows) - 1).bit_length())
    block = np.zeros((size, unit.shape[1]), np.float32)
    block[: len(rows)] = unit[rows]
    return jnp.asarray(block)


@precise_jit()
def _products(left: Float[Array, "i d"], right: Float[Array, "j d"]) -> Float[Array, "i j"]:
    return left @ right.T
