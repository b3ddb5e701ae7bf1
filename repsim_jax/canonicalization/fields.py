"""What does a group element do to boxes, keypoints, channels that stand for its elements, and maps of vectors?"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from repsim_jax.canonicalization.actions import Images, multiplied
from repsim_jax.canonicalization.groups import Elements, Group, inverse_matrix
from repsim_jax.canonicalization.planar import check_plane
from repsim_jax.errors import BadArrayError


def _check_places(name: str, x: Any, least: int) -> None:
    """Refuses what is no floating-point array (b, k, least or more)."""
    if x.ndim != 3 or x.shape[-1] < least or not jnp.issubdtype(x.dtype, jnp.floating):
        raise BadArrayError(
            f"{name} acts on floating-point arrays (b, k, {least} or more); got shape {tuple(x.shape)} of {x.dtype}."
        )


@dataclass(frozen=True)
class Keypoints:
    """Points (b, k, 2 or more) in pixels of an image: x to the right, y down; further columns (visibility) stay.

    Attributes:
        height: Of the image.
        width: Of the image.
        at_centers: Whether whole numbers are the centers of pixels, as indices are, so that the image ends half a pixel
            beyond the first and last; else it spans [0, width] and [0, height].
    """

    height: int
    width: int
    at_centers: bool = False

    def check(self, group: Group, x: Any) -> None:
        """Refuses other shapes and whole numbers.

        Args:
            group: Of the plane.
            x: Keypoints.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        _check_places("Keypoints", x, 2)
        check_plane(group, self.height, self.width)

    def act(self, group: Group, elements: Elements, x: Float[Array, "b k c"]) -> Float[Array, "b k c"]:
        """Moves each as the image moves.

        Args:
            group: Of the plane.
            elements: One for each image.
            x: Keypoints.

        Returns:
            Keypoints.
        """
        del group
        return self._moved(elements.matrix, x)

    def invert(self, group: Group, elements: Elements, x: Float[Array, "b k c"]) -> Float[Array, "b k c"]:
        """Moves each back.

        Args:
            group: Of the plane.
            elements: One for each image.
            x: Keypoints.

        Returns:
            Keypoints.
        """
        del group
        return self._moved(inverse_matrix(elements.matrix), x)

    def _moved(self, matrix: Float[Array, "b 2 2"], x: Float[Array, "b k c"]) -> Float[Array, "b k c"]:
        ends = np.array([self.width, self.height], float) - self.at_centers
        middle = jnp.asarray(ends / 2, x.dtype)
        places = multiplied(matrix, x[..., :2] - middle, 1, True) + middle
        return jnp.concatenate([places, x[..., 2:]], axis=-1)


@dataclass(frozen=True)
class Boxes:
    """Boxes (b, k, 4 or more) in pixels of an image: left, top, right, bottom; further columns (such as scores) stay.

    A box that is turned by another angle than quarters becomes the upright box around it, and does not come back.

    Attributes:
        height: Of the image.
        width: Of the image.
    """

    height: int
    width: int

    def check(self, group: Group, x: Any) -> None:
        """Refuses other shapes and whole numbers.

        Args:
            group: Of the plane.
            x: Boxes.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        _check_places("Boxes", x, 4)
        check_plane(group, self.height, self.width)

    def act(self, group: Group, elements: Elements, x: Float[Array, "b k c"]) -> Float[Array, "b k c"]:
        """Moves each as the image moves.

        Args:
            group: Of the plane.
            elements: One for each image.
            x: Boxes.

        Returns:
            Boxes.
        """
        return self._around(Keypoints(self.height, self.width).act(group, elements, _vertices(x)), x)

    def invert(self, group: Group, elements: Elements, x: Float[Array, "b k c"]) -> Float[Array, "b k c"]:
        """Moves each back.

        Args:
            group: Of the plane.
            elements: One for each image.
            x: Boxes.

        Returns:
            Boxes.
        """
        return self._around(Keypoints(self.height, self.width).invert(group, elements, _vertices(x)), x)

    def _around(self, vertices: Float[Array, "b v 2"], x: Float[Array, "b k c"]) -> Float[Array, "b k c"]:
        each = vertices.reshape(*x.shape[:2], 4, 2)
        return jnp.concatenate([each.min(2), each.max(2), x[..., 4:]], axis=-1)


def _vertices(x: Float[Array, "b k c"]) -> Float[Array, "b v 2"]:
    corners = jnp.stack([x[..., [0, 1]], x[..., [2, 1]], x[..., [0, 3]], x[..., [2, 3]]], axis=2)
    return corners.reshape(len(x), -1, 2)


@dataclass(frozen=True)
class Regular:
    """Channels (b, ..., k * order) that stand for the elements: the last axis is k fields of one number per element.

    An element h takes what stood at g to h g, as the energies of an image do: :math:`(h f)(g) = f(h^{-1} g)`.
    """

    def check(self, group: Group, x: Any) -> None:
        """Refuses channels that are no multiple of the order, and groups without a table.

        Args:
            group: What acts.
            x: Channels last.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        if not group.is_closed:
            raise BadArrayError(f"Regular needs a closed group; products are missing from {group.name}.")
        if x.ndim < 2 or x.shape[-1] % group.order:
            raise BadArrayError(
                f"Regular acts on arrays (b, ..., k * {group.order}) for {group.name}: the channels must be a multiple "
                f"of its order; got shape {tuple(x.shape)}."
            )

    def act(self, group: Group, elements: Elements, x: Shaped[Array, "b *c"]) -> Shaped[Array, "b *c"]:
        """Permutes the channels of each field.

        Args:
            group: What acts.
            elements: One for each example; only the index counts.
            x: Channels last.

        Returns:
            The same numbers.
        """
        return _permuted(group, jnp.asarray(group.inverses)[elements.index], x)

    def invert(self, group: Group, elements: Elements, x: Shaped[Array, "b *c"]) -> Shaped[Array, "b *c"]:
        """Puts the channels back.

        Args:
            group: What acts.
            elements: One for each example; only the index counts.
            x: Channels last.

        Returns:
            The same numbers.
        """
        return _permuted(group, elements.index, x)


