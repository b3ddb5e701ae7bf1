"""Canonical correlations: how alike are two representations when every invertible linear map counts as no difference?

Raghu et al. 2017, "SVCCA" (arXiv 1706.05806); Morcos et al. 2018, "Insights on representational similarity" (arXiv
1806.05759).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import (
    Basis,
    all_pairs,
    center,
    compact,
    mapped,
    orthonormal_basis,
    power_of_two_scale,
    precise_jit,
    stacked,
    standardize,
)
from repsim_jax.similarity.inputs import checked_layers, defined

UNDEFINED = "one of the two has no direction that varies"


def cca(x: Any, y: Any) -> Float[Array, ""]:
    r"""Mean canonical correlation, :math:`\frac1p \sum_i \rho_i` with p the smaller of the two ranks.

    Canonical correlations are the singular values of :math:`Q_x^T Q_y`, with Q an orthonormal basis of each centered
    representation.

    Args:
        x: Representation (n, dx).
        y: Representation (n, dy) of the same examples.

    Returns:
        A scalar in [0, 1]. It is 1 for any data once n <= max(rank) + 1: use many more examples than features.

    Raises:
        BadArrayError: If rows differ in number, are fewer than 3, or hold NaN, infinity or nothing that varies.

    Source:
        Hotelling 1936; as a similarity of representations, Raghu et al. 2017.

    Differs:
        Directions below the numerical rank are left out, so that duplicate or constant features change nothing.
    """
    pair = checked_layers((x, y), operation="cca", min_rows=3, names=("x", "y"))
    return defined(cca_pairs(pair[:1], pair[1:])[0, 0], operation="cca", reason=UNDEFINED)


@precise_jit()
def cca_pairs(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> Float[Array, "la lb"]:
    """Mean canonical correlation of all layer pairs; each layer is decomposed once.

    Args:
        xs: L_A checked layers (n, d_l).
        ys: L_B checked layers (n, d_m).

    Returns:
        (L_A, L_B) scores.
    """
    return all_pairs(_mean_correlation, *(mapped(_whitened, stacked(side), one_by_one=True) for side in (xs, ys)))


def _whitened(x: Float[Array, "n d"]) -> Basis:
    """Basis of the span; features are brought to one scale first, which the span ignores and float32 needs."""
    scaled = power_of_two_scale(x)
    centered = center(scaled)
    largest = jnp.max(jnp.abs(centered), axis=0)
    # what is left of a constant feature is rounding, and must not be scaled up to the size of the others
    varies = largest > 8 * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(scaled), axis=0)
    return orthonormal_basis(compact(jnp.where(varies, centered / jnp.where(varies, largest, 1.0), 0.0)))


def _mean_correlation(a: Basis, b: Basis) -> Float[Array, ""]:
    correlations = jnp.linalg.svd(a.vectors.T @ b.vectors, compute_uv=False)
    return jnp.sum(jnp.minimum(correlations, 1.0)) / jnp.minimum(a.rank, b.rank)


def svcca(x: Any, y: Any, *, variance: float = 0.99) -> Float[Array, ""]:
    """Mean canonical correlation of the principal directions that hold 99 % of each representation's variance.

    Args:
        x: Representation (n, dx).
        y: Representation (n, dy) of the same examples.
        variance: Share of the variance to keep, in (0, 1].

    Returns:
        A scalar in [0, 1].

    Raises:
        BadArrayError: As ``cca``, and for a ``variance`` outside (0, 1].

    Source:
        Raghu et al. 2017, section 2.

    Differs:
        The cut is by cumulative variance (squared singular values), as in the paper; several public implementations cut
        by singular values, or keep everything.
    """
    check_variance(variance)
    pair = checked_layers((x, y), operation="svcca", min_rows=3, names=("x", "y"))
    return defined(svcca_pairs(pair[:1], pair[1:], variance=variance)[0, 0], operation="svcca", reason=UNDEFINED)


def check_variance(variance: float) -> None:
    """Refuses a share of variance that keeps nothing or more than there is.

    Args:
        variance: The share.

    Raises:
        BadArrayError: If it is not in (0, 1].
    """
    if not is_traced(variance) and not 0 < variance <= 1:
        raise BadArrayError(f"svcca keeps a share of the variance in (0, 1], got variance={variance}.")


@precise_jit()
def svcca_pairs(
    xs: Sequence[jax.Array], ys: Sequence[jax.Array], *, variance: float | jax.Array = 0.99
) -> Float[Array, "la lb"]:
    """SVCCA of all layer pairs; each layer is decomposed once.

    Args:
        xs: L_A checked layers (n, d_l).
        ys: L_B checked layers (n, d_m).
        variance: As in ``svcca``.

    Returns:
        (L_A, L_B) scores.
    """
    return all_pairs(
        _mean_correlation,
        *(mapped(lambda layer: _principal(layer, variance), stacked(side), one_by_one=True) for side in (xs, ys)),
    )


def _principal(x: Float[Array, "n d"], variance: float | jax.Array) -> Basis:
    basis = orthonormal_basis(compact(standardize(x)))
    share = jnp.cumsum(jnp.square(basis.values)) / jnp.sum(jnp.square(basis.values))
    enough = (
        share >= variance - jnp.finfo(x.dtype).eps * x.shape[0]
    )  # rounding must not add directions when variance is 1
    return basis.first(jnp.minimum(1 + jnp.sum(~enough), basis.rank))


def pwcca(x: Any, y: Any) -> Float[Array, ""]:
    r"""Projection-weighted CCA: canonical correlations weighted by how much of x their directions account for.

    :math:`\sum_i \alpha_i \rho_i / \sum_i \alpha_i` with :math:`\alpha_i = \sum_j |\langle h_i, x_j \rangle|`, h the
    canonical variates of x and x_j its features.

    Args:
        x: Representation (n, dx); the weights are its.
        y: Representation (n, dy) of the same examples.

    Returns:
        A scalar in [0, 1]. Not symmetric.

    Raises:
        BadArrayError: As ``cca``.

    Source:
        Morcos et al. 2018, equation 3.

    Differs:
        Weights always come from x, as in the paper; the authors' code switches sides when the widths differ, and reads
        the wrong activations when it does.
    """
    pair = checked_layers((x, y), operation="pwcca", min_rows=3, names=("x", "y"))
    return defined(pwcca_pairs(pair[:1], pair[1:])[0, 0], operation="pwcca", reason=UNDEFINED)


class _Weighted(NamedTuple):
    """A whitened basis and the features' coordinates in it, by whose size directions are weighted."""

    basis: Basis
    coordinates: Float[Array, "p d"]


