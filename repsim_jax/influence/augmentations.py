"""What should a representation not depend on? Random views of one example, in JAX, drawn by a key.

Each is a frozen dataclass that is called as ``augment(key, x)``; equal ones share compiled programs. Each draws all its
numbers at once: a random generator in a program takes longer to compile than the rest of it.
"""

from dataclasses import dataclass
from math import isqrt, log
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError

# Brightness as the eye weighs it, and two axes of color, about which a hue is turned.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class DigitViews:
    """Small gray images: a shift, another contrast, and noise.

    Attributes:
        shift: Most pixels by which the image moves, along each axis.
        contrast: The image is multiplied by a factor in [1 - contrast, 1 + contrast].
        noise: Standard deviation of what is added to each pixel.
        background: Value of what moves in from beyond the border.
    """

    shift: int = 1
    contrast: float = 0.2
    noise: float = 0.1
    background: float = -0.5

    def __call__(self, key: jax.Array, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Draws a view.

        Args:
            key: Random key.
            x: One image: (h, w), (h, w, c), or (h * h,) where it is square.

        Returns:
            Of the same shape.

        Raises:
            BadArrayError: If a flat image is not square.
        """
        key_change, key_noise = jax.random.split(key)
        side = isqrt(x.size)
        if x.ndim == 1 and side * side != x.size:
            raise BadArrayError(f"DigitViews takes flat images that are square, got {x.size} numbers. Pass (h, w).")
        image = x.reshape(side, side) if x.ndim == 1 else x
        border = [(self.shift, self.shift)] * 2 + [(0, 0)] * (image.ndim - 2)
        padded = jnp.pad(image, border, constant_values=self.background)
        change = jax.random.uniform(key_change, (3,), x.dtype)
        by = (change[:2] * (2 * self.shift + 1)).astype(int)
        moved = jax.lax.dynamic_slice(padded, (*by, *([0] * (image.ndim - 2))), image.shape).reshape(x.shape)
        factor = 1 + self.contrast * (2 * change[2] - 1)
        return factor * moved + self.noise * jax.random.normal(key_noise, x.shape, x.dtype)


@dataclass(frozen=True)
class ImageViews:
    """Color images: a crop brought to full size, a flip, other colors, sometimes gray; a rotation and a hole if wanted.

    Attributes:
        area: Least and largest share of the image that a crop covers; its aspect ratio is from 3/4 to 4/3.
        flip: Probability of mirroring left and right.
        jitter: Probability that colors change.
        brightness: Brightness is multiplied by a factor in [1 - brightness, 1 + brightness].
        contrast: Likewise the distance to the mean brightness of the image.
        saturation: Likewise the distance of each pixel to its own brightness.
        hue: Most turns by which hues move, in [0, 0.5].
        gray: Probability that all color goes.
        degrees: Most degrees by which the image turns, to either side; 0: none.
        hole: Side of a square that is made gray, as a share of the image's; 0: none.
        low: Value of black.
        high: Value of white.

    Source:
        Chen et al. 2020, arXiv 2002.05709, appendix A, with their settings for CIFAR-10 (jitter of half strength, no
        blur). The hole is DeVries and Taylor 2017, arXiv 1708.04552.

    Differs:
        Brightness, contrast, saturation and hue change in this order, not in a random one; a hue is turned in the YIQ
        color space.
    """

    area: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    gray: float = 0.2
    degrees: float = 0.0
    hole: float = 0.0
    low: float = -0.5
    high: float = 0.5

    def __call__(self, key: jax.Array, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Draws a view.

        Args:
            key: Random key.
            x: One image of values in [low, high], of one or three channels.

        Returns:
            Of the same shape and range.

        Raises:
            BadArrayError: If it is no image of one or three channels.
        """
        if x.ndim != 3 or x.shape[-1] not in (1, 3):
            raise BadArrayError(f"ImageViews takes images (height, width, 1 or 3 channels), got {x.shape}.")
        drawn = _Drawn(*jax.random.uniform(key, (len(_Drawn._fields),), x.dtype))
        image = _cropped(drawn, (x - self.low) / (self.high - self.low), self.area)
        image = jnp.where(drawn.flip < self.flip, image[:, ::-1], image)
        if self.degrees:
            image = _rotated(image, jnp.deg2rad(self.degrees * (2 * drawn.turn - 1)))
        if self.jitter:
            image = jnp.where(drawn.jitter < self.jitter, self._recolored(drawn, image), image)
        if x.shape[-1] == 3:
            image = jnp.where(drawn.gray < self.gray, _brightness(image), image)
        if self.hole:
            image = _punched(drawn, image, self.hole)
        return (image * (self.high - self.low) + self.low).astype(x.dtype)

    def _recolored(self, drawn: "_Drawn", image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        def factor(share: jax.Array, width: float) -> jax.Array:
            least = max(0.0, 1 - width)
            return least + (1 + width - least) * share

        changed = jnp.clip(image * factor(drawn.brightness, self.brightness), 0, 1)
        middle = _brightness(changed).mean()
        changed = jnp.clip(middle + (changed - middle) * factor(drawn.contrast, self.contrast), 0, 1)
        if image.shape[-1] == 3:
            gray = _brightness(changed)
            changed = jnp.clip(gray + (changed - gray) * factor(drawn.saturation, self.saturation), 0, 1)
            changed = jnp.clip(changed @ _hue_turned(2 * np.pi * self.hue * (2 * drawn.hue - 1)), 0, 1)
        return changed


class _Drawn(NamedTuple):
    """Random numbers in [0, 1), one for each choice."""

    area: jax.Array
    ratio: jax.Array
    row: jax.Array
    column: jax.Array
    flip: jax.Array
    turn: jax.Array
    jitter: jax.Array
    brightness: jax.Array
    contrast: jax.Array
    saturation: jax.Array
    hue: jax.Array
    gray: jax.Array
    hole_row: jax.Array
    hole_column: jax.Array


def _cropped(drawn: _Drawn, image: Float[Array, "h w c"], area: tuple[float, float]) -> Float[Array, "h w c"]:
    """A random window inside the image, resampled to the whole size."""
    h, w, _ = image.shape
    share = area[0] + (area[1] - area[0]) * drawn.area
    ratio = jnp.exp(log(4 / 3) * (2 * drawn.ratio - 1))
    size = jnp.minimum(jnp.sqrt(share * jnp.stack([1 / ratio, ratio])), 1.0)
    start = jnp.stack([drawn.row, drawn.column]) * (1 - size)
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), 1 / size, -start / size * jnp.array([h, w]), "linear"
    )


