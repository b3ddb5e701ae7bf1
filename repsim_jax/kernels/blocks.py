"""How is a kernel of many examples computed in the memory of a few? Block by block, and its symmetric half only."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

# Tangents, gram matrices: pytrees of arrays, the first with the examples on the leading axis of every leaf.
Tree: TypeAlias = Any
# Of the rows of both sides; every leaf is (n, m) or (n, o, m, o).
Gram: TypeAlias = Callable[[Tree, Tree], Tree]
# Of some examples, for one chunk of outputs.
Features: TypeAlias = Callable[[Shaped[Array, "n *rest"], Float[Array, "c o"]], Tree]

# Both operands of a product of tiles of this many rows stay in the cache of a core for layers of usual width.
TILE = 256


def in_blocks(x: Shaped[Array, "n *rest"], size: int) -> Shaped[Array, "k size *rest"]:
    """Cuts rows into blocks of one size; copies of the last row fill the last block, which zeros might turn into NaN.

    Args:
        x: Rows.
        size: Rows per block.

    Returns:
        (ceil(n / size), size, ...) array.
    """
    count = -(-len(x) // size)
    rows = jnp.minimum(jnp.arange(count * size), len(x) - 1)
    return x[rows].reshape(count, size, *x.shape[1:])


def held_gram(features: Features, gram: Gram, x: jax.Array, chunks: Float[Array, "e c o"]) -> Tree:
    """The symmetric kernel from features of all examples at once, by the tiles of its lower triangle.

    Args:
        features: Of examples.
        gram: Of features.
        x: n examples.
        chunks: Combinations of outputs, over which the kernel is summed.

    Returns:
        Kernels of n x n examples.
    """
    # one product of a few hundred rows is faster than the loop that computes three quarters of it
    size = TILE if len(x) > 2 * TILE else len(x)
    count = -(-len(x) // size)

    def chunk_gram(chunk: jax.Array) -> Tree:
        if count == 1:
            held = features(x, chunk)
            return jax.tree.map(lambda tile: tile[None], gram(held, held))
        held = jax.tree.map(lambda leaf: in_blocks(leaf, size), features(x, chunk))

        def at(i: jax.Array) -> Tree:
            return jax.tree.map(lambda leaf: leaf[i], held)

        return jax.lax.map(lambda where: gram(at(where[0]), at(where[1])), (rows, columns))

    rows, columns = map(jnp.asarray, np.tril_indices(count))
    tiles = _summed(chunk_gram, chunks)
    return jax.tree.map(lambda half: _mirrored(half, count)[: len(x), ..., : len(x), *_tail(half)], tiles)


def _tail(half: jax.Array) -> tuple[slice, ...]:
    """What follows the columns: nothing in (n, m), the outputs in (n, o, m, o)."""
    return (slice(None),) * ((half.ndim - 3) // 2)


def _mirrored(half: Float[Array, "pairs *tile"], count: int) -> jax.Array:
    """The whole matrix from the tiles of its lower triangle."""
    rows, columns = np.tril_indices(count)
    size, outputs = half.shape[1], half.shape[2 : 1 + (half.ndim - 1) // 2]
    swap = (0, 2, 1) if not outputs else (0, 3, 4, 1, 2)
    tiles = jnp.zeros((count, count, *half.shape[1:]), half.dtype)
    tiles = tiles.at[rows, columns].set(half).at[columns, rows].set(half.transpose(swap))
    # a tile on the diagonal was written twice, last by its own transpose: equal up to rounding, and symmetric below
    diagonal = (half + half.transpose(swap))[np.flatnonzero(rows == columns)] / 2
    tiles = tiles.at[np.arange(count), np.arange(count)].set(diagonal)
    return jnp.moveaxis(tiles, 1, 1 + (half.ndim - 1) // 2).reshape(count * size, *outputs, count * size, *outputs)


def _summed(function: Callable[[jax.Array], Tree], chunks: jax.Array) -> Tree:
    if len(chunks) == 1:
        return function(chunks[0])
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, chunks[0]))
    add = lambda total, chunk: (jax.tree.map(jnp.add, total, function(chunk)), None)  # noqa: E731
    return jax.lax.scan(add, zero, chunks)[0]


def strip(
    features: Features,
    gram: Gram,
    rows: jax.Array,
    columns: Shaped[Array, "k size *rest"],
    chunks: Float[Array, "e c o"],
    count: jax.Array | int,
) -> Tree:
    """Kernels of one block of rows with the first blocks of columns; the features of two blocks are held.

    Args:
        features: Of examples.
        gram: Of features.
        rows: Examples of the rows.
        columns: Examples of the columns, in blocks.
        chunks: Combinations of outputs, over which the kernel is summed.
        count: How many blocks of columns; the kernels of the others stay zero.

    Returns:
        Kernels, each with a leading axis of k blocks of columns.
    """
    shapes = jax.eval_shape(lambda c: gram(features(rows, c), features(columns[0], c)), chunks[0])
    zero = jax.tree.map(lambda leaf: jnp.zeros((len(columns), *leaf.shape), leaf.dtype), shapes)

    def add(total: Tree, chunk: jax.Array) -> tuple[Tree, None]:
        left = features(rows, chunk)

        def visit(j: jax.Array, total: Tree) -> Tree:
            tile = gram(left, features(columns[j], chunk))
            return jax.tree.map(lambda sum_, part: sum_.at[j].add(part), total, tile)

        return jax.lax.fori_loop(0, count, visit, total), None

    return jax.lax.scan(add, zero, chunks)[0]


def streamed_gram(
    features: Features, gram: Gram, x: jax.Array, y: jax.Array | None, chunks: jax.Array, *, block: int
) -> Tree:
    """The kernel in the memory of two blocks of features.

    Args:
        features: Of examples.
        gram: Of features.
        x: n examples of the rows.
        y: m examples of the columns; None for those of the rows, of which the lower triangle is computed.
        chunks: Combinations of outputs, over which the kernel is summed.
        block: Examples per block.

    Returns:
        Kernels of n x m examples.
    """
    if y is not None and block >= max(len(x), len(y)):
        return _summed(lambda chunk: gram(features(x, chunk), features(y, chunk)), chunks)
    rows = in_blocks(x, min(block, len(x)))
    columns = rows if y is None else in_blocks(y, min(block, len(y)))

    def row(i: jax.Array) -> Tree:
        return strip(features, gram, rows[i], columns, chunks, i + 1 if y is None else len(columns))

    strips = jax.lax.map(row, jnp.arange(len(rows)))
    if y is None:
        lower = np.tril_indices(len(rows))
        return jax.tree.map(
            lambda tiles: _mirrored(tiles[lower], len(rows))[: len(x), ..., : len(x), *_tail(tiles[0])], strips
        )
    return jax.tree.map(lambda tiles: assembled(tiles, len(x), len(y)), strips)


def assembled(tiles: Float[Array, "k l *tile"], n: int, m: int) -> jax.Array:
    """Puts tiles together and leaves out what only filled the last ones.

    Args:
        tiles: k x l tiles (i, j) or (i, o, j, o).
        n: Rows to keep.
        m: Columns to keep.

    Returns:
        (n, m) or (n, o, m, o) array.
    """
    half = (tiles.ndim - 2) // 2
    i, outputs = tiles.shape[2], tiles.shape[3 : 2 + half]
    whole = jnp.moveaxis(tiles, 1, 1 + half)
    j = tiles.shape[2 + half]
    whole = whole.reshape(tiles.shape[0] * i, *outputs, tiles.shape[1] * j, *outputs)
    return whole[:n, ..., :m, *_tail(tiles[0])]
