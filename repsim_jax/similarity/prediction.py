"""Linear predictivity: how much of one representation can a linear map read out of the other, on held-out examples?"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax._compat import is_traced
from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import in_layer_order, mapped, precise_jit, stacked, standardize
from repsim_jax.similarity.inputs import checked_layers, defined


def linear_predictivity(x: Any, y: Any, *, folds: int = 5, ridge: float = 1e-3) -> Float[Array, ""]:
    r"""Cross-validated :math:`R^2` of the ridge regression from x to y, pooled over features and folds.

    :math:`1 - \sum_f \|Y_f - \hat Y_f\|^2 / \sum_f \|Y_f - \bar Y_{-f}\|^2`, with row i held out in fold i mod
    ``folds``.

    Args:
        x: Representation (n, dx), the predictor.
        y: Representation (n, dy) of the same examples, the target.
        folds: Number of folds, at least 2 and at most n.
        ridge: Penalty on squared weights, in units of the mean nonzero eigenvalue of x's scatter matrix; positive.

    Returns:
        A scalar of at most 1; 0 means no better than the mean, negative means worse. Not symmetric.

    Raises:
        BadArrayError: If rows differ in number, are fewer than ``folds`` or 5, hold NaN, infinity or nothing that
            varies; for ``folds`` or ``ridge`` out of range.

    Source:
        Kornblith et al. 2019, section 4 (linear regression), and the encoding models of neuroscience (Schrimpf et al.
        2018).

    Differs:
        Kornblith's R^2 is measured on the fitted examples, where it is 1 for any data with n <= dx; this one is held
        out.
    """
    check_fit(folds, ridge)
    pair = checked_layers((x, y), operation="linear_predictivity", min_rows=max(5, folds), names=("x", "y"))
    value = linear_predictivity_pairs(pair[:1], pair[1:], folds=folds, ridge=ridge)[0, 0]
    return defined(value, operation="linear_predictivity", reason="nothing varies in one of the two")


def check_fit(folds: int, ridge: float) -> None:
    """Refuses fits that cannot be held out or solved.

    Args:
        folds: Number of folds.
        ridge: Penalty.

    Raises:
        BadArrayError: If ``folds`` is below 2, or ``ridge`` is not positive and finite.
    """
    if folds < 2:
        raise BadArrayError(f"linear_predictivity needs folds >= 2 to hold examples out, got {folds}.")
    if not is_traced(ridge) and not (np.isfinite(ridge) and ridge > 0):
        raise BadArrayError(f"linear_predictivity needs a positive finite ridge, got {ridge}.")


@precise_jit(static_argnames=("folds",))
def linear_predictivity_pairs(
    xs: Sequence[jax.Array], ys: Sequence[jax.Array], *, folds: int = 5, ridge: float | jax.Array = 1e-3
) -> Float[Array, "la lb"]:
    """Linear predictivity of all layer pairs; each predictor is factorized once per fold for all targets.

    Args:
        xs: L_A checked layers (n, d_l), the predictors.
        ys: L_B checked layers (n, d_m), the targets.
        folds: As in ``linear_predictivity``.
        ridge: As in ``linear_predictivity``.

    Returns:
        (L_A, L_B) scores.
    """
    predictors = mapped(standardize, stacked(xs))
    targets = jnp.concatenate([standardize(y) for y in ys], axis=1)
    owner = np.repeat(np.arange(len(ys)), [y.shape[1] for y in ys])

    def fold(_: None, number: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        train = (jnp.arange(targets.shape[0]) % folds != number).astype(targets.dtype)
        centered = targets - train @ targets / train.sum()
        squares = in_layer_order(
            mapped(lambda x: _residual_squares(x, centered, train, ridge), predictors, one_by_one=True)
        )
        return None, (squares, (1 - train) @ jnp.square(centered))

    _, (residual, total) = jax.lax.scan(fold, None, jnp.arange(folds))
    by_layer = jax.vmap(lambda squares: jax.ops.segment_sum(squares, owner, len(ys)))
    return 1 - by_layer(residual.sum(0)) / by_layer(total.sum(0)[None])


def _residual_squares(
    x: Float[Array, "n d"], y: Float[Array, "n t"], train: Float[Array, " n"], ridge: float | jax.Array
) -> Float[Array, " t"]:
    """Squared errors on held-out rows, per target feature; the smaller of the primal and the dual system is solved."""
    n, d = x.shape
    x = x - train @ x / train.sum()
    fitted = x * train[:, None]
    # what is left of a feature that is constant over the training rows is rounding, and must not be fitted
    varies = jnp.max(jnp.abs(fitted), axis=0) > 8 * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(x), axis=0)
    fitted = jnp.where(varies, fitted, 0.0)
    variation = jnp.sum(jnp.square(fitted))
    penalty = jnp.where(variation > 0, ridge * variation / min(n, d), 1.0)
    if d <= n:
        weights = jax.scipy.linalg.solve(
            fitted.T @ fitted + penalty * jnp.eye(d, dtype=x.dtype), fitted.T @ y, assume_a="pos"
        )
        prediction = x @ weights
    else:
        gram = fitted @ fitted.T + penalty * jnp.eye(n, dtype=x.dtype)
        prediction = x @ (fitted.T @ jax.scipy.linalg.solve(gram, y * train[:, None], assume_a="pos"))
    return (1 - train) @ jnp.square(y - prediction)
