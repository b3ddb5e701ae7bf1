"""Real photographs and fixed keys for the tests of canonicalization."""

from functools import cache

import jax
import numpy as np

KEY = jax.random.key(0)


@cache
def photographs(size: int, num: int = 4) -> np.ndarray:
    """Crops (num, size, size, 3) of scikit-learn's two photographs, float32 in [0, 1]."""
    from sklearn.datasets import load_sample_images

    pictures = np.asarray(load_sample_images()["images"])
    places = np.random.default_rng(size).integers(0, 400 - size, size=(num, 2))
    crops = [pictures[i % 2][r : r + size, c : c + size] for i, (r, c) in enumerate(places)]
    return np.stack(crops).astype(np.float32) / 255


def turned(x: np.ndarray, index: int, n: int = 4) -> np.ndarray:
    """The element of C4 or D4 by NumPy alone: mirrored first where the index says so, then turned."""
    return np.rot90(x[:, :, ::-1] if index >= n else x, index % n * 4 // n, axes=(1, 2))
