"""A small convolutional network for small images: the one that the tour and the benchmarks train by the dozen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class ConvNetConfig(NamedTuple):
    """What changes the network.

    Attributes:
        widths: Channels of each 3 x 3 convolution.
        hidden: Features of the dense layer after the spatial mean.
        num_outputs: Outputs, such as classes.
        channels: Channels of the input.
        strides: Stride of each convolution; None halves the resolution at the second one alone.
    """

    widths: tuple[int, ...] = (16, 32, 32)
    hidden: int = 64
    num_outputs: int = 10
    channels: int = 1
    strides: tuple[int, ...] | None = None


DIGITS = ConvNetConfig()


class PatchConv(nnx.Module):
    """A 3 x 3 convolution as one matrix product over patches: weights and numbers of ``nnx.Conv`` with "SAME" padding.

    Inside a compiled loop XLA's own convolutions fall back to one slow thread on a CPU, which made a training step of
    eight blocks of 64 channels a hundred times slower than this.

    Args:
        inputs: Channels that come.
        outputs: Channels that go.
        stride: Of the window, along both axes.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs):
        self.stride = stride
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (3, 3, inputs, outputs)))
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (outputs,)))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        """Maps images or maps to maps.

        Args:
            x: Channels last.

        Returns:
            The maps, (h / stride, w / stride) rounded up.
        """
        near = patches(x, self.stride)
        width = near.shape[-1]
        flat = near.reshape(-1, width) @ self.kernel[...].reshape(width, -1) + self.bias[...]
        return flat.reshape(*near.shape[:3], -1)


def patches(x: Float[Array, "b h w c"], stride: int, size: int = 3) -> Float[Array, "b i j p"]:
    """The square neighborhood of every place that a window stops at, with zeros beyond the border ("SAME" padding).

    Args:
        x: Channels last.
        stride: Of the window, along both axes.
        size: Of the window.

    Returns:
        Neighborhoods of size^2 c numbers, row by row, at (h / stride, w / stride) places, rounded up.
    """
    _, h, w, _ = x.shape
    (i, top, bottom), (j, left, right) = _same_padding(h, stride, size), _same_padding(w, stride, size)
    padded = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    shifted = [
        padded[:, row : row + (i - 1) * stride + 1 : stride, column : column + (j - 1) * stride + 1 : stride]
        for row in range(size)
        for column in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)


def _same_padding(length: int, stride: int, size: int) -> tuple[int, int, int]:
    """How many outputs a window has along an axis, and the zeros before and after it."""
    outputs = -(-length // stride)
    zeros = max((outputs - 1) * stride + size - length, 0)
    return outputs, zeros // 2, zeros - zeros // 2


class ConvBlock(nnx.Module):
    """A 3 x 3 convolution and a ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs):
        self.convolution = PatchConv(inputs, outputs, stride=stride, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        """Maps images or maps to maps.

        Args:
            x: Channels last.

        Returns:
            Non-negative maps.
        """
        return jax.nn.relu(self.convolution(x))


class DenseBlock(nnx.Module):
    """A linear layer and a ReLU."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(inputs, outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b h"]:
        """Maps features to hidden features.

        Args:
            x: Features.

        Returns:
            Non-negative features.
        """
        return jax.nn.relu(self.linear(x))


class ConvNet(nnx.Module):
    """Convolutions ``block_0``, ``block_1``, ..., a dense layer ``hidden`` and a linear ``head``.

    Every block is a submodule whose output can be tapped by its name.

    Args:
        config: Its shape.
        rngs: Random keys of the initial parameters.

    Raises:
        ValueError: If there is not one stride per block.
    """

    def __init__(self, config: ConvNetConfig = DIGITS, *, rngs: nnx.Rngs):
        self.num_blocks = len(config.widths)
        strides = config.strides or tuple(2 if i == 1 else 1 for i in range(self.num_blocks))
        if len(strides) != self.num_blocks:
            raise ValueError(f"ConvNet wants one stride per width; got strides {strides} for widths {config.widths}.")
        for i, (inputs, outputs) in enumerate(zip((config.channels, *config.widths), config.widths, strict=False)):
            setattr(self, f"block_{i}", ConvBlock(inputs, outputs, stride=strides[i], rngs=rngs))
        self.hidden = DenseBlock(config.widths[-1], config.hidden, rngs=rngs)
        self.head = nnx.Linear(config.hidden, config.num_outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b o"]:
        """Maps images to outputs.

        Args:
            x: Images, channels last.

        Returns:
            Logits.
        """
        for i in range(self.num_blocks):
            x = getattr(self, f"block_{i}")(x)
        return self.head(self.hidden(x.mean((1, 2))))
