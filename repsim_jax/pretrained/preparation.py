"""How does a photograph become what an image model was trained on: resized, cropped, normalized?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.data.batches import Batch
from repsim_jax.errors import AlignmentError, BadArrayError, MissingPackageError

if TYPE_CHECKING:
    from PIL.Image import Image

# Means and standard deviations of red, green and blue, for pixels in 0..1
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)


@dataclass(frozen=True)
class ImagePreparation:
    """Resizes, crops the center and normalizes; call it with images and their ids.

    Attributes:
        size: Side of the square that the model sees, in pixels.
        short_side: What the shorter side is resized to before the crop, in pixels; None squeezes the whole image into
            the square without keeping its proportions.
        mean: Means of red, green and blue, for pixels in 0..1.
        std: Standard deviations of red, green and blue, for pixels in 0..1.
        resample: Pillow's filter: "bicubic", "bilinear", "lanczos", "nearest".
    """

    size: int = 224
    short_side: int | None = 224
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    resample: str = "bicubic"

    def __call__(self, images: Sequence[Any], ids: Sequence[str]) -> Batch:
        """Prepares a few images.

        Args:
            images: PIL images of any mode, or uint8 arrays (h, w, 3) or (h, w).
            ids: One string per image.

        Returns:
            Batch whose inputs are float32 (b, size, size, 3).

        Raises:
            AlignmentError: If there are not as many ids as images.
            BadArrayError: If an image is of another kind, empty, or cannot be decoded; names its id.
            MissingPackageError: If Pillow is not installed.
        """
        if len(images) != len(ids):
            raise AlignmentError(f"prepare wants one id per image: got {len(ids)} ids for {len(images)} images.")
        pixels = np.empty((len(images), self.size, self.size, 3), np.float32)
        for row, (image, one) in enumerate(zip(images, ids, strict=True)):
            pixels[row] = self._resized(as_rgb(image, one))
        pixels = (pixels / 255 - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return Batch(tuple(ids), pixels)

    def _resized(self, image: "Image") -> np.ndarray:
        from PIL.Image import Resampling

        box = self.crop_box(*image.size)
        return np.asarray(image.resize((self.size, self.size), Resampling[self.resample.upper()], box=box))

    def crop_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Which part of an image fills the square; one pass over it equals resizing all and cropping then.

        Args:
            width: Width of the image, in pixels.
            height: Height of the image, in pixels.

        Returns:
            Left, top, right and bottom, in pixels of the image.

        Source:
            torchvision's ``Resize`` (the longer side is truncated to whole pixels) and ``CenterCrop``.
        """
        if self.short_side is None:
            return (0, 0, width, height)
        short = min(width, height)
        resized = [self.short_side if side == short else side * self.short_side // short for side in (width, height)]
        left, top = (round((side - self.size) / 2) for side in resized)
        x, y = width / resized[0], height / resized[1]
        return (left * x, top * y, min((left + self.size) * x, width), min((top + self.size) * y, height))


def as_rgb(image: Any, name: str) -> "Image":
    """Makes an RGB image of what a user may hold.

    Args:
        image: A PIL image, or a uint8 array (h, w, 3) or (h, w).
        name: Its id, for messages.

    Returns:
        The image, decoded.

    Raises:
        BadArrayError: If it is neither, is empty, or cannot be decoded.
        MissingPackageError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackageError.of("pillow", "to resize images", "images") from None
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            raise BadArrayError(
                f"image {name!r}: expected uint8 values 0 to 255 of shape (h, w, 3) or (h, w), "
                f"got {image.dtype} {image.shape}. Convert it, or pass a PIL image."
            )
        return Image.fromarray(image).convert("RGB")
    if not isinstance(image, Image.Image):
        raise BadArrayError(
            f"image {name!r}: expected a PIL image or a uint8 array, got {type(image).__name__}. "
            "Open files with PIL.Image.open."
        )
    try:
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # PIL decodes only now; it raises either on damaged files
        raise BadArrayError(f"image {name!r} cannot be decoded ({error}): the file is truncated or damaged.") from None
