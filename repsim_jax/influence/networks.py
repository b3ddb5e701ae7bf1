"""Which small network learns from data alone? An encoder, and the projector and predictor that its objective wants."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from repsim_jax.encoders import MLP, ConvNet, ConvNetConfig, MLPConfig
from repsim_jax.errors import BadArrayError, UnknownNameError

_KINDS = ("mlp", "convnet")


@dataclass(frozen=True)
class Network:
    """The shape of a network; equal ones share compiled programs, as their functions are equal too.

    Attributes:
        input_shape: Of an example; (height, width, channels) for a convnet.
        kind: "mlp" or "convnet", the encoder.
        widths: Hidden units of the MLP; channels of each convolution.
        num_features: Size d of the representation, the encoder's linear output.
        hidden: Units between the spatial mean and the representation; of the convnet alone.
        strides: Of the convolutions; None is 2 for each.
        projector: Hidden units of the projector, and last the size q of the embedding; empty for none.
        predictor: Hidden units of the predictor, whose output is as large as the embedding; empty for none. BYOL and
            SimSiam need one.
        normalized: Whether hidden layers of projector and predictor are normalized (LayerNorm). BatchNorm, which mixes
            examples, would leave the influence of one undefined.
    """

    input_shape: tuple[int, ...]
    kind: Literal["mlp", "convnet"] = "mlp"
    widths: tuple[int, ...] = (128,)
    num_features: int = 64
    hidden: int = 128
    strides: tuple[int, ...] | None = None
    projector: tuple[int, ...] = (64, 32)
    predictor: tuple[int, ...] = ()
    normalized: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UnknownNameError.of("kind of network", str(self.kind), _KINDS)
        sizes = (*self.input_shape, *self.widths, self.num_features, self.hidden, *self.projector, *self.predictor)
        if not self.input_shape or any(type(size) is not int or size < 1 for size in sizes):
            raise BadArrayError(f"Network needs whole sizes >= 1 and an input_shape, got {self}.")
        if self.kind == "convnet" and (len(self.input_shape) != 3 or not self.widths):
            raise BadArrayError(
                f"a convnet takes images (height, width, channels) and has widths: got input_shape {self.input_shape}, "
                f"widths {self.widths}."
            )

    @property
    def represent(self) -> "Represent":
        """``represent(params, x)`` gives the representations (n, d)."""
        return Represent(self)

    @property
    def embed(self) -> "Embed":
        """``embed(params, x)`` gives the embeddings (n, q) that the objective is trained on."""
        return Embed(self)

    @property
    def predict(self) -> "Predict":
        """``predict(params, z)`` gives what the predictor makes of embeddings (n, q)."""
        return Predict(self)

    def initial(self, key: jax.Array) -> dict[str, Any]:
        """Draws parameters.

        Args:
            key: Random key.

        Returns:
            Those of the "encoder", and of the "projector" and "predictor" where there are any.
        """
        return _initial(key, network=self)


@dataclass(frozen=True)
class Represent:
    """The encoder of a network."""

    network: Network

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        """Represents.

        Args:
            params: Of the network.
            x: Examples (n, ...).

        Returns:
            (n, d) representations.
        """
        return nnx.merge(_parts(self.network)["encoder"].graphdef, params["encoder"])(x)


@dataclass(frozen=True)
class Embed:
    """The encoder and the projector of a network."""

    network: Network

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        """Embeds.

        Args:
            params: Of the network.
            x: Examples (n, ...).

        Returns:
            (n, q) embeddings.
        """
        rows = Represent(self.network)(params, x)
        if not self.network.projector:
            return rows
        return nnx.merge(_parts(self.network)["projector"].graphdef, params["projector"])(rows)


@dataclass(frozen=True)
class Predict:
    """The predictor of a network."""

    network: Network

    def __call__(self, params: Any, z: jax.Array) -> jax.Array:
        """Predicts.

        Args:
            params: Of the network.
            z: Embeddings (n, q).

        Returns:
            (n, q) predictions.
        """
        return nnx.merge(_parts(self.network)["predictor"].graphdef, params["predictor"])(z)


class _Part(NamedTuple):
    graphdef: Any
    make: Any


@lru_cache(maxsize=64)
def _parts(network: Network) -> dict[str, _Part]:
    """The structure of each part, without numbers."""

    def part(make: Any) -> _Part:
        return _Part(nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))[0], make)

    parts = {"encoder": part(lambda rngs: _encoder(network, rngs))}
    size, d = (network.projector or (network.num_features,))[-1], network.num_features
    if network.projector:
        config = MLPConfig(d, network.projector[:-1], size, network.normalized)
        parts["projector"] = part(lambda rngs: MLP(config, rngs=rngs))
    if network.predictor:
        predictor = MLPConfig(size, network.predictor, size, network.normalized)
        parts["predictor"] = part(lambda rngs: MLP(predictor, rngs=rngs))
    return parts


def _encoder(network: Network, rngs: nnx.Rngs) -> nnx.Module:
    if network.kind == "mlp":
        return MLP(MLPConfig(int(np.prod(network.input_shape)), network.widths, network.num_features), rngs=rngs)
    strides = network.strides or (2,) * len(network.widths)
    config = ConvNetConfig(network.widths, network.hidden, network.num_features, network.input_shape[-1], strides)
    return ConvNet(config, rngs=rngs)


@partial(jax.jit, static_argnames=("network",))
def _initial(key: jax.Array, *, network: Network) -> dict[str, Any]:
    parts = _parts(network)
    keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
    return {name: nnx.split(part.make(nnx.Rngs(keys[name])))[1] for name, part in parts.items()}
