"""What does an energy see of an image? A small copy of it, in all orientations of a group, with equal corners."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.canonicalization.groups import Elements, Group
from repsim_jax.canonicalization.planar import moves_pixels, orbit, unmoved
from repsim_jax.errors import BadArrayError


@dataclass(frozen=True)
class Views:
    """How images are brought before an energy; never cropped, since a crop shows other content at each angle.

    Attributes:
        size: Pixels of the longer side, to which larger images are reduced; None keeps all.
        mask: Whether only the inscribed circle is seen, whose content no rotation changes, and zeros beyond; None:
            where the group interpolates.

    Source:
        Measured on photographs turned by 45 degrees, with an untrained network: the chosen element followed in 0.94 of
        them with the circle, 0.88 without, 0.82 with a crop of 0.7.
    """

    size: int | None = 64
    mask: bool | None = None

    def __post_init__(self) -> None:
        if self.size is not None and (type(self.size) is not int or self.size < 1):
            raise BadArrayError(f"Views needs a whole size >= 1, or None for all pixels, got {self.size!r}.")

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a view.

        Args:
            height: Of the image.
            width: Of the image.

        Returns:
            Both, at least 1.
        """
        if self.size is None or max(height, width) <= self.size:
            return height, width
        scale = self.size / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def reduced(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        """Images at the size of views, antialiased.

        Args:
            x: Images.

        Returns:
            Smaller images, or the same.
        """
        b, h, w, c = x.shape
        small = self.shape(h, w)
        return x if small == (h, w) else jax.image.resize(x, (b, *small, c), "linear", antialias=True)

    def orbit(
        self, group: Group, reduced: Float[Array, "b i j c"], *, whole: Group | None = None
    ) -> Float[Array, "g b i j c"]:
        r"""The views :math:`g^{-1} x` of every element.

        Args:
            group: Of the plane.
            reduced: From ``reduced``.
            whole: The group of which that is a part, as it says whether there is a mask; None: itself.

        Returns:
            Views, element by element.
        """
        return self._masked(whole or group, orbit(group, reduced))

    def views(self, group: Group, elements: Elements, reduced: Float[Array, "b i j c"]) -> Float[Array, "b i j c"]:
        r"""The view :math:`g^{-1} x` of each image's own element, with a gradient by its matrix.

        Args:
            group: Of the plane.
            elements: One for each image, perhaps refined.
            reduced: From ``reduced``.

        Returns:
            Views.
        """
        return self._masked(group, unmoved(group, elements, reduced))

    def _masked(self, group: Group, views: Float[Array, "*b i j c"]) -> Float[Array, "*b i j c"]:
        is_masked = not moves_pixels(group) if self.mask is None else self.mask
        if not is_masked:
            return views
        return jnp.where(_circle(*views.shape[-3:-1])[..., None], views, 0)


def _circle(height: int, width: int) -> Any:
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    return np.square(rows)[:, None] + np.square(columns) <= (min(height, width) / 2) ** 2
