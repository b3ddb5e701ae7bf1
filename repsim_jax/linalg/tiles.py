"""Sums over pairs of Gram (kernel) matrices, visited tile by tile, so that no (n, n) matrix is ever held."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from repsim_jax.linalg.pairs import Stacks, in_layer_order, stacked

# Tiles of 256 x 256 keep both operands of a product in a CPU core's cache and are large enough to keep an accelerator
# busy.
TILE = 256
# Products of tiles are summed in runs of this length: shorter sums keep float32 exact, and XLA's CPU backend
# multiplies such blocks several times faster than one very long, thin product.
_RUN = 2048

State = TypeVar("State")


class SquaredProducts(NamedTuple):
    """Inner products of Gram matrices; for linear ones, squared Frobenius norms of feature products.

    Attributes:
        cross: (L_A, L_B), between layers of the two sides.
        self_a: (L_A,), of each layer with itself.
        self_b: (L_B,), likewise.
    """

    cross: Float[Array, "la lb"]
    self_a: Float[Array, " la"]
    self_b: Float[Array, " lb"]


class TileSums(NamedTuple):
    """What ``tile_sums`` accumulates.

    Attributes:
        products: Inner products of the Gram matrices.
        rows_a: (L_A, n) row sums of each Gram matrix of the first side.
        rows_b: (L_B, n) of the second.
    """

    products: SquaredProducts
    rows_a: Float[Array, "la n"]
    rows_b: Float[Array, "lb n"]


def row_blocks(x: Shaped[Array, "n *rest"], size: int) -> Shaped[Array, "k size *rest"]:
    """Cuts rows into blocks of one size, zero rows filling the last.

    Args:
        x: Rows.
        size: Rows per block.

    Returns:
        (ceil(n / size), size, ...) array.
    """
    count = -(-x.shape[0] // size)
    padding = [(0, count * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(count, size, *x.shape[1:])


def tile_products(g: Float[Array, "la i j"], h: Float[Array, "lb i j"]) -> SquaredProducts:
    """Inner products of stacks of tiles.

    Args:
        g: One tile for each layer of the first side.
        h: The same tile for each layer of the second.

    Returns:
        Their cross and self products.
    """
    size = g.shape[1] * g.shape[2]
    runs = [
        jnp.pad(t.reshape(t.shape[0], size), ((0, 0), (0, -size % _RUN))).reshape(t.shape[0], -1, _RUN) for t in (g, h)
    ]
    cross = jnp.einsum("lks,mks->klm", *runs).sum(0)
    return SquaredProducts(cross, *(jnp.square(run).sum(-1).sum(-1) for run in runs))


def tile_sums(
    tile: Callable[[State, State, jax.Array], jax.Array],
    a: Sequence[State],
    b: Sequence[State],
    *,
    row_sums: bool = True,
) -> TileSums:
    """Inner products and row sums of symmetric Gram matrices, from the tiles of their upper triangle.

    Args:
        tile: ``tile(left, right, on_diagonal)`` takes states of one shape stacked on a leading layer axis, rows cut to
            one block, and returns (layers, size, size); rows that only fill the last block are zero in every array of
            the state and must give zeros.
        a: For each layer of the first side a pytree of arrays with leading axis n; shapes may differ between layers.
        b: The same for the second side.
        row_sums: Whether row sums are wanted; they stay zero otherwise.

    Returns:
        The sums.
    """
    leaf = jax.tree.leaves(a[0])[0]
    n, dtype = leaf.shape[0], leaf.dtype
    size = min(TILE, n)
    count = -(-n // size)
    sides = [[jax.tree.map(lambda leaf: row_blocks(leaf, size), state) for state in side] for side in (a, b)]

    def block(side: Sequence[State], k: jax.Array) -> Stacks[State]:
        return stacked([jax.tree.map(lambda leaf: leaf[k], state) for state in side])

    def grams(side: Sequence[State], i: jax.Array, j: jax.Array) -> jax.Array:
        pairs = zip(block(side, i), block(side, j), strict=True)
        return in_layer_order([(where, tile(left, right, i == j)) for (where, left), (_, right) in pairs])

    def visit(total: TileSums, where: tuple[jax.Array, jax.Array]) -> tuple[TileSums, None]:
        i, j = where
        g, h = (grams(side, i, j) for side in sides)
        weight = jnp.where(i == j, 1, 2).astype(dtype)  # a tile off the diagonal stands for its mirror image too
        products = jax.tree.map(lambda sum_, part: sum_ + weight * part, total.products, tile_products(g, h))
        if not row_sums:
            return total._replace(products=products), None
        mirrored = (weight - 1).astype(dtype)
        rows = (
            r.at[:, i].add(t.sum(2)).at[:, j].add(mirrored * t.sum(1))
            for r, t in ((total.rows_a, g), (total.rows_b, h))
        )
        return TileSums(products, *rows), None

    la, lb = len(a), len(b)
    zero = TileSums(
        SquaredProducts(jnp.zeros((la, lb), dtype), jnp.zeros(la, dtype), jnp.zeros(lb, dtype)),
        jnp.zeros((la, count, size), dtype),
        jnp.zeros((lb, count, size), dtype),
    )
    rows, columns = np.triu_indices(count)
    sums = jax.lax.scan(visit, zero, (jnp.asarray(rows), jnp.asarray(columns)))[0]
    return TileSums(sums.products, *(rows.reshape(rows.shape[0], -1)[:, :n] for rows in (sums.rows_a, sums.rows_b)))
