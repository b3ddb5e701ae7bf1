"""Which rotations bring a tetrahedron, an octahedron or an icosahedron back to itself? Exact grids over SO(3)."""

from itertools import permutations, product

import numpy as np
from jaxtyping import Float

from repsim_jax.errors import UnknownNameError

GRIDS = ("tetrahedral", "octahedral", "icosahedral")
_GOLDEN = (1 + 5**0.5) / 2
# Every entry of the icosahedron's matrices, its vertices at the cyclic permutations of (0, 1, golden).
_ENTRIES = np.array([0, 0.5, 1, _GOLDEN / 2, (_GOLDEN - 1) / 2])


def rotations(grid: str) -> Float[np.ndarray, "order 3 3"]:
    """The rotations of a Platonic solid, the identity first.

    Args:
        grid: "tetrahedral" (12 rotations), "octahedral" (24) or "icosahedral" (60).

    Returns:
        Matrices of determinant one, closed under products; whole numbers for the first two.

    Raises:
        UnknownNameError: If there is no such grid.
    """
    if grid not in GRIDS:
        raise UnknownNameError.of("grid of rotations", str(grid), GRIDS)
    signed = [_signed(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
    octahedral = [matrix for matrix in signed if round(np.linalg.det(matrix)) == 1]
    if grid == "octahedral":
        found = octahedral
    else:
        # three cyclic permutations with an even number of signs
        found = [matrix for matrix in octahedral if matrix[np.nonzero(matrix)].prod() == 1 and _is_cyclic(matrix)]
    if grid == "icosahedral":
        found = _closure([*found, _fifth_of_a_turn()])
    return np.stack(sorted(found, key=lambda matrix: -np.trace(matrix)))


def _signed(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    return np.diag(np.array(signs, float))[:, list(order)] + 0.0


def _is_cyclic(matrix: np.ndarray) -> bool:
    return round(np.linalg.det(np.abs(matrix))) == 1


def _fifth_of_a_turn() -> np.ndarray:
    """About the vertex (0, 1, golden), by Rodrigues' formula."""
    axis = np.array([0, 1, _GOLDEN]) / np.hypot(1, _GOLDEN)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = 2 * np.pi / 5
    return _snapped(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _snapped(matrix: np.ndarray) -> np.ndarray:
    nearest = _ENTRIES[np.abs(np.abs(matrix)[..., None] - _ENTRIES).argmin(-1)]
    return np.sign(matrix) * nearest + 0.0


def _closure(generators: list[np.ndarray]) -> list[np.ndarray]:
    known = {_key(np.eye(3)): np.eye(3)}
    new = list(known.values())
    while new:
        products = [_snapped(a @ b) for a in new for b in generators]
        fresh = {_key(one): one for one in products if _key(one) not in known}
        known |= fresh
        new = list(fresh.values())
    return list(known.values())


def _key(matrix: np.ndarray) -> bytes:
    return np.round(matrix, 6).tobytes()
