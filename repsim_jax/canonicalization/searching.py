"""Where is the energy of an orbit least? The whole orbit, a coarse part of it first, and gradients beyond the grid."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.canonicalization.groups import Elements, Group, exponential
from repsim_jax.errors import BadArrayError

# ``energy_at(elements)`` gives the energy of g^-1 x for each example's own element.
EnergyAt = Callable[[Elements], jax.Array]


@dataclass(frozen=True)
class Search:
    """How the least energy is looked for.

    Attributes:
        coarse: None to look at the whole orbit. A group whose elements are all in the orbit's: they are looked at
            first, and of all others only those around the best of them. Fewer passes, but what is found may be another
            minimum; equivariance under the coarse group stays exact.
        num_steps: Steps of gradient descent from the best element of the grid, for groups that can be refined.
        shrink: Factor in (0, 1) by which each step is shorter than the one before; the first is half the grid's
            spacing.
    """

    coarse: Group | None = None
    num_steps: int = 8
    shrink: float = 0.65

    def __post_init__(self) -> None:
        if type(self.num_steps) is not int or self.num_steps < 0 or not 0 < self.shrink < 1:
            raise BadArrayError(
                f"Search needs num_steps >= 0 and shrink in (0, 1), got {self.num_steps!r} and {self.shrink!r}."
            )


@lru_cache(maxsize=64)
def places_of(coarse: Group, group: Group) -> np.ndarray:
    """Where the elements of one group stand in another.

    Args:
        coarse: The smaller group.
        group: The larger.

    Returns:
        (order of the smaller,) places.

    Raises:
        BadArrayError: If one is not there.
    """
    if coarse.dim == group.dim:
        distances = np.abs(coarse.matrices[:, None] - group.matrices).max((-2, -1))
        if (distances.min(1) < 1e-6).all():
            return distances.argmin(1)
    raise BadArrayError(f"a coarse search needs a group within {group.name}; {coarse.name} has other elements.")


@lru_cache(maxsize=64)
def around(coarse: Group, group: Group) -> np.ndarray:
    """The elements that are no farther from the identity than from any other element of the coarse group.

    Args:
        coarse: The smaller group.
        group: The larger.

    Returns:
        Places in the larger group, without the identity.
    """
    distances = np.linalg.norm(coarse.matrices[:, None] - group.matrices, axis=(-2, -1))
    return np.setdiff1d(np.flatnonzero(distances[0] <= distances.min(0) + 1e-9), [0])


def fine_energies(
    energy_at: EnergyAt, group: Group, coarse: Group, coarse_energies: Float[Array, "b c"]
) -> Float[Array, "b g"]:
    """Looks around the best element of the coarse group.

    Args:
        energy_at: Energies by elements.
        group: The whole one.
        coarse: Part of it.
        coarse_energies: Energies of that part.

    Returns:
        Energies of all; infinite where none was looked at.
    """
    b, rows = len(coarse_energies), jnp.arange(len(coarse_energies))
    places = jnp.asarray(places_of(coarse, group))
    energies = jnp.full((b, group.order), jnp.inf, coarse_energies.dtype).at[:, places].set(coarse_energies)
    best = places[coarse_energies.argmin(-1)]
    table = jnp.asarray(group.table)
    for offset in around(coarse, group):
        index = table[best, int(offset)]
        found = energy_at(group.elements(index, coarse_energies.dtype))
        energies = energies.at[rows, index].min(found)
    return energies


def refined(energy_at: EnergyAt, group: Group, start: Elements, search: Search) -> Elements:
    r"""Descends from an element of the grid along the group: :math:`g \exp(\sum_m t_m A_m)`.

    Steps have given lengths, each a fixed part of the one before, and the direction of the gradient, so that no scale
    of the energy matters. The best of all that were met is kept, so that the energy never rises. The coefficients t
    depend on :math:`g^{-1} x` alone and are the same for an input and for what the grid's own elements make of it.

    Args:
        energy_at: Energies by elements, with a gradient by their matrices.
        group: One that can be refined.
        start: Elements of the grid.
        search: How many steps.

    Returns:
        Elements with the index of the grid and their own matrices.
    """
    length = 0.5 * _spacing(group)

    def moved(coefficients: jax.Array) -> Elements:
        return Elements(start.index, jnp.matmul(start.matrix, exponential(group, coefficients), precision="highest"))

    def total(coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
        energies = energy_at(moved(coefficients))
        return energies.sum(), energies.astype(coefficients.dtype)

    def step(carry: Any, size: jax.Array) -> tuple[Any, None]:
        here, best, least = carry
        gradient, energies = jax.grad(total, has_aux=True)(here)
        better = energies < least
        best, least = jnp.where(better[:, None], here, best), jnp.where(better, energies, least)
        slope = jnp.sqrt(jnp.square(gradient).sum(-1, keepdims=True))
        return (here - size * gradient / jnp.where(slope > 0, slope, 1.0), best, least), None

    origin = jnp.zeros((len(start.index), len(group.generators)), start.matrix.dtype)
    # the last round only looks where the last step led
    sizes = jnp.asarray([length * search.shrink**i for i in range(search.num_steps)] + [0.0], origin.dtype)
    best = jax.lax.scan(step, (origin, origin, jnp.full(len(origin), jnp.inf, origin.dtype)), sizes)[0][1]
    return moved(best)


def _spacing(group: Group) -> float:
    """How far the nearest element of the grid is, in radians or in logarithms of a scale."""
    if group.order == 1:
        return float(np.pi)
    return float(np.linalg.norm(group.matrices[1:] - np.eye(group.dim), ord=2, axis=(1, 2)).min())
