"""Networks and views on which influence is compared with other tools.

Part of influence_kronfluence.py and speed_influence.py.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax import influence as inf

SEED = 0
_SIDE = 32
# Inputs, outputs and stride of each convolution, then inputs and outputs of each dense layer: 302,528 parameters.
_CONVOLUTIONS = ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1))
_DENSE = ((128, 128), (128, 64))


@dataclass(frozen=True)
class Network:
    """Convolutions of 3 x 3 with one zero around, ReLU after each, their mean over positions, then dense layers.

    Attributes:
        strides: Of the convolutions; none for a network of dense layers alone.
        activation: Between dense layers, "relu" or "tanh".
    """

    strides: tuple[int, ...]
    activation: str

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        """Embeds.

        Args:
            params: Layers in order, each with a kernel and a bias.
            x: Images (n, h, w, c), or rows (n, d) where there are no convolutions.

        Returns:
            (n, q) embeddings.
        """
        depth = len(self.strides)
        for stride, layer in zip(self.strides, params[:depth], strict=True):
            dimensions, zeros = ("NHWC", "HWIO", "NHWC"), ((1, 1), (1, 1))
            x = jax.lax.conv_general_dilated(x, layer["kernel"], (stride, stride), zeros, dimension_numbers=dimensions)
            x = jax.nn.relu(x + layer["bias"])
        x = x.mean((1, 2)) if depth else x
        for layer in params[depth:-1]:
            x = (
                jax.numpy.tanh(x @ layer["kernel"] + layer["bias"])
                if self.activation == "tanh"
                else (jax.nn.relu(x @ layer["kernel"] + layer["bias"]))
            )
        return x @ params[-1]["kernel"] + params[-1]["bias"]


class Case(NamedTuple):
    """A network with weights, and two views of each example.

    Attributes:
        network: The network.
        params: Its layers in order.
        views: (n, 2, ...).
    """

    network: Network
    params: list[dict[str, np.ndarray]]
    views: np.ndarray

    def problem(self, dtype: Any = jnp.float32) -> inf.Problem:
        """The problem that both sides solve: alignment of two views by the cosine.

        Args:
            dtype: Of all numbers.

        Returns:
            The problem.
        """
        params = jax.tree.map(lambda w: jnp.asarray(w, dtype), self.params)
        views = jnp.asarray(self.views, dtype)
        train = inf.with_views(views[:, 0], views)  # what is not a view plays no part in the alignment of views
        return inf.problem(
            self.network, params, train, objective=inf.SimCLR(), stability=inf.Stability(side="views"), batch_size=64
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights and views by name, for a file.

        Returns:
            Arrays.
        """
        layers = enumerate(self.params)
        return {f"{name}_{i}": w for i, layer in layers for name, w in layer.items()} | {"views": self.views}


def drawn_layers(rng: np.random.Generator, shapes: list[tuple[int, ...]]) -> list[dict[str, np.ndarray]]:
    """Weights that keep the size of signals through ReLUs, and small biases.

    Args:
        rng: Where they are drawn from.
        shapes: Of the kernels.

    Returns:
        Layers.
    """

    def layer(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        kernel = rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5
        return {"kernel": kernel.astype(np.float32), "bias": (0.1 * rng.normal(size=shape[-1])).astype(np.float32)}

    return [layer(shape) for shape in shapes]


def convnet(views: np.ndarray) -> Case:
    """Five convolutions and two dense layers with random weights, for images of 32 x 32 x 3.

    Args:
        views: (n, 2, 32, 32, 3).

    Returns:
        The case.
    """
    rng = np.random.default_rng(SEED)
    layers = drawn_layers(rng, [(3, 3, a, b) for a, b, _ in _CONVOLUTIONS] + list(_DENSE))
    return Case(Network(tuple(stride for *_, stride in _CONVOLUTIONS), "relu"), layers, views)


def cifar_views(data: Path | None, n: int) -> np.ndarray:
    """Two crops of each image, flipped at random, with another contrast and noise.

    Args:
        data: Folder with cifar10_train_first4000_lossless.npz; None for random images.
        n: Images, up to 4000.

    Returns:
        (n, 2, 32, 32, 3) float32.
    """
    rng = np.random.default_rng(SEED + 1)
    images = rng.uniform(0, 255, (n, _SIDE, _SIDE, 3)) if data is None else _decoded(data)[:n]
    padded = np.pad(images / 255 - 0.5, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    views = np.empty((n, 2, _SIDE, _SIDE, 3), np.float32)
    for i, image in enumerate(padded):
        for k in range(2):
            row, column = rng.integers(0, 9, 2)
            crop = image[row : row + _SIDE, column : column + _SIDE]
            crop = crop[:, ::-1] if rng.random() < 0.5 else crop
            views[i, k] = crop * rng.uniform(0.7, 1.3, 3) + 0.02 * rng.normal(size=crop.shape)
    return views


def _decoded(data: Path) -> np.ndarray:
    from PIL import Image

    with np.load(data / "cifar10_train_first4000_lossless.npz") as held:
        return np.asarray(Image.open(io.BytesIO(held["png"].tobytes()))).reshape(-1, _SIDE, _SIDE, 3)
