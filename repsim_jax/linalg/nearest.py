"""Which rows are nearest to each row? Exact, block by block, on any backend; from a kept index above a million rows."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from repsim_jax.errors import BadArrayError, MissingPackageError
from repsim_jax.linalg.distances import SplitRows, split_rows, sq_distances, unit_rows
from repsim_jax.linalg.largest import largest
from repsim_jax.linalg.precision import precise_jit
from repsim_jax.linalg.scaling import center
from repsim_jax.linalg.tiles import row_blocks

# Distances from one block of rows to all: about this many numbers at once.
_BLOCK_ELEMENTS = 2**22
# Exact search takes n^2 d multiplications: half a minute for a million rows on an accelerator, hours beyond.
_MOST_EXACT = 2**20


def nearest_rows(x: Float[Array, "n d"], *, k: int, exact: bool | None = None) -> Int[Array, "n k"]:
    """The k other rows that are nearest to each row by cosine of the centered rows, nearest first.

    Args:
        x: Rows, finite.
        k: Neighbors, in [1, n - 1].
        exact: All distances, block by block; where False, an inverted-file index of the faiss package that finds nearly
            all of them. By default exact up to a million rows.

    Returns:
        Row numbers; never the row itself.

    Raises:
        BadArrayError: If k is out of range.
        MissingPackageError: If the index is needed and faiss is not installed.
    """
    n = x.shape[0]
    if not 1 <= k <= n - 1:
        raise BadArrayError(f"nearest_rows needs 1 <= k <= n - 1 neighbors, got k={k} for n={n} rows.")
    if exact or (exact is None and n <= _MOST_EXACT):
        return _exact(x, k=k)
    return jnp.asarray(_indexed(np.asarray(unit_rows(center(x))), k))


@partial(jax.jit, static_argnames=("k",))
def _exact(x: Float[Array, "n d"], *, k: int) -> Int[Array, "n k"]:
    n = x.shape[0]
    size = max(1, min(n, _BLOCK_ELEMENTS // n))
    with jax.default_matmul_precision("highest"):
        rows = split_rows(unit_rows(center(x)))
        blocks = jax.tree.map(lambda leaf: row_blocks(leaf, size), rows)
        numbers = row_blocks(jnp.arange(n), size)

        def visit(block: tuple[SplitRows, jax.Array]) -> jax.Array:
            distances = sq_distances(block[0], rows)
            own = block[1][:, None] == jnp.arange(n)
            return jax.lax.top_k(-jnp.where(own, jnp.inf, distances), k)[1]

        return jax.lax.map(visit, (blocks, numbers)).reshape(-1, k)[:n]


class Nearest(NamedTuple):
    """The nearest other rows of each row, nearest first.

    Attributes:
        rows: (n, k) row numbers; never the row itself.
        distances: (n, k) between rows of length one.
    """

    rows: Int[Array, "n k"]
    distances: Float[Array, "n k"]


@precise_jit(static_argnames=("k",))
def nearest_by_views(x: Float[Array, "n v d"], *, k: int) -> Nearest:
    r"""The k nearest other examples by the views in which they are most alike.

    .. math:: D_{ij}^2 = 2 - 2 \max_v \max(x_{i0} \cdot x_{jv},\ x_{iv} \cdot x_{j0})

    The first view is the whole example, and others are parts of it; with one view these are the distances of rows.

    Args:
        x: Views of length one each; a zero view is alike to nothing.
        k: Neighbors, in [1, n - 1].

    Returns:
        Neighbors of each example. Distances below about 1e-3 are rounding.
    """
    n = x.shape[0]
    size = max(1, min(n, _BLOCK_ELEMENTS // n))
    wholes, by_view = x[:, 0], jnp.moveaxis(x, 1, 0)
    blocks, numbers = row_blocks(x, size), row_blocks(jnp.arange(n), size)

    def visit(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def compare(alike: jax.Array, view: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            of_block, of_all = view
            return jnp.maximum(alike, jnp.maximum(block[0][:, 0] @ of_all.T, of_block @ wholes.T)), None

        nothing = jnp.full((size, n), -1.0, x.dtype)
        alike = jax.lax.scan(compare, nothing, (jnp.moveaxis(block[0], 1, 0), by_view))[0]
        return largest(jnp.where(block[1][:, None] == jnp.arange(n), -jnp.inf, alike), k=k)

    alike, rows = jax.lax.map(visit, (blocks, numbers))
    distances = jnp.sqrt(jnp.maximum(2 - 2 * alike, 0.0))
    return Nearest(rows.reshape(-1, k)[:n], distances.reshape(-1, k)[:n])


def _indexed(unit: np.ndarray, k: int) -> np.ndarray:
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError.of("faiss-cpu", "to search among more than a million rows", "neighbors") from error
    n, d = unit.shape
    # faiss's own advice: between 4 and 16 sqrt(n) cells, and 1 in 16 of them searched.
    cells = max(1, int(4 * np.sqrt(n)))
    index: Any = faiss.index_factory(d, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(unit[:: max(1, n // (64 * cells))])
    index.add(unit)
    index.nprobe = max(1, cells // 16)
    found = _others(index, unit, np.arange(n), k)
    short = np.flatnonzero((found < 0).any(axis=1))
    if len(short):  # the cells that were searched ran out of rows
        index.nprobe = cells
        found[short] = _others(index, unit[short], short, k)
    return found


def _others(index: Any, unit: np.ndarray, numbers: np.ndarray, k: int) -> np.ndarray:
    """What the index finds for some rows: the row itself goes, wherever it stands; -1 at the end where rows lack."""
    found = index.search(unit, k + 1)[1]
    order = np.argsort((found == numbers[:, None]) | (found < 0), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)[:, :k]
