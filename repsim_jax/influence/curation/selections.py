"""In which order are the examples of a cluster chosen? Orders behind the coresets, without a matrix of all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from repsim_jax.linalg import Clusters, precise_jit, row_blocks, spherical_kmeans

_BLOCK = 256
# Examples of a leaf in the tree of clusters.
_LEAF = 10


@precise_jit()
def greedy_order(rows: Float[Array, "m d"], count: int | Int[Array, ""]) -> Int[Array, " m"]:
    r"""Orders examples so that each one adds most to how alike the chosen are to those that are left out.

    With unit rows z, T their sum and S the sum of the chosen, choosing e adds :math:`z_e^T (T - 2 S) - 1` to
    :math:`F(S) = \sum_{i \notin S} \sum_{j \in S} z_i^T z_j`: one product of a matrix and a vector for each choice.

    Args:
        rows: Of norm one; zero rows beyond ``count``.
        count: How many there are.

    Returns:
        Numbers of the rows, first chosen first; those of zero rows last.

    Source:
        arXiv 2302.09195, equation 7, with cosines of one encoder; greedy, as there.
    """
    total, present = rows.sum(0), jnp.arange(len(rows)) < count

    def choose(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        chosen, left = state
        gains = jnp.where(left, rows @ (total - 2 * chosen), -jnp.inf)
        # once all are chosen, the rows that only fill the block remain
        best = jnp.where(left.any(), gains.argmax(), 0)
        return (chosen + rows[best], left.at[best].set(False)), best

    return jax.lax.scan(choose, (jnp.zeros_like(total), present), None, length=len(rows))[1]


@precise_jit()
def nearest_before(rows: Float[Array, "m d"]) -> Float[Array, " m"]:
    """For each row the largest cosine to a row before it.

    Args:
        rows: Of norm one.

    Returns:
        (m,) cosines; -1 for the first.

    Source:
        arXiv 2303.09540, appendix A.
    """
    size = min(_BLOCK, len(rows))
    numbers = row_blocks(jnp.arange(len(rows)), size)

    def visit(block: tuple[Float[Array, "b d"], Int[Array, " b"]]) -> Float[Array, " b"]:
        before = jnp.arange(len(rows))[None, :] < block[1][:, None]
        return jnp.where(before, block[0] @ rows.T, -1.0).max(1)

    return jax.lax.map(visit, (row_blocks(rows, size), numbers)).reshape(-1)[: len(rows)]


def balanced_order(key: jax.Array, rows: Float[Array, "n d"], top: Clusters, kept: int) -> Int[np.ndarray, " n"]:
    """Ranks of examples, of which the first ``kept`` are drawn evenly from the branches of a tree of clusters.

    Args:
        key: Random key; draws leaves, and examples within them.
        rows: Of norm one.
        top: Their clusters, the first branches.
        kept: How many examples will be taken.

    Returns:
        (n,) ranks from 0.
    """
    key_leaves, key_draw = jax.random.split(key)
    leaves = spherical_kmeans(key_leaves, rows, num_clusters=max(1, len(rows) // _LEAF))
    leaf, order = np.asarray(leaves.labels), np.asarray(jax.random.permutation(key_draw, len(rows)))
    # a leaf belongs to the branch of its center, so that branches are unions of leaves
    branch = np.asarray((leaves.centers @ top.centers.T).argmax(1))
    sizes = np.bincount(leaf, minlength=len(branch))
    of_branch = evenly(np.bincount(branch, sizes, len(top.centers)).astype(int), kept)
    of_leaf = np.zeros(len(branch), int)
    for number, total in enumerate(of_branch):
        inside = np.flatnonzero(branch == number)
        of_leaf[inside] = evenly(sizes[inside], total)
    # the place of each example among those of its leaf, in random order
    by_leaf = order[np.argsort(leaf[order], kind="stable")]
    place = np.empty(len(rows), int)
    place[by_leaf] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.empty(len(rows), int)
    ranks[np.lexsort((place, place >= of_leaf[leaf]))] = np.arange(len(rows))
    return ranks


def evenly(sizes: Int[np.ndarray, " g"], total: int) -> Int[np.ndarray, " g"]:
    """Shares out a total as evenly as sizes allow.

    Args:
        sizes: What each can give at most.
        total: At most their sum.

    Returns:
        What each gives; in all the total.
    """
    given = np.zeros(len(sizes), int)
    while (left := total - given.sum()) > 0:
        free = np.flatnonzero(given < sizes)
        if left < len(free):
            given[free[np.argsort(given[free], kind="stable")[:left]]] += 1
        else:
            given[free] += np.minimum(left // len(free), sizes[free] - given[free])
    return given
