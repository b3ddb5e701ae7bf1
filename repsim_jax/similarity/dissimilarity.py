"""Representational similarity analysis: do two representations order the pairs of examples alike?

Kriegeskorte, Mur and Bandettini 2008, "Representational similarity analysis" (doi 10.3389/neuro.06.004.2008).
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.linalg import (
    SplitRows,
    average_ranks,
    in_layer_order,
    mapped,
    pairwise_sq_distances,
    power_of_two_scale,
    precise_jit,
    round_significant,
    split_rows,
    sq_distances,
    stacked,
    standardize,
    unit_rows,
)
from repsim_jax.similarity.inputs import checked_layers, defined

Dissimilarity = Literal["correlation", "euclidean"]
Comparison = Literal["spearman", "pearson"]
# Distances whose relative difference is below this are equal up to rounding in float32.
_TIED = 2.0**-16
UNDEFINED = "all pairs of examples are equally dissimilar in one of the two, so there is no order to compare"


def rsa(
    x: Any, y: Any, *, dissimilarity: Dissimilarity = "correlation", comparison: Comparison = "spearman"
) -> Float[Array, ""]:
    """Rank correlation of two representational dissimilarity matrices (RDMs).

    Args:
        x: Representation (n, dx).
        y: Representation (n, dy) of the same examples.
        dissimilarity: Of two examples: ``correlation``, one minus the Pearson correlation across features; or
            ``euclidean``.
        comparison: Of the two RDMs' upper triangles: ``spearman`` or ``pearson``.

    Returns:
        A scalar in [-1, 1]; 0 expected by chance.

    Raises:
        BadArrayError: If rows differ in number, are fewer than 4, hold NaN or infinity; if a row is constant across
            features (``correlation``); if all pairs are equally dissimilar.
        UnknownNameError: For another ``dissimilarity`` or ``comparison``.

    Source:
        Kriegeskorte et al. 2008.

    Differs:
        Distances that agree to about 1e-5 count as tied, so that rounding does not order what is equal.
    """
    check_options(dissimilarity, comparison)
    pair = checked_layers(
        (x, y), operation="rsa", min_rows=4, names=("x", "y"), shift_invariant=dissimilarity == "euclidean"
    )
    if dissimilarity == "correlation":
        check_rows_vary(pair, ("x", "y"))
    value = rsa_pairs(pair[:1], pair[1:], dissimilarity=dissimilarity, comparison=comparison)[0, 0]
    return defined(value, operation="rsa", reason=UNDEFINED)


def check_options(dissimilarity: str, comparison: str) -> None:
    """Refuses unknown options.

    Args:
        dissimilarity: See ``rsa``.
        comparison: See ``rsa``.

    Raises:
        UnknownNameError: If one of them is not known.
    """
    if dissimilarity not in ("correlation", "euclidean"):
        raise UnknownNameError.of("dissimilarity", dissimilarity, ("correlation", "euclidean"))
    if comparison not in ("spearman", "pearson"):
        raise UnknownNameError.of("comparison of RDMs", comparison, ("spearman", "pearson"))


def check_rows_vary(layers: Sequence[jax.Array], names: Sequence[str]) -> None:
    """Refuses examples whose features are all equal: their correlation with anything is undefined.

    Args:
        layers: Checked layers (n, d_l).
        names: What to call them.

    Raises:
        BadArrayError: Naming the layer and the first such row.
    """
    for layer, name in zip(layers, names, strict=True):
        if is_traced(layer):
            continue
        constant = np.flatnonzero(np.asarray((layer == layer[:, :1]).all(axis=1)))
        if constant.size:
            raise BadArrayError(
                f"rsa by correlation is undefined for {name} {layer.shape}: {constant.size} rows have equal features "
                f"throughout, the first is row {constant[0]}. Drop them, or pass dissimilarity='euclidean'."
            )


@precise_jit(static_argnames=("dissimilarity", "comparison"))
def rsa_pairs(
    xs: Sequence[jax.Array],
    ys: Sequence[jax.Array],
    *,
    dissimilarity: Dissimilarity = "correlation",
    comparison: Comparison = "spearman",
) -> Float[Array, "la lb"]:
    """RSA of all layer pairs; each layer's RDM is computed and ranked once and held as n (n - 1) / 2 numbers.

    Args:
        xs: L_A checked layers (n, d_l).
        ys: L_B checked layers (n, d_m).
        dissimilarity: As in ``rsa``.
        comparison: As in ``rsa``.

    Returns:
        (L_A, L_B) scores.
    """
    profiles = (
        in_layer_order(mapped(lambda x: _profile(x, dissimilarity, comparison), stacked(side), one_by_one=True))
        for side in (xs, ys)
    )
    return jnp.einsum("lp,mp->lm", *profiles)


def _profile(x: Float[Array, "n d"], dissimilarity: str, comparison: str) -> Float[Array, " pairs"]:
    """Upper triangle of the RDM, ranked if wanted, centered, of unit norm; NaN where it is constant."""
    if dissimilarity == "correlation":
        x = power_of_two_scale(x)
        x = x - jnp.mean(x, axis=1, keepdims=True)
        rows = unit_rows(x - jnp.mean(x, axis=1, keepdims=True))
        distances = _correlation_distances(rows, ratio=comparison == "spearman")
    else:
        distances = jnp.sqrt(pairwise_sq_distances(standardize(x)))
    upper = round_significant(distances[jnp.triu_indices(x.shape[0], 1)])
    values = average_ranks(upper) if comparison == "spearman" else upper
    values = values - jnp.mean(values)
    unit = values * jax.lax.rsqrt(jnp.sum(jnp.square(values / jnp.max(jnp.abs(values))))) / jnp.max(jnp.abs(values))
    spread = jnp.max(upper) - jnp.min(upper)
    return jnp.where(spread > 4 * _TIED * jnp.max(upper), unit, jnp.nan)


def _correlation_distances(rows: Float[Array, "n d"], *, ratio: bool) -> Float[Array, "n n"]:
    """Distances 1 - c of unit rows; or (1 - c) / (1 + c), in the same order and with all digits where c is near -1."""
    split = split_rows(rows)
    apart = sq_distances(split, split) / 2
    if not ratio:
        return apart
    opposite = sq_distances(split, SplitRows(-split.large, -split.rest)) / 2
    return apart / jnp.maximum(opposite, jnp.finfo(rows.dtype).tiny ** 0.5)