def _rotated(image: Float[Array, "h w c"], angle: jax.Array) -> Float[Array, "h w c"]:
    """Turned about the center, with what is beyond the border mirrored."""
    h, w, _ = image.shape
    rows, columns = jnp.mgrid[:h, :w] - jnp.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    places = [cosine * rows - sine * columns + (h - 1) / 2, sine * rows + cosine * columns + (w - 1) / 2]
    turned = [
        jax.scipy.ndimage.map_coordinates(image[..., c], places, order=1, mode="reflect") for c in range(image.shape[2])
    ]
    return jnp.stack(turned, axis=-1)


def _punched(drawn: _Drawn, image: Float[Array, "h w c"], side: float) -> Float[Array, "h w c"]:
    """A gray square, whose center may be anywhere."""
    h, w, _ = image.shape
    rows, columns = (jnp.arange(h) + 0.5) / h, (jnp.arange(w) + 0.5) / w
    inside = (jnp.abs(rows - drawn.hole_row) < side / 2)[:, None] & (jnp.abs(columns - drawn.hole_column) < side / 2)[
        None, :
    ]
    return jnp.where(inside[..., None], 0.5, image)


def _brightness(image: Float[Array, "h w c"]) -> Float[Array, "h w 1"]:
    if image.shape[-1] == 1:
        return image
    return (image @ jnp.asarray(_YIQ[0], image.dtype))[..., None]


def _hue_turned(turn: jax.Array) -> Float[Array, "3 3"]:
    """Turns colors about the axis of grays; to be multiplied from the right."""
    cosine, sine = jnp.cos(turn), jnp.sin(turn)
    turned = jnp.eye(3, dtype=turn.dtype).at[1:, 1:].set(jnp.array([[cosine, -sine], [sine, cosine]]))
    to, back = jnp.asarray(_YIQ, turn.dtype), jnp.asarray(np.linalg.inv(_YIQ), turn.dtype)
    return (back @ turned @ to).T
