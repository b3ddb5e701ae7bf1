"""How do images lie to one another, where none is known to be upright? Like their nearest neighbors, all at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from repsim_jax.canonicalization.groups import Group
from repsim_jax.canonicalization.views import Views
from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import unit_rows

# Numbers of a block of similarities at once, and images that are tried as the one that the others are told from.
_BLOCK_ELEMENTS, _NUM_ORIGINS = 1 << 24, 32


def synchronized(
    group: Group,
    images: Float[Array, "n h w c"] | np.ndarray,
    *,
    num_neighbors: int = 10,
    views: Views = Views(16),  # noqa: B008 (frozen)
) -> Int[np.ndarray, " n"]:
    """The poses in which images lie like those that they are most like, in whatever pose.

    For each image the nearest others are found in all poses. That gives relative poses, which contradict one another;
    the leading eigenvectors of the matrix of all of them are the poses that agree best. The work grows with the square
    of the number of images.

    Args:
        group: Of the plane, closed, of rotations and reflections.
        images: In any poses.
        num_neighbors: Of each image, in [1, n - 1].
        views: At what size images are held against each other.

    Returns:
        Places of elements; their inverses bring the images into line, up to one element for all.

    Raises:
        BadArrayError: If the group or the number of neighbors does not fit.

    Source:
        Singer 2011, arXiv 0905.3174 (angular synchronization by eigenvectors); Singer and Wu 2012, arXiv 1102.0075
        (over nearest neighbors).
    """
    num = len(images)
    if group.dim != 2 or not (group.is_closed and group.is_orthogonal):
        raise BadArrayError(f"synchronized needs a closed group of rotations of the plane, got {group.name}.")
    if not 1 <= num_neighbors < num:
        raise BadArrayError(f"synchronized needs 1 <= num_neighbors < n, got {num_neighbors!r} for {num} images.")
    orbit = views.orbit(group, views.reduced(jnp.asarray(images)))
    flat = orbit.reshape(group.order * num, -1)
    rows = unit_rows(flat - flat.mean(-1, keepdims=True)).reshape(group.order, num, -1)
    others, elements = map(np.asarray, _neighbors(rows, k=num_neighbors))
    return _agreed(group, _vectors(group, others, elements))


@partial(jax.jit, static_argnames=("k",))
def _neighbors(rows: Float[Array, "g n p"], *, k: int) -> tuple[Int[Array, "n k"], Int[Array, "n k"]]:
    """The images that are most like each one, and the elements whose inverses make them so."""
    order, num, _ = rows.shape
    size = max(1, min(num, _BLOCK_ELEMENTS // (order * num)))

    def visit(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        alike = jnp.einsum("ip,gjp->ijg", block[0], rows)
        best = jnp.where(block[1][:, None] == jnp.arange(num), -jnp.inf, alike.max(-1))
        nearest = jax.lax.top_k(best, k)[1]
        return nearest, jnp.take_along_axis(alike.argmax(-1), nearest, axis=1)

    padded = jnp.arange(-(-num // size) * size) % num
    found = jax.lax.map(visit, (rows[0][padded].reshape(-1, size, rows.shape[-1]), padded.reshape(-1, size)))
    nearest, elements = (one.reshape(-1, k)[:num] for one in found)
    return nearest, elements


def _vectors(group: Group, others: np.ndarray, elements: np.ndarray) -> Float[np.ndarray, "n 2 2"]:
    """The leading eigenvectors of the relative poses: of each image its pose, times a matrix that all share."""
    from scipy import sparse
    from scipy.sparse.linalg import eigsh

    num, k = others.shape
    starts = np.arange(0, num * k + 1, k)
    # Where g^-1 x_j is like x_i, their poses are p_i = g^-1 p_j.
    blocks = np.swapaxes(np.asarray(group.matrices), 1, 2)[elements.reshape(-1)].astype(np.float64)
    directed = sparse.bsr_array((blocks, others.reshape(-1), starts), shape=(2 * num, 2 * num)).tocsr()
    counts = np.bincount(others.reshape(-1), minlength=num) + k
    scale = sparse.diags_array(np.repeat(counts, 2) ** -0.5)
    symmetric = scale @ (directed + directed.T) @ scale
    start = np.random.default_rng(0).normal(size=2 * num)
    return eigsh(symmetric, k=2, which="LA", v0=start)[1].reshape(num, 2, 2)


def _agreed(group: Group, vectors: Float[np.ndarray, "n 2 2"]) -> Int[np.ndarray, " n"]:
    """The elements that are nearest to the poses, told from the image from which they are nearest in the mean."""
    sizes = np.linalg.norm(vectors, axis=(1, 2), keepdims=True)
    unit = vectors / np.maximum(sizes, 1e-12)
    origins = unit[np.argsort(-sizes[:, 0, 0], kind="stable")[:_NUM_ORIGINS]]
    fit = np.einsum("gab,nac,obc->ong", np.asarray(group.matrices), unit, origins, optimize=True)
    return fit[fit.max(-1).sum(-1).argmax()].argmax(-1)
