"""What belongs together should be alike, and all else should not: losses of a matrix of similarities.

Each takes the similarities of m items to each other and who is a positive of whom, so that items may be examples, views
or whole layers. The diagonal, an item's similarity to itself, never counts.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def pairwise_logits(z: Float[Array, "m q"], *, similarity: Literal["dot", "distance"] = "dot") -> Float[Array, "m m"]:
    r"""Similarities of unit vectors: :math:`z_i^T z_j`, or :math:`1 - \|z_i - z_j\|`.

    Args:
        z: Rows of Euclidean norm one.
        similarity: ``dot`` or ``distance``.

    Returns:
        Symmetric similarities; at most 1.

    Source:
        arXiv 2303.16992: ContraSim and its variant with distances.
    """
    dots = z @ z.T
    if similarity == "dot":
        return dots
    # |a - b|^2 = 2 - 2 a.b; the square root has no gradient at 0, where two items are the same.
    squared = 2.0 - 2.0 * dots
    return 1.0 - jnp.where(squared > 1e-12, jnp.sqrt(jnp.where(squared > 1e-12, squared, 1.0)), 0.0)


def supervised_contrastive(
    logits: Float[Array, "m m"],
    positives: Float[Array, "m m"],
    *,
    temperature: float | Float[Array, ""] = 0.07,
) -> Float[Array, ""]:
    r"""Supervised contrastive loss with the sum over positives outside of the logarithm.

    .. math:: -\frac{1}{m} \sum_i \frac{1}{|P(i)|} \sum_{p \in P(i)}
              \log \frac{\exp(s_{ip} / \tau)}{\sum_{a \neq i} \exp(s_{ia} / \tau)}

    With one positive each it is NT-Xent, the loss of SimCLR.

    Args:
        logits: Similarities s of m items; what is minus infinity takes no part.
        positives: Weight of item j as a positive of i: 0 or 1, or anything between; the diagonal is left out.
        temperature: :math:`\tau` > 0.

    Returns:
        A scalar; the mean over items that have a positive, 0 where none has.

    Source:
        Khosla et al. 2020, arXiv 2004.11362, equation 2; Chen et al. 2020, arXiv 2002.05709 (NT-Xent).
    """
    present = ~jnp.eye(logits.shape[0], dtype=bool) & (logits > -jnp.inf)
    positives = jnp.where(present, positives, 0.0)
    # What is masked must stay out of the gradient too, where 0 times infinity is NaN.
    scaled = jnp.where(present, jnp.where(present, logits, 0.0) / temperature, -jnp.inf)
    scaled = jnp.where(present.any(1, keepdims=True), scaled, 0.0)
    log_share = jnp.where(present, jax.nn.log_softmax(scaled, axis=1), 0.0)
    total = positives.sum(1)
    each = -(positives * log_share).sum(1) / jnp.where(total > 0, total, 1.0)
    return each.sum() / jnp.maximum((total > 0).sum(), 1)


def max_margin(
    logits: Float[Array, "m m"], positives: Float[Array, "m m"], *, margin: float | Float[Array, ""] = 0.2
) -> Float[Array, ""]:
    r"""Hinge on the hardest negative: :math:`\max(0, \text{margin} - s_{ip} + \max_{n \notin P(i)} s_{in})`.

    Args:
        logits: Similarities s of m items.
        positives: Weight of item j as a positive of i; the diagonal is left out.
        margin: By how much a positive should be more alike than every negative, > 0.

    Returns:
        A scalar; the weighted mean over positive pairs, 0 where there are none.

    Source:
        Schroff et al. 2015, arXiv 1503.03832 (triplets); Faghri et al. 2018, arXiv 1707.05612 (the hardest negative).
    """
    others = ~jnp.eye(logits.shape[0], dtype=bool)
    positives = jnp.where(others, positives, 0.0)
    negatives = jnp.where(others & (positives == 0), logits, -jnp.inf)
    hinge = jnp.maximum(0.0, margin - logits + negatives.max(1, keepdims=True))
    return (positives * jnp.where(positives > 0, hinge, 0.0)).sum() / jnp.maximum(positives.sum(), 1e-12)


def mean_positive(logits: Float[Array, "m m"], positives: Float[Array, "m m"]) -> Float[Array, ""]:
    """Negative mean similarity of positive pairs: attraction alone, which a constant map satisfies as well.

    Args:
        logits: Similarities of m items.
        positives: Weight of item j as a positive of i; the diagonal is left out.

    Returns:
        A scalar; 0 where there are no positives.

    Source:
        arXiv 2303.16992: the DeepDot baseline.
    """
    positives = jnp.where(jnp.eye(logits.shape[0], dtype=bool), 0.0, positives)
    return -(positives * jnp.where(positives > 0, logits, 0.0)).sum() / jnp.maximum(positives.sum(), 1e-12)
