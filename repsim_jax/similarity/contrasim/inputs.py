"""How rows of different widths and bases enter one map: as they are, projected, or by cosines to shared anchors.

Source: Moschella et al. 2023, "Relative representations enable zero-shot latent space communication",
arXiv 2209.15430.
Differs: Rows and anchors are centered by the anchors' mean first, so that an offset of a whole layer changes nothing.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.linalg import precise_jit, unit_rows


class Standard(NamedTuple):
    """How a layer is standardized before its projection.

    Attributes:
        mean: (..., d), the mean of each feature over the training examples.
        scale: (...,), one over the root mean square of what varies.
    """

    mean: Float[Array, "*layers d"]
    scale: Float[Array, "*layers"]


@precise_jit(static_argnames=("whiten",))
def relative(
    x: Float[Array, "*layers n d"],
    anchors: Float[Array, "*layers k d"],
    *,
    whiten: bool = False,
    ridge: float | Float[Array, ""] = 3.0,
) -> Float[Array, "*layers n k"]:
    r"""Cosines of rows to anchors, both centered: :math:`\cos(x_i - \bar a, a_j - \bar a)`.

    Does not change under rotation, translation or scaling of a layer, if its anchors change with it. With ``whiten``
    the cosine is taken in the metric :math:`(\Sigma + \lambda I)^{-1}` of the anchors' covariance, so that the few
    directions that dominate many networks do not drown the others.

    Args:
        x: Layers.
        anchors: The anchor examples in the same layers.
        whiten: Whether to take the metric of the anchors' covariance.
        ridge: :math:`\lambda` in units of the mean variance per direction of the anchors, > 0.

    Returns:
        As wide as there are anchors, whatever d is; noise for a row at the anchors' mean, which has no direction.
    """
    for _ in range(2):  # one float32 pass leaves a residue of the order of eps * offset
        mean = jnp.mean(anchors, axis=-2, keepdims=True)
        x, anchors = x - mean, anchors - mean
    if not whiten:
        flat = [unit_rows(side.reshape(-1, side.shape[-1])).reshape(side.shape) for side in (x, anchors)]
        return flat[0] @ jnp.swapaxes(flat[1], -1, -2)
    # Scaled to a mean square of one: the metric's own scale cancels, and float32 keeps its digits.
    size = jnp.sqrt(jnp.mean(jnp.square(anchors), axis=(-1, -2), keepdims=True))
    size = jnp.where(size > 0, size, 1.0)
    x, anchors = x / size, anchors / size
    k, d = anchors.shape[-2:]
    gram = anchors @ jnp.swapaxes(anchors, -1, -2)
    # k * lambda: the mean square is one, so the trace of the covariance is d.
    penalty = ridge * k * d / min(k - 1 or 1, d)
    inverse = jnp.linalg.inv(gram + penalty * jnp.eye(k))
    products = x @ jnp.swapaxes(anchors, -1, -2)
    # Woodbury: a^T (S + l I)^-1 x = k (G + k l I)^-1 A x, without an inverse of size d.
    seen = products @ inverse
    square_x = jnp.sum(jnp.square(x), axis=-1) - jnp.sum(seen * products, axis=-1)
    square_a = jnp.diagonal(gram, axis1=-2, axis2=-1) - jnp.sum((gram @ inverse) * gram, axis=-1)
    norms = jnp.sqrt(jnp.maximum(square_x, 0.0)[..., :, None] * jnp.maximum(square_a, 0.0)[..., None, :])
    return jnp.where(norms > 1e-12, penalty * seen / jnp.where(norms > 1e-12, norms, 1.0), 0.0)


def relative_by(
    x: Float[Array, "*layers n d"],
    anchors: Float[Array, "*layers k d"],
    *,
    metric: Literal["plain", "whitened", "both"],
    ridge: float | Float[Array, ""] = 3.0,
) -> Float[Array, "*layers n k2"]:
    """Cosines to anchors in one metric, or in both side by side.

    Args:
        x: Layers.
        anchors: The anchor examples in the same layers.
        metric: Which, see ``Options``.
        ridge: As in ``relative``.

    Returns:
        (..., n, k), or (..., n, 2k) with the plain cosines first.
    """
    kinds = {"plain": (False,), "whitened": (True,), "both": (False, True)}[metric]
    return jnp.concatenate([relative(x, anchors, whiten=whiten, ridge=ridge) for whiten in kinds], axis=-1)


@jax.jit
def standard(x: Float[Array, "*layers n d"]) -> Standard:
    """The mean of every feature and the size of what varies.

    Args:
        x: Layers; finite.

    Returns:
        Mean and scale of each layer; a constant layer gets scale 0, and is zero once standardized.
    """
    mean = jnp.mean(x, axis=-2)
    size = jnp.sqrt(jnp.mean(jnp.square(x - mean[..., None, :]), axis=(-1, -2)))
    return Standard(mean, jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0))


@jax.jit
def standardized(x: Float[Array, "*layers n d"], by: Standard) -> Float[Array, "*layers n d"]:
    """Subtracts the mean of every feature and divides by the size of what varies.

    Args:
        x: Layers.
        by: From ``standard``, of the training examples.

    Returns:
        The same shape.
    """
    return (x - by.mean[..., None, :]) * by.scale[..., None, None]
