"""What would a network say that is equivariant itself? Lifting and group convolutions over C_n and D_n, as a baseline.

Filters are turned, not images: one pass gives a number for each element. It is exact for C4 and D4; for other angles
the filters are interpolated.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from repsim_jax.canonicalization.canonicalizers import Canonicalizer
from repsim_jax.canonicalization.groups import Group
from repsim_jax.canonicalization.networks import Structure, drawn, standardized, structure_of
from repsim_jax.canonicalization.planar import factors, placed, resampled
from repsim_jax.canonicalization.views import Views
from repsim_jax.encoders.convnet import patches
from repsim_jax.errors import BadArrayError

_LEAST_MAP = 8


@dataclass(frozen=True)
class LiftingNetwork:
    """A network over a group of the plane; equal ones share compiled programs.

    Attributes:
        group: C_n or D_n.
        channels: Of the images.
        widths: Fields of each layer; each is a map for every element of the group. The first layer lifts images to
            fields, and the others convolve fields.
        num_outputs: Fields of the output.
        size: Of the filters, odd.
    """

    group: Group
    channels: int
    widths: tuple[int, ...] = (8, 8)
    num_outputs: int = 1
    size: int = 5

    def __post_init__(self) -> None:
        sizes = (self.channels, *self.widths, self.num_outputs, self.size)
        if not self.widths or any(type(one) is not int or one < 1 for one in sizes) or self.size % 2 == 0:
            raise BadArrayError(f"LiftingNetwork needs widths, sizes >= 1 and odd filters, got {self}.")
        if self.group.dim != 2 or not (self.group.is_closed and self.group.is_orthogonal):
            raise BadArrayError(
                f"LiftingNetwork needs a closed group of rotations of the plane, got {self.group.name}."
            )

    def initial(self, key: jax.Array) -> Any:
        """Draws parameters.

        Args:
            key: Random key.

        Returns:
            A pytree.
        """
        return drawn(key, _structure(self).state)

    def regular(self, params: Any, x: Float[Array, "b h w c"]) -> Float[Array, "b k g"]:
        """One number for each output and element, which permute as the image turns: ``Regular`` acts on them.

        Args:
            params: From ``initial``.
            x: Images, square.

        Returns:
            Regular fields; reshaped to (b, k * g) they are what ``Regular`` takes.
        """
        return nnx.merge(_structure(self).graphdef, params)(x)

    def invariant(self, params: Any, x: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """One number for each output, the same in all poses.

        Args:
            params: From ``initial``.
            x: Images, square.

        Returns:
            The means over elements.
        """
        return self.regular(params, x).mean(-1)


class _Module(nnx.Module):
    def __init__(self, network: LiftingNetwork, *, rngs: nnx.Rngs):
        self.group, order = network.group, network.group.order
        self.num_layers = len(network.widths)
        inputs = (network.channels, *(order * width for width in network.widths))
        for i, width in enumerate(network.widths):
            shape = (network.size, network.size, inputs[i], width)
            setattr(self, f"filters_{i}", nnx.Param(jnp.zeros(shape)))  # shapes alone; ``drawn`` gives the numbers
            setattr(self, f"bias_{i}", nnx.Param(jnp.zeros(width)))
        self.head = nnx.Linear(network.widths[-1], network.num_outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        order, x = self.group.order, standardized(x)
        for i in range(self.num_layers):
            bank = filter_bank(self.group, getattr(self, f"filters_{i}")[...], lifts=i == 0)
            x = _convolved(x, bank) + jnp.tile(getattr(self, f"bias_{i}")[...], order)
            x = jax.nn.relu(x)
            if min(x.shape[1:3]) > _LEAST_MAP and x.shape[1] % 2 == x.shape[2] % 2 == 0:
                x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
        fields = x.mean((1, 2)).reshape(len(x), order, -1)
        return jnp.moveaxis(self.head(fields), 1, 2)


def _convolved(x: jax.Array, bank: jax.Array) -> jax.Array:
    """A convolution as one matrix product, since XLA's own has a slow gradient on a CPU."""
    near = patches(x, 1, len(bank))
    return (near.reshape(-1, near.shape[-1]) @ bank.reshape(near.shape[-1], -1)).reshape(*near.shape[:3], -1)


def filter_bank(group: Group, filters: Float[Array, "s s i o"], *, lifts: bool) -> Float[Array, "s s i p"]:
    r"""The filters of every element, one after another: turned, and for fields with their channels permuted.

    .. math:: (g \psi)(y, h) = \psi(g^{-1} y, g^{-1} h)

    Args:
        group: C_n or D_n.
        filters: Of the identity; for fields, the channels are (element, field), elements first.
        lifts: Whether the input is an image, whose channels stay.

    Returns:
        Filters of p = order * o outputs, (element, field).
    """
    s, _, inputs, _ = filters.shape
    parts, banks = factors(group), []
    stacked = jnp.moveaxis(filters, -1, 0)
    bases = [stacked, *(resampled(stacked, matrix) for matrix in parts.distinct[1:])]
    for g in range(group.order):
        turned = placed(bases[int(parts.residuals[g])], int(parts.turns[g]), bool(parts.flips[g]))
        if not lifts:
            fields = turned.reshape(len(turned), s, s, group.order, inputs // group.order)
            places = group.table[group.inverses[g]]
            turned = fields[:, :, :, np.asarray(places)].reshape(turned.shape)
        banks.append(jnp.moveaxis(turned, 0, -1))
    return jnp.concatenate(banks, axis=-1)


@lru_cache(maxsize=32)
def _structure(network: LiftingNetwork) -> Structure:
    return structure_of(lambda rngs: _Module(network, rngs=rngs))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lifted:
    """The energies of a whole orbit from one pass of an equivariant network.

    Attributes:
        network: With one output.
        params: Of the network.
    """

    network: LiftingNetwork = field(metadata={"static": True})
    params: Any

    def of_orbit(self, group: Group, x: Float[Array, "b h w c"]) -> Float[Array, "b g"]:
        """The energies of all elements.

        Args:
            group: The network's.
            x: Images, as the canonicalizer shows them.

        Returns:
            Energies.

        Raises:
            BadArrayError: If the network is of another group.
        """
        if group != self.network.group:
            raise BadArrayError(f"a network over {self.network.group.name} has no energies of {group.name}.")
        return -self.network.regular(self.params, x)[:, 0]

    def __call__(self, views: Float[Array, "m h w c"]) -> Float[Array, " m"]:
        """The energy of the identity.

        Args:
            views: Images.

        Returns:
            One number for each.
        """
        return self.of_orbit(self.network.group, views)[:, 0]


def lifted(
    key: jax.Array,
    channels: int,
    group: Group,
    *,
    views: Views = Views(),  # noqa: B008 (frozen)
    widths: tuple[int, ...] = (8, 8),
    size: int = 5,
) -> Canonicalizer:
    """A canonicalizer of images by an equivariant network, as the baseline of energies of any network.

    Args:
        key: Random key; draws the network.
        channels: Of the images.
        group: C_n or D_n.
        views: What the network sees.
        widths: Fields of each layer.
        size: Of the filters, odd.

    Returns:
        The canonicalizer.

    Raises:
        BadArrayError: If the group is another, or sizes make no sense.

    Source:
        Cohen and Welling 2016, arXiv 1602.07576 (group convolutions); Kaba et al. 2023, arXiv 2211.06489 (as a
        canonicalizer).
    """
    network = LiftingNetwork(group, channels, widths, 1, size)
    return Canonicalizer(group, Lifted(network, network.initial(key)), views=views)