def _permuted(group: Group, index: Array, x: Shaped[Array, "b *c"]) -> Shaped[Array, "b *c"]:
    fields = x.reshape(*x.shape[:-1], -1, group.order)
    places = jnp.asarray(group.table)[index].reshape(-1, *[1] * (x.ndim - 1), group.order)
    return jnp.take_along_axis(fields, jnp.broadcast_to(places, fields.shape), axis=-1).reshape(x.shape)


@dataclass(frozen=True)
class RegularMaps:
    """Maps (b, h, w, k * order) whose places move and whose channels stand for the elements, as in ``Regular``."""

    def check(self, group: Group, x: Any) -> None:
        """Refuses what ``Images`` or ``Regular`` refuses.

        Args:
            group: Of the plane.
            x: Maps.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        Images().check(group, x)
        Regular().check(group, x)

    def act(self, group: Group, elements: Elements, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b h w c"]:
        """Turns each map and permutes its channels.

        Args:
            group: Of the plane.
            elements: One for each example.
            x: Maps.

        Returns:
            Maps.
        """
        return Regular().act(group, elements, Images().act(group, elements, x))

    def invert(self, group: Group, elements: Elements, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b h w c"]:
        """Turns each map back and puts its channels back.

        Args:
            group: Of the plane.
            elements: One for each example.
            x: Maps.

        Returns:
            Maps.
        """
        return Images().invert(group, elements, Regular().invert(group, elements, x))


@dataclass(frozen=True)
class VectorMaps:
    """Maps of vectors (b, h, w, 2), such as optical flow: places move, and the vectors turn with them.

    Attributes:
        pixels: Whether the second component points down, as (x, y) in pixels does, and not up.
    """

    pixels: bool = True

    def check(self, group: Group, x: Any) -> None:
        """Refuses what ``Images`` refuses, and other channels than two.

        Args:
            group: Of the plane.
            x: Maps.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        Images().check(group, x)
        if x.shape[-1] != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise BadArrayError(
                f"VectorMaps acts on floating-point maps (b, height, width, 2); got {tuple(x.shape)} of {x.dtype}."
            )

    def act(self, group: Group, elements: Elements, x: Float[Array, "b h w 2"]) -> Float[Array, "b h w 2"]:
        """Turns each map, and its vectors.

        Args:
            group: Of the plane.
            elements: One for each example.
            x: Maps.

        Returns:
            Maps.
        """
        return multiplied(elements.matrix, Images().act(group, elements, x), 1, self.pixels)

    def invert(self, group: Group, elements: Elements, x: Float[Array, "b h w 2"]) -> Float[Array, "b h w 2"]:
        """Turns each map back, and its vectors.

        Args:
            group: Of the plane.
            elements: One for each example.
            x: Maps.

        Returns:
            Maps.
        """
        back = multiplied(inverse_matrix(elements.matrix), x, 1, self.pixels)
        return Images().invert(group, elements, back)
