"""Which rows belong together? Spherical k-means, in memory that does not grow with rows times clusters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from repsim_jax.errors import BadArrayError
from repsim_jax.linalg.distances import unit_rows
from repsim_jax.linalg.precision import precise_jit
from repsim_jax.linalg.tiles import row_blocks

# Cosines of one block of rows with all centers: about this many numbers at once.
_BLOCK_ELEMENTS = 2**22


class Clusters(NamedTuple):
    """Rows in clusters.

    Attributes:
        centers: (k, d) of norm one.
        labels: (n,) number of the center that is nearest to each row.
        cosines: (n,) between each row and its center.
    """

    centers: Float[Array, "k d"]
    labels: Int[Array, " n"]
    cosines: Float[Array, " n"]


def spherical_kmeans(key: jax.Array, x: Float[Array, "n d"], *, num_clusters: int, num_steps: int = 25) -> Clusters:
    r"""Clusters of rows by cosine: each center is the direction of the sum of its rows.

    Args:
        key: Random key; draws the first centers, each far from those before it (k-means++).
        x: Rows, finite; center them first where a common offset is large.
        num_clusters: In [1, n].
        num_steps: Rounds; a cluster that runs empty takes the row that is farthest from its center.

    Returns:
        The clusters.

    Raises:
        BadArrayError: If ``num_clusters`` is out of range.

    Source:
        Dhillon and Modha 2001, "Concept decompositions"; Arthur and Vassilvitskii 2007 for the first centers.
    """
    if not 1 <= num_clusters <= len(x) or num_steps < 1:
        raise BadArrayError(
            f"spherical_kmeans needs num_clusters in [1, n] and num_steps >= 1: got {num_clusters} clusters, "
            f"{num_steps} steps for n={len(x)} rows."
        )
    return _kmeans(key, x, num_clusters=num_clusters, num_steps=num_steps)


@precise_jit(static_argnames=("num_clusters", "num_steps"))
def _kmeans(key: jax.Array, x: Float[Array, "n d"], *, num_clusters: int, num_steps: int) -> Clusters:
    rows = unit_rows(x)

    def improve(centers: Float[Array, "k d"], _: None) -> tuple[Float[Array, "k d"], None]:
        labels, cosines = _assigned(rows, centers)
        sums = jax.ops.segment_sum(rows, labels, num_clusters)
        counts = jax.ops.segment_sum(jnp.ones_like(cosines), labels, num_clusters)
        # the emptiest clusters first, each with another of the farthest rows
        order = jnp.argsort(jnp.argsort(counts, stable=True), stable=True)
        farthest = rows[jnp.argsort(cosines)[order]]
        return unit_rows(jnp.where(counts[:, None] > 0, sums, farthest)), None

    centers = jax.lax.scan(improve, _spread(key, rows, num_clusters), None, length=num_steps)[0]
    return Clusters(centers, *_assigned(rows, centers))


def _assigned(rows: Float[Array, "n d"], centers: Float[Array, "k d"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    n = len(rows)
    size = max(1, min(n, _BLOCK_ELEMENTS // len(centers)))

    def visit(block: Float[Array, "b d"]) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
        cosines = block @ centers.T
        return cosines.argmax(1), cosines.max(1)

    labels, cosines = jax.lax.map(visit, row_blocks(rows, size))
    return labels.reshape(-1)[:n], cosines.reshape(-1)[:n]


def _spread(key: jax.Array, rows: Float[Array, "n d"], num_clusters: int) -> Float[Array, "k d"]:
    """Rows as first centers, each drawn by its squared distance to the nearest one before."""
    key_first, key_others = jax.random.split(key)
    first = rows[jax.random.randint(key_first, (), 0, len(rows))]

    def draw(nearest: Float[Array, " n"], key: jax.Array) -> tuple[Float[Array, " n"], Float[Array, " d"]]:
        odds = jnp.log(jnp.maximum(1 - nearest, jnp.finfo(rows.dtype).tiny))
        chosen = rows[jax.random.categorical(key, odds)]
        return jnp.maximum(nearest, rows @ chosen), chosen

    others = jax.lax.scan(draw, rows @ first, jax.random.split(key_others, num_clusters - 1))[1]
    return jnp.concatenate([first[None], others])
