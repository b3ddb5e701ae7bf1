"""With orthonormal output weights the linear contrastive network is PCA of its hidden features, if those stay put."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.linalg.stiefel import retract, tangent
from repsim_jax.theory.networks import Network, Params, hidden_layers
from repsim_jax.theory.objectives import pair_matrix


class ContrastivePca(NamedTuple):
    r"""Principal components of the contrast matrix, in its dual form.

    Attributes:
        embeddings: (3N, K) of the points: :math:`K_0^{1/2} E` with the top eigenvectors E of
            :math:`K_0^{1/2} A' K_0^{1/2}`; unique up to a rotation where the gap is positive.
        eigenvalues: (3N,) falling; the algebraically largest count, since the matrix is indefinite.
        gap: Between the last eigenvalue that is taken and the first that is not. The smaller, the less is said about
            the subspace by any bound.
        out_of_sample: (3N, K) map: the embeddings of new points are their kernel with the 3N points times it.
        optimum: Least value of the loss: minus the sum of the top eigenvalues.
    """

    embeddings: np.ndarray
    eigenvalues: np.ndarray
    gap: float
    out_of_sample: np.ndarray
    optimum: float

    def embed(self, cross: Float[ArrayLike, "m n"]) -> np.ndarray:
        """The embeddings of new points.

        Args:
            cross: Kernel of the new points with those that the components were found on.

        Returns:
            (m, K).
        """
        return np.asarray(cross, float) @ self.out_of_sample


class Constrained(NamedTuple):
    """A network that was trained with orthonormal output weights.

    Attributes:
        embeddings: (t, 3N, K) at each look.
        grams: (t, 6N, 6N) Gram matrices of its hidden features at the start and now, divided by the width.
        losses: (t,) values.
        through_start: (t, 3N, K) hidden features of the start times the output weights of now: what remains of the
            start in the learned directions.
    """

    embeddings: Float[Array, "t n k"]
    grams: Float[Array, "t n2 n2"]
    losses: Float[Array, " t"]
    through_start: Float[Array, "t n k"]

    def angle(self, start: ContrastivePca, look: int = -1) -> float:
        """Sine of the largest principal angle between the learned output directions and the principal components.

        Args:
            start: PCA of the features at the start.
            look: Which look.

        Returns:
            From 0 to 1.
        """
        cosines = np.linalg.svd(start.out_of_sample.T @ np.asarray(self.through_start[look]), compute_uv=False)
        return float(np.sqrt(max(1.0 - min(float(cosines[-1]), 1.0) ** 2, 0.0)))

    def matrix_change(self, look: int = -1) -> float:
        """Spectral norm of the change of the contrast matrix since the start.

        Args:
            look: Which look.

        Returns:
            What the Davis-Kahan bound divides by the gap.
        """
        gram = np.asarray(self.grams[look], float)
        pairs = pair_matrix(len(gram) // 6) / 2
        signed = np.block([[-pairs, np.zeros_like(pairs)], [np.zeros_like(pairs), pairs]])
        # The nonzero eigenvalues of B^T D B are those of the small matrix D B B^T.
        return float(np.abs(np.linalg.eigvals(signed @ gram)).max())

    def gram_change(self, look: int = -1) -> float:
        """Relative Frobenius change of the hidden features' Gram matrix since the start.

        Args:
            look: Which look.

        Returns:
            0 where nothing changed.
        """
        n = len(self.grams[look]) // 2
        start, now = self.grams[look][:n, :n], self.grams[look][n:, n:]
        return float(jnp.linalg.norm(now - start) / jnp.linalg.norm(start))


def contrastive_pca(
    gram: Float[ArrayLike, "n n"], num_components: int, *, contrast: Float[ArrayLike, "n n"] | None = None
) -> ContrastivePca:
    r"""The global minimum of :math:`-\mathrm{tr}(W^T C W)` over orthonormal W, for features with this Gram matrix.

    C is :math:`\Phi^T A' \Phi` with A' half the pair matrix. It is as wide as the network; its dual is n x n, and
    works for infinitely wide networks too, whose features exist as a kernel only.

    Args:
        gram: Gram matrix of the features of n points, divided by the width; without a ``contrast`` they are n = 3N:
            anchors, positives, negatives.
        num_components: K.
        contrast: A' where the points are no triplets, symmetric: which pairs attract (positive) and repel (negative);
            ``kernel_learner.pair_contrast`` for pairs of views with all others as negatives.

    Returns:
        The components, with their gap.

    Raises:
        BadArrayError: If a matrix is not square with so many rows, is not finite, or has a rank below K.

    Source:
        Our derivation of the claim of arXiv 2403.08673 on orthogonal output layers.
    """
    matrix, signed = _checked_contrast(gram, contrast)
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-12 * values[-1]
    if not 1 <= num_components < kept.sum():
        raise BadArrayError(
            f"contrastive_pca needs 1 <= num_components < rank = {int(kept.sum())} of the Gram matrix, got "
            f"{num_components}. Duplicate points lower the rank; take more points or fewer components."
        )
    root = vectors[:, kept] * np.sqrt(values[kept])
    eigenvalues, e = np.linalg.eigh(root.T @ signed @ root)
    eigenvalues, top = eigenvalues[::-1], e[:, ::-1][:, :num_components]
    return ContrastivePca(
        embeddings=root @ top,
        eigenvalues=eigenvalues,
        gap=float(eigenvalues[num_components - 1] - eigenvalues[num_components]),
        out_of_sample=(vectors[:, kept] / np.sqrt(values[kept])) @ top,
        optimum=-float(eigenvalues[:num_components].sum()),
    )


def _checked_contrast(gram: ArrayLike, contrast: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    matrix = np.asarray(gram, float)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and len(matrix) > 0
    if not square or (contrast is None and len(matrix) % 3):
        wanted = "(3N, 3N) Gram matrix of N triplets" if contrast is None else "(n, n) Gram matrix of n points"
        raise BadArrayError(f"contrastive_pca needs the {wanted}, got {matrix.shape}.")
    signed = pair_matrix(len(matrix) // 3) / 2 if contrast is None else np.asarray(contrast, float)
    if signed.shape != matrix.shape or not np.array_equal(signed, signed.T):
        raise BadArrayError(
            f"contrastive_pca needs a symmetric contrast {matrix.shape} of the same points, got {signed.shape}."
        )
    if not (np.isfinite(matrix).all() and np.isfinite(signed).all()):
        raise BadArrayError("contrastive_pca needs a finite Gram matrix and contrast, got NaN or infinity.")
    return (matrix + matrix.T) / 2, signed


@partial(jax.jit, static_argnames=("network", "train_hidden", "num_records", "num_substeps"))
def train_orthonormal(
    params: Params,
    x: Float[Array, "n d"],
    *,
    network: Network,
    train_hidden: bool,
    learning_rate: float | Float[Array, ""] = 0.2,
    num_records: int = 20,
    num_substeps: int = 100,
) -> Constrained:
    r"""Minimizes :math:`-\mathrm{tr}(f^T A' f)` with orthonormal output weights, by Riemannian gradient descent.

    Args:
        params: Where it starts; the output weights have orthonormal columns. The output is :math:`M^{-1/2} W^T \phi`.
        x: Anchors, positives and negatives, one after the other.
        network: What is trained.
        train_hidden: Whether the hidden weights move as well.
        learning_rate: Of both; one unit of time takes 1 / learning_rate steps.
        num_records: How often it is looked at, evenly.
        num_substeps: Steps between two looks.

    Returns:
        What was seen.
    """
    pairs = jnp.asarray(pair_matrix(len(x) // 3) / 2, x.dtype)

    def features(hidden: Params) -> jax.Array:
        return hidden_layers((*hidden, params[-1]), x, network)[-1][1] * network.width**-0.5

    def loss(hidden: Params, w: jax.Array) -> jax.Array:
        f = (features(hidden) if train_hidden else start) @ w
        return -jnp.sum(f * (pairs @ f))

    def step(state: tuple[Params, jax.Array], _: None) -> tuple[tuple[Params, jax.Array], None]:
        hidden, w = state
        by_hidden, by_w = jax.grad(loss, (0, 1))(hidden, w)
        if train_hidden:
            hidden = jax.tree.map(lambda a, b: a - learning_rate * b, hidden, by_hidden)
        return (hidden, retract(w - learning_rate * tangent(w, by_w))), None

    def look(state: tuple[Params, jax.Array], _: None) -> tuple[tuple[Params, jax.Array], tuple[jax.Array, ...]]:
        state, _ = jax.lax.scan(step, state, None, length=num_substeps)
        phi = features(state[0]) if train_hidden else start
        both = jnp.concatenate([start, phi])
        return state, (phi @ state[1], both @ both.T, loss(*state), start @ state[1])

    start, w = features(params[:-1]), params[-1]
    if not train_hidden:
        # Descent never leaves the span of the features and of the first weights: in its coordinates it is the same.
        basis, _ = jnp.linalg.qr(jnp.concatenate([start.T, w], axis=1))
        start, w = start @ basis, basis.T @ w
    _, seen = jax.lax.scan(look, (params[:-1], w), None, length=num_records)
    return Constrained(*seen)


def subspace_affinity(x: Float[ArrayLike, "n k"], y: Float[ArrayLike, "n k"]) -> float:
    """Mean squared cosine of the principal angles between two column spaces.

    Args:
        x: (n, k), of rank k.
        y: (n, k), of rank k.

    Returns:
        From 0 (orthogonal) to 1 (the same space).
    """
    bases = [np.linalg.qr(np.asarray(side, float))[0] for side in (x, y)]
    return float(np.square(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)).mean())


def procrustes_error(x: Float[ArrayLike, "n k"], wanted: Float[ArrayLike, "n k"]) -> float:
    """Relative Frobenius difference after the best rotation of x.

    Args:
        x: (n, k).
        wanted: (n, k), not zero.

    Returns:
        From 0 (the same up to a rotation) on.
    """
    found, goal = np.asarray(x, float), np.asarray(wanted, float)
    u, _, v = np.linalg.svd(found.T @ goal)
    return float(np.linalg.norm(found @ (u @ v) - goal) / np.linalg.norm(goal))


def davis_kahan(change: float, gap: float) -> float:
    """The bound on the sine of the largest angle between two top eigenspaces, given how far their matrices are apart.

    Args:
        change: Spectral norm of the difference of the matrices.
        gap: Between the eigenvalues inside and outside of the space, of one of the matrices, > 0.

    Returns:
        At most one; one says nothing.

    Source:
        Yu, Wang and Samworth 2015, arXiv 1405.0680, corollary 3: twice the change over the gap of one matrix alone.
    """
    return min(2.0 * change / gap, 1.0) if gap > 0 else 1.0
