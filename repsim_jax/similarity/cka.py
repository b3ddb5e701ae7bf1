"""Centered kernel alignment: how alike are the pairwise similarities that two representations give to examples?

Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import (
    SplitRows,
    SquaredProducts,
    Stacks,
    TileSums,
    batch_squared_products,
    center,
    in_layer_order,
    mapped,
    pairwise_sq_distances,
    power_of_two,
    power_of_two_scale,
    precise_jit,
    split_rows,
    sq_distances,
    squared_products,
    stacked,
    standardize,
    tile_sums,
    unstacked,
)
from repsim_jax.similarity.inputs import checked_layers, defined

# The median distance is taken over this many evenly spaced rows at most: its error is far below what the bandwidth's
# choice changes.
_SAMPLE_ROWS = 1024
# Self-similarities below this many units of rounding are zero.
_ROUNDING = 32
UNDEFINED = "the self-similarity of one of the two is not positive: at this number of examples nothing but noise varies"


def linear_cka(x: Any, y: Any, *, unbiased: bool = False) -> Float[Array, ""]:
    r"""Linear CKA, :math:`\|X^T Y\|_F^2 / (\|X^T X\|_F \|Y^T Y\|_F)` of centered X, Y.

    Args:
        x: Representation (n, dx) of n examples.
        y: Representation (n, dy) of the same examples, in the same order.
        unbiased: Replace each HSIC by its unbiased estimator. The biased one grows with the width: random
            representations with d >> n score near 1. The unbiased one is 0 on average for independent representations,
            and can be negative.

    Returns:
        A scalar: in [0, 1], 1 for equal up to rotation, translation and scale; unbiased: at most about 1, 0 expected by
        chance.

    Raises:
        BadArrayError: If rows differ in number, are fewer than 3 (unbiased: 4), or hold NaN, infinity or nothing that
            varies.

    Source:
        Kornblith et al. 2019, equation 6; unbiased HSIC: Song et al. 2012, equation 5.

    Differs:
        Inputs are centered in float32 twice and scaled first, so that offsets and units of any size do no harm.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> round(float(linear_cka(x, 3 * x + 7)), 4)
    1.0
    """
    pair = checked_layers((x, y), operation="linear_cka", min_rows=4 if unbiased else 3, names=("x", "y"))
    value = linear_cka_pairs(pair[:1], pair[1:], unbiased=unbiased)[0, 0]
    return defined(value, operation="linear_cka", reason=UNDEFINED)


@precise_jit(static_argnames=("unbiased",))
def linear_cka_pairs(
    xs: Sequence[jax.Array], ys: Sequence[jax.Array], *, unbiased: bool = False
) -> Float[Array, "la lb"]:
    """Linear CKA of all layer pairs in one program.

    Args:
        xs: L_A checked layers (n, d_l); widths may differ.
        ys: L_B checked layers (n, d_m).
        unbiased: As in ``linear_cka``.

    Returns:
        (L_A, L_B) scores.
    """
    a, b = ([center(power_of_two_scale(layer)) for layer in side] for side in (xs, ys))
    products = squared_products(a, b)
    return _ratio(_unbiased(products, _row_norms(stacked(a)), _row_norms(stacked(b))) if unbiased else products)


def _row_norms(stacks: Stacks[jax.Array]) -> Float[Array, "l n"]:
    return in_layer_order(mapped(lambda layer: jnp.sum(jnp.square(layer), axis=1), stacks))


def _unbiased(products: SquaredProducts, r: Float[Array, "la n"], s: Float[Array, "lb n"]) -> SquaredProducts:
    """n(n-3) times the unbiased HSIC of centered features, from squared products and squared row norms r, s."""
    n = r.shape[1]

    def corrected(trace: jax.Array, inner: jax.Array, total: jax.Array) -> jax.Array:
        return trace - inner * n / (n - 2) + total / ((n - 1) * (n - 2))

    total_r, total_s = r.sum(1), s.sum(1)
    hsic = SquaredProducts(
        corrected(products.cross, r @ s.T, jnp.outer(total_r, total_s)),
        corrected(products.self_a, jnp.square(r).sum(1), jnp.square(total_r)),
        corrected(products.self_b, jnp.square(s).sum(1), jnp.square(total_s)),
    )
    return _without_noise(hsic, products)


def _without_noise(hsic: SquaredProducts, products: SquaredProducts) -> SquaredProducts:
    """Zero for self terms that are nothing but the rounding of what they were subtracted from."""
    floor = _ROUNDING * jnp.finfo(hsic.cross.dtype).eps
    self_a, self_b = (
        jnp.where(term > floor * whole, term, 0.0)
        for term, whole in ((hsic.self_a, products.self_a), (hsic.self_b, products.self_b))
    )
    return SquaredProducts(hsic.cross, self_a, self_b)


def _ratio(hsic: SquaredProducts) -> Float[Array, "la lb"]:
    """NaN where a self term is not positive: unbiased estimates may be, when nothing but noise varies."""
    return hsic.cross / (_root(hsic.self_a)[:, None] * _root(hsic.self_b)[None, :])


def _root(hsic: jax.Array) -> jax.Array:
    return jnp.where(hsic > 0, jnp.sqrt(jnp.where(hsic > 0, hsic, 1.0)), jnp.nan)


def minibatch_cka(x: Any, y: Any, *, batch_size: int = 256) -> Float[Array, ""]:
    r"""Linear CKA from unbiased HSICs of batches, :math:`\sum_b H_b(x, y) / \sqrt{\sum_b H_b(x, x) \sum_b H_b(y, y)}`.

    Args:
        x: Representation (n, dx).
        y: Representation (n, dy) of the same examples.
        batch_size: Examples per batch, consecutive rows, at least 4; a remainder of 4 or more rows is a batch too,
            fewer are left out.

    Returns:
        A scalar, at most about 1; 0 expected by chance.

    Raises:
        BadArrayError: As ``linear_cka``, and for a ``batch_size`` below 4.

    Source:
        Nguyen, Raghu and Kornblith 2021, "Do Wide and Deep Networks Learn the Same Things?" (arXiv 2010.15327),
        equation 2.
    """
    check_batch_size(batch_size)
    pair = checked_layers((x, y), operation="minibatch_cka", min_rows=4, names=("x", "y"))
    value = minibatch_cka_pairs(pair[:1], pair[1:], batch_size=batch_size)[0, 0]
    return defined(value, operation="minibatch_cka", reason=UNDEFINED)


def check_batch_size(batch_size: int) -> None:
    """Refuses batches too small for an unbiased HSIC.

    Args:
        batch_size: Examples per batch.

    Raises:
        BadArrayError: If it is below 4.
    """
    if batch_size < 4:
        raise BadArrayError(f"minibatch_cka needs batch_size >= 4 (its HSIC divides by n - 3), got {batch_size}.")


@precise_jit(static_argnames=("batch_size",))
def minibatch_cka_pairs(
    xs: Sequence[jax.Array], ys: Sequence[jax.Array], *, batch_size: int = 256
) -> Float[Array, "la lb"]:
    """Minibatch CKA of all layer pairs in one program.

    Args:
        xs: L_A checked layers (n, d_l).
        ys: L_B checked layers (n, d_m).
        batch_size: As in ``minibatch_cka``.

    Returns:
        (L_A, L_B) scores.
    """
    n = xs[0].shape[0]
    size = min(batch_size, n)
    scales = [[power_of_two(layer) for layer in side] for side in (xs, ys)]

    def hsic(start: jax.Array | int, size: int) -> SquaredProducts:
        def batch(layer: jax.Array, scale: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(layer, start, size) * scale[0] * scale[1]

        return _batch_hsic(stacked(list(map(batch, xs, scales[0]))), stacked(list(map(batch, ys, scales[1]))))

    cut = n - n % size
    batches = jax.lax.map(lambda start: hsic(start, size), jnp.arange(0, cut, size))
    total = jax.tree.map(lambda each: each.sum(0), batches)
    if n - cut >= 4:
        total = jax.tree.map(jnp.add, total, hsic(cut, n - cut))
    return _ratio(total)


def _batch_hsic(a: Stacks[jax.Array], b: Stacks[jax.Array]) -> SquaredProducts:
    """Unbiased HSICs of one batch."""
    n = a[0][1].shape[1]
    a, b = (mapped(center, side) for side in (a, b))
    products = _unbiased(batch_squared_products(a, b), _row_norms(a), _row_norms(b))
    return jax.tree.map(lambda value: value / (n * (n - 3)), products)


def rbf_cka(x: Any, y: Any, *, bandwidth: float = 1.0, unbiased: bool = False) -> Float[Array, ""]:
    r"""CKA with Gaussian kernels :math:`\exp(-\|x_i - x_j\|^2 / 2 \sigma^2)`, sigma in units of the median distance.

    Args:
        x: Representation (n, dx).
        y: Representation (n, dy) of the same examples.
        bandwidth: sigma in units of each representation's median pairwise distance (over at most 1,024 evenly spaced
            rows); small values attend to near neighbors only.
        unbiased: Use the unbiased HSIC.

    Returns:
        A scalar in [0, 1]; unbiased: at most about 1, 0 expected by chance.

    Raises:
        BadArrayError: As ``linear_cka``, and for a ``bandwidth`` that is not positive.

    Source:
        Kornblith et al. 2019, section 3.
    """
    check_bandwidth(bandwidth)
    pair = checked_layers((x, y), operation="rbf_cka", min_rows=4 if unbiased else 3, names=("x", "y"))
    value = rbf_cka_pairs(pair[:1], pair[1:], bandwidth=bandwidth, unbiased=unbiased)[0, 0]
    return defined(value, operation="rbf_cka", reason=UNDEFINED)


def check_bandwidth(bandwidth: float) -> None:
    """Refuses a kernel without width.

    Args:
        bandwidth: sigma in units of the median distance.

    Raises:
        BadArrayError: If it is not a positive finite number.
    """
    if not is_traced(bandwidth) and not (np.isfinite(bandwidth) and bandwidth > 0):
        raise BadArrayError(
            f"rbf_cka needs a positive finite bandwidth (in units of the median distance), got {bandwidth}."
        )


@precise_jit(static_argnames=("unbiased",))
def rbf_cka_pairs(
    xs: Sequence[jax.Array], ys: Sequence[jax.Array], *, bandwidth: float | jax.Array = 1.0, unbiased: bool = False
) -> Float[Array, "la lb"]:
    """CKA with Gaussian kernels, of all layer pairs in one program, tile by tile.

    Args:
        xs: L_A checked layers (n, d_l).
        ys: L_B checked layers (n, d_m).
        bandwidth: As in ``rbf_cka``.
        unbiased: As in ``rbf_cka``.

    Returns:
        (L_A, L_B) scores.
    """
    rows = functools.partial(_kernel_rows, bandwidth=bandwidth)
    sides = [unstacked(mapped(rows, stacked(side), one_by_one=True)) for side in (xs, ys)]
    tile = jax.vmap(functools.partial(_kernel_tile, unbiased=unbiased), in_axes=(0, 0, None))
    return _ratio(_hsic(tile_sums(tile, *sides), unbiased))


class _KernelRows(NamedTuple):
    """What one row contributes to a Gaussian kernel; ``weight`` is 0 for rows that only fill a block."""

    rows: SplitRows
    offset: Float[Array, " n"]
    weight: Float[Array, " n"]


def _kernel_rows(x: Float[Array, "n d"], bandwidth: float | jax.Array) -> _KernelRows:
    """Rows in units of sigma * sqrt(2), and the mean kernel over a sample of rows, to be subtracted everywhere."""
    n = x.shape[0]
    x = standardize(x)
    sample = pairwise_sq_distances(x[:: -(-n // _SAMPLE_ROWS)])
    x = x / (bandwidth * jnp.sqrt(2 * _median_off_diagonal(sample)))
    mean = jnp.mean(jnp.expm1(-sample / (2 * jnp.square(bandwidth) * _median_off_diagonal(sample))))
    return _KernelRows(split_rows(x), jnp.full(n, mean), jnp.ones(n, x.dtype))


def _median_off_diagonal(squared: Float[Array, "m m"]) -> Float[Array, ""]:
    """Median squared distance of distinct rows (the diagonal's zeros are the smallest of all); never zero."""
    m = squared.shape[0]
    apart = jnp.sort(squared.ravel())[m:]
    median = (apart[(apart.size - 1) // 2] + apart[apart.size // 2]) / 2
    return jnp.where(median > 0, median, jnp.maximum(jnp.mean(apart), jnp.finfo(squared.dtype).tiny))


def _kernel_tile(
    left: _KernelRows, right: _KernelRows, on_diagonal: jax.Array, *, unbiased: bool
) -> Float[Array, "i j"]:
    """Kernel values less one and less their mean: constants that centering removes, and the digits they would cost."""
    kernel = jnp.expm1(-sq_distances(left.rows, right.rows)) - left.offset[:, None]
    exact = jnp.where(
        on_diagonal & jnp.eye(kernel.shape[0], dtype=bool), 0.0 if unbiased else -left.offset[:, None], kernel
    )
    return exact * left.weight[:, None] * right.weight[None, :]


def _hsic(sums: TileSums, unbiased: bool) -> SquaredProducts:
    """HSICs from inner products and row sums of uncentered kernels, up to a common factor."""
    n = sums.rows_a.shape[1]
    a, b = sums.rows_a, sums.rows_b
    products, inner = sums.products, SquaredProducts(a @ b.T, jnp.square(a).sum(1), jnp.square(b).sum(1))
    totals = SquaredProducts(jnp.outer(a.sum(1), b.sum(1)), jnp.square(a.sum(1)), jnp.square(b.sum(1)))
    scale = (2 / (n - 2), 1 / ((n - 1) * (n - 2))) if unbiased else (2 / n, 1 / n**2)
    hsic = jax.tree.map(
        lambda product, dot, total: product - scale[0] * dot + scale[1] * total, products, inner, totals
    )
    return _without_noise(hsic, products)
