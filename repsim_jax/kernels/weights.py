"""Which entries of which parameter does an array hold, and times what? Follows weights through reshapes and casts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

# What moves or picks entries, never copies or mixes them, as it acts on an array of positions.
_MOVES: dict[str, Callable[[np.ndarray, dict[str, Any]], np.ndarray]] = {
    "convert_element_type": lambda w, _: w,
    "copy": lambda w, _: w,
    "copy_p": lambda w, _: w,
    "transpose": lambda w, p: w.transpose(p["permutation"]),
    "reshape": lambda w, p: w.reshape(p["new_sizes"]),
    "squeeze": lambda w, p: w.squeeze(tuple(p["dimensions"])),
    "expand_dims": lambda w, p: np.expand_dims(w, p["dimensions"]),
    "broadcast_in_dim": lambda w, p: _with_ones(w, p["shape"], p["broadcast_dimensions"]),
    "rev": lambda w, p: np.flip(w, p["dimensions"]),
    "slice": lambda w, p: _slice(w, p["start_indices"], p["limit_indices"], p["strides"]),
}


def _with_ones(w: np.ndarray, shape: Sequence[int], dimensions: Sequence[int]) -> np.ndarray:
    padded = [1] * len(shape)
    for size, dimension in zip(w.shape, dimensions, strict=True):
        padded[dimension] = size
    return w.reshape(padded)


def _slice(w: np.ndarray, starts: Sequence[int], limits: Sequence[int], strides: Sequence[int] | None) -> np.ndarray:
    return w[tuple(map(slice, starts, limits, strides or (1,) * w.ndim))]


@dataclass(frozen=True)
class Weight:
    """Entries of one parameter, each at most once, times one factor.

    Attributes:
        leaf: Number of the parameter.
        shape: Of the parameter.
        steps: Names and parameters of the primitives that moved the entries.
        factor: What all entries are multiplied with, a number for each example; None is 1.
        scanned: For each enclosing ``scan``, whether it goes along the weight (or holds the same weight at each step).
    """

    leaf: int
    shape: tuple[int, ...]
    steps: tuple[tuple[str, dict[str, Any]], ...] = ()
    factor: Any = None
    scanned: tuple[bool, ...] = ()

    def moved(self, name: str, params: dict[str, Any]) -> "Weight | None":
        """The weight after one primitive.

        Args:
            name: Of the primitive.
            params: Of its equation.

        Returns:
            None where the primitive is not known to move entries only.
        """
        if name not in _MOVES or (name == "reshape" and params.get("dimensions") is not None):
            return None
        if name == "convert_element_type" and not jnp.issubdtype(params["new_dtype"], jnp.floating):
            return None
        return replace(self, steps=(*self.steps, (name, params)))

    def times(self, factor: Any) -> "Weight":
        """The weight times a scalar.

        Args:
            factor: An array with one entry.

        Returns:
            The scaled weight.
        """
        factor = jnp.reshape(factor, ())
        return replace(self, factor=factor if self.factor is None else self.factor * factor)

    def inside_scan(self, *, along: bool) -> "Weight":
        """The weight as the body of a scan sees it.

        Args:
            along: Whether each step takes one slice.

        Returns:
            The weight, or its slice.
        """
        return replace(self, scanned=(*self.scanned, along))

    def entries(self) -> np.ndarray:
        """Flat positions, in the parameter, of the entries that are held; for weights outside of every scan.

        Returns:
            Integers.
        """
        positions = np.arange(int(np.prod(self.shape))).reshape(self.shape)
        for name, params in self.steps:
            positions = _MOVES[name](positions, params)
        return positions.ravel()


def disjoint(weights: Sequence[Weight]) -> bool:
    """Tells whether no entry of a parameter is held twice; in doubt, no.

    Args:
        weights: Of one parameter.

    Returns:
        True for a single weight.
    """
    if len(weights) == 1:
        return True
    if any(weight.scanned for weight in weights):
        return False
    held = np.concatenate([weight.entries() for weight in weights])
    return np.unique(held).size == held.size
