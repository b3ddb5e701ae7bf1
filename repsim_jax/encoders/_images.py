"""The check at the door of every image encoder."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def as_images(
    images: Shaped[Array | np.ndarray, "..."], encoder: str, *, least: int = 1
) -> Float[Array, "b height width 3"]:
    """Passes on a batch of images, as a JAX array.

    Args:
        images: What the user passed.
        encoder: The encoder's name, for the message.
        least: Smallest height and width it can see, in pixels.

    Returns:
        The images (b, height, width, 3).

    Raises:
        ValueError: If the shape or dtype is another.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < least:
        raise ValueError(
            f"{encoder} wants images (b, height, width, 3) of at least {least} x {least} pixels; got shape "
            f"{images.shape}. Put examples first and channels last."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{encoder} wants normalized float images; got {images.dtype}. Normalize them first.")
    return jnp.asarray(images)
