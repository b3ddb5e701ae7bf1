"""Evaluate a function on all pairs of two lists of arrays, compiling it once per distinct shape."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

State = TypeVar("State")


def stacked(states: Sequence[State]) -> list[tuple[np.ndarray, State]]:
    """Stacks states of equal shape.

    Args:
        states: Pytrees of arrays.

    Returns:
        For each distinct shape, in order of first appearance: positions, and the states stacked on a new leading axis.
    """
    positions: dict[Any, list[int]] = {}
    for index, state in enumerate(states):
        positions.setdefault(tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)), []).append(index)
    return [
        (np.asarray(where), jax.tree.map(lambda *leaves: jnp.stack(leaves), *(states[i] for i in where)))
        for where in positions.values()
    ]


def in_layer_order(groups: Sequence[tuple[np.ndarray, jax.Array]], axis: int = 0) -> jax.Array:
    """Undoes ``stacked``: concatenates the groups and puts their entries back in order.

    Args:
        groups: Positions and arrays, as many entries along ``axis`` as positions.
        axis: The axis that counts entries.

    Returns:
        One array.
    """
    if len(groups) == 1:
        return groups[0][1]
    order = np.argsort(np.concatenate([where for where, _ in groups]))
    return jnp.take(jnp.concatenate([part for _, part in groups], axis), order, axis)


def all_pairs(function: Callable[[State, State], jax.Array], a: Sequence[State], b: Sequence[State]) -> jax.Array:
    """The matrix ``function(a_i, b_j)``; its trace grows with the number of distinct shapes, not of pairs.

    Pairs run one after another (``lax.map``), so that memory holds the intermediate arrays of one pair.

    Args:
        function: Takes a state of each side and returns a scalar.
        a: L_A states (pytrees of arrays); shapes may differ between states.
        b: L_B states.

    Returns:
        (L_A, L_B) array.
    """
    rows = []
    for where_a, stack_a in stacked(a):
        columns = [
            (where_b, jax.lax.map(lambda s, t=stack_b: jax.lax.map(lambda u: function(s, u), t), stack_a))
            for where_b, stack_b in stacked(b)
        ]
        rows.append((where_a, in_layer_order(columns, axis=1)))
    return in_layer_order(rows)
