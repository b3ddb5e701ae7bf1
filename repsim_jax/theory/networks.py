"""The networks of the theory: wide, fully connected, in NTK parametrization, with their exact tangent kernel."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError, UnknownNameError

Activation = Literal["tanh", "erf", "relu", "gelu", "linear"]
# One matrix for each layer, first layer first: (width, d), (width, width), ..., and last the output's (width, outputs).
Params = tuple[Float[Array, "_ _"], ...]

_ACTIVATIONS = {
    "tanh": jnp.tanh,
    "erf": jax.scipy.special.erf,
    "relu": jax.nn.relu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "linear": lambda z: z,
}


@dataclass(frozen=True)
class Network:
    r"""A fully connected network in NTK parametrization.

    .. math:: f(x) = M^{-1/2} W^T \phi(M^{-1/2} V_L \phi(\dots \phi(V_1 x)))

    All weights are standard normal at the start; the factors :math:`M^{-1/2}` stand in the function, so that one
    learning rate serves all widths M. Inputs of norm one give hidden units of variance one.

    Attributes:
        width: Units M of every hidden layer, at least 2.
        num_outputs: Outputs K.
        num_hidden: Hidden layers L, at least 1; the theorems are about one.
        activation: ``tanh``, ``erf``, ``relu``, ``gelu`` or ``linear``.

    Source:
        Jacot et al. 2018, arXiv 1806.07572; one hidden layer as in arXiv 2403.08673.
    """

    width: int
    num_outputs: int = 2
    num_hidden: int = 1
    activation: Activation = "tanh"

    @property
    def is_smooth(self) -> bool:
        """Whether its gradient depends continuously on the weights."""
        return self.activation != "relu"

    def __post_init__(self) -> None:
        for name, least in (("width", 2), ("num_outputs", 1), ("num_hidden", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise BadArrayError(f"Network needs a whole number {name} >= {least}, got {value!r}.")
        if self.activation not in _ACTIVATIONS:
            raise UnknownNameError.of("activation", str(self.activation), _ACTIVATIONS)

    def phi(self, z: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """The activation.

        Args:
            z: Pre-activations.

        Returns:
            Of the same shape.
        """
        return _ACTIVATIONS[self.activation](z)


def init(key: jax.Array, network: Network, num_inputs: int, dtype: jnp.dtype | type = jnp.float32) -> Params:
    """Standard normal weights.

    Args:
        key: Random key.
        network: Its shape.
        num_inputs: Features d of the input.
        dtype: Of the weights.

    Returns:
        One matrix for each layer.
    """
    m = network.width
    shapes = [(m, num_inputs), *[(m, m)] * (network.num_hidden - 1), (m, network.num_outputs)]
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(one, shape, dtype) for one, shape in zip(keys, shapes, strict=True))


def hidden_layers(params: Params, x: Float[Array, "n d"], network: Network) -> list[tuple[jax.Array, jax.Array]]:
    """All hidden layers.

    Args:
        params: From ``init``, or trained.
        x: Inputs.
        network: Its shape.

    Returns:
        (pre-activations, activations) of each, (n, M).
    """
    activation = _ACTIVATIONS[network.activation]
    layers, a, scale = [], x, 1.0
    for weights in params[:-1]:
        z = scale * (a @ weights.T)
        a = activation(z)
        layers.append((z, a))
        scale = network.width**-0.5
    return layers


def apply(params: Params, x: Float[Array, "n d"], network: Network) -> Float[Array, "n k"]:
    """The network.

    Args:
        params: From ``init``, or trained.
        x: Inputs.
        network: Its shape.

    Returns:
        Outputs.
    """
    return network.width**-0.5 * (hidden_layers(params, x, network)[-1][1] @ params[-1])


def tangent_kernel(params: Params, x: Float[Array, "n d"], network: Network) -> Float[Array, "n k n k"]:
    r"""The empirical NTK :math:`\Theta_{ik,jl} = \langle \nabla f_k(x_i), \nabla f_l(x_j) \rangle`, exactly.

    A layer with inputs a and backpropagated signals b gives :math:`\langle a_i, a_j \rangle \langle b_{ik}, b_{jl}
    \rangle`: no Jacobian is ever formed.

    Args:
        params: From ``init``, or trained.
        x: Inputs.
        network: Its shape.

    Returns:
        The kernel of all examples and outputs.
    """
    scale = network.width**-0.5
    layers = hidden_layers(params, x, network)
    inputs = [x, *(a for _, a in layers[:-1])]
    last = scale**2 * (layers[-1][1] @ layers[-1][1].T)
    kernel = last[:, None, :, None] * jnp.eye(network.num_outputs, dtype=x.dtype)[None, :, None, :]
    slope = jax.vmap(jax.vmap(jax.grad(_ACTIVATIONS[network.activation])))
    signals = scale * slope(layers[-1][0])[:, None, :] * params[-1].T[None]
    for place in reversed(range(network.num_hidden)):
        factor = 1.0 if place == 0 else scale
        flat = signals.reshape(-1, network.width)
        products = (flat @ flat.T).reshape(*signals.shape[:2], *signals.shape[:2])
        kernel += factor**2 * (inputs[place] @ inputs[place].T)[:, None, :, None] * products
        if place > 0:
            signals = factor * (signals @ params[place]) * slope(layers[place - 1][0])[:, None, :]
    return kernel
