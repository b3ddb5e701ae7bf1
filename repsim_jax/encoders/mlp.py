"""A multilayer perceptron: an encoder of vectors, and the projector or predictor that self-supervised losses want."""

from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float


class MLPConfig(NamedTuple):
    """What changes the network.

    Attributes:
        num_inputs: Numbers of an input.
        widths: Units of each hidden layer.
        num_outputs: Outputs.
        normalized: Whether each hidden layer is normalized (LayerNorm) before its ReLU; unlike BatchNorm it keeps
            examples apart.
    """

    num_inputs: int
    widths: tuple[int, ...] = (64,)
    num_outputs: int = 32
    normalized: bool = False


class MLPBlock(nnx.Module):
    """A linear layer, LayerNorm where wanted, and a ReLU."""

    def __init__(self, inputs: int, outputs: int, *, normalized: bool, rngs: nnx.Rngs):
        self.linear = nnx.Linear(inputs, outputs, rngs=rngs)
        self.norm = nnx.LayerNorm(outputs, rngs=rngs) if normalized else None

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b h"]:
        """Maps features to hidden features.

        Args:
            x: Features.

        Returns:
            Non-negative features.
        """
        hidden = self.linear(x)
        return jax.nn.relu(hidden if self.norm is None else self.norm(hidden))


class MLP(nnx.Module):
    """Blocks ``block_0``, ``block_1``, ..., and a linear ``head``; without hidden layers the head alone.

    Every block is a submodule whose output can be tapped by its name.

    Args:
        config: Its shape.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        self.num_blocks = len(config.widths)
        sizes = (config.num_inputs, *config.widths)
        for i, (inputs, outputs) in enumerate(zip(sizes, config.widths, strict=False)):
            setattr(self, f"block_{i}", MLPBlock(inputs, outputs, normalized=config.normalized, rngs=rngs))
        self.head = nnx.Linear(sizes[-1], config.num_outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "b *shape"]) -> Float[Array, "b o"]:
        """Maps inputs to outputs.

        Args:
            x: Inputs, which are flattened.

        Returns:
            Outputs.
        """
        x = x.reshape(len(x), -1)
        for i in range(self.num_blocks):
            x = getattr(self, f"block_{i}")(x)
        return self.head(x)
