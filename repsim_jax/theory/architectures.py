"""Networks that the theorems do not cover: deeper, convolutional, normalized; with their exact tangent kernel."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.encoders.convnet import patches
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.kernels import ntk
from repsim_jax.theory import networks
from repsim_jax.theory.networks import Network, Params

Normalization = Literal["none", "layer", "batch"]
_NORMALIZATIONS = ("none", "layer", "batch")
# Below the variance of any unit that is alive, which is of order one in NTK parametrization.
_EPSILON = 1e-5


@dataclass(frozen=True)
class Encoder:
    r"""A network in NTK parametrization: fully connected, or convolutional where the inputs are images.

    Each hidden layer is :math:`a_{l+1} = \phi(\mathrm{normalize}(a_l V_l^T / \sqrt{\text{fan-in}}))`; a convolution
    does the same with the 3 x 3 neighborhoods of all places, and from the second one on with a stride of 2. The mean
    over places, where there are any, meets the output weights with a factor :math:`M^{-1/2}`. All weights are standard
    normal at the start, so that the limit of large widths M is that of a constant kernel for gradient descent.

    Attributes:
        network: Width (channels, where it is convolutional), outputs, hidden layers and activation.
        normalization: Of the pre-activations, without trainable gain: ``none``; ``layer``, over the units (and places)
            of one example; ``batch``, over the examples (and places) that are given at once.
        image_shape: (height, width, channels) of a flattened input to a convolutional network; None: fully connected.

    Source:
        Jacot et al. 2018, arXiv 1806.07572, for the parametrization; Ba et al. 2016, arXiv 1607.06450, and Ioffe and
        Szegedy 2015, arXiv 1502.03167, for the normalizations.
    """

    network: Network
    normalization: Normalization = "none"
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.normalization not in _NORMALIZATIONS:
            raise UnknownNameError.of("normalization", str(self.normalization), _NORMALIZATIONS)
        shape = self.image_shape
        if shape is not None and (len(shape) != 3 or any(type(one) is not int or one < 1 for one in shape)):
            raise BadArrayError(f"Encoder needs an image_shape (height, width, channels), got {shape!r}.")

    @property
    def num_inputs(self) -> int | None:
        """Features of an input, where the encoder knows them."""
        return None if self.image_shape is None else self.image_shape[0] * self.image_shape[1] * self.image_shape[2]


def init(key: jax.Array, encoder: Encoder, num_inputs: int, dtype: jnp.dtype | type = jnp.float32) -> Params:
    """Standard normal weights.

    Args:
        key: Random key.
        encoder: What is drawn.
        num_inputs: Features d of a flattened input.
        dtype: Of the weights.

    Returns:
        One matrix for each layer, (outputs, inputs) for hidden ones, (M, K) for the last.

    Raises:
        BadArrayError: If the inputs are not the images that the encoder is for.
    """
    if encoder.num_inputs not in (None, num_inputs):
        raise BadArrayError(
            f"an encoder of images {encoder.image_shape} takes {encoder.num_inputs} numbers, got {num_inputs}."
            " Pass the points of image_triplets, not of triplets."
        )
    network = encoder.network
    if encoder.image_shape is None:
        return networks.init(key, network, num_inputs, dtype)
    m = network.width
    inputs = [9 * encoder.image_shape[2], *[9 * m] * (network.num_hidden - 1)]
    shapes = [*((m, one) for one in inputs), (m, network.num_outputs)]
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(one, shape, dtype) for one, shape in zip(keys, shapes, strict=True))


def apply(params: Params, x: Float[Array, "n d"], encoder: Encoder) -> Float[Array, "n k"]:
    """The network. With ``batch`` normalization each row of the result depends on all rows of x.

    Args:
        params: From ``init``, or trained.
        x: Inputs, flattened.
        encoder: What is computed.

    Returns:
        Outputs.
    """
    network, shape = encoder.network, encoder.image_shape
    # Pixels of order one, as units are.
    a = x if shape is None else x.reshape(-1, *shape) * (shape[0] * shape[1] * shape[2]) ** 0.5
    for place, weights in enumerate(params[:-1]):
        if shape is not None:
            a = patches(a, 1 if place == 0 else 2)
        # Fully connected networks see inputs of norm one, whose sum over features is of order one already.
        fan_in = 1 if shape is None and place == 0 else weights.shape[1]
        a = network.phi(_normalized(fan_in**-0.5 * (a @ weights.T), encoder.normalization))
    if shape is not None:
        a = a.mean((1, 2))
    return network.width**-0.5 * (a @ params[-1])


def tangent_kernel(params: Params, x: Float[Array, "n d"], encoder: Encoder) -> Float[Array, "n k n k"]:
    r"""The empirical NTK :math:`\Theta_{ik,jl} = \langle \nabla f_k(x_i), \nabla f_l(x_j) \rangle`, exactly.

    Under ``batch`` normalization :math:`f_k(x_i)` is a function of all examples, through their mean and variance; the
    kernel is taken with the statistics of all of x, as a step of full-batch descent sees them. Its Jacobian is held
    whole there: (3N K) times the number of weights.

    Args:
        params: From ``init``, or trained.
        x: Inputs, flattened.
        encoder: Whose kernel it is.

    Returns:
        The kernel of all examples and outputs.
    """
    if encoder.normalization == "batch":
        return _coupled_kernel(params, x, encoder)
    if encoder.normalization == "none" and encoder.image_shape is None:
        return networks.tangent_kernel(params, x, encoder.network)
    return ntk(_Applied(encoder), params, x, outputs="full")


@dataclass(frozen=True)
class _Applied:
    """An encoder as a function that is equal to itself, so that its kernel compiles once."""

    encoder: Encoder

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return apply(params, x, self.encoder)


def _coupled_kernel(params: Params, x: jax.Array, encoder: Encoder) -> jax.Array:
    outputs, backward = jax.vjp(lambda p: apply(p, x, encoder), params)
    each = jnp.eye(outputs.size, dtype=outputs.dtype).reshape(-1, *outputs.shape)
    # One output after the other: the signals of all at once do not fit into the caches.
    (jacobian,) = jax.lax.map(backward, each)
    flat = [leaf.reshape(outputs.size, -1) for leaf in jacobian]
    return sum(leaf @ leaf.T for leaf in flat).reshape(*outputs.shape, *outputs.shape)  # pyright: ignore


def _normalized(z: jax.Array, normalization: Normalization) -> jax.Array:
    if normalization == "none":
        return z
    axes = tuple(range(1, z.ndim)) if normalization == "layer" else tuple(range(z.ndim - 1))
    centered = z - z.mean(axes, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.square(centered).mean(axes, keepdims=True) + _EPSILON)
