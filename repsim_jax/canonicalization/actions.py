"""What does a group element do to an image, a mask, a point, a vector or a tensor, and what undoes it?

An action is a small frozen object with ``act(group, elements, x)`` and ``invert(group, elements, x)``. Quarter turns
and mirror images give back what came to the last bit; other angles interpolate images, and are undone up to that.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from repsim_jax.canonicalization.groups import Elements, Group, inverse_matrix
from repsim_jax.canonicalization.planar import applied, check_plane, moves_pixels, unmoved
from repsim_jax.errors import BadArrayError


@runtime_checkable
class Action(Protocol):
    """What a group does to one kind of array; write your own where none of these fits."""

    def check(self, group: Group, x: Any) -> None:
        """Refuses what the group cannot act on.

        Args:
            group: What acts.
            x: The array.

        Raises:
            BadArrayError: If it is of another shape or type.
        """
        ...

    def act(self, group: Group, elements: Elements, x: Array) -> Array:
        r"""Does it: :math:`g x`.

        Args:
            group: What acts.
            elements: One for each example.
            x: Examples first.

        Returns:
            An array of the same shape.
        """
        ...

    def invert(self, group: Group, elements: Elements, x: Array) -> Array:
        r"""Undoes it: :math:`g^{-1} x`.

        Args:
            group: What acts.
            elements: One for each example.
            x: Examples first.

        Returns:
            An array of the same shape.
        """
        ...


def _needs(action: str, wanted: str, x: Any) -> BadArrayError:
    return BadArrayError(f"{action} acts on {wanted}; got shape {tuple(x.shape)} of {x.dtype}.")


@dataclass(frozen=True)
class Trivial:
    """Numbers that no element changes, such as class logits."""

    def check(self, group: Group, x: Any) -> None:
        """Refuses what has no leading axis of examples.

        Args:
            group: What acts.
            x: Any array.

        Raises:
            BadArrayError: If it is a scalar.
        """
        del group
        if x.ndim < 1:
            raise _needs("Trivial", "arrays whose first axis is examples", x)

    def act(self, group: Group, elements: Elements, x: Shaped[Array, "b *shape"]) -> Shaped[Array, "b *shape"]:
        """Does nothing.

        Args:
            group: What acts.
            elements: One for each example.
            x: Any array.

        Returns:
            The same.
        """
        del group, elements
        return x

    def invert(self, group: Group, elements: Elements, x: Shaped[Array, "b *shape"]) -> Shaped[Array, "b *shape"]:
        """Does nothing.

        Args:
            group: What acts.
            elements: One for each example.
            x: Any array.

        Returns:
            The same.
        """
        del group, elements
        return x


@dataclass(frozen=True)
class Images:
    """Images or feature maps (b, h, w, c): their places move, their channels do not.

    Attributes:
        nearest: Whether the nearest pixel is taken where an angle lies between, as labels need, in place of a mean.
    """

    nearest: bool = False

    def check(self, group: Group, x: Any) -> None:
        """Refuses other shapes, images that the group does not fit, and whole numbers that would be averaged.

        Args:
            group: Of the plane.
            x: Images.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        if x.ndim != 4 or min(x.shape[1:]) < 1:
            raise _needs("Images", "images (b, height, width, channels)", x)
        check_plane(group, x.shape[1], x.shape[2])
        if not self.nearest and not moves_pixels(group) and not jnp.issubdtype(x.dtype, jnp.floating):
            raise BadArrayError(
                f"{group.name} interpolates, which needs floating-point images; got {x.dtype}. Scale them to floats, "
                "or use Masks() for labels."
            )

    def act(self, group: Group, elements: Elements, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b h w c"]:
        """Turns each image: the residual first, then quarters and mirror images, exactly.

        Args:
            group: Of the plane.
            elements: One for each image, perhaps refined.
            x: Images.

        Returns:
            Images of the same shape.
        """
        return applied(group, elements, x, nearest=self.nearest)

    def invert(self, group: Group, elements: Elements, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b h w c"]:
        """Turns each image back.

        Args:
            group: Of the plane.
            elements: One for each image, perhaps refined.
            x: Images.

        Returns:
            Images of the same shape.
        """
        return unmoved(group, elements, x, nearest=self.nearest)


@dataclass(frozen=True)
class Masks:
    """Labels of pixels (b, h, w) or (b, h, w, c), of any type: the nearest pixel is taken, never a mean."""

    def check(self, group: Group, x: Any) -> None:
        """Refuses other shapes, and masks that the group does not fit.

        Args:
            group: Of the plane.
            x: Masks.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        if x.ndim not in (3, 4) or min(x.shape[1:]) < 1:
            raise _needs("Masks", "masks (b, height, width) or (b, height, width, channels)", x)
        check_plane(group, x.shape[1], x.shape[2])

    def act(self, group: Group, elements: Elements, x: Shaped[Array, "b h w *c"]) -> Shaped[Array, "b h w *c"]:
        """Turns each mask.

        Args:
            group: Of the plane.
            elements: One for each mask.
            x: Masks.

        Returns:
            Masks of the same shape.
        """
        return Images(nearest=True).act(group, elements, x.reshape(*x.shape[:3], -1)).reshape(x.shape)

    def invert(self, group: Group, elements: Elements, x: Shaped[Array, "b h w *c"]) -> Shaped[Array, "b h w *c"]:
        """Turns each mask back.

        Args:
            group: Of the plane.
            elements: One for each mask.
            x: Masks.

        Returns:
            Masks of the same shape.
        """
        return Images(nearest=True).invert(group, elements, x.reshape(*x.shape[:3], -1)).reshape(x.shape)


@dataclass(frozen=True)
class Points:
    """Points (b, ..., d) about the origin: each is multiplied by the element's matrix. Vectors are the same.

    Attributes:
        pixels: Whether the second axis points down, as (x, y) in pixels does, and not up.
    """

    pixels: bool = False

    def check(self, group: Group, x: Any) -> None:
        """Refuses other sizes of the last axis, and whole numbers.

        Args:
            group: What acts.
            x: Points.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        if x.ndim < 2 or x.shape[-1] != group.dim or not jnp.issubdtype(x.dtype, jnp.floating):
            raise _needs(type(self).__name__, f"floating-point arrays (b, ..., {group.dim}) for {group.name}", x)
        if self.pixels and group.dim != 2:
            raise BadArrayError(f"{type(self).__name__}(pixels=True) needs a group of the plane, got {group.name}.")

    def act(self, group: Group, elements: Elements, x: Float[Array, "b *n d"]) -> Float[Array, "b *n d"]:
        """Multiplies each by its matrix.

        Args:
            group: What acts.
            elements: One for each example.
            x: Points.

        Returns:
            Points.
        """
        del group
        return multiplied(elements.matrix, x, 1, self.pixels)

    def invert(self, group: Group, elements: Elements, x: Float[Array, "b *n d"]) -> Float[Array, "b *n d"]:
        """Multiplies each by the inverse of its matrix.

        Args:
            group: What acts.
            elements: One for each example.
            x: Points.

        Returns:
            Points.
        """
        del group
        return multiplied(inverse_matrix(elements.matrix), x, 1, self.pixels)


@dataclass(frozen=True)
class Vectors(Points):
    """Vectors (b, ..., d): forces, velocities, displacements."""


@dataclass(frozen=True)
class Tensors:
    """Tensors (b, ..., d, ..., d): each of the last ``rank`` axes is multiplied by the element's matrix.

    Attributes:
        rank: Axes, at least 0; of 1 they are vectors, of 2 such as a covariance matrix or a stress.
        pixels: Whether the second axis points down, and not up.
    """

    rank: int = 2
    pixels: bool = False

    def check(self, group: Group, x: Any) -> None:
        """Refuses other sizes of the last axes, and whole numbers.

        Args:
            group: What acts.
            x: Tensors.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        last = x.shape[x.ndim - self.rank :]
        if x.ndim < self.rank + 1 or set(last) - {group.dim} or not jnp.issubdtype(x.dtype, jnp.floating):
            axes = ", ".join([str(group.dim)] * self.rank)
            raise _needs(f"Tensors(rank={self.rank})", f"floating-point arrays (b, ..., {axes}) for {group.name}", x)

    def act(self, group: Group, elements: Elements, x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """Multiplies each axis.

        Args:
            group: What acts.
            elements: One for each example.
            x: Tensors.

        Returns:
            Tensors.
        """
        del group
        return multiplied(elements.matrix, x, self.rank, self.pixels)

    def invert(self, group: Group, elements: Elements, x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """Multiplies each axis by the inverse.

        Args:
            group: What acts.
            elements: One for each example.
            x: Tensors.

        Returns:
            Tensors.
        """
        del group
        return multiplied(inverse_matrix(elements.matrix), x, self.rank, self.pixels)


def multiplied(
    matrix: Float[Array, "b d d"], x: Float[Array, "b *shape"], rank: int, pixels: bool
) -> Float[Array, "b *shape"]:
    """Multiplies the last ``rank`` axes by each example's own matrix.

    Sums of products are written out, so that whole-numbered matrices only move and negate numbers on every backend.

    Args:
        matrix: One for each example.
        x: Tensors.
        rank: Axes.
        pixels: Whether the second axis points down.

    Returns:
        Tensors.
    """
    matrix, dim = matrix.astype(x.dtype), matrix.shape[-1]
    if pixels:
        down = jnp.array([1, -1], x.dtype)
        matrix = matrix * down[:, None] * down
    for axis in range(x.ndim - rank, x.ndim):
        parts = jnp.moveaxis(x, axis, 1)
        weights = matrix.reshape(len(matrix), dim, dim, *[1] * (x.ndim - 2))
        x = jnp.moveaxis(sum(weights[:, :, k] * parts[:, k : k + 1] for k in range(dim)), 1, axis)
    return x
