"""Which images look alike, whatever their size, colors and margins? Small gray windows, without any encoder."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from repsim_jax.influence.curation.hashes import gray_picture

# Side of a window in pixels of the small image, and its share of the image's side: a copy without a tenth of the
# image fits one of nine windows to a fifth of such a pixel.
_SIDE = 8
_SHARE = 0.9
_POSITIONS = (0.0, 0.5, 1.0)


def looks(images: Iterable[Any]) -> Float[np.ndarray, "n 10 64"]:
    """Describes images by what is left when size, colors, brightness and contrast are taken away.

    Args:
        images: Arrays (h, w), (h, w, 1) or (h, w, 3), or PIL images; sizes may differ. As in ``perceptual_hashes``.

    Returns:
        For each image, itself and nine windows of 90 % of its sides, 8 x 8 gray values each, centered and of length
        one. Zero where there is no contrast.

    Raises:
        BadArrayError: If an image is of another shape, empty or not finite; it is named by its row.
        MissingPackageError: If Pillow is not installed.
    """
    small = [_windows(image, row) for row, image in enumerate(images)]
    values = np.asarray(small, np.float32).reshape(-1, 1 + len(_POSITIONS) ** 2, _SIDE * _SIDE)
    values = values - values.mean(2, keepdims=True)
    lengths = np.linalg.norm(values, axis=2, keepdims=True)
    # a window whose gray values differ by rounding of bytes shows nothing
    return np.where(lengths >= _SIDE, values / np.maximum(lengths, 1), 0)


def _windows(image: Any, row: int) -> np.ndarray:
    picture = gray_picture(image, row).convert("F")
    width, height = picture.size
    boxes = [(0.0, 0.0, float(width), float(height))]
    for y in _POSITIONS:
        for x in _POSITIONS:
            left, top = x * (1 - _SHARE) * width, y * (1 - _SHARE) * height
            boxes.append((left, top, left + _SHARE * width, top + _SHARE * height))
    return np.stack([np.asarray(picture.resize((_SIDE, _SIDE), 4, box=box)) for box in boxes])  # 4: means of boxes
