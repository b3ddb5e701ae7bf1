"""How lonely is each example among the others, as the encoder sees them?"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import center, nearest_rows, precise_jit, row_blocks, unit_rows

# Of the host or of a device alike.
Rows = Float[Array | np.ndarray, "n d"]
Values = Float[Array | np.ndarray, " n"]

_NEIGHBORS = 10
# A group of copies or of like outliers is no larger than this share of a collection, as a rule.
_RARE_SHARE = 0.05
_BLOCK = 1024


def density(x: Rows, *, num_neighbors: int = _NEIGHBORS) -> Float[np.ndarray, " n"]:
    r"""Mean cosine distance to the nearest other examples, :math:`\frac1k \sum_{j \in N_k(i)} (1 - \cos(x_i, x_j))`.

    Cosines are those of the centered rows, so that what all have in common does not hide their differences.

    Args:
        x: Representations, finite.
        num_neighbors: k in [1, n - 1]. A group of fewer alike examples than this counts as sparse; ``rare_neighbors``
            gives one for groups of up to a twentieth of all.

    Returns:
        Distances in [0, 2]; higher is sparser.

    Raises:
        BadArrayError: If x is not finite, or has not more rows than neighbors.

    Source:
        Ramaswamy et al. 2000, "Efficient algorithms for mining outliers from large data sets"; cosines as in
        arXiv 2305.17048.
    """
    x = checked_rows("density", x)
    if not 1 <= num_neighbors < len(x):
        raise BadArrayError(f"density needs 1 <= num_neighbors < n: got {num_neighbors} for n={len(x)} examples.")
    return np.asarray(_distances(x, nearest_rows(x, k=num_neighbors)))


def rare_neighbors(n: int) -> int:
    """How many neighbors show that a group of like outliers, of up to a twentieth of all examples, is one.

    Args:
        n: Number of examples, at least 2.

    Returns:
        A twentieth of them, at least 10, and less than n.
    """
    return min(n - 1, max(_NEIGHBORS, round(_RARE_SHARE * n)))


def checked_rows(name: str, x: Rows) -> Float[Array, "n d"]:
    """Refuses what are no representations of several examples.

    Args:
        name: Of the function that takes them.
        x: Representations.

    Returns:
        The same, as floating-point numbers.

    Raises:
        BadArrayError: If they are not (n, d), n >= 2, or not finite.
    """
    x = jnp.asarray(x)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1:
        raise BadArrayError(f"{name} takes representations (n, d) of n >= 2 examples, got shape {x.shape}.")
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    bad = np.flatnonzero(~np.asarray(jnp.isfinite(x).all(1)))
    if bad.size:
        raise BadArrayError(f"{name}: representations hold NaN or infinity in {bad.size} rows, the first is {bad[0]}.")
    return x


def checked_values(name: str, values: Values, n: int) -> Float[np.ndarray, " n"]:
    """Refuses what is not one finite number for each example.

    Args:
        name: What they are, for the message.
        values: One for each example.
        n: Number of examples.

    Returns:
        The same, in float64.

    Raises:
        BadArrayError: If they are of another number, or not finite.
    """
    checked = np.asarray(values, np.float64)
    if checked.shape != (n,) or not np.isfinite(checked).all():
        raise BadArrayError(f"{name} must be one finite number for each of {n} examples, got shape {checked.shape}.")
    return checked


@precise_jit()
def _distances(x: Float[Array, "n d"], neighbors: Int[Array, "n k"]) -> Float[Array, " n"]:
    rows = unit_rows(center(x))
    size = min(_BLOCK, len(rows))

    def visit(block: tuple[Float[Array, "b d"], Int[Array, "b k"]]) -> Float[Array, " b"]:
        cosines = jnp.einsum("bd,bkd->bk", block[0], rows[block[1]])
        return jnp.maximum(1 - cosines, 0).mean(1)

    blocks = jax.tree.map(lambda leaf: row_blocks(leaf, size), (rows, neighbors))
    return jax.lax.map(visit, blocks).reshape(-1)[: len(rows)]
