"""What do fixed features give without any training? Random features, kernel PCA, and landmarks for many points."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.theory.networks import Activation, Network, hidden_layers, init

# Directions whose eigenvalue is below this share of the largest are rounding, not data.
_ROUNDING = 1e-12


class KernelPca(NamedTuple):
    r"""Principal components in the feature space of a kernel.

    Attributes:
        embeddings: (n, k) of the points, :math:`u_j \sqrt{\lambda_j}`; columns up to their sign.
        eigenvalues: (n,) of the centered Gram matrix, falling; over n they are variances.
        coefficients: (n, k) weights of the points in each component.
        column_means: (n,) of the Gram matrix, which center the kernel of new points.
    """

    embeddings: np.ndarray
    eigenvalues: np.ndarray
    coefficients: np.ndarray
    column_means: np.ndarray

    def embed(self, cross: Float[ArrayLike, "m n"]) -> np.ndarray:
        """The components of new points, exactly.

        Args:
            cross: Kernel of the new points with the n points.

        Returns:
            (m, k).
        """
        rows = _of_known_points("KernelPca.embed", cross, len(self.column_means))
        centered = rows - rows.mean(1, keepdims=True) - self.column_means + self.column_means.mean()
        return centered @ self.coefficients


def kernel_pca(gram: Float[ArrayLike, "n n"], num_components: int) -> KernelPca:
    r"""Principal components of centered features that are known by their products alone.

    With H = I - 11^T/n, the top eigenvectors :math:`u_j` of H K H and their eigenvalues.

    Args:
        gram: Kernel of n points with themselves; of features :math:`\Phi`, linear or of a network, or analytic.
        num_components: k, below the rank of the centered matrix or equal to it.

    Returns:
        The components, with their map for new points.

    Raises:
        BadArrayError: If the matrix is not square or not finite, or its centered form has a rank below k.

    Source:
        Schölkopf, Smola and Müller 1998, doi 10.1162/089976698300017467.
    """
    matrix = checked_gram("kernel_pca", gram)
    means = matrix.mean(0)
    values, vectors = np.linalg.eigh(matrix - means - means[:, None] + means.mean())
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > _ROUNDING * max(values[0], 0.0)).sum()) if values[0] > 0 else 0
    if not isinstance(num_components, int | np.integer) or not 1 <= num_components <= rank:
        raise BadArrayError(
            f"kernel_pca needs a whole number 1 <= num_components <= rank = {rank} of the centered Gram matrix, got "
            f"{num_components}. Equal points lower the rank; take fewer components."
        )
    roots = np.sqrt(values[:num_components])
    top = vectors[:, :num_components]
    return KernelPca(top * roots, values, top / roots, means)


def nystrom_features(gram: Float[ArrayLike, "m m"], cross: Float[ArrayLike, "n m"]) -> np.ndarray:
    r"""Features whose products approximate a kernel of many points by its values at a few landmarks.

    .. math:: \Phi = K_{nm} K_{mm}^{-1/2}, \qquad \Phi \Phi^T = K_{nm} K_{mm}^+ K_{mn}

    Exact where the landmarks span the features of all points, as when every point is one. Memory and time grow with
    n m and m^2 n, not with n^2.

    Args:
        gram: Kernel of the m landmarks with themselves.
        cross: Kernel of n points, old or new, with the landmarks.

    Returns:
        (n, r) features, r <= m the rank of the landmarks' kernel; the same map for any points.

    Raises:
        BadArrayError: If a matrix is not finite, or of another shape, or the landmarks' kernel is zero.

    Source:
        Williams and Seeger 2000, "Using the Nyström method to speed up kernel machines".
    """
    matrix = checked_gram("nystrom_features", gram)
    rows = _of_known_points("nystrom_features", cross, len(matrix))
    values, vectors = np.linalg.eigh(matrix)
    kept = values > _ROUNDING * values[-1]
    if values[-1] <= 0:
        raise BadArrayError("nystrom_features needs landmarks with a kernel that is not zero. Choose other landmarks.")
    return rows @ (vectors[:, kept] / np.sqrt(values[kept]))


def random_features(
    key: jax.Array, x: Float[Array, "n d"], *, num_features: int, activation: Activation = "relu"
) -> Float[Array, "n m"]:
    r"""Hidden units of a random two-layer network, :math:`M^{-1/2} \phi(V x)` with standard normal V.

    Their products tend to the conjugate kernel, ``kernels.mlp_kernels(x, depth=1, weight_std=(sqrt(d), 1)).conjugate``.

    Args:
        key: Random key; the same key is the same map, for any points.
        x: Inputs.
        num_features: M, at least 2.
        activation: ``tanh``, ``erf``, ``relu``, ``gelu`` or ``linear``.

    Returns:
        (n, M) features.

    Raises:
        BadArrayError: If ``num_features`` is below 2; UnknownNameError if there is no such activation.

    Source:
        Rahimi and Recht 2007; Cho and Saul 2009 for the kernel of ReLU.
    """
    network = Network(num_features, num_outputs=1, activation=activation)
    params = init(key, network, x.shape[1], x.dtype)
    return num_features**-0.5 * hidden_layers(params, x, network)[-1][1]


def checked_gram(operation: str, gram: Float[ArrayLike, "n n"]) -> np.ndarray:
    """A Gram matrix at the door.

    Args:
        operation: Who asks.
        gram: What was passed.

    Returns:
        The same in float64, symmetric to the last bit.

    Raises:
        BadArrayError: If it is not square, empty, or not finite.
    """
    matrix = np.asarray(gram, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise BadArrayError(f"{operation} needs the (n, n) kernel of n points with themselves, got {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise BadArrayError(f"{operation} needs a finite kernel, got NaN or infinity. Leave those points out.")
    return (matrix + matrix.T) / 2


def _of_known_points(operation: str, cross: Float[ArrayLike, "m n"], n: int) -> np.ndarray:
    rows = np.asarray(cross, float)
    if rows.ndim != 2 or rows.shape[1] != n:
        raise BadArrayError(
            f"{operation} needs the kernel of new points (rows) with the {n} known ones (columns), got {rows.shape}."
        )
    if not np.isfinite(rows).all():
        raise BadArrayError(f"{operation} needs a finite kernel, got NaN or infinity. Leave those points out.")
    return rows
