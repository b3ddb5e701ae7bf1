"""What if the kernel stayed as it is? The dynamics then have a closed form, and say when they must end."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from repsim_jax.theory.objectives import pair_matrix


class Growth(NamedTuple):
    r"""The linear dot-product loss under a constant kernel, :math:`\dot f = \Theta A f`, in its eigenbasis.

    Attributes:
        rates: (nk,) growth rates, the eigenvalues of :math:`\Theta^{1/2} A \Theta^{1/2}`, ascending.
        modes: (nk, nk) columns :math:`\Theta^{1/2} U`.
        duals: (nk, nk) rows :math:`U^T \Theta^{-1/2}`.
    """

    rates: np.ndarray
    modes: np.ndarray
    duals: np.ndarray

    @property
    def largest_rate(self) -> float:
        r"""The rate :math:`\lambda` of the fastest mode."""
        return float(self.rates[-1])

    def outputs(self, f: Float[ArrayLike, "n k"], time: float) -> np.ndarray:
        r"""The embeddings :math:`f_t = e^{t \Theta A} f_0`.

        Args:
            f: Embeddings (3N, k) at the start.
            time: t.

        Returns:
            (3N, k).
        """
        coefficients = self.duals @ np.asarray(f, float).ravel()
        return (self.modes @ (np.exp(self.rates * time) * coefficients)).reshape(np.shape(f))


def growth(kernel: Float[ArrayLike, "n k n k"]) -> Growth:
    r"""Solves the linear dot-product loss under a constant kernel.

    Args:
        kernel: The tangent kernel of 3N points (anchors, positives, negatives) and k outputs.

    Returns:
        Its modes; directions in which the kernel has no weight do not move.
    """
    theta = np.asarray(kernel, float)
    n, k = theta.shape[:2]
    theta = theta.reshape(n * k, n * k)
    pairs = np.kron(pair_matrix(n // 3), np.eye(k))
    values, vectors = np.linalg.eigh((theta + theta.T) / 2)
    kept = values > 1e-12 * values[-1]
    root = vectors[:, kept] * np.sqrt(values[kept])
    inverse = vectors[:, kept] / np.sqrt(values[kept])
    rates, u = np.linalg.eigh(root.T @ pairs @ root)
    return Growth(rates, root @ u, u.T @ inverse.T)


def relative_error(found: Float[ArrayLike, "n k"], wanted: Float[ArrayLike, "n k"]) -> float:
    """Relative Frobenius difference of embeddings.

    Args:
        found: (n, k).
        wanted: (n, k), not zero.

    Returns:
        The difference relative to the norm of what is wanted.
    """
    return float(jnp.linalg.norm(jnp.asarray(found) - wanted) / jnp.linalg.norm(jnp.asarray(wanted)))
