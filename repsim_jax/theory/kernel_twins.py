"""What does Barlow Twins learn with a kernel? One mode after the other, at times that are known beforehand."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, ArrayLike, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.theory.pca import ContrastivePca, contrastive_pca


class KernelTwins(NamedTuple):
    r"""Barlow Twins under a constant kernel, started in line with its modes at one small size.

    Attributes:
        eigenvalues: (d,) :math:`\gamma_j` of the modes that are learned, falling and positive.
        modes: The modes as a PCA of the views' cross-covariance: each embedding of it has the size one in weights.
    """

    eigenvalues: np.ndarray
    modes: ContrastivePca

    def sizes(self, time: float, start: float) -> np.ndarray:
        r"""Sizes of the weights, :math:`s_j(t) = (\gamma_j + (s_0^{-2} - \gamma_j) e^{-8 \gamma_j t})^{-1/2}`.

        Args:
            time: t >= 0; infinity gives :math:`\gamma_j^{-1/2}`.
            start: :math:`s_0` > 0.

        Returns:
            (d,).

        Raises:
            BadArrayError: If the time is negative or the start is not positive.
        """
        if not (time >= 0 and start > 0):
            raise BadArrayError(f"KernelTwins needs time >= 0 and start > 0, got {time!r} and {start!r}.")
        decayed = np.exp(-8.0 * self.eigenvalues * time)
        return (self.eigenvalues * (1.0 - decayed) + decayed / start**2) ** -0.5

    def step_times(self, start: float) -> np.ndarray:
        r"""When the square of each mode has reached half of its end, :math:`-\log(\gamma_j s_0^2) / (8 \gamma_j)`.

        Args:
            start: :math:`s_0` > 0, small.

        Returns:
            (d,) times, rising.
        """
        return -np.log(self.eigenvalues * start**2) / (8.0 * self.eigenvalues)

    def embed(self, cross: Float[ArrayLike, "m n2"], *, time: float = np.inf, start: float = 1e-3) -> np.ndarray:
        """The embeddings of points at a time.

        Args:
            cross: Kernel of the points with the 2n of training.
            time: t; by default the end of training.
            start: Size of the weights at the start.

        Returns:
            (m, d), up to a rotation that the weights at the start choose.
        """
        return self.modes.embed(cross) * self.sizes(time, start)


def linear_twins(f: Float[Array, "n2 d"]) -> Float[Array, ""]:
    r"""The loss that these dynamics minimize, :math:`\| \frac{1}{2n} (Z^T Z^+ + Z^{+T} Z) - I \|_F^2`.

    Args:
        f: Embeddings of n examples, and after them of their n other views.

    Returns:
        A scalar >= 0.

    Source:
        Simon et al. 2023, arXiv 2303.15438.

    Differs:
        From ``losses.barlow_twins`` in that features are not standardized and both parts weigh the same.
    """
    import jax.numpy as jnp

    z, z_pos = jnp.split(f, 2)
    cross = z.T @ z_pos / len(z)
    return jnp.square((cross + cross.T) / 2 - jnp.eye(f.shape[1], dtype=f.dtype)).sum()


def kernel_twins(gram: Float[ArrayLike, "n2 n2"], num_components: int) -> KernelTwins:
    r"""Solves ``linear_twins`` for features with this Gram matrix, whose weights start small.

    With :math:`\Gamma = \frac{1}{2n} \sum_i \phi(x_i) \phi(x_i^+)^T + \phi(x_i^+) \phi(x_i)^T` training learns the top
    d eigenvectors of :math:`\Gamma`, each when its time has come, and ends at weights :math:`\gamma_j^{-1/2}`.

    Args:
        gram: Kernel of n examples, and after them of their n other views.
        num_components: d; as many modes must have a positive eigenvalue.

    Returns:
        The modes, their sizes over time, and the map for new points.

    Raises:
        BadArrayError: If there is an odd number of points, or fewer than d positive eigenvalues; see
            ``contrastive_pca``.

    Source:
        Simon et al. 2023, arXiv 2303.15438, sections 3 and 4.
    """
    size = len(np.asarray(gram))
    if size % 2:
        raise BadArrayError(f"kernel_twins needs n examples and their n other views, got {size} points.")
    swap = np.roll(np.eye(size), size // 2, axis=1) / size
    modes = contrastive_pca(gram, num_components, contrast=swap)
    found = modes.eigenvalues[:num_components]
    if found[-1] <= 0:
        raise BadArrayError(
            f"kernel_twins learns modes of positive eigenvalue only, and there are {int((modes.eigenvalues > 0).sum())}"
            f"; got num_components = {num_components}. Take fewer, or views that are more alike."
        )
    return KernelTwins(found, modes)
