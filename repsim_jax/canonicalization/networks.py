"""Which small network looks at views? Any will do for equivariance: it need not be equivariant, nor trained."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from repsim_jax.encoders.convnet import PatchConv
from repsim_jax.errors import BadArrayError

# Maps are halved until they are this large; smaller ones no longer say where things are.
_LEAST_MAP = 4
# Views that a processor looks at together: the maps of 256 do not fit its caches, which took 3.5 times as long, and
# gradients, for which maps are computed twice rather than kept, 1.7 times.
_BLOCK = 16
# Networks of like sizes share the program that draws their numbers.
_DRAWN_AT_ONCE = 4096


@dataclass(frozen=True)
class ViewNetwork:
    """A small convolutional network of views; equal ones share compiled programs.

    Each view is standardized first. Places are told apart: the last map goes whole into the linear output.

    Attributes:
        input_shape: (height, width, channels) of a view.
        widths: Channels of each 3 x 3 convolution; each halves a map that is larger than 4 x 4.
        num_outputs: Size q of the vector.
    """

    input_shape: tuple[int, int, int]
    widths: tuple[int, ...] = (16, 16, 16)
    num_outputs: int = 128

    def __post_init__(self) -> None:
        sizes = (*self.input_shape, *self.widths, self.num_outputs)
        if len(self.input_shape) != 3 or any(type(size) is not int or size < 1 for size in sizes):
            raise BadArrayError(
                f"ViewNetwork needs whole sizes >= 1 and input_shape (height, width, channels), got {self}."
            )

    def initial(self, key: jax.Array) -> Any:
        """Draws parameters.

        Args:
            key: Random key.

        Returns:
            A pytree.
        """
        return drawn(key, _structure(self).state)

    def __call__(self, params: Any, rest: Any, views: Float[Array, "b h w c"]) -> Float[Array, "b q"]:
        """Represents views.

        Args:
            params: From ``initial``.
            rest: Nothing.
            views: Of ``input_shape``.

        Returns:
            Vectors.
        """
        del rest

        def vectors(part: jax.Array) -> jax.Array:
            return nnx.merge(_structure(self).graphdef, params)(part)

        if len(views) <= _BLOCK or len(views) % _BLOCK or jax.default_backend() != "cpu":
            return vectors(views)
        blocks = views.reshape(-1, _BLOCK, *views.shape[1:])
        return jax.lax.map(jax.checkpoint(vectors), blocks).reshape(len(views), -1)


class _Module(nnx.Module):
    def __init__(self, network: ViewNetwork, *, rngs: nnx.Rngs):
        h, w, inputs = network.input_shape
        self.num_blocks = len(network.widths)
        for i, outputs in enumerate(network.widths):
            stride = 2 if min(h, w) > _LEAST_MAP else 1
            h, w = -(-h // stride), -(-w // stride)
            setattr(self, f"block_{i}", PatchConv(inputs, outputs, stride=stride, rngs=rngs))
            inputs = outputs
        self.head = nnx.Linear(h * w * inputs, network.num_outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = standardized(x)
        for i in range(self.num_blocks):
            x = jax.nn.gelu(getattr(self, f"block_{i}")(x))
        return self.head(x.reshape(len(x), -1))


def standardized(views: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Views of mean zero and spread one, as images of any brightness and contrast are to be judged alike.

    Args:
        views: Of any range.

    Returns:
        The views; zeros where all pixels are equal.
    """
    centered = views - views.mean((1, 2, 3), keepdims=True)
    spread = jnp.sqrt(jnp.square(centered).mean((1, 2, 3), keepdims=True) + 1e-8)
    return centered / spread


class Structure(NamedTuple):
    """A module without numbers.

    Attributes:
        graphdef: What it is made of.
        state: The shapes of its parameters.
    """

    graphdef: Any
    state: Any


def structure_of(make: Callable[[nnx.Rngs], nnx.Module]) -> Structure:
    """Takes a module apart without making it.

    Args:
        make: Makes it from random keys.

    Returns:
        Its structure.
    """
    return Structure(*nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0)))))


@lru_cache(maxsize=64)
def _structure(network: ViewNetwork) -> Structure:
    return structure_of(lambda rngs: _Module(network, rngs=rngs))


def drawn(key: jax.Array, state: Any) -> Any:
    """Draws parameters: normal numbers of variance one over the inputs of a unit, and zeros for biases.

    All are drawn at once: a random generator takes longer to compile than the rest of a network.

    Args:
        key: Random key.
        state: Shapes.

    Returns:
        A tree of arrays.
    """
    leaves, tree = jax.tree.flatten(state)
    sizes = [leaf.size if leaf.ndim > 1 else 0 for leaf in leaves]
    numbers = np.asarray(jax.random.normal(key, (-(-sum(sizes) // _DRAWN_AT_ONCE) * _DRAWN_AT_ONCE,)))
    starts = np.cumsum([0, *sizes])
    arrays = []
    for leaf, start, size in zip(leaves, starts, sizes, strict=False):
        part = numbers[start : start + size] * (leaf.size / leaf.shape[-1]) ** -0.5 if size else np.zeros(leaf.size)
        arrays.append(jnp.asarray(part.reshape(leaf.shape), leaf.dtype))
    return jax.tree.unflatten(tree, arrays)
