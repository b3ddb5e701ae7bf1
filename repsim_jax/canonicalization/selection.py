"""Which element is chosen, given the energies of all? The least one; rules for ties, soft weights, and a gate."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from repsim_jax.errors import BadArrayError, UnknownNameError

TIES = ("first", "average", "sample")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Selection:
    r"""How an element is chosen.

    Attributes:
        ties: Of elements whose energies are within ``tolerance`` of the least: "first" takes the least itself and of
            equal ones the first in the list; "average" lets the model see all and averages what it says, which alone is
            equivariant for self-symmetric inputs; "sample" draws one, which is so in expectation.
        tolerance: Difference of energies that counts as a tie.
        temperature: None for the least energy alone. A number weights all elements by :math:`\exp(-E / \tau)`, which
            depends continuously on the input and costs one pass of the model for each element.
        gate: None, or the least gain of energy for which an input is moved: where the identity is within it of the
            least, the input is left as it is. **This gives equivariance up**: an input and its transformed copies are
            all left alone where their energies differ by less, and then have different canonical forms. It buys that
            upright inputs are not turned by mistake. ``Canonicalized.gated`` says where it happened, so that a report
            can tell the price.

    Source:
        The gate: arXiv 2606.24178; soft weights: Dym et al. 2024, arXiv 2402.16077; sampling: Lawrence et al. 2025,
        arXiv 2503.21985.
    """

    ties: str = field(default="first", metadata={"static": True})
    tolerance: float | Float[Array, ""] = 1e-5
    temperature: float | Float[Array, ""] | None = None
    gate: float | Float[Array, ""] | None = None

    def __post_init__(self) -> None:
        if self.ties not in TIES:
            raise UnknownNameError.of("rule for ties", str(self.ties), TIES)
        numbers = {"tolerance": self.tolerance, "temperature": self.temperature, "gate": self.gate}
        for name, value in numbers.items():
            # inside a transformation these are tracers, or placeholders of no type at all
            if isinstance(value, int | float) and not _is_in_range(name, value):
                raise BadArrayError(
                    f"Selection needs temperature > 0, tolerance >= 0 and gate >= 0, got {name} {value!r}."
                )

    @property
    def averages(self) -> bool:
        """Whether the model may have to see more than one pose of an input."""
        return self.ties == "average" or (self.temperature is not None and self.ties != "sample")


def _is_in_range(name: str, value: float) -> bool:
    return 0 <= value < float("inf") and (value > 0 or name != "temperature")


class Chosen(NamedTuple):
    """What a selection makes of energies.

    Attributes:
        index: (b,), the element.
        weights: (b, g), of all elements; one for the chosen one where nothing is averaged.
        margin: (b,), by how much the second lowest energy is above the least; infinite for a group of one element.
        num_ties: (b,), elements within the tolerance of the least, itself included.
        gated: (b,), whether the gate left an input that would have been moved.
    """

    index: Int[Array, " b"]  # pyright: ignore[reportIncompatibleMethodOverride]
    weights: Float[Array, "b g"]
    margin: Float[Array, " b"]
    num_ties: Int[Array, " b"]
    gated: Bool[Array, " b"]


def choose(energies: Float[Array, "b g"], selection: Selection, key: jax.Array | None = None) -> Chosen:
    """Chooses an element for each input.

    Args:
        energies: Of all elements; infinite where one was not looked at.
        selection: How.
        key: Random key, for ties that are sampled.

    Returns:
        The choice.
    """
    order = energies.shape[-1]
    least = energies.min(-1, keepdims=True)
    tied = energies <= least + selection.tolerance
    weights = _weights(energies, tied, selection)
    index = energies.argmin(-1)
    if key is not None:
        index = jax.random.categorical(key, jnp.log(weights), axis=-1)
    stays = left_alone(energies, selection)
    gated = stays & (index != 0)
    index = jnp.where(stays, 0, index)
    one = jax.nn.one_hot(index, order, dtype=energies.dtype)
    if selection.averages:
        one = jnp.where(stays[:, None], one, weights)
    second = jnp.sort(energies, axis=-1)[:, 1] if order > 1 else jnp.full(len(energies), jnp.inf, energies.dtype)
    return Chosen(index.astype(jnp.int32), one, second - least[:, 0], tied.sum(-1), gated)


def left_alone(energies: Float[Array, "b g"], selection: Selection) -> Bool[Array, " b"]:
    """Where the gate leaves an input as it is.

    Args:
        energies: Of all elements, the identity first.
        selection: Says the gate.

    Returns:
        Whether the identity is within the gate of the least; never, without a gate.
    """
    if selection.gate is None:
        return jnp.zeros(len(energies), bool)
    return energies[:, 0] - energies.min(-1) <= selection.gate


def _weights(energies: Float[Array, "b g"], tied: Any, selection: Selection) -> Float[Array, "b g"]:
    if selection.temperature is not None:
        return jax.nn.softmax(-energies / selection.temperature, axis=-1)
    return tied / tied.sum(-1, keepdims=True)
