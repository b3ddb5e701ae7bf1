"""Which axes does a cloud of points have of its own? Principal axes, and what to do where they are not defined."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from repsim_jax.canonicalization.actions import Points, multiplied
from repsim_jax.canonicalization.canonicalizers import Canonicalized, Frames, checked
from repsim_jax.canonicalization.groups import Elements, Group, so3
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.linalg import precise_jit

# Signs of three axes, those of determinant one first.
_SIGNS = np.array(
    [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [-1, -1, -1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]], np.float64
)
_PICKS = ("average", "skewness")


@dataclass(frozen=True)
class PCAFrames:
    r"""Canonicalizes points by their principal axes, without any energy.

    The axes are the eigenvectors of the covariance about the centroid, largest variance first, up to signs: four frames
    of determinant one for SO(3), eight for O(3). Points turn about the origin; center them where it has no meaning.

    Eigenvalues that are equal, up to ``tolerance`` times the largest, have no axes of their own. There the axis goes to
    the point whose projection onto their common space is the longest, of equally long ones to the first; what is left
    of that space follows in the same way. This turns with the points always. It does not depend on their order where
    the longest is unique, or where a symmetry of the cloud leads from one of the longest to another. Points without any
    extent in the space leave it open, and then it does not matter. Near the tolerance, and near ties, axes jump.

    Attributes:
        group: ``so3()`` or ``o3()``; its grid is not used.
        pick: "average" lets the model see all frames and takes the mean, which is exact; "skewness" takes the frame
            along whose axes the third moments are positive: one pass, but an axis jumps where its moment is zero. The
            third axis of a frame of SO(3) follows from the others.
        tolerance: Of equal eigenvalues.
        action: What the group does to inputs.

    Source:
        Puny et al. 2022, arXiv 2110.03336 (frame averaging, PCA frames).

    Differs:
        Repeated eigenvalues, for which the paper's frames are not defined.
    """

    group: Group = so3()  # noqa: RUF009 (frozen)
    pick: Literal["average", "skewness"] = "average"
    tolerance: float = 1e-4
    action: Points = Points()  # noqa: RUF009

    def __post_init__(self) -> None:
        if self.group.name.partition("/")[0] not in ("SO(3)", "O(3)"):
            raise BadArrayError(f"PCAFrames needs so3() or o3(), got {self.group.name}.")
        if self.pick not in _PICKS:
            raise UnknownNameError.of("pick of a frame", str(self.pick), _PICKS)

    @property
    def averages(self) -> bool:
        """Whether a wrapped model has to see more than one pose."""
        return self.pick == "average"

    @property
    def num_frames(self) -> int:
        """4 for SO(3), 8 for O(3)."""
        return 8 if self.group.name.startswith("O") else 4

    def __call__(self, x: Float[Array, "b n 3"]) -> Canonicalized:
        """Brings points into the frame along whose axes their third moments are positive.

        Args:
            x: Finite points.

        Returns:
            The points in that frame. An element's index is the frame's number; its energy is the negative sum of the
            third moments along its axes, over the cube of the size of the cloud.

        Raises:
            BadArrayError: If there are none, they are not finite, or not in space.
        """
        return self.frames(x)[0]

    def frames(self, x: Float[Array, "b n 3"]) -> tuple[Canonicalized, Frames]:
        """All frames, with equal weights.

        Args:
            x: As in a call.

        Returns:
            What a call gives, and the frames.

        Raises:
            BadArrayError: As a call.
        """
        x = checked(self, x)
        if x.ndim != 3 or x.shape[1] < 1:
            raise BadArrayError(f"PCAFrames needs points (b, n, 3), got shape {x.shape}.")
        return _framed(x, self.tolerance, num_frames=self.num_frames)


@precise_jit(static_argnames=("num_frames",))
def _framed(x: Float[Array, "b n 3"], tolerance: float, *, num_frames: int) -> tuple[Canonicalized, Frames]:
    axes = jax.vmap(_axes, (0, None))(x, tolerance)
    signs = jnp.asarray(_SIGNS[:num_frames], x.dtype)
    matrix = axes * signs[:, None, None, :]
    centered = x - x.mean(1, keepdims=True)
    size = jnp.sqrt(jnp.square(centered).sum((1, 2)) / x.shape[1])
    moments = (jnp.einsum("bnd,bdk->bnk", centered, axes) ** 3).mean(1) / jnp.where(size > 0, size, 1.0)[:, None] ** 3
    counted = signs if num_frames == 8 else signs.at[:, 2].set(0)
    energies = -moments @ counted.T
    index = energies.argmin(-1)
    chosen = Elements(index, jnp.take_along_axis(matrix, index[None, :, None, None], axis=0)[0])
    canonical = multiplied(jnp.swapaxes(chosen.matrix, 1, 2), x, 1, False)
    lowest = jnp.sort(energies, axis=-1)
    ties = (energies <= lowest[:, :1] + tolerance).sum(-1)
    found = Canonicalized(canonical, chosen, energies, lowest[:, 1] - lowest[:, 0], ties, jnp.zeros(len(x), bool))
    numbers = jnp.broadcast_to(jnp.arange(num_frames)[:, None], (num_frames, len(x)))
    return found, Frames(Elements(numbers, matrix), jnp.full((len(x), num_frames), 1 / num_frames, x.dtype))


@precise_jit()
def principal_axes(x: Float[Array, "b n 3"], tolerance: float | Float[Array, ""] = 1e-4) -> Float[Array, "b 3 3"]:
    """Three axes of each cloud, of determinant one, that turn with it; by the rule of ``PCAFrames``.

    Args:
        x: Points.
        tolerance: Eigenvalues that differ by less than this times the largest are equal.

    Returns:
        Matrices whose columns are the axes, largest variance first.
    """
    return jax.vmap(_axes, (0, None))(x, tolerance)


def _axes(x: Float[Array, "n 3"], tolerance: float | Float[Array, ""]) -> Float[Array, "3 3"]:
    centered = x - x.mean(0)
    values, vectors = jnp.linalg.eigh(centered.T @ centered / len(x))
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors.at[:, 2].multiply(jnp.sign(jnp.linalg.det(vectors)))
    same = values[:-1] - values[1:] <= tolerance * values[0]
    seen = centered @ vectors
    scale = jnp.sqrt(jnp.maximum(values[0], jnp.finfo(x.dtype).tiny))
    first = _longest(seen * _mask(True, same[0], same[0] & same[1]), jnp.array([1.0, 0, 0], x.dtype), scale)
    left = seen * _mask(same[0], True, same[1])
    left -= (left @ first)[:, None] * first
    second = _longest(left, _across(first), scale)
    second -= (second @ first) * first
    second /= jnp.linalg.norm(second)
    return vectors @ jnp.stack([first, second, jnp.cross(first, second)], axis=1)


def _mask(*members: bool | Bool[Array, ""]) -> Float[Array, " 3"]:
    return jnp.stack([jnp.asarray(one, bool) for one in members]).astype(jnp.float32)


def _longest(x: Float[Array, "n 3"], otherwise: Float[Array, " 3"], scale: jax.Array) -> Float[Array, " 3"]:
    """The direction of the longest row, or another where all are short: beyond the rounding of what was subtracted."""
    lengths = jnp.sqrt(jnp.square(x).sum(-1))
    place = lengths.argmax()
    is_short = lengths[place] <= 1e-5 * scale
    return jnp.where(is_short, otherwise, x[place] / jnp.where(is_short, 1.0, lengths[place]))


def _across(axis: Float[Array, " 3"]) -> Float[Array, " 3"]:
    """Some direction across an axis."""
    other = jnp.eye(3, dtype=axis.dtype)[jnp.abs(axis).argmin()]
    across = other - (other @ axis) * axis
    return across / jnp.linalg.norm(across)
