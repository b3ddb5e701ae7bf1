"""How is an image turned, mirrored and scaled? By quarters without any rounding, and by one interpolation else.

Every element is a quarter turn after a mirror image after a residual: a rotation by less than 90 degrees, perhaps with
a scale. Quarters and mirror images only move pixels. Residuals interpolate with the border held (clamped), by maps that
are made in float64 while a program is traced where the element is known then, and in the program where it is not.
"""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from repsim_jax.canonicalization.groups import Elements, Group, inverse_matrix
from repsim_jax.errors import BadArrayError

# Angles and scales that differ by less are the same residual.
_SAME = 1e-9
# Pixels by which the rim of an image must move from one element to the next: with less, both are the same image.
_LEAST_MOVE = 0.5
# Row i and column j of (1, i, j): where each pixel is read that stays.
_STILL = np.array([[0, 1, 0], [0, 0, 1]], np.int32)
_MIRROR = np.array([[-1.0, 0.0], [0.0, 1.0]])
_QUARTERS = np.array([[[1.0, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]])


class Factors(NamedTuple):
    """Each element of a group as a quarter turn after a mirror image after a residual.

    Attributes:
        turns: (order,), quarters, counter-clockwise.
        flips: (order,), whether what the residual gives is mirrored left and right.
        residuals: (order,), places in ``distinct``.
        distinct: (r, 2, 2), the identity first.
        exact: (order, 2, 2), quarter and mirror image alone.
    """

    turns: Int[np.ndarray, " order"]
    flips: Bool[np.ndarray, " order"]
    residuals: Int[np.ndarray, " order"]
    distinct: Float[np.ndarray, "r 2 2"]
    exact: Float[np.ndarray, "order 2 2"]

    @property
    def turns_sides(self) -> bool:
        """Whether height becomes width for some element, or an angle lies between."""
        bent = np.abs(self.distinct[:, 1, 0]) > _SAME
        return bool((self.turns % 2).any() or bent.any())

    @property
    def is_exact(self) -> bool:
        """Whether nothing is ever interpolated."""
        return len(self.distinct) == 1


@lru_cache(maxsize=64)
def factors(group: Group, *, inverted: bool = False) -> Factors:
    """Takes the elements of a group of the plane, or their inverses, apart.

    Args:
        group: Of the plane.
        inverted: Whether the inverses are meant.

    Returns:
        The factors.
    """
    matrices = np.linalg.inv(group.matrices) if inverted else np.asarray(group.matrices)
    flips = np.linalg.det(matrices) < 0
    turns, places, distinct, exact = [], [], [np.eye(2)], []
    for matrix, flip in zip(matrices, flips, strict=True):
        turn, rest = _quarter_and_rest(matrix, flip)
        near = [i for i, known in enumerate(distinct) if np.allclose(known, rest, rtol=0, atol=_SAME)]
        places.append(near[0] if near else len(distinct))
        distinct += [] if near else [rest]
        turns.append(turn)
        exact.append(_exact(turn, flip))
    return Factors(np.array(turns), flips, np.array(places), np.stack(distinct), np.stack(exact))


def _exact(turn: int, flip: bool) -> np.ndarray:
    return _QUARTERS[turn] @ (_MIRROR if flip else np.eye(2)) + 0.0


def _quarter_and_rest(matrix: np.ndarray, flip: bool) -> tuple[int, np.ndarray]:
    """The residual has an angle in [0, 90) degrees."""
    rests = [_exact(turn, flip).T @ matrix for turn in range(4)]
    turn = next(i for i, rest in enumerate(rests) if rest[0, 0] > _SAME and rest[1, 0] > -_SAME)
    return turn, np.where(np.abs(rests[turn]) < _SAME, 0.0, rests[turn])


def check_plane(group: Group, height: int, width: int) -> None:
    """Refuses a group whose elements an image of this shape cannot show.

    Args:
        group: What is to act.
        height: Pixels.
        width: Pixels.

    Raises:
        BadArrayError: If the group is not one of the plane, turns sides of an image that is not square, or moves the
            image by less than half a pixel.
    """
    if group.dim != 2:
        raise BadArrayError(
            f"{group.name} acts on {group.dim} axes; images, boxes and masks need a group of the plane."
        )
    parts = factors(group)
    if height != width and (parts.turns_sides or (group.is_refinable and _has_rotation(group))):
        raise BadArrayError(
            f"{group.name} turns images by other angles than 180 degrees, which needs square ones: got height {height} "
            f"and width {width}. Pad or crop them to squares, or use cyclic(2), dihedral(1) or dihedral(2)."
        )
    others = group.matrices[parts.residuals > 0]
    moves = np.linalg.norm(others - np.eye(2), ord=2, axis=(1, 2)) * (min(height, width) - 1) / 2
    if len(moves) and moves.min() < _LEAST_MOVE:
        raise BadArrayError(
            f"{group.name} is too large for images of {height} x {width} pixels: an element moves their rim by "
            f"{moves.min():.2f} pixels, less than {_LEAST_MOVE}. Use a smaller group, or larger images."
        )


def _has_rotation(group: Group) -> bool:
    return bool((np.abs(group.generators - np.swapaxes(group.generators, 1, 2)) > _SAME).any())


def placed(x: Shaped[Array, "b h w *c"], turn: int, flip: bool) -> Shaped[Array, "b h w *c"]:
    """Mirrors all images of a batch and turns them then, exactly.

    Args:
        x: Images, square where the turn is odd.
        turn: Quarters, counter-clockwise.
        flip: Whether they are mirrored.

    Returns:
        The images.
    """
    return jnp.rot90(x[:, :, ::-1] if flip else x, turn, axes=(1, 2))


def moved(
    group: Group, index: Int[Array, " b"], x: Shaped[Array, "b h w *c"], *, inverted: bool = False
) -> Shaped[Array, "b h w *c"]:
    """Mirrors and turns each image by the exact part of its own element, or undoes that.

    Args:
        group: Of the plane.
        index: An element for each image.
        x: Images.
        inverted: Whether it is undone.

    Returns:
        The images, the same pixels in other places.
    """
    parts = factors(group)
    turns, flips = jnp.asarray(parts.turns % 4)[index], jnp.asarray(parts.flips)[index]

    def chosen(wanted: jax.Array, other: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(wanted.reshape(-1, *[1] * (x.ndim - 1)), other, x)

    if parts.flips.any() and not inverted:
        x = chosen(flips, x[:, :, ::-1], x)
    if (parts.turns & 1).any():
        x = chosen((turns & 1) == 1, jnp.rot90(x, -1 if inverted else 1, axes=(1, 2)), x)
    if (parts.turns & 2).any():
        x = chosen((turns & 2) == 2, x[:, ::-1, ::-1], x)
    if parts.flips.any() and inverted:
        x = chosen(flips, x[:, :, ::-1], x)
    return x


class _Corners(NamedTuple):
    """The four pixels between which each pixel of an image is read, and their weights."""

    places: list[np.ndarray]
    weights: list[np.ndarray]


@lru_cache(maxsize=128)
def _corners(matrix: bytes, height: int, width: int) -> _Corners:
    inverse = np.linalg.inv(np.frombuffer(matrix).reshape(2, 2))
    across = np.arange(width) - (width - 1) / 2
    up = (height - 1) / 2 - np.arange(height)
    x = inverse[0, 0] * across + inverse[0, 1] * up[:, None] + (width - 1) / 2
    y = (height - 1) / 2 - (inverse[1, 0] * across + inverse[1, 1] * up[:, None])
    x, y = np.clip(x, 0, width - 1).ravel(), np.clip(y, 0, height - 1).ravel()
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = x - left, y - top
    places = [top * width + left, top * width + right, bottom * width + left, bottom * width + right]
    return _Corners(places, [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx])


def resampled(x: Float[Array, "b h w c"], matrix: np.ndarray) -> Float[Array, "b h w c"]:
    """All images of a batch after the same rotation or scaling, which is known while the program is traced.

    Args:
        x: Images.
        matrix: (2, 2); what moves beyond the border is lost, and the border's pixels are repeated where nothing was.

    Returns:
        Images of the same shape, interpolated between four pixels.
    """
    _, h, w, c = x.shape
    corners = _corners(np.ascontiguousarray(matrix, np.float64).tobytes(), h, w)
    places = [jnp.asarray(place, jnp.int32) for place in corners.places]
    weights = [jnp.asarray(weight, x.dtype)[:, None] for weight in corners.weights]

    def one(image: jax.Array) -> jax.Array:
        flat = image.reshape(-1, c)
        parts = [flat[place] * weight for place, weight in zip(places, weights, strict=True)]
        return sum(parts[1:], parts[0]).reshape(h, w, c)

    return jax.vmap(one)(x)


def orbit(group: Group, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "g b h w c"]:
    r"""Every image under the inverse of every element: :math:`g^{-1} x`.

    Only residuals are interpolated, r - 1 times for all elements; all else are exact quarters of what they gave.

    Args:
        group: Of the plane, of order g.
        x: Images.

    Returns:
        The orbits, element by element.
    """
    parts = factors(group, inverted=True)
    bases = [x, *(resampled(x, matrix) for matrix in parts.distinct[1:])]
    triples = zip(parts.residuals, parts.turns, parts.flips, strict=True)
    return jnp.stack([placed(bases[place], int(turn), bool(flip)) for place, turn, flip in triples])


def residual_of(group: Group, elements: Elements) -> Float[Array, "b 2 2"]:
    """What is left of each element without its quarter and mirror image.

    Args:
        group: Of the plane.
        elements: Perhaps refined.

    Returns:
        Matrices; without rounding, so that the elements that differ by a quarter have the same.
    """
    exact = jnp.asarray(factors(group).exact, elements.matrix.dtype)[elements.index]
    return jnp.matmul(jnp.swapaxes(exact, 1, 2), elements.matrix, precision="highest")


def warped(
    x: Shaped[Array, "b h w c"], matrix: Float[Array, "b 2 2"], *, nearest: bool = False
) -> Shaped[Array, "b h w c"]:
    """Each image after its own rotation or scaling, with a gradient by the matrix.

    Args:
        x: Images; of any type where the nearest pixel is taken.
        matrix: What is done to each.
        nearest: Whether the nearest pixel is taken, as for labels, in place of an interpolation.

    Returns:
        Images of the same shape.
    """
    still = jnp.broadcast_to(jnp.asarray(_STILL), (len(x), 2, 3))
    return _warped(x, matrix, still, still, nearest=nearest)


def _warped(
    x: jax.Array, matrix: jax.Array, before: Int[Array, "b 2 3"], after: Int[Array, "b 2 3"], *, nearest: bool
) -> jax.Array:
    """An exact move, ``warped``, and an exact move as one read: XLA would repeat a move for each of four reads."""
    _, h, w, _ = x.shape
    inverse = inverse_matrix(matrix)[..., None, None]
    down, along = (_lines(after[:, axis], h, w) for axis in range(2))
    across, up = along.astype(matrix.dtype) - (w - 1) / 2, (h - 1) / 2 - down.astype(matrix.dtype)
    columns = inverse[:, 0, 0] * across + inverse[:, 0, 1] * up + (w - 1) / 2
    rows = (h - 1) / 2 - (inverse[:, 1, 0] * across + inverse[:, 1, 1] * up)
    columns, rows = jnp.clip(columns, 0, w - 1), jnp.clip(rows, 0, h - 1)
    read = _nearest if nearest else _between
    return jax.vmap(read)(x, rows, columns, before[:, 0] * w + before[:, 1])


def _lines(steps: Int[Array, "b 3"], height: int, width: int) -> Int[Array, "b h w"]:
    start, down, along = (steps[:, k, None, None] for k in range(3))
    return start + down * jnp.arange(height)[:, None] + along * jnp.arange(width)


@lru_cache(maxsize=128)
def _moves(group: Group, height: int, width: int, inverted: bool) -> Int[np.ndarray, "order 2 3"]:
    """Where ``moved`` reads row i and column j of each element's output: a row and a column, each of (1, i, j)."""
    parts, places = factors(group), np.arange(height * width).reshape(height, width)
    maps = np.zeros((group.order, 2, 3), np.int32)
    for k, (turn, flip) in enumerate(zip(parts.turns, parts.flips, strict=True)):
        if inverted:
            back = np.rot90(places, -turn)
            read = back[:, ::-1] if flip else back
        else:
            read = np.rot90(places[:, ::-1] if flip else places, turn)
        for axis, line in enumerate(np.divmod(read, width)):
            first = int(line[0, 0])
            maps[k, axis] = first, line[min(1, height - 1), 0] - first, line[0, min(1, width - 1)] - first
    return maps


def _moves_of(group: Group, elements: Elements, x: jax.Array, *, inverted: bool) -> tuple[jax.Array, jax.Array]:
    move = jnp.asarray(_moves(group, *x.shape[1:3], inverted))[elements.index]
    return jnp.broadcast_to(jnp.asarray(_STILL), move.shape), move


def _nearest(x: Shaped[Array, "h w c"], rows: jax.Array, columns: jax.Array, steps: jax.Array) -> jax.Array:
    place = steps[0] + jnp.round(rows).astype(jnp.int32) * steps[1] + jnp.round(columns).astype(jnp.int32) * steps[2]
    return x.reshape(-1, x.shape[-1])[place]


def _between(x: Float[Array, "h w c"], rows: jax.Array, columns: jax.Array, steps: jax.Array) -> jax.Array:
    h, w, c = x.shape
    flat = x.reshape(-1, c)
    top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
    fy, fx = (rows - top).astype(x.dtype)[..., None], (columns - left).astype(x.dtype)[..., None]
    bottom, right = jnp.minimum(top + 1, h - 1) * steps[1], jnp.minimum(left + 1, w - 1) * steps[2]
    top, left = steps[0] + top * steps[1], left * steps[2]
    bottom = steps[0] + bottom
    above = flat[top + left] * (1 - fx) + flat[top + right] * fx
    below = flat[bottom + left] * (1 - fx) + flat[bottom + right] * fx
    return above * (1 - fy) + below * fy


def moves_pixels(group: Group) -> bool:
    """Whether every element, refined ones included, only moves pixels, so that nothing is interpolated.

    Args:
        group: Of the plane.

    Returns:
        True for subgroups of D4 alone.
    """
    return factors(group).is_exact and not group.is_refinable


def applied(
    group: Group, elements: Elements, x: Shaped[Array, "b h w c"], *, nearest: bool = False
) -> Shaped[Array, "b h w c"]:
    """Each image under its own element: the residual first, then mirror images and quarters, exactly.

    Args:
        group: Of the plane.
        elements: One for each image, perhaps refined.
        x: Images.
        nearest: As in ``warped``.

    Returns:
        Images of the same shape.
    """
    if moves_pixels(group):
        return moved(group, elements.index, x)
    still, move = _moves_of(group, elements, x, inverted=False)
    return _warped(x, residual_of(group, elements), still, move, nearest=nearest)


def unmoved(
    group: Group, elements: Elements, x: Shaped[Array, "b h w c"], *, nearest: bool = False
) -> Shaped[Array, "b h w c"]:
    """Each image under the inverse of its own element: quarters and mirror images first, exactly, then the residual.

    The order makes canonical forms of an image and of its quarter turns the same bits, whatever the residual.

    Args:
        group: Of the plane.
        elements: One for each image, perhaps refined.
        x: Images.
        nearest: As in ``warped``.

    Returns:
        Images of the same shape.
    """
    if moves_pixels(group):
        return moved(group, elements.index, x, inverted=True)
    still, move = _moves_of(group, elements, x, inverted=True)
    return _warped(x, inverse_matrix(residual_of(group, elements)), move, still, nearest=nearest)
