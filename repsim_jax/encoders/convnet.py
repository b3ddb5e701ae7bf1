"""A small convolutional network for small images: the one that the tour and the benchmarks train by the dozen."""

from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float


class ConvNetConfig(NamedTuple):
    """What changes the network.

    Attributes:
        widths: Channels of each 3 x 3 convolution.
        hidden: Features of the dense layer after the spatial mean.
        num_outputs: Outputs, such as classes.
        channels: Channels of the input.
    """

    widths: tuple[int, ...] = (16, 32, 32)
    hidden: int = 64
    num_outputs: int = 10
    channels: int = 1


DIGITS = ConvNetConfig()


class ConvBlock(nnx.Module):
    """A 3 x 3 convolution and a ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(inputs, outputs, (3, 3), strides=stride, rngs=rngs)

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

    The second block halves the resolution. Every block is a submodule whose output can be tapped by its name.
    """

    def __init__(self, config: ConvNetConfig = DIGITS, *, rngs: nnx.Rngs):
        self.num_blocks = len(config.widths)
        for i, (inputs, outputs) in enumerate(zip((config.channels, *config.widths), config.widths, strict=False)):
            setattr(self, f"block_{i}", ConvBlock(inputs, outputs, stride=2 if i == 1 else 1, rngs=rngs))
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
