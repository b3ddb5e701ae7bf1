r"""Squared norms of the products of all layer pairs, :math:`\|X_l^T Y_m\|_F^2 = \langle X_l X_l^T, Y_m Y_m^T\rangle`.

They are all that linear CKA needs. Two exact routes, the cheaper one chosen from the shapes; neither ever holds an (n, n) or a (D, D)
matrix: the Gram route visits the upper triangle of the Gram matrices tile by tile, the feature route one layer pair at a time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.linalg.pairs import all_pairs, in_layer_order, stacked
from repsim_jax.linalg.tiles import SquaredProducts, tile_products, tile_sums


def squared_products(xs: Sequence[Float[Array, "n _"]], ys: Sequence[Float[Array, "n _"]]) -> SquaredProducts:
    """Squared norms of the products of all pairs, by the cheaper exact route.

    Args:
        xs: L_A layers (n, d_l); widths may differ.
        ys: L_B layers (n, d_m).

    Returns:
        Cross and self norms.
    """
    if _gram_route_is_cheaper(xs[0].shape[0], [x.shape[1] for x in xs], [y.shape[1] for y in ys]):
        return _by_gram_tiles(xs, ys)
    return SquaredProducts(_by_features(xs, ys), _self_by_features(xs), _self_by_features(ys))


def batch_squared_products(xs: Sequence[Float[Array, "n _"]], ys: Sequence[Float[Array, "n _"]]) -> SquaredProducts:
    """The same from one Gram matrix per layer, for batches small enough to hold (L_A + L_B) matrices (n, n).

    Args:
        xs: L_A layers (n, d_l).
        ys: L_B layers (n, d_m).

    Returns:
        Cross and self norms.
    """
    grams = (in_layer_order([(w, jnp.einsum("lid,ljd->lij", z, z)) for w, z in stacked(side)]) for side in (xs, ys))
    return tile_products(*grams)


def _gram_route_is_cheaper(n: int, widths_a: Sequence[int], widths_b: Sequence[int]) -> bool:
    """Compares multiply-adds; two sides that are both wider than n always take the Gram route."""
    if max(widths_a) > n and max(widths_b) > n:
        return True
    total_a, total_b = sum(widths_a), sum(widths_b)
    gram = n * n * (total_a + total_b + len(widths_a) * len(widths_b)) / 2
    feature = n * (total_a * total_b + sum(min(d, n) * d for d in (*widths_a, *widths_b)))
    return gram < feature


def _by_gram_tiles(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> SquaredProducts:
    return tile_sums(lambda left, right, _: jnp.einsum("lid,ljd->lij", left, right), xs, ys).products


def _by_features(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> jax.Array:
    return all_pairs(lambda x, y: jnp.sum(jnp.square(x.T @ y)), xs, ys)


def _self_by_features(layers: Sequence[jax.Array]) -> jax.Array:
    """Self norms, each layer by its own smaller side."""
    n = layers[0].shape[0]
    return jnp.stack(
        [jnp.sum(jnp.square(x.T @ x)) if x.shape[1] <= n else _by_gram_tiles([x], [x]).self_a[0] for x in layers]
    )
