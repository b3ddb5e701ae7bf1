"""Triplets from real examples: an anchor, another view or another example of its class, and an unrelated example."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from repsim_jax.errors import BadArrayError

_ROOM = 1e-9


class Triplets(NamedTuple):
    """N triplets.

    Attributes:
        points: (3N, r) anchors, positives, negatives, of norm one; in coordinates of their own span, where not said
            otherwise.
        anchors: Row numbers of the anchors in the data.
        negatives: Row numbers of the negatives.
    """

    points: np.ndarray
    anchors: np.ndarray
    negatives: np.ndarray

    @property
    def num_triplets(self) -> int:
        """N."""
        return len(self.points) // 3


def triplets(
    key: jax.Array, data: Float[ArrayLike, "n d"], *, num_triplets: int = 16, view_noise: float = 0.3
) -> Triplets:
    r"""Draws triplets; positives are noisy views of their anchors, negatives are other examples.

    Examples are centered and scaled to norm one. All weights that a network with Gaussian first layer can ever have act
    on the span of its inputs only, in which the layer is Gaussian again: the r <= 3N coordinates in an orthonormal
    basis of that span therefore give the same dynamics as the d original ones, exactly, and at any d.

    Args:
        key: Random key; draws examples and views.
        data: Examples, one a row; images are flattened.
        num_triplets: N, at most half of the different examples.
        view_noise: Norm of what is added to an anchor to give its positive, relative to the anchor's.

    Returns:
        The triplets, float64.

    Raises:
        BadArrayError: If there are too few different examples, an example that equals the mean or is not finite, or
            the noise is not positive.
    """
    given = image_triplets(key, data, num_triplets=num_triplets, view_noise=view_noise)
    return given._replace(points=_in_their_span(given.points))


def image_triplets(
    key: jax.Array, data: Float[ArrayLike, "n *d"], *, num_triplets: int = 16, view_noise: float = 0.3
) -> Triplets:
    """The same triplets in the coordinates of the data, for networks to which places mean something.

    Args:
        key: Random key; draws examples and views.
        data: Examples, one a row.
        num_triplets: N, at most half of the different examples.
        view_noise: Norm of what is added to an anchor to give its positive, relative to the anchor's.

    Returns:
        The triplets, float64; points are (3N, d), flattened, with the products that those of ``triplets`` have.

    Raises:
        BadArrayError: As ``triplets``.
    """
    x = _checked(data)
    first = np.sort(np.unique(x, axis=0, return_index=True)[1])  # a copy of an anchor is no negative
    if not isinstance(num_triplets, int) or not 2 <= num_triplets <= len(first) // 2:
        raise BadArrayError(
            f"theory needs 2 to n / 2 triplets of n = {len(first)} different examples, got {num_triplets!r}. Choose "
            "fewer triplets."
        )
    if not 0 < view_noise < float("inf"):
        raise BadArrayError(
            f"theory needs view_noise > 0 (positives equal to anchors say nothing), got {view_noise!r}."
        )
    key_rows, key_noise = jax.random.split(key)
    rows = first[np.asarray(jax.random.permutation(key_rows, len(first)))[: 2 * num_triplets]]
    x = x - x.mean(0)
    drawn = _units(x[rows], rows)
    noise = np.asarray(jax.random.normal(key_noise, (num_triplets, x.shape[1])), np.float64)
    noise = view_noise * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    views = _units(drawn[:num_triplets] + noise, rows)
    points = np.concatenate([drawn[:num_triplets], views, drawn[num_triplets:]])
    return Triplets(points, rows[:num_triplets], rows[num_triplets:])


def _checked(data: ArrayLike) -> np.ndarray:
    """The examples as rows of real numbers of at most one, which no square can bring to overflow."""
    given = np.asarray(data)
    if given.ndim < 2 or given.size == 0 or given.dtype.kind not in "fiub":
        raise BadArrayError(f"theory needs real examples, one a row, got {given.dtype} {given.shape}.")
    x = given.reshape(len(given), -1).astype(np.float64)
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise BadArrayError(
            f"theory needs finite examples, got NaN or infinity in {bad.sum()} rows, the first is {bad.argmax()}. "
            "Leave those rows out."
        )
    return x / max(np.abs(x).max(), np.finfo(float).tiny)


def _units(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if (norms <= _ROOM).any():
        row = int(rows[int(norms.argmin())])
        raise BadArrayError(f"theory needs examples of some length, but row {row} equals the mean. Leave it out.")
    return x / norms


def _in_their_span(points: np.ndarray) -> np.ndarray:
    """Coordinates in an orthonormal basis of the span, with the same products."""
    u, s, _ = np.linalg.svd(points, full_matrices=False)
    kept = s > 1e-12 * s[0]
    return np.ascontiguousarray(u[:, kept] * s[kept])
