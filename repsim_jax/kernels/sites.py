"""Where weights meet signals: a product, convolution or sum, as a (blocks, positions, inputs) x outputs product."""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# A weight that is added to a signal of its own shape: one position, one input that is 1.
ADDING = ("add", "sub")
# Parameters of a convolution's equation that the function of JAX does not take.
_NOT_ARGUMENTS = ("lhs_shape", "rhs_shape")


class Site(NamedTuple):
    r"""One equation where a weight meets a signal: :math:`y_{bsf} = \sum_k a_{bsk} w_{bkf}` up to the order of axes.

    Its Jacobian in the weight is :math:`\sum_s a_{bsk} \, \partial f / \partial y_{bsf}`.

    Attributes:
        name: Of the primitive.
        params: Of the equation.
        weight_first: Whether the weight is the first operand.
        weight_shape: As the equation takes it.
        output_shape: As the equation gives it.
        output_dtype: Likewise.
    """

    name: str
    params: dict[str, Any]
    weight_first: bool
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    output_dtype: Any

    def inputs(self, signal: jax.Array) -> Float[Array, "b s k"]:
        """The signal, as blocks, positions and inputs.

        Args:
            signal: The operand beside the weight.

        Returns:
            a of the equation above.
        """
        if self.name in ADDING:
            return jnp.ones((1, 1, 1), signal.dtype)
        return self._patches(signal) if self.name == "conv_general_dilated" else self._dense_inputs(signal)

    def projected(self, signal: jax.Array, projection: Float[Array, "b k r"]) -> Float[Array, "b s r"]:
        """The inputs times a matrix; for a plain convolution another convolution, in which no patch is formed.

        Args:
            signal: The operand beside the weight.
            projection: One matrix for each block.

        Returns:
            a p of the equation above.
        """
        if self.name != "conv_general_dilated" or len(projection) > 1:
            return jnp.einsum("bsk,bkr->bsr", self.inputs(signal), projection)
        out_axis, in_axis, *window = self.params["dimension_numbers"].rhs_spec
        sizes = [self.weight_shape[axis] for axis in (*window, in_axis)]
        kernel = projection[0].reshape(*sizes, -1).transpose(np.argsort((*window, in_axis, out_axis)))
        options = {name: value for name, value in self.params.items() if name not in _NOT_ARGUMENTS}
        return self._channels(jax.lax.conv_general_dilated(signal, kernel, **options))

    def outputs(self, signal: jax.Array) -> Float[Array, "b s f"]:
        """What the equation gave, or its cotangent, as blocks, positions and outputs.

        Args:
            signal: Of ``output_shape``.

        Returns:
            y of the equation above.
        """
        if self.name in ADDING:
            return signal.reshape(1, 1, -1)
        return self._channels(signal) if self.name == "conv_general_dilated" else self._dense_outputs(signal)

    def weights(self, weight: jax.Array) -> Float[Array, "b k f"]:
        """The weight, or a gradient in it, as blocks, inputs and outputs.

        Args:
            weight: Of ``weight_shape``.

        Returns:
            w of the equation above.
        """
        if self.name in ADDING:
            return weight.reshape(1, 1, -1)
        if self.name == "conv_general_dilated":
            numbers, groups = self.params["dimension_numbers"], self.params["feature_group_count"]
            out_axis, in_axis, *window = numbers.rhs_spec
            ordered = weight.transpose(*window, in_axis, out_axis)
            split = ordered.reshape(-1, groups, weight.shape[out_axis] // groups)
            return split.transpose(1, 0, 2)
        contracted, batch = (axes[0 if self.weight_first else 1] for axes in self.params["dimension_numbers"])
        free = tuple(axis for axis in range(weight.ndim) if axis not in (*contracted, *batch))
        sizes = [math.prod(weight.shape[axis] for axis in axes) for axes in (batch, contracted, free)]
        return weight.transpose(*batch, *contracted, *free).reshape(sizes)

    def num_outputs(self) -> int:
        """Of the weight at each position.

        Returns:
            b x f of the equation above.
        """
        if self.name in ADDING:
            return math.prod(self.weight_shape)
        if self.name == "conv_general_dilated":
            return self.weight_shape[self.params["dimension_numbers"].rhs_spec[0]]
        contracted, _ = self.params["dimension_numbers"]
        axes = contracted[0 if self.weight_first else 1]
        return math.prod(self.weight_shape) // max(1, math.prod(self.weight_shape[axis] for axis in axes))

    def num_positions(self) -> int:
        """Where the weight meets the signal.

        Returns:
            s of the equation above.
        """
        return jax.eval_shape(self.outputs, jax.ShapeDtypeStruct(self.output_shape, self.output_dtype)).shape[1]

    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Contracted and batch axes of the signal, and how many free axes the weight has."""
        contracted, batch = self.params["dimension_numbers"]
        side, other = (1, 0) if self.weight_first else (0, 1)
        free = len(self.weight_shape) - len(contracted[other]) - len(batch[other])
        return tuple(contracted[side]), tuple(batch[side]), free

    def _dense_inputs(self, signal: jax.Array) -> jax.Array:
        contracted, batch, _ = self._axes()
        free = tuple(axis for axis in range(signal.ndim) if axis not in (*contracted, *batch))
        sizes = [math.prod(signal.shape[axis] for axis in axes) for axes in (batch, free, contracted)]
        return signal.transpose(*batch, *free, *contracted).reshape(sizes)

    def _dense_outputs(self, signal: jax.Array) -> jax.Array:
        _, batch, free = self._axes()
        blocks = math.prod(signal.shape[: len(batch)])
        rest = signal.shape[len(batch) :]
        if self.weight_first:
            return signal.reshape(blocks, math.prod(rest[:free]), -1).swapaxes(1, 2)
        return signal.reshape(blocks, math.prod(rest[: len(rest) - free]), -1)

    def _patches(self, signal: jax.Array) -> jax.Array:
        """Shifted slices of the padded signal: XLA's convolutions are slow inside a compiled loop on a CPU."""
        numbers, groups = self.params["dimension_numbers"], self.params["feature_group_count"]
        channels_last = (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
        edges = [(low, high, inner - 1) for (low, high), inner in self._padding()]
        zero = jnp.zeros((), signal.dtype)
        padded = jax.lax.pad(signal.transpose(channels_last), zero, [(0, 0, 0), *edges, (0, 0, 0)])
        window = [self.weight_shape[axis] for axis in numbers.rhs_spec[2:]]
        counts = [self.output_shape[axis] for axis in numbers.out_spec[2:]]
        shifted = []
        for offset in itertools.product(*map(range, window)):
            where = zip(offset, self.params["rhs_dilation"], self.params["window_strides"], counts, strict=True)
            cut = tuple(slice(o * d, o * d + (count - 1) * step + 1, step) for o, d, step, count in where)
            shifted.append(padded[:, *cut])
        if groups == 1:  # already in order: nothing is transposed
            patches = jnp.concatenate(shifted, axis=-1)
            return patches.reshape(1, -1, patches.shape[-1])
        patches = jnp.stack(shifted)  # window, n, *space, channels
        split = patches.reshape(len(shifted), -1, groups, patches.shape[-1] // groups)
        return split.transpose(2, 1, 0, 3).reshape(groups, split.shape[1], -1)

    def _padding(self) -> list[tuple[tuple[int, int], int]]:
        return list(zip(self.params["padding"], self.params["lhs_dilation"], strict=True))

    def _channels(self, signal: jax.Array) -> jax.Array:
        numbers, groups = self.params["dimension_numbers"], self.params["feature_group_count"]
        channels_last = signal.transpose(numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
        split = channels_last.reshape(-1, groups, channels_last.shape[-1] // groups)
        return split.transpose(1, 0, 2)


def is_site(name: str, params: dict[str, Any], weight_first: bool) -> bool:
    """Tells whether an equation with a weight for one operand can be a ``Site``.

    Args:
        name: Of the primitive.
        params: Of the equation.
        weight_first: Whether the weight is the first operand.

    Returns:
        True for a matrix product, a sum, and a convolution whose kernel is the weight.
    """
    if name == "conv_general_dilated":
        return not weight_first and params["batch_group_count"] == 1
    return name == "dot_general" or name in ADDING
