"""Which transformations should not matter? Groups of matrices with their tables, equal ones being one hashable object.

The plane is seen with its second axis up, so that positive angles turn counter-clockwise on the screen, as ``np.rot90``
does. Dihedral elements mirror left and right first and turn then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from repsim_jax.canonicalization.polyhedra import rotations
from repsim_jax.errors import BadArrayError

_MIRROR = np.array([[-1.0, 0.0], [0.0, 1.0]])
_QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])
# Entries of matrices that differ by less are the same number.
_SAME = 1e-6
# Radians below which three terms of the series of an angle are exact to 1e-13.
_SMALL_ANGLE = 0.01


class Elements(NamedTuple):
    """One group element for each example.

    Attributes:
        index: (b,), the place in the group's list; of a refined element that from which it was refined.
        matrix: (b, d, d), what it does to the axes.
    """

    index: Int[Array, " b"]  # pyright: ignore[reportIncompatibleMethodOverride]
    matrix: Float[Array, "b d d"]


@dataclass(frozen=True)
class Group:
    """A list of matrices; groups of the same name are equal, and are constants of a compiled program.

    Attributes:
        name: Says which group this is, with the numbers that it was made by.
        matrices: (order, d, d), float64; the identity is the first.
        table: (order, order): the place of the product of two elements; -1 where the product is not in the list.
        inverses: (order,): the place of the inverse; -1 where it is not in the list.
        generators: (m, d, d): the Lie algebra in which an element can be refined; m = 0 where it cannot.
    """

    name: str
    matrices: np.ndarray = field(compare=False, repr=False)
    table: np.ndarray = field(compare=False, repr=False)
    inverses: np.ndarray = field(compare=False, repr=False)
    generators: np.ndarray = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        for array in (self.matrices, self.table, self.inverses, self.generators):
            array.setflags(write=False)

    @property
    def order(self) -> int:
        """How many elements are in the list."""
        return len(self.matrices)

    @property
    def dim(self) -> int:
        """Axes d that a matrix acts on."""
        return self.matrices.shape[-1]

    @property
    def is_closed(self) -> bool:
        """Whether every product and every inverse is in the list, as equivariance over the list needs."""
        return bool((self.table >= 0).all() and (self.inverses >= 0).all())

    @property
    def is_refinable(self) -> bool:
        """Whether the list is a grid over a continuous group."""
        return len(self.generators) > 0

    @property
    def is_orthogonal(self) -> bool:
        """Whether no element changes lengths."""
        return bool(np.allclose(self.matrices @ np.swapaxes(self.matrices, 1, 2), np.eye(self.dim), atol=_SAME))

    def elements(self, index: Int[Array, " b"] | Sequence[int], dtype: Any = jnp.float32) -> Elements:
        """Elements by their places.

        Args:
            index: Places in [0, order).
            dtype: Of the matrices.

        Returns:
            One for each place.
        """
        places = jnp.asarray(index, jnp.int32)
        return Elements(places, jnp.asarray(self.matrices, dtype)[places])

    def identity(self, num: int, dtype: Any = jnp.float32) -> Elements:
        """The identity, for each of some examples.

        Args:
            num: Examples b.
            dtype: Of the matrices.

        Returns:
            The elements.
        """
        return self.elements(jnp.zeros(num, jnp.int32), dtype)

    def compose(self, left: Elements, right: Elements) -> Elements:
        """The product: what ``right`` does, and after it ``left``.

        Args:
            left: Elements of b examples.
            right: Of the same examples.

        Returns:
            The products. The index of refined elements is the product of their indices, the matrix is exact.
        """
        index = jnp.asarray(self.table, jnp.int32)[left.index, right.index]
        return Elements(index, jnp.matmul(left.matrix, right.matrix, precision="highest"))

    def inverse(self, elements: Elements) -> Elements:
        """Inverses.

        Args:
            elements: Of b examples.

        Returns:
            The inverses.
        """
        return Elements(jnp.asarray(self.inverses, jnp.int32)[elements.index], inverse_matrix(elements.matrix))


def inverse_matrix(matrix: Float[Array, "b d d"]) -> Float[Array, "b d d"]:
    """Inverts rotations, reflections and scalings: the transpose, over the square of the scale.

    Args:
        matrix: Multiples of orthogonal matrices.

    Returns:
        The inverses, without rounding where entries are 0, 1 and -1.
    """
    scale = jnp.square(matrix).sum((-2, -1), keepdims=True) / matrix.shape[-1]
    return jnp.swapaxes(matrix, -2, -1) / jnp.where(jnp.abs(scale - 1) < _SAME, 1.0, scale)


def cyclic(n: int) -> Group:
    """C_n: rotations of the plane by multiples of 360 / n degrees.

    Args:
        n: Order, at least 1.

    Returns:
        The group; element i turns by 360 i / n degrees.

    Raises:
        BadArrayError: If n is no whole number of at least 1.
    """
    return _planar(_whole("cyclic", n), False, False)


def dihedral(n: int) -> Group:
    """D_n: those rotations, and the mirror image left and right before each.

    Args:
        n: Rotations, at least 1; the order is 2 n.

    Returns:
        The group; element n + i mirrors, and turns by 360 i / n degrees then.

    Raises:
        BadArrayError: If n is no whole number of at least 1.
    """
    return _planar(_whole("dihedral", n), True, False)


def so2(grid: int = 8) -> Group:
    """SO(2): all rotations of the plane, searched on a grid and refined by gradients.

    Args:
        grid: Rotations on the grid, at least 1.

    Returns:
        The grid with its generator.

    Raises:
        BadArrayError: If the grid is no whole number of at least 1.
    """
    return _planar(_whole("so2", grid), False, True)


def o2(grid: int = 8) -> Group:
    """O(2): all rotations of the plane and their mirror images, searched on a grid and refined by gradients.

    Args:
        grid: Rotations on the grid, at least 1.

    Returns:
        The grid with its generator.

    Raises:
        BadArrayError: If the grid is no whole number of at least 1.
    """
    return _planar(_whole("o2", grid), True, True)


def _whole(name: str, n: int) -> int:
    if type(n) is not int or n < 1:
        raise BadArrayError(f"{name} needs a whole number of rotations >= 1, got {n!r}.")
    return n


@cache
def _planar(n: int, mirrored: bool, refined: bool) -> Group:
    turns = np.stack([_rotation(i, n) for i in range(n)])
    i = np.arange(n)
    table, inverses = (i[:, None] + i) % n, -i % n
    if mirrored:
        # R_i M R_j = R_(i - j) M, and (R_i M)(R_j M) = R_(i - j)
        apart = (i[:, None] - i) % n
        table = np.block([[table, n + table], [n + apart, apart]])
        inverses = np.concatenate([inverses, n + i])
        turns = np.concatenate([turns, turns @ _MIRROR + 0.0])
    letter = ("SO(2)/{}", "O(2)/{}")[mirrored] if refined else "CD"[mirrored] + "{}"
    generators = _QUARTER[None] if refined else np.zeros((0, 2, 2))
    return Group(letter.format(n), turns, table, inverses, generators.copy())


def _rotation(i: int, n: int) -> np.ndarray:
    """By i / n of a turn; quarters are exact, and all others an exact quarter times an angle below it."""
    quarters, rest = divmod(4 * i, n)
    angle = np.pi / 2 * rest / n
    below = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.linalg.matrix_power(_QUARTER, quarters) @ below + 0.0


def scalings(low: float, high: float, num: int) -> Group:
    """Scalings of the plane by a geometric grid of factors, which is a list and no group.

    Products and inverses beyond the ends are missing from it, so that equivariance holds only while what is looked for
    stays inside the list; where it does not, the end is chosen. What a larger image loses at its border stays lost.

    Args:
        low: The least factor, > 0 and at most 1.
        high: The greatest, at least 1.
        num: Factors; 1 must be among them, as it is where the number is odd and ``low * high`` is 1.

    Returns:
        The list, with the generator of scalings; the identity is the first, the others follow by size.

    Raises:
        BadArrayError: If the range is empty or 1 is not on the grid.
    """
    if type(num) is not int or num < 1 or not 0 < low <= 1 <= high < float("inf") or (num == 1) != (low == high):
        raise BadArrayError(
            f"scalings needs 0 < low <= 1 <= high and num >= 1 factors, got {low!r}, {high!r}, {num!r}."
        )
    return _scalings(float(low), float(high), num)


@cache
def _scalings(low: float, high: float, num: int) -> Group:
    factors = np.geomspace(low, high, num)
    (one,) = np.nonzero(np.abs(factors - 1) < _SAME)[:1]
    if len(one) != 1:
        raise BadArrayError(
            f"scalings needs the factor 1 on its geometric grid: {num} factors from {low:g} to {high:g} are "
            f"{', '.join(f'{factor:.3g}' for factor in factors)}. Take low = 1 / high and an odd number."
        )
    steps = np.arange(num) - one[0]
    order = np.argsort(steps != 0, kind="stable")
    factors[one[0]], place = 1.0, {int(step): i for i, step in enumerate(steps[order])}
    table = np.array([[place.get(int(a + b), -1) for b in steps[order]] for a in steps[order]])
    inverses = np.array([place.get(int(-a), -1) for a in steps[order]])
    matrices = factors[order, None, None] * np.eye(2)
    return Group(f"scalings({low!r}, {high!r}, {num})", matrices, table, inverses, np.eye(2)[None])


def so3(grid: str = "octahedral") -> Group:
    """SO(3): rotations of space, on the grid of a Platonic solid's, refined by gradients.

    Args:
        grid: "tetrahedral" (12), "octahedral" (24) or "icosahedral" (60).

    Returns:
        The grid, itself a closed group, with the three generators.

    Raises:
        UnknownNameError: If there is no such grid.
    """
    return _spatial(str(grid), False)


def o3(grid: str = "octahedral") -> Group:
    """O(3): those rotations, and each of them after the inversion of all axes.

    Args:
        grid: As in ``so3``.

    Returns:
        The grid of twice the order.

    Raises:
        UnknownNameError: If there is no such grid.
    """
    return _spatial(str(grid), True)


@cache
def _spatial(grid: str, inverted: bool) -> Group:
    matrices = rotations(grid)
    name = f"{'O' if inverted else 'SO'}(3)/{grid}"
    if inverted:
        matrices = np.concatenate([matrices, -matrices]) + 0.0
    keys = {np.round(matrix + 0.0, 5).tobytes(): i for i, matrix in enumerate(matrices)}
    products = np.round(matrices[:, None] @ matrices[None], 5) + 0.0
    table = np.array([[keys[one.tobytes()] for one in row] for row in products])
    inverses = table.argmin(1)
    axes = np.zeros((3, 3, 3))
    for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
        axes[i, k, j], axes[i, j, k] = 1.0, -1.0
    return Group(name, matrices, table, inverses, axes)


def product(first: Group, second: Group) -> Group:
    """All products of an element of one group and one of another, which act on the same axes and commute.

    Args:
        first: Such as ``cyclic(4)``.
        second: Such as ``scalings(0.5, 2.0, 5)``.

    Returns:
        The product; element ``i * second.order + j`` is the i-th times the j-th.

    Raises:
        BadArrayError: If they act on different axes, do not commute, or have more than the identity in common.
    """
    return _product(first, second)


@cache
def _product(first: Group, second: Group) -> Group:
    if first.dim != second.dim:
        raise BadArrayError(
            f"product needs two groups of the same axes: {first.name} acts on {first.dim} and {second.name} on "
            f"{second.dim}."
        )
    left, right = first.matrices[:, None], second.matrices[None]
    if not np.allclose(left @ right, right @ left, atol=_SAME):
        raise BadArrayError(f"product needs elements that commute; those of {first.name} and {second.name} do not.")
    matrices = (left @ right).reshape(-1, first.dim, first.dim) + 0.0
    if len(np.unique(np.round(matrices, 5), axis=0)) < len(matrices):
        raise BadArrayError(
            f"product needs groups that share the identity alone: {first.name} and {second.name} share more, so that "
            "elements would stand twice in the list."
        )
    size = second.order
    a, b = first.table[:, None, :, None], second.table[None, :, None, :]
    table = np.where((a >= 0) & (b >= 0), a * size + b, -1).reshape(len(matrices), -1)
    one, two = first.inverses[:, None], second.inverses[None]
    inverses = np.where((one >= 0) & (two >= 0), one * size + two, -1).ravel()
    generators = np.concatenate([first.generators, second.generators])
    return Group(f"{first.name} x {second.name}", matrices, table, inverses, generators)


def exponential(group: Group, coefficients: Float[Array, "b m"]) -> Float[Array, "b d d"]:
    """The elements near the identity that the generators lead to.

    Args:
        group: A refinable group.
        coefficients: Of its generators: radians, or the logarithm of a scale.

    Returns:
        Matrices.
    """
    algebra = jnp.einsum("bm,mij->bij", coefficients, jnp.asarray(group.generators, coefficients.dtype))
    if group.dim == 2:
        turn = jnp.stack([jnp.cos(algebra[:, 1, 0]), jnp.sin(algebra[:, 1, 0])], -1)
        rows = jnp.stack([turn * jnp.array([1, -1], turn.dtype), turn[:, ::-1]], 1)
        return jnp.exp(algebra[:, 0, 0])[:, None, None] * rows
    # Rodrigues' formula, by its series where the angle is too small to divide by
    square = jnp.matmul(algebra, algebra, precision="highest")
    angle2 = -jnp.trace(square, axis1=1, axis2=2)[:, None, None] / 2
    is_small = angle2 < _SMALL_ANGLE**2
    angle = jnp.sqrt(jnp.where(is_small, 1.0, angle2))
    first = jnp.where(is_small, 1 - angle2 / 6 + angle2**2 / 120, jnp.sin(angle) / angle)
    second = jnp.where(is_small, 0.5 - angle2 / 24 + angle2**2 / 720, (1 - jnp.cos(angle)) / angle**2)
    return jnp.eye(3, dtype=algebra.dtype) + first * algebra + second * square
