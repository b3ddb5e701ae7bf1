"""Which pose of an input is canonical, and how does it get there? The element of least energy, and its inverse.

:math:`c(x) = \\arg\\min_g E(g^{-1} x)`; the canonical form is :math:`c(x)^{-1} x`. It is the same for an input and for
all that the group makes of it, whatever network the energy is of.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from repsim_jax._compat import is_traced
from repsim_jax.canonicalization.actions import Images
from repsim_jax.canonicalization.energies import reference
from repsim_jax.canonicalization.groups import Elements, Group
from repsim_jax.canonicalization.networks import ViewNetwork
from repsim_jax.canonicalization.planar import orbit
from repsim_jax.canonicalization.replication import EquiadaptImages
from repsim_jax.canonicalization.searching import Search, fine_energies, refined
from repsim_jax.canonicalization.selection import Selection, choose, left_alone
from repsim_jax.canonicalization.views import Views
from repsim_jax.errors import BadArrayError, RepsimError

_STATIC = {"static": True}


class Canonicalized(NamedTuple):
    """Inputs in their canonical pose, and all that was decided on the way.

    Attributes:
        canonical: (b, ...), the inputs under the inverse of their elements.
        elements: c(x) of each input, which takes the canonical form back to it.
        energies: (b, g), of all elements of the grid; infinite where a coarse search did not look.
        margin: (b,), second lowest energy less the least, on the grid.
        num_ties: (b,), elements within the tolerance of the least.
        gated: (b,), whether the gate left an input that would have been moved.
    """

    canonical: Float[Array, "b *shape"]
    elements: Elements
    energies: Float[Array, "b g"]
    margin: Float[Array, " b"]
    num_ties: Int[Array, " b"]
    gated: Bool[Array, " b"]


class Frames(NamedTuple):
    """Elements among which a model's answers are averaged.

    Attributes:
        elements: One per candidate and input: index (f, b), matrix (f, b, d, d).
        weights: (b, f), adding to one.
    """

    elements: Elements
    weights: Float[Array, "b f"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Canonicalizer:
    """A group, an energy, and how the least is looked for and chosen; a pytree, called on inputs.

    Where ``views`` have a ``compat``, ``Images()`` become those of that library.

    Attributes:
        group: What should not matter.
        energy: Called on views; see ``energies``.
        action: What the group does to inputs.
        views: What the energy sees of images; not used for other inputs.
        search: How the least energy is looked for.
        selection: How ties, weights and the gate decide.
    """

    group: Group = field(metadata=_STATIC)
    energy: Any
    action: Any = field(default=Images(), metadata=_STATIC)
    views: Views = field(default=Views(), metadata=_STATIC)
    search: Search = field(default=Search(), metadata=_STATIC)
    selection: Selection = Selection()  # noqa: RUF009

    def __post_init__(self) -> None:
        if self.views.compat is None:
            return
        self.views.check(self.group)
        if self.search.coarse is not None or self.action not in (Images(), EquiadaptImages()):
            raise BadArrayError(
                f"compat={self.views.compat!r} looks at whole orbits of Images(): got {self.search} and {self.action}."
            )
        object.__setattr__(self, "action", EquiadaptImages())

    @property
    def averages(self) -> bool:
        """Whether a wrapped model has to see more than one pose."""
        return self.selection.averages

    def __call__(self, x: Float[Array, "b *shape"]) -> Canonicalized:
        """Brings inputs into their canonical pose.

        Args:
            x: Finite floating-point inputs that the action fits; where they are traced, NaN gives NaN.

        Returns:
            The canonical forms, and the elements that lead back.

        Raises:
            BadArrayError: If there are no inputs, they are not finite, or the action does not fit them.
            RepsimError: If ties are to be sampled, which needs a key: call ``sample``.
        """
        if self.selection.ties == "sample":
            raise RepsimError("ties='sample' draws: call canonicalizer.sample(key, x).")
        return _canonicalized(self, checked(self, x), None)[0]

    def sample(self, key: jax.Array, x: Float[Array, "b *shape"]) -> Canonicalized:
        """Brings inputs into a canonical pose that is drawn among ties, or by the weights of a temperature.

        Args:
            key: Random key.
            x: As in a call.

        Returns:
            The canonical forms, and the elements that lead back.

        Raises:
            BadArrayError: As a call.
        """
        return _canonicalized(self, checked(self, x), key)[0]

    def frames(self, x: Float[Array, "b *shape"]) -> tuple[Canonicalized, Frames]:
        """The canonical poses, and all elements with their weights.

        Args:
            x: As in a call.

        Returns:
            What a call gives, and the elements of the grid with their weights, which are not refined.

        Raises:
            BadArrayError: As a call.
        """
        return _canonicalized(self, checked(self, x), None)


def checked(canonicalizer: Any, x: Any) -> jax.Array:
    """Refuses what cannot be canonicalized.

    Args:
        canonicalizer: With a group and an action.
        x: What the user passed.

    Returns:
        The inputs, as an array of JAX.

    Raises:
        BadArrayError: If there are no inputs, they are not finite floating-point numbers, or do not fit the action.
    """
    x = jnp.asarray(x)
    canonicalizer.action.check(canonicalizer.group, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise BadArrayError(f"a canonicalizer needs floating-point inputs, got {x.dtype}; scale images: x / 255.")
    if len(x) == 0:
        raise BadArrayError(f"a canonicalizer needs at least one input, got shape {x.shape}.")
    if not is_traced(x) and not bool(_are_finite(x)):
        bad = np.flatnonzero(~np.isfinite(np.asarray(x).reshape(len(x), -1)).all(1))
        raise BadArrayError(f"inputs hold NaN or infinity in {len(bad)} rows, the first is {int(bad[0])}.")
    return x


@jax.jit
def _are_finite(x: jax.Array) -> Bool[Array, ""]:
    return jnp.isfinite(x).all()


@jax.jit
def _canonicalized(canonicalizer: Canonicalizer, x: jax.Array, key: jax.Array | None) -> tuple[Canonicalized, Frames]:
    group = canonicalizer.group
    seen = shown(canonicalizer, x)
    energies = orbit_energies(canonicalizer, seen)
    chosen = choose(energies, canonicalizer.selection, key)
    elements = group.elements(chosen.index, x.dtype)
    if group.is_refinable and canonicalizer.search.num_steps:
        better = refined(energy_at(canonicalizer, seen), group, elements, canonicalizer.search)
        stays = left_alone(energies, canonicalizer.selection)
        elements = better._replace(matrix=jnp.where(stays[:, None, None], elements.matrix, better.matrix))
    canonical = canonicalizer.action.invert(group, elements, x)
    found = Canonicalized(canonical, elements, energies, chosen.margin, chosen.num_ties, chosen.gated)
    index = jnp.broadcast_to(jnp.arange(group.order)[:, None], (group.order, len(x)))
    return found, Frames(Elements(index, jnp.asarray(group.matrices, x.dtype)[index]), chosen.weights)


def shown(canonicalizer: Canonicalizer, x: jax.Array) -> jax.Array:
    """What the energy will see in all poses: images at the size of views, other inputs as they are.

    Args:
        canonicalizer: Says how.
        x: Inputs.

    Returns:
        Smaller images, or the inputs.
    """
    return canonicalizer.views.reduced(x) if isinstance(canonicalizer.action, Images) else x


def orbit_views(canonicalizer: Canonicalizer, group: Group, seen: jax.Array) -> Float[Array, "g b *shape"]:
    r"""The views :math:`g^{-1} x` of all elements.

    Args:
        canonicalizer: Says how.
        group: Its group, or a part of it.
        seen: From ``shown``.

    Returns:
        Views, element by element.
    """
    action = canonicalizer.action
    if isinstance(action, Images):
        return canonicalizer.views.orbit(group, seen, whole=canonicalizer.group)

    def one(index: jax.Array) -> jax.Array:
        return action.invert(group, group.elements(jnp.full(len(seen), index), seen.dtype), seen)

    return jax.vmap(one)(jnp.arange(group.order))


def energy_at(canonicalizer: Canonicalizer, seen: jax.Array) -> Callable[[Elements], jax.Array]:
    r"""The energy of :math:`g^{-1} x` as a function of each input's own element.

    Args:
        canonicalizer: Says how.
        seen: From ``shown``.

    Returns:
        A function of elements.
    """
    group, action = canonicalizer.group, canonicalizer.action

    def at(elements: Elements) -> jax.Array:
        if isinstance(action, Images):
            return canonicalizer.energy(canonicalizer.views.views(group, elements, seen))
        return canonicalizer.energy(action.invert(group, elements, seen))

    return at


def orbit_energies(canonicalizer: Canonicalizer, seen: jax.Array) -> Float[Array, "b g"]:
    """The energies of all elements of the grid.

    Args:
        canonicalizer: Says how.
        seen: From ``shown``.

    Returns:
        Energies; infinite where a coarse search does not look.

    Raises:
        BadArrayError: If the energy does not give one number for each view, or a coarse search does not fit the group.
    """
    group, coarse = canonicalizer.group, canonicalizer.search.coarse
    of_orbit = getattr(canonicalizer.energy, "of_orbit", None)
    if of_orbit is not None:
        return of_orbit(group, seen)
    if coarse is not None and not group.is_closed:
        raise BadArrayError(f"a coarse search needs a closed group; products are missing from {group.name}.")
    looked_at = coarse or group
    views = orbit_views(canonicalizer, looked_at, seen)
    energies = canonicalizer.energy(views.reshape(-1, *views.shape[2:]))
    if energies.shape != (looked_at.order * len(seen),):
        raise BadArrayError(
            f"an energy gives one number for each view: got shape {energies.shape} for "
            f"{looked_at.order * len(seen)} views of shape {views.shape[2:]}."
        )
    energies = energies.reshape(looked_at.order, len(seen)).T
    return energies if coarse is None else fine_energies(energy_at(canonicalizer, seen), group, coarse, energies)


def untrained(
    key: jax.Array,
    input_shape: tuple[int, int, int],
    group: Group,
    *,
    views: Views = Views(),  # noqa: B008 (frozen)
    widths: tuple[int, ...] = (16, 16, 16),
    num_outputs: int = 128,
) -> Canonicalizer:
    """A canonicalizer of images with a network that was never trained: equivariant already, and of any pose it likes.

    Args:
        key: Random key; draws the network and the reference vector.
        input_shape: (height, width, channels) of an image.
        group: Of the plane.
        views: What the network sees.
        widths: Channels of its convolutions.
        num_outputs: Size of its vectors.

    Returns:
        The canonicalizer, which ``fit`` would train.
    """
    key_network, key_vector = jax.random.split(key)
    height, width, channels = input_shape
    network = ViewNetwork((*views.shape(height, width, channels), channels), widths, num_outputs)
    energy = reference(key_vector, _Plain(network), network.initial(key_network), num_outputs=num_outputs)
    return Canonicalizer(group, energy, views=views)


@dataclass(frozen=True)
class _Plain:
    """A network as a function of its parameters and views alone."""

    network: ViewNetwork

    def __call__(self, params: Any, views: jax.Array) -> jax.Array:
        return self.network(params, (), views)


def weighted_orbit(group: Group, x: Float[Array, "b h w c"], weights: Float[Array, "b g"]) -> Float[Array, "b h w c"]:
    r"""The sum of all poses of each image by its weights: :math:`\sum_g w_g\, g^{-1} x`.

    Args:
        group: Of the plane.
        x: Images.
        weights: Of the elements.

    Returns:
        Images.
    """
    return jnp.einsum("gb...,bg->b...", orbit(group, x), weights)
