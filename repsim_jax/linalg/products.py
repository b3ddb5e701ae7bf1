r"""Squared norms of the products of all layer pairs, :math:`\|X_l^T Y_m\|_F^2 = \langle X_l X_l^T, Y_m Y_m^T\rangle`.

They are all that linear CKA needs. Two exact routes, the cheaper one chosen from the shapes; neither ever holds an (n,
n) or a (D, D)
matrix: the Gram route visits the upper triangle of the Gram matrices tile by tile, the feature route one layer pair at
    a time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.linalg.pairs import Stacks, all_pairs, in_layer_order, stacked
from repsim_jax.linalg.tiles import SquaredProducts, tile_products, tile_sums


def squared_products(a: Sequence[Float[Array, "n _"]], b: Sequence[Float[Array, "n _"]]) -> SquaredProducts:
    """Squared norms of the products of all pairs, by the cheaper exact route.

    Args:
        a: L_A layers (n, d_l); widths may differ.
        b: L_B layers (n, d_m).

    Returns:
        Cross and self norms.
    """
    if _gram_route_is_cheaper(a[0].shape[0], [x.shape[1] for x in a], [y.shape[1] for y in b]):
        return _by_gram_tiles(a, b)
    cross = all_pairs(lambda x, y: jnp.sum(jnp.square(x.T @ y)), stacked(a), stacked(b))
    return SquaredProducts(cross, _self_norms(a), _self_norms(b))


def batch_squared_products(a: Stacks[jax.Array], b: Stacks[jax.Array]) -> SquaredProducts:
    """The same from one Gram matrix per layer, for batches small enough to hold (L_A + L_B) matrices (n, n).

    Args:
        a: L_A layers (n, d_l), stacked by width.
        b: L_B layers (n, d_m), stacked by width.

    Returns:
        Cross and self norms.
    """
    return tile_products(*(in_layer_order([(w, jnp.einsum("lid,ljd->lij", z, z)) for w, z in side]) for side in (a, b)))


def _gram_route_is_cheaper(n: int, widths_a: Sequence[int], widths_b: Sequence[int]) -> bool:
    """Compares multiply-adds; two sides that both have a layer wider than n always take the Gram route."""
    if max(widths_a) > n and max(widths_b) > n:
        return True
    gram = n * n * (sum(widths_a) + sum(widths_b) + len(widths_a) * len(widths_b)) / 2
    feature = n * (sum(widths_a) * sum(widths_b) + sum(min(d, n) * d for d in (*widths_a, *widths_b)))
    return gram < feature


def _by_gram_tiles(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> SquaredProducts:
    return tile_sums(lambda left, right, _: jnp.einsum("lid,ljd->lij", left, right), a, b, row_sums=False).products


def _self_norms(layers: Sequence[jax.Array]) -> jax.Array:
    """Self norms, each layer by its own smaller side."""
    return jnp.stack(
        [jnp.sum(jnp.square(x.T @ x)) if x.shape[1] <= len(x) else _by_gram_tiles([x], [x]).self_a[0] for x in layers]
    )
