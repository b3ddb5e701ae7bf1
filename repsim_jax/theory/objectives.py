"""The losses of the theory, on triplets of an example, a positive and a negative, by dot product or by cosine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.linalg import unit_rows
from repsim_jax.losses import barlow_twins, spectral_contrastive, vicreg

Similarity = Literal["dot", "cosine"]
Reach = Literal["unbounded", "bounded"]


@dataclass(frozen=True)
class Objective:
    r"""A loss of 3N embeddings: N anchors, their N positives, their N negatives, one after the other.

    With :math:`m_i = s(x_i, x_i^-) - s(x_i, x_i^+)` for a similarity s:

    * ``linear``: :math:`\sum_i m_i`, the simple contrastive loss;
    * ``logistic``: :math:`\sum_i \log(1 + e^{m_i / \tau})`; ``triplet``: :math:`\sum_i \max(0, m_i + 1)`;
    * ``infonce``: :math:`-\sum_i \log` of the share of the positive among it and the negatives of all anchors;
    * ``attraction``: :math:`-\sum_i s(x_i, x_i^+)`, without any negative;
    * ``spectral``: the spectral contrastive loss of anchors and positives times N, with all pairs, so that it is a
      matrix factorization and has a lower bound; ``spectral_batch``: as it is computed on batches, without the pairs
      of an example and its own positive: it falls forever where one pair grows orthogonally to all others;
    * ``barlow_twins``, ``vicreg``: of anchors and positives, as in ``repsim_jax.losses``, times N.

    With ``cosine`` similarity the last four see unit vectors.

    Attributes:
        loss: One of these.
        similarity: ``dot`` or ``cosine``.
        temperature: :math:`\tau` > 0 of ``logistic`` and ``infonce``.

    Source:
        arXiv 2403.08673 for the first and the distinction of dot product and cosine; the others as usual.
    """

    loss: str = "linear"
    similarity: Similarity = "cosine"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError.of("contrastive loss", self.loss, LOSSES)
        if self.similarity not in ("dot", "cosine"):
            raise UnknownNameError.of("similarity", str(self.similarity), ("dot", "cosine"))
        if not 0 < self.temperature < float("inf"):
            raise BadArrayError(f"Objective needs a temperature > 0, got {self.temperature!r}.")

    @property
    def name(self) -> str:
        """What to call it: "linear, cosine"."""
        return f"{self.loss}, {self.similarity}"

    def __call__(self, f: Float[Array, "n3 k"]) -> Float[Array, ""]:
        """The loss.

        Args:
            f: Embeddings of anchors, positives and negatives, one after the other.

        Returns:
            A scalar, summed over triplets.
        """
        sides = jnp.split(unit_rows(f) if self.similarity == "cosine" else f, 3)
        return LOSSES[self.loss](*sides, self.temperature)


def pair_matrix(num_triplets: int) -> np.ndarray:
    r"""The matrix A of the linear dot-product loss: :math:`L = -\frac12 \mathrm{tr}(f^T A f)`.

    Args:
        num_triplets: N.

    Returns:
        (3N, 3N): +1 for an anchor and its positive, -1 for an anchor and its negative.
    """
    n = num_triplets
    matrix = np.zeros((3 * n, 3 * n))
    anchors = np.arange(n)
    for others, sign in ((n + anchors, 1.0), (2 * n + anchors, -1.0)):
        matrix[anchors, others] = matrix[others, anchors] = sign
    return matrix


def _differences(z: jax.Array, z_pos: jax.Array, z_neg: jax.Array) -> jax.Array:
    return (z * z_neg).sum(1) - (z * z_pos).sum(1)


def _spectral(z: jax.Array, z_pos: jax.Array, _z_neg: jax.Array, _: float) -> jax.Array:
    return -2.0 * (z * z_pos).sum() + jnp.square(z @ z_pos.T).sum() / len(z)


def _infonce(z: jax.Array, z_pos: jax.Array, z_neg: jax.Array, temperature: float) -> jax.Array:
    positive = (z * z_pos).sum(1, keepdims=True) / temperature
    logits = jnp.concatenate([positive, z @ z_neg.T / temperature], axis=1)
    return -jax.nn.log_softmax(logits, axis=1)[:, 0].sum()


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "linear": lambda z, pos, neg, _: _differences(z, pos, neg).sum(),
    "logistic": lambda z, pos, neg, t: jax.nn.softplus(_differences(z, pos, neg) / t).sum(),
    "triplet": lambda z, pos, neg, _: jax.nn.relu(_differences(z, pos, neg) + 1.0).sum(),
    "infonce": _infonce,
    "attraction": lambda z, pos, _neg, _: -(z * pos).sum(),
    "spectral": _spectral,
    "spectral_batch": lambda z, pos, _neg, _: len(z) * spectral_contrastive(z, pos),
    "barlow_twins": lambda z, pos, _neg, _: len(z) * barlow_twins(z, pos),
    "vicreg": lambda z, pos, _neg, _: len(z) * vicreg(z, pos),
}
