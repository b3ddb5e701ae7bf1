"""Two views of an example should be alike, without all examples becoming alike: losses of pairs of embeddings.

Each takes weights of the examples: an example of weight zero is as if it were not in the batch, so that a loss can be
differentiated by how much of an example it holds.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.linalg import center, unit_rows
from repsim_jax.losses.contrastive import supervised_contrastive


def nt_xent(
    z: Float[Array, "b q"],
    z_pos: Float[Array, "b q"],
    weights: Float[Array, " b"] | None = None,
    *,
    temperature: float | Float[Array, ""] = 0.5,
) -> Float[Array, ""]:
    r"""NT-Xent, the loss of SimCLR: each of 2b views has one positive and 2b - 2 negatives, by cosine.

    .. math:: -\frac{1}{2b} \sum_i \log \frac{\exp(s_{i i^+} / \tau)}{\sum_{a \neq i} \exp(s_{ia} / \tau)}

    With weights the outer mean is a weighted one, and a negative counts by its weight; the positive, which is part of
    its own term, does not.

    Args:
        z: Embeddings of one view; no row of zeros.
        z_pos: Embeddings of another view of the same b >= 2 examples.
        weights: Of the examples, >= 0 and not all zero; None is 1.
        temperature: :math:`\tau` > 0.

    Returns:
        A scalar >= 0.

    Source:
        Chen et al. 2020, arXiv 2002.05709, equation 1.
    """
    both = unit_rows(jnp.concatenate([z, z_pos]))
    b = len(z)
    if weights is not None:
        logits, shares = nt_xent_logits(z, z_pos, weights, temperature=temperature)
        each = jax.nn.logsumexp(logits, axis=1, b=shares) - jnp.concatenate([jnp.diagonal(logits, b)] * 2)
        return _mean(each, jnp.concatenate([weights, weights]))
    positives = jnp.roll(jnp.eye(2 * b, dtype=both.dtype), b, axis=1)
    return supervised_contrastive(both @ both.T, positives, temperature=temperature)


def nt_xent_logits(
    z: Float[Array, "b q"],
    z_pos: Float[Array, "b q"],
    weights: Float[Array, " b"],
    *,
    temperature: float | Float[Array, ""] = 0.5,
) -> tuple[Float[Array, "b2 b2"], Float[Array, "b2 b2"]]:
    r"""What stands in the exponents of NT-Xent, and by how much each exponential counts in the denominators.

    Args:
        z: As in ``nt_xent``.
        z_pos: As in ``nt_xent``.
        weights: As in ``nt_xent``.
        temperature: As in ``nt_xent``.

    Returns:
        Cosines over :math:`\tau` of all 2b views; and their factors: 0 for a view itself, 1 for its positive, the
        weight of the example for negatives.
    """
    both = unit_rows(jnp.concatenate([z, z_pos]))
    b = len(z)
    positives = jnp.roll(jnp.eye(2 * b, dtype=both.dtype), b, axis=1)
    own = positives + jnp.eye(2 * b, dtype=both.dtype)
    counted = jnp.where(own > 0, positives, jnp.concatenate([weights, weights])[None, :].astype(both.dtype))
    return both @ both.T / temperature, counted


def spectral_contrastive(
    z: Float[Array, "b q"], z_pos: Float[Array, "b q"], weights: Float[Array, " b"] | None = None
) -> Float[Array, ""]:
    r"""Spectral contrastive loss, whose minimizers span the top eigenspace of the augmentation graph.

    .. math:: -\frac{2}{b} \sum_i z_i^T z_i^+ + \frac{1}{b (b - 1)} \sum_{i \neq j} (z_i^T z_j^+)^2

    Args:
        z: Embeddings of one view.
        z_pos: Embeddings of another view of the same b >= 2 examples.
        weights: Of the examples, >= 0 and at least two above zero; None is 1. Pairs count by the product of theirs.

    Returns:
        A scalar.

    Source:
        HaoChen et al. 2021, arXiv 2106.04156, equation 6.
    """
    b = len(z)
    products = z @ z_pos.T
    if weights is not None:
        pairs = jnp.outer(weights, weights) * (1 - jnp.eye(b, dtype=products.dtype))
        return -2.0 * _mean(jnp.diagonal(products), weights) + _mean(jnp.square(products), pairs)
    repulsion = jnp.square(products).sum() - jnp.square(jnp.diagonal(products)).sum()
    return -2.0 * jnp.diagonal(products).mean() + repulsion / (b * (b - 1))


def barlow_twins(
    z: Float[Array, "b q"],
    z_pos: Float[Array, "b q"],
    weights: Float[Array, " b"] | None = None,
    *,
    off_diagonal: float | Float[Array, ""] = 5e-3,
) -> Float[Array, ""]:
    r"""Barlow Twins: the cross-correlation C of two views should be the identity.

    .. math:: \sum_k (1 - C_{kk})^2 + \lambda \sum_{k \neq l} C_{kl}^2

    Args:
        z: Embeddings of one view; no feature is constant.
        z_pos: Embeddings of another view of the same examples.
        weights: Of the examples, >= 0 and at least two above zero; None is 1. A weight of 2 is an example twice.
        off_diagonal: :math:`\lambda` > 0.

    Returns:
        A scalar >= 0; summed over the q features, as published.

    Source:
        Zbontar et al. 2021, arXiv 2103.03230, equation 1.
    """
    correlation = cross_correlation(z, z_pos, weights)
    diagonal = jnp.diagonal(correlation)
    others = jnp.square(correlation).sum() - jnp.square(diagonal).sum()
    return jnp.square(1.0 - diagonal).sum() + off_diagonal * others


def vicreg(
    z: Float[Array, "b q"],
    z_pos: Float[Array, "b q"],
    weights: Float[Array, " b"] | None = None,
    *,
    invariance: float | Float[Array, ""] = 25.0,
    variance: float | Float[Array, ""] = 25.0,
    covariance: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
    """VICReg: views agree, every feature keeps a standard deviation of one, and features do not covary.

    Args:
        z: Embeddings of one view.
        z_pos: Embeddings of another view of the same b >= 2 examples.
        weights: Of the examples, >= 0 and of a sum above 1; None is 1. A weight of 2 is an example that came twice.
        invariance: Weight of the mean squared difference of views.
        variance: Weight of the hinge on standard deviations.
        covariance: Weight of the squared covariances of different features, divided by q.

    Returns:
        A scalar >= 0.

    Source:
        Bardes et al. 2022, arXiv 2105.04906, equations 1 to 6.

    Differs:
        The invariance term is the mean over examples and features, as in the released code, not the sum over features.
    """
    covariances = [covariance_matrix(side, weights) for side in (z, z_pos)]
    agreement = _mean(jnp.square(z - z_pos).mean(1), weights)
    spread = sum(jax.nn.relu(1.0 - jnp.sqrt(jnp.diagonal(one) + 1e-4)).mean() for one in covariances) / 2
    shared = sum(jnp.square(one).sum() - jnp.square(jnp.diagonal(one)).sum() for one in covariances) / z.shape[1]
    return invariance * agreement + variance * spread + covariance * shared


def negative_cosine(
    predictions: Float[Array, "b q"], targets: Float[Array, "b q"], weights: Float[Array, " b"] | None = None
) -> Float[Array, ""]:
    r"""What SimSiam and, up to the factor 2 and a constant, BYOL make small: :math:`-\frac1b \sum_i \cos(p_i, t_i)`.

    Whether a gradient flows into the targets is the caller's choice: ``jax.lax.stop_gradient(targets)``.

    Args:
        predictions: Of the predictor, from one view; no row of zeros.
        targets: Embeddings of another view; no row of zeros.
        weights: Of the examples, >= 0 and not all zero; None is 1.

    Returns:
        A scalar in [-1, 1].

    Source:
        Chen and He 2021, arXiv 2011.10566, equation 1; Grill et al. 2020, arXiv 2006.07733, equation 2, is 2 plus twice
        this.
    """
    return _mean(-(unit_rows(predictions) * unit_rows(targets)).sum(1), weights)


def cross_correlation(
    z: Float[Array, "b q"], z_pos: Float[Array, "b q"], weights: Float[Array, " b"] | None = None
) -> Float[Array, "q q"]:
    """Correlations of the features of two views.

    Args:
        z: Embeddings of one view; no feature is constant.
        z_pos: Embeddings of another view.
        weights: Of the examples; None is 1.

    Returns:
        (q, q) array of entries in [-1, 1].
    """
    if weights is None:
        return _columns(z).T @ _columns(z_pos)
    sides = [side - _weighted_mean_row(side, weights) for side in (z, z_pos)]
    norms = [jnp.sqrt((jnp.square(side) * weights[:, None]).sum(0)) for side in sides]
    return (sides[0] * weights[:, None]).T @ sides[1] / jnp.outer(norms[0], norms[1])


def covariance_matrix(z: Float[Array, "b q"], weights: Float[Array, " b"] | None = None) -> Float[Array, "q q"]:
    """Unbiased covariance of features; an integer weight is a number of repetitions.

    Args:
        z: Embeddings.
        weights: Of the examples, of a sum above 1; None is 1.

    Returns:
        (q, q) array.
    """
    if weights is None:
        centered = center(z)
        return centered.T @ centered / (len(z) - 1)
    centered = z - _weighted_mean_row(z, weights)
    return (centered * weights[:, None]).T @ centered / (weights.sum() - 1)


def _columns(z: Float[Array, "b q"]) -> Float[Array, "b q"]:
    """Centered columns of norm one."""
    centered = center(z)
    return centered / jnp.linalg.norm(centered, axis=0)


def _weighted_mean_row(z: Float[Array, "b q"], weights: Float[Array, " b"]) -> Float[Array, " q"]:
    return (z * weights[:, None]).sum(0) / weights.sum()


def _mean(values: Float[Array, "*shape"], weights: Float[Array, "*shape"] | None) -> Float[Array, ""]:
    return values.mean() if weights is None else (values * weights).sum() / weights.sum()