@precise_jit()
def pwcca_pairs(xs: Sequence[jax.Array], ys: Sequence[jax.Array]) -> Float[Array, "la lb"]:
    """Projection-weighted CCA of all layer pairs; each layer is decomposed once.

    Args:
        xs: L_A checked layers (n, d_l), which give the weights.
        ys: L_B checked layers (n, d_m).

    Returns:
        (L_A, L_B) scores.
    """
    return all_pairs(_weighted_correlation, *(mapped(_weighted, stacked(side), one_by_one=True) for side in (xs, ys)))


def _weighted(x: Float[Array, "n d"]) -> _Weighted:
    basis = _whitened(x)
    return _Weighted(basis, basis.vectors.T @ standardize(x))


def _weighted_correlation(a: _Weighted, b: _Weighted) -> Float[Array, ""]:
    directions, correlations, _ = jnp.linalg.svd(a.basis.vectors.T @ b.basis.vectors, full_matrices=False)
    weights = jnp.sum(jnp.abs(directions.T @ a.coordinates), axis=1)
    counted = jnp.where(np.arange(weights.shape[0]) < jnp.minimum(a.basis.rank, b.basis.rank), weights, 0.0)
    return jnp.sum(counted * jnp.minimum(correlations, 1.0)) / jnp.sum(counted)
