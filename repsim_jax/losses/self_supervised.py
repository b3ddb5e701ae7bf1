"""Two views of an example should be alike, without all examples becoming alike: losses of pairs of embeddings."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.linalg import center, unit_rows
from repsim_jax.losses.contrastive import supervised_contrastive


def nt_xent(
    z: Float[Array, "b q"], z_pos: Float[Array, "b q"], *, temperature: float | Float[Array, ""] = 0.5
) -> Float[Array, ""]:
    r"""NT-Xent, the loss of SimCLR: each of 2b views has one positive and 2b - 2 negatives, by cosine.

    .. math:: -\frac{1}{2b} \sum_i \log \frac{\exp(s_{i i^+} / \tau)}{\sum_{a \neq i} \exp(s_{ia} / \tau)}

    Args:
        z: Embeddings of one view; no row of zeros.
        z_pos: Embeddings of another view of the same b >= 2 examples.
        temperature: :math:`\tau` > 0.

    Returns:
        A scalar >= 0.

    Source:
        Chen et al. 2020, arXiv 2002.05709, equation 1.
    """
    both = unit_rows(jnp.concatenate([z, z_pos]))
    b = len(z)
    positives = jnp.roll(jnp.eye(2 * b, dtype=both.dtype), b, axis=1)
    return supervised_contrastive(both @ both.T, positives, temperature=temperature)


def spectral_contrastive(z: Float[Array, "b q"], z_pos: Float[Array, "b q"]) -> Float[Array, ""]:
    r"""Spectral contrastive loss, whose minimizers span the top eigenspace of the augmentation graph.

    .. math:: -\frac{2}{b} \sum_i z_i^T z_i^+ + \frac{1}{b (b - 1)} \sum_{i \neq j} (z_i^T z_j^+)^2

    Args:
        z: Embeddings of one view.
        z_pos: Embeddings of another view of the same b >= 2 examples.

    Returns:
        A scalar.

    Source:
        HaoChen et al. 2021, arXiv 2106.04156, equation 6.
    """
    b = len(z)
    products = z @ z_pos.T
    repulsion = jnp.square(products).sum() - jnp.square(jnp.diagonal(products)).sum()
    return -2.0 * jnp.diagonal(products).mean() + repulsion / (b * (b - 1))


def barlow_twins(
    z: Float[Array, "b q"], z_pos: Float[Array, "b q"], *, off_diagonal: float | Float[Array, ""] = 5e-3
) -> Float[Array, ""]:
    r"""Barlow Twins: the cross-correlation C of two views should be the identity.

    .. math:: \sum_k (1 - C_{kk})^2 + \lambda \sum_{k \neq l} C_{kl}^2

    Args:
        z: Embeddings of one view; no feature is constant.
        z_pos: Embeddings of another view of the same examples.
        off_diagonal: :math:`\lambda` > 0.

    Returns:
        A scalar >= 0; summed over the q features, as published.

    Source:
        Zbontar et al. 2021, arXiv 2103.03230, equation 1.
    """
    correlation = _columns(z).T @ _columns(z_pos)
    diagonal = jnp.diagonal(correlation)
    others = jnp.square(correlation).sum() - jnp.square(diagonal).sum()
    return jnp.square(1.0 - diagonal).sum() + off_diagonal * others


def vicreg(
    z: Float[Array, "b q"],
    z_pos: Float[Array, "b q"],
    *,
    invariance: float | Float[Array, ""] = 25.0,
    variance: float | Float[Array, ""] = 25.0,
    covariance: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
    """VICReg: views agree, every feature keeps a standard deviation of one, and features do not covary.

    Args:
        z: Embeddings of one view.
        z_pos: Embeddings of another view of the same b >= 2 examples.
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
    agreement = jnp.square(z - z_pos).mean()
    spread = sum(jax.nn.relu(1.0 - jnp.sqrt(side.var(axis=0, ddof=1) + 1e-4)).mean() for side in (z, z_pos)) / 2
    return invariance * agreement + variance * spread + covariance * (_covariances(z) + _covariances(z_pos))


def _columns(z: Float[Array, "b q"]) -> Float[Array, "b q"]:
    """Centered columns of norm one."""
    centered = center(z)
    return centered / jnp.linalg.norm(centered, axis=0)


def _covariances(z: Float[Array, "b q"]) -> Float[Array, ""]:
    """Mean over features of their squared covariances with all others."""
    centered = center(z)
    covariance = centered.T @ centered / (len(z) - 1)
    return (jnp.square(covariance).sum() - jnp.square(jnp.diagonal(covariance)).sum()) / z.shape[1]
