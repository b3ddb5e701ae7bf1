"""What do the pixels themselves say? Simple statistics of images, and how unusual an image is by all of them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.curation.densities import Values
from repsim_jax.linalg import precise_jit

STATISTICS = (
    "brightness", "contrast", "saturation", "sharpness", "roughness", "entropy", "border_uniformity", "flat_share",
)  # fmt: skip
_BINS = 32
_BLOCK = 256
# Pixels that differ from a neighbor by less than this share of the range are flat.
_FLAT = 0.01
# A median absolute deviation is this much of a Gaussian's standard deviation.
_GAUSSIAN = 1.4826


def image_statistics(
    images: Float[Array | np.ndarray, "n h w c"], *, low: float = -0.5, high: float = 0.5
) -> dict[str, Float[np.ndarray, " n"]]:
    """Statistics of pixels, of each image alone.

    Args:
        images: Of one or three channels, at least 3 x 3 pixels.
        low: Value of black.
        high: Value of white.

    Returns:
        "brightness": mean; "contrast": standard deviation of brightness; "saturation": mean range of the channels;
        "sharpness": mean step between neighbors; "roughness": median distance to the mean of four neighbors, which
        noise raises and edges do not; "entropy": of the brightness in 32 bins, in bits; "border_uniformity": minus the
        standard deviation along the border; "flat_share": pixels that equal their right neighbor. All in units of the
        range, besides the entropy.

    Raises:
        BadArrayError: If these are no images.
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or min(images.shape[1:3]) < 3 or not len(images):
        raise BadArrayError(f"image_statistics takes images (n, h, w, 1 or 3), at least 3 x 3, got {images.shape}.")
    rows = _statistics(images, low, high)
    return dict(zip(STATISTICS, np.asarray(rows, np.float64).T, strict=True))


@precise_jit()
def _statistics(images: Float[Array, "n h w c"], low: float, high: float) -> Float[Array, "n s"]:
    return jax.lax.map(lambda image: _of_image((image - low) / (high - low)), images, batch_size=_BLOCK)


def _of_image(image: Float[Array, "h w c"]) -> Float[Array, " s"]:
    gray = image.mean(-1)
    steps = jnp.abs(jnp.diff(gray, axis=1)), jnp.abs(jnp.diff(gray, axis=0))
    around = (gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]) / 4
    bins = jnp.clip((gray * _BINS).astype(int), 0, _BINS - 1).ravel()
    shares = jnp.bincount(bins, length=_BINS) / gray.size
    border = jnp.concatenate([gray[0], gray[-1], gray[1:-1, 0], gray[1:-1, -1]])
    return jnp.stack([
        gray.mean(),
        gray.std(),
        (image.max(-1) - image.min(-1)).mean(),
        (steps[0].mean() + steps[1].mean()) / 2,
        jnp.median(jnp.abs(gray[1:-1, 1:-1] - around)),
        -jnp.where(shares > 0, shares * jnp.log2(jnp.where(shares > 0, shares, 1.0)), 0.0).sum(),
        -border.std(),
        (steps[0] < _FLAT).mean(),
    ])  # fmt: skip


def unusualness(statistics: Mapping[str, Values]) -> Float[np.ndarray, " n"]:
    """How far each image is from the usual, by its most unusual statistic.

    Each statistic is measured from its median in units of its spread (median absolute deviation, of each side of the
    median on its own, as statistics are skewed); the largest of them counts.

    Args:
        statistics: Of n images, by name; from ``image_statistics`` or your own.

    Returns:
        (n,) >= 0; higher is more unusual.

    Raises:
        BadArrayError: If there are none, or they are not finite.
    """
    table = np.stack([np.asarray(column, np.float64) for column in statistics.values()]) if statistics else np.zeros(0)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise BadArrayError("unusualness takes statistics by name, each of n finite numbers.")
    from_middle = table - np.median(table, axis=1, keepdims=True)
    scaled = np.zeros_like(table)
    for side in (1, -1):
        for row, deviations in enumerate(side * from_middle):
            there = deviations > 0
            if there.any():
                spread = _GAUSSIAN * np.median(deviations[there])
                scaled[row, there] = deviations[there] / spread
    return scaled.max(0)
