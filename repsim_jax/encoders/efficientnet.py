"""What does an EfficientNet-Lite compute? Tan & Le, "EfficientNet" (ICML 2019), in its Lite variant for small devices.

Lite drops squeeze-and-excitation and uses ReLU6. Every hidden layer is the output of a submodule: "stem", "block_5",
"block_5/expand", "head"; maps are (b, height, width, channels).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from repsim_jax.encoders._images import as_images


class Stage(NamedTuple):
    """Consecutive blocks of one resolution and width, before scaling.

    Attributes:
        repeats: Number of blocks.
        kernel: Side of the depthwise kernel.
        stride: Stride of the first block.
        expansion: How many times wider the inside of a block is.
        width: Output channels.
    """

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


# Table 1 of the paper (EfficientNet-B0)
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class EfficientNetConfig:
    """The shape of an EfficientNet-Lite; the defaults are Lite0.

    Attributes:
        width_factor: Multiplies the channels of every stage (rounded to multiples of 8).
        depth_factor: Multiplies the blocks of every stage but the first and the last (rounded up).
        stages: The stages before scaling.
        stem_width: Channels of the stem; Lite does not scale them.
        head_width: Channels of the head; Lite does not scale them.
        num_classes: Classes of the classifier.
    """

    width_factor: float = 1.0
    depth_factor: float = 1.0
    stages: tuple[Stage, ...] = STAGES
    stem_width: int = 32
    head_width: int = 1280
    num_classes: int = 1000

    def __post_init__(self) -> None:
        if min(self.width_factor, self.depth_factor) <= 0 or not self.stages:
            raise ValueError(f"EfficientNetConfig wants positive factors and at least one stage; got {self}.")

    def block_shapes(self) -> tuple[Stage, ...]:
        """Every block, in depth order, as a stage of one repeat with its scaled width.

        Returns:
            One Stage per block.
        """
        shapes, last = [], len(self.stages) - 1
        for index, stage in enumerate(self.stages):
            scaled = index not in (0, last)
            repeats = math.ceil(stage.repeats * self.depth_factor) if scaled else stage.repeats
            one = stage._replace(repeats=1, width=_round_width(stage.width * self.width_factor))
            shapes += [one, *[one._replace(stride=1)] * (repeats - 1)]
        return tuple(shapes)


class ConvNorm(nnx.Module):
    """Convolution without bias, batch normalization and, where wanted, ReLU6, on (b, height, width, channels)."""

    def __init__(
        self,
        width_in: int,
        width: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
        rngs: nnx.Rngs,
    ):
        self.relu = relu
        self.convolution = nnx.Conv(
            width_in,
            width,
            (kernel, kernel),
            strides=(stride, stride),
            padding="SAME",
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        # epsilon and momentum of the released training code
        self.norm = nnx.BatchNorm(width, use_running_average=True, momentum=0.99, epsilon=1e-3, rngs=rngs)

    def __call__(self, maps: Float[Array, "b height width c"]) -> Float[Array, "b rows columns k"]:
        """Filters and normalizes maps (b, height, width, channels)."""
        maps = self.norm(self.convolution(maps))
        return jax.nn.relu6(maps) if self.relu else maps


class InvertedResidual(nnx.Module):
    """Expand, filter each channel, project; plus the input where the shapes allow it (MobileNetV2's block)."""

    def __init__(self, width_in: int, shape: Stage, *, rngs: nnx.Rngs):
        inside = width_in * shape.expansion
        self.residual = shape.stride == 1 and width_in == shape.width
        self.expand = ConvNorm(width_in, inside, 1, rngs=rngs) if shape.expansion != 1 else None
        self.depthwise = ConvNorm(inside, inside, shape.kernel, stride=shape.stride, groups=inside, rngs=rngs)
        self.project = ConvNorm(inside, shape.width, 1, relu=False, rngs=rngs)

    def __call__(self, maps: Float[Array, "b height width c"]) -> Float[Array, "b rows columns k"]:
        """Maps (b, height, width, c) to (b, rows, columns, k), a stride smaller."""
        inside = maps if self.expand is None else self.expand(maps)
        out = self.project(self.depthwise(inside))
        return maps + out if self.residual else out


class EfficientNet(nnx.Module):
    """An EfficientNet-Lite classifier, channels last; images of any size.

    Built in inference mode (running averages); call ``.train()`` to update the averages.

    Args:
        config: Its shape.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: EfficientNetConfig, *, rngs: nnx.Rngs):
        shapes = config.block_shapes()
        self.num_blocks = len(shapes)
        self.stem = ConvNorm(3, config.stem_width, 3, stride=2, rngs=rngs)
        width = config.stem_width
        for index, shape in enumerate(shapes):
            setattr(self, f"block_{index}", InvertedResidual(width, shape, rngs=rngs))
            width = shape.width
        self.head = ConvNorm(width, config.head_width, 1, rngs=rngs)
        self.classifier = nnx.Linear(config.head_width, config.num_classes, rngs=rngs)

    def __call__(self, images: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "b k"]:
        """Classifies images.

        Args:
            images: Pixels (b, height, width, 3), scaled as (value - 127) / 128 for the released weights.

        Returns:
            Logits (b, classes).

        Raises:
            ValueError: If the images are not (b, height, width, 3) or not floating.
        """
        images = as_images(images, "EfficientNet")
        maps = self.stem(images)
        for index in range(self.num_blocks):
            maps = getattr(self, f"block_{index}")(maps)
        return self.classifier(jnp.mean(self.head(maps), axis=(1, 2)))


def hidden_layers(config: EfficientNetConfig) -> tuple[str, ...]:
    """Names of an EfficientNet's hidden maps, in depth order.

    Args:
        config: Its shape.

    Returns:
        "stem", every block, "head".
    """
    return ("stem", *(f"block_{index}" for index in range(len(config.block_shapes()))), "head")


def _round_width(width: float, divisor: int = 8) -> int:
    """Rounds channels to the divisor without losing more than a tenth, as the released code does."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded
