"""What the networks of influence_lds.py learn from: digits, or the first images of CIFAR-10."""

import io
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.sparse.linalg import eigsh

from repsim_jax.data import open_source
from repsim_jax.influence import Examples, augmented, with_views

CIFAR = "cifar10_train_first4000_lossless.npz"


def moved_digit(key: jax.Array, x: jax.Array) -> jax.Array:
    """A shift by at most half a pixel, another contrast, and noise.

    Args:
        key: Random key.
        x: (8, 8) a digit in [0, 1].

    Returns:
        One view of it.
    """
    key_shift, key_contrast, key_noise = jax.random.split(key, 3)
    shift = jax.random.uniform(key_shift, (2,), minval=-0.5, maxval=0.5)
    shifted = jax.image.scale_and_translate(x, (8, 8), (0, 1), jnp.ones(2), shift, "linear", antialias=False)
    contrast = jax.random.uniform(key_contrast, (), minval=0.8, maxval=1.2)
    return contrast * shifted + 0.1 * jax.random.normal(key_noise, x.shape)


def moved_image(key: jax.Array, x: jax.Array) -> jax.Array:
    """A shift by at most two pixels, perhaps its mirror image, another brightness and contrast.

    Args:
        key: Random key.
        x: (32, 32, 3) an image in [0, 1].

    Returns:
        One view of it.
    """
    key_shift, key_flip, key_contrast, key_light = jax.random.split(key, 4)
    padded = jnp.pad(x, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    down, right = jax.random.randint(key_shift, (2,), 0, 5)
    shifted = jax.lax.dynamic_slice(padded, (down, right, 0), x.shape)
    turned = jnp.where(jax.random.bernoulli(key_flip), shifted[:, ::-1], shifted)
    contrast = jax.random.uniform(key_contrast, (), minval=0.8, maxval=1.2)
    return contrast * (turned - 0.5) + 0.5 + jax.random.uniform(key_light, (), minval=-0.1, maxval=0.1)


def digits() -> np.ndarray:
    """scikit-learn's digits.

    Returns:
        (1797, 8, 8) in [0, 1].
    """
    source = open_source("digits")
    every = np.stack([source.get(i) for i in range(len(source))]).astype(np.float32).reshape(-1, 8, 8)
    return every / every.max()


def cifar(folder: Path) -> np.ndarray:
    """The first 4,000 training images of CIFAR-10, without loss.

    Args:
        folder: Where the file lies.

    Returns:
        (4000, 32, 32, 3) in [0, 1].
    """
    with np.load(folder / CIFAR) as stored:
        image = Image.open(io.BytesIO(stored["png"].tobytes()))
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3).astype(np.float32) / 255


def compressed(
    seed: int, every: np.ndarray, augment: Callable[..., jax.Array], *, n: int, others: int, num_views: int, size: int
) -> tuple[Examples, Examples]:
    """Some images and their views along the first principal directions of all images.

    Args:
        seed: Draws the images and their views.
        every: All images.
        augment: Draws one view.
        n: How many to train on.
        others: How many more.
        num_views: Views of each.
        size: Principal directions.

    Returns:
        Training examples, and others.
    """
    rows = np.random.default_rng(seed).permutation(len(every))[: n + others]
    seen = np.asarray(augmented(jax.random.key(seed), every[rows], augment, num_views=num_views).seen())
    flat = every.reshape(len(every), -1)
    directions = eigsh(np.cov(flat.T), k=size, v0=np.ones(flat.shape[1]))[1]
    scale = ((flat - flat.mean(0)) @ directions).std()
    short = ((seen.reshape(*seen.shape[:2], -1) - flat.mean(0)) @ directions / scale).astype(np.float32)
    return with_views(short[:n, 0], short[:n, 1:]), with_views(short[n:, 0], short[n:, 1:])
