"""Orthogonal Procrustes: how well does one representation fit the other after the best rotation?

Williams et al. 2021, "Generalized Shape Metrics on Neural Representations" (arXiv 2110.14739).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.linalg import all_pairs, compact, mapped, precise_jit, stacked, standardize
from repsim_jax.similarity.inputs import checked_layers, defined


def procrustes(x: Any, y: Any) -> Float[Array, ""]:
    r"""Procrustes similarity, the nuclear norm :math:`\|X^T Y\|_*` of centered X, Y of unit Frobenius norm.

    The Procrustes distance is :math:`\sqrt{2 - 2s}`, the angular shape metric :math:`\arccos s`; both are metrics.

    Args:
        x: Representation (n, dx).
        y: Representation (n, dy) of the same examples; widths may differ (the narrower one is padded with zeros in
            thought).

    Returns:
        A scalar s in [0, 1]; 1 for equal up to rotation, reflection, translation and scale.

    Raises:
        BadArrayError: If rows differ in number, are fewer than 3, or hold NaN, infinity or nothing that varies.

    Source:
        Williams et al. 2021, equations 5 to 7 (alpha = 1).
    """
    pair = checked_layers((x, y), operation="procrustes", min_rows=3, names=("x", "y"))
    return defined(procrustes_pairs(pair[:1], pair[1:])[0, 0], operation="procrustes", reason="nothing varies")


@precise_jit()
def procrustes_pairs(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> Float[Array, "la lb"]:
    """Procrustes similarity of all layer pairs; layers wider than n are rotated into n coordinates once.

    Args:
        xs: L_A checked layers (n, d_l).
        ys: L_B checked layers (n, d_m).

    Returns:
        (L_A, L_B) scores.
    """
    return all_pairs(_nuclear_norm, *(mapped(_coordinates, stacked(side), one_by_one=True) for side in (xs, ys)))


def _coordinates(x: Float[Array, "n d"]) -> Float[Array, "n p"]:
    return compact(standardize(x))


def _nuclear_norm(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    return jnp.sum(jnp.linalg.svd(x.T @ y, compute_uv=False))
