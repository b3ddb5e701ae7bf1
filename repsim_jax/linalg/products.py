r"""Squared norms of the products of all layer pairs, :math:`\|X_l^T Y_m\|_F^2 = \langle X_l X_l^T, Y_m Y_m^T\rangle`.

They are all that linear CKA needs. Two exact routes, the cheaper one chosen from the shapes; neither ever holds an (n,
n) or a (D, D)
matrix: the Gram route visits the upper triangle of the Gram matrices tile by tile, the feature route one layer pair at
    a time.
"""

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.linalg.pairs import Stacks, all_pairs, in_layer_order
from repsim_jax.linalg.tiles import SquaredProducts, tile_products, tile_sums


def squared_products(a: Stacks[jax.Array], b: Stacks[jax.Array]) -> SquaredProducts:
    """Squared norms of the products of all pairs, by the cheaper exact route.

    Args:
        a: L_A layers (n, d_l), stacked by width.
        b: L_B layers (n, d_m), stacked by width.

    Returns:
        Cross and self norms.
    """
    if _gram_route_is_cheaper(a, b):
        return _by_gram_tiles(a, b)
    cross = all_pairs(lambda x, y: jnp.sum(jnp.square(x.T @ y)), a, b)
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


def _gram_route_is_cheaper(a: Stacks[jax.Array], b: Stacks[jax.Array]) -> bool:
    """Compares multiply-adds; two sides that both have a layer wider than n always take the Gram route."""
    n = a[0][1].shape[1]
    widths_a, widths_b = ([stack.shape[2] for where, stack in side for _ in where] for side in (a, b))
    if max(widths_a) > n and max(widths_b) > n:
        return True
    gram = n * n * (sum(widths_a) + sum(widths_b) + len(widths_a) * len(widths_b)) / 2
    feature = n * (sum(widths_a) * sum(widths_b) + sum(min(d, n) * d for d in (*widths_a, *widths_b)))
    return gram < feature


def _by_gram_tiles(a: Stacks[jax.Array], b: Stacks[jax.Array]) -> SquaredProducts:
    return tile_sums(lambda left, right, _: jnp.einsum("lid,ljd->lij", left, right), a, b).products


def _self_norms(stacks: Stacks[jax.Array]) -> jax.Array:
    """Self norms, each layer by its own smaller side."""
    n = stacks[0][1].shape[1]
    return in_layer_order(
        [
            (where, jax.lax.map(lambda x: jnp.sum(jnp.square(x.T @ x)), stack))
            if stack.shape[2] <= n
            else (where, _by_gram_tiles([(np.arange(len(where)), stack)], [(np.arange(1), stack[:1])]).self_a)
            for where, stack in stacks
        ]
    )
