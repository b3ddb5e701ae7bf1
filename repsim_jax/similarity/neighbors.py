"""Mutual nearest neighbors: do two representations put the same examples next to each other?

Huh et al. 2024, "The Platonic Representation Hypothesis" (arXiv 2405.07987).
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.linalg import (
    SplitRows,
    Stacks,
    in_layer_order,
    mapped,
    precise_jit,
    round_significant,
    row_blocks,
    split_rows,
    sq_distances,
    stacked,
    standardize,
    tile_products,
    unit_rows,
)
from repsim_jax.similarity.inputs import checked_layers

Metric = Literal["cosine", "euclidean"]
_DEFAULT_NEIGHBORS = 10
# Distances from one block of rows to all: blocks are cut so that one layer's hold about this many numbers.
_BLOCK_ELEMENTS = 2**19


def mutual_knn(x: Any, y: Any, *, k: int | None = None, metric: Metric = "cosine") -> Float[Array, ""]:
    r"""Mean share of common nearest neighbors, :math:`\frac{1}{nk} \sum_i |N_k(x_i) \cap N_k(y_i)|`.

    Args:
        x: Representation (n, dx).
        y: Representation (n, dy) of the same examples.
        k: Neighbors of each example; by default 10, or n // 4 where that is smaller.
        metric: ``cosine`` or ``euclidean``, of the centered representation.

    Returns:
        A scalar in [0, 1]; k / (n - 1) expected by chance.

    Raises:
        BadArrayError: If rows differ in number, are fewer than 5, hold NaN or infinity, or k is not in [1, n - 1].
        UnknownNameError: For another ``metric``.

    Source:
        Huh et al. 2024, appendix A (mutual_knn).

    Differs:
        Features are centered first, so that an offset changes nothing. Examples tied for the k-th place share it: the
        score is the expected overlap under random tie-breaking, where taking the lower row number would find neighbors
        in common by accident.
    """
    pair = checked_layers((x, y), operation="mutual_knn", min_rows=5, names=("x", "y"))
    k = number_of_neighbors(k, pair[0].shape[0])
    check_metric(metric)
    return mutual_knn_pairs(pair[:1], pair[1:], k=k, metric=metric)[0, 0]


def number_of_neighbors(k: int | None, n: int) -> int:
    """The number of neighbors asked for, or the default for n examples.

    Args:
        k: As in ``mutual_knn``.
        n: Examples.

    Returns:
        k in [1, n - 1].

    Raises:
        BadArrayError: If k is out of range.
    """
    k = min(_DEFAULT_NEIGHBORS, n // 4) if k is None else k
    if not 1 <= k <= n - 1:
        raise BadArrayError(f"mutual_knn needs 1 <= k <= n - 1 neighbors, got k={k} for n={n} examples.")
    return k


def check_metric(metric: str) -> None:
    """Refuses unknown metrics.

    Args:
        metric: As in ``mutual_knn``.

    Raises:
        UnknownNameError: If it is not known.
    """
    if metric not in ("cosine", "euclidean"):
        raise UnknownNameError.of("metric", metric, ("cosine", "euclidean"))


@precise_jit(static_argnames=("k", "metric"))
def mutual_knn_pairs(
    xs: Sequence[jax.Array], ys: Sequence[jax.Array], *, k: int, metric: Metric = "cosine"
) -> Float[Array, "la lb"]:
    """Mutual nearest neighbors of all layer pairs; each layer's neighbors are found once, block by block.

    Args:
        xs: L_A checked layers (n, d_l).
        ys: L_B checked layers (n, d_m).
        k: Neighbors, in [1, n - 1].
        metric: As in ``mutual_knn``.

    Returns:
        (L_A, L_B) scores.
    """
    n = xs[0].shape[0]
    size = max(1, min(n, _BLOCK_ELEMENTS // n))
    sides = [mapped(lambda layer: _rows(layer, metric), stacked(side)) for side in (xs, ys)]
    cut = [mapped(lambda rows: jax.tree.map(lambda leaf: row_blocks(leaf, size), rows), side) for side in sides]
    numbers = row_blocks(jnp.arange(1, n + 1), size) - 1  # -1 marks rows that only fill the last block

    def visit(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        index, rows = block

        def shares(blocks: Stacks[SplitRows], wholes: Stacks[SplitRows]) -> jax.Array:
            one = jax.vmap(lambda block, whole: _shares(jax.tree.map(lambda z: z[index], block), whole, rows, k))
            return in_layer_order([(w, one(b, a)) for (w, b), (_, a) in zip(blocks, wholes, strict=True)])

        return total + tile_products(*map(shares, cut, sides)).cross, None

    zero = jnp.zeros((len(xs), len(ys)), xs[0].dtype)
    return jax.lax.scan(visit, zero, (jnp.arange(numbers.shape[0]), numbers))[0] / (n * k)


def _rows(x: Float[Array, "n d"], metric: str) -> SplitRows:
    centered = standardize(x)
    return split_rows(unit_rows(centered) if metric == "cosine" else centered)


def _shares(block: SplitRows, whole: SplitRows, rows: jax.Array, k: int) -> Float[Array, "b n"]:
    """How much of each example is a neighbor of each row: 1 or 0, and a fraction for those tied for the last place."""
    n = whole.large.shape[0]
    distances = round_significant(sq_distances(block, whole))
    distances = jnp.where(rows[:, None] == jnp.arange(n), jnp.inf, distances)
    farthest = -jax.lax.top_k(-distances, k)[0][:, -1:]
    closer, tied = distances < farthest, distances == farthest
    share = (k - closer.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
    return jnp.where(rows[:, None] >= 0, closer + tied * share, 0.0).astype(distances.dtype)
