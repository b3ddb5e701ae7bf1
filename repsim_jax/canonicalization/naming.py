"""What are groups and their elements called? Short names for people, on the command line and in tables."""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from repsim_jax.canonicalization.groups import Group, cyclic, dihedral, o2, so2
from repsim_jax.errors import UnknownNameError

# Rotations on the grid of a continuous group that is named without a number.
_GRID = 8
_NAMES = ("c4", "d4", "c8", "so2", "o2", "so2/16")


def group_named(name: str) -> Group:
    """A group of the plane by a short name.

    Args:
        name: "c4" or any C_n, "d4" or any D_n, "so2" or "o2" (a grid of 8), "so2/16" (of 16).

    Returns:
        The group.

    Raises:
        UnknownNameError: If it is no such name.
    """
    found = re.fullmatch(r"(?:(c|d)([1-9]\d{0,3})|(so2|o2)(?:/([1-9]\d{0,3}))?)", name.strip().lower())
    if found is None:
        raise UnknownNameError.of("group", name, _NAMES)
    letter, order, continuous, grid = found.groups()
    if letter is not None:
        return {"c": cyclic, "d": dihedral}[letter](int(order))
    return {"so2": so2, "o2": o2}[continuous](int(grid or _GRID))


class Turns(NamedTuple):
    """What elements of the plane do: a mirror image left and right first, where there is one, and a turn.

    Attributes:
        degrees: (b,), counter-clockwise, in [0, 360).
        mirrored: (b,), whether they mirror.
    """

    degrees: Float[np.ndarray, " b"]
    mirrored: Bool[np.ndarray, " b"]


def turns_of(matrices: Float[np.ndarray, "b 2 2"]) -> Turns:
    """Angles of elements of O(2), refined ones too.

    Args:
        matrices: Of the elements.

    Returns:
        Angles, and where there is a mirror image.
    """
    matrices = np.asarray(matrices, np.float64)
    # the second column is that of the rotation, whether or not left and right were mirrored before
    degrees = np.degrees(np.arctan2(-matrices[:, 0, 1], matrices[:, 1, 1])) % 360
    return Turns(np.where(np.abs(degrees - 360) < 1e-4, 0.0, degrees) + 0.0, np.linalg.det(matrices) < 0)


def element_names(group: Group) -> list[str]:
    """A name for each element of a group of the plane.

    Args:
        group: C_n, D_n, or a grid of SO(2) or O(2).

    Returns:
        Such as "0°", "90°" and "mirrored, 90°"; of other groups the numbers of the elements.
    """
    if group.dim != 2 or not group.is_orthogonal:
        return [f"element {index}" for index in range(group.order)]
    turns = turns_of(group.matrices)
    return [
        f"{'mirrored, ' if mirrored else ''}{degrees:.3g}°"
        for degrees, mirrored in zip(turns.degrees, turns.mirrored, strict=True)
    ]
