"""Small made-up networks for the tests of ContraSim: what their layers share is known."""

from typing import Any

import numpy as np

from repsim_jax.activations.layers import Layers
from repsim_jax.similarity.contrasim import Options, Training

NUM_EXAMPLES = 64
LAYERS = ("layer_0", "layer_1", "layer_2")
# One shape for all tests, so that what is compiled once serves them all.
SMALL: dict[str, Any] = {"hidden": (16,), "width": 8, "projection": 8, "num_anchors": 16}
SHORT = Training(num_steps=40, batch_size=32, learning_rate=1e-2)


def options(**changes: Any) -> Options:
    return Options(**{**SMALL, **changes})


def ids(n: int = NUM_EXAMPLES) -> tuple[str, ...]:
    return tuple(f"example {i}" for i in range(n))


def isometry(generator: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) with orthonormal rows: a rotation where it is square, an embedding where it is wide."""
    return np.linalg.qr(generator.standard_normal((columns, rows)))[0].T


def networks(
    count: int = 4, *, n: int = NUM_EXAMPLES, width: int = 12, layers: tuple[str, ...] = LAYERS, noise: float = 0.1
) -> dict[str, Layers]:
    """Networks that differ in their seed: each layer shows the same latents of its own, in another basis and place."""
    latents = {name: np.random.default_rng(i).standard_normal((n, 8)) for i, name in enumerate(layers)}
    made = {}
    for seed in range(count):
        generator = np.random.default_rng(100 + seed)
        arrays = {}
        for name, latent in latents.items():
            seen = latent @ isometry(generator, 8, width) + noise * generator.standard_normal((n, width))
            arrays[name] = (generator.uniform(0.5, 2) * seen + generator.standard_normal(width)).astype(np.float32)
        made[f"net_{seed}"] = Layers(f"net_{seed}", arrays, ids(n))
    return made


def pairs(n: int = NUM_EXAMPLES, widths: tuple[int, ...] = (12, 20), noise: float = 0.1) -> dict[str, Layers]:
    """Two encoders of the same examples, such as a sentence and its translation: one latent, other widths and bases."""
    latent = np.random.default_rng(7).standard_normal((n, 8))
    made = {}
    for seed, width in enumerate(widths):
        generator = np.random.default_rng(200 + seed)
        array = latent @ isometry(generator, 8, width) + noise * generator.standard_normal((n, width))
        made[f"side_{seed}"] = Layers(f"side_{seed}", {"x": array.astype(np.float32)}, ids(n))
    return made


def of(layers: Layers, layer: str, wanted: tuple[str, ...]) -> np.ndarray:
    """Rows of some examples."""
    places = {one: i for i, one in enumerate(layers.ids or ())}
    return layers.read(layer, np.asarray([places[one] for one in wanted]))
