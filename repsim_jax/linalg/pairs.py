"""Evaluate functions on each layer, and on all pairs of layers, of two models, compiling once per distinct shape.

Layers of one shape travel as a stack: the traced program grows with the number of distinct shapes, not of layers or
pairs.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

State = TypeVar("State")
NewState = TypeVar("NewState")
Stacks: TypeAlias = Sequence[tuple[np.ndarray, State]]


def stacked(states: Sequence[State]) -> Stacks[State]:
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


def mapped(
    function: Callable[[State], NewState], stacks: Stacks[State], *, one_by_one: bool = False
) -> Stacks[NewState]:
    """Applies a function to every layer.

    Args:
        function: Takes the state of one layer.
        stacks: Layers, stacked by shape.
        one_by_one: Run layer after layer, to hold the intermediate arrays of one only.

    Returns:
        The results, stacked alike.
    """
    if one_by_one:
        return [(where, jax.lax.map(function, stack)) for where, stack in stacks]
    return [(where, jax.vmap(function)(stack)) for where, stack in stacks]


def unstacked(stacks: Stacks[State]) -> list[State]:
    """Undoes ``stacked``.

    Args:
        stacks: States, stacked by shape.

    Returns:
        One state per layer, in layer order.
    """
    states = {
        int(index): jax.tree.map(lambda leaf, i=i: leaf[i], stack)
        for where, stack in stacks
        for i, index in enumerate(where)
    }
    return [states[index] for index in range(len(states))]


def in_layer_order(groups: Stacks[jax.Array], axis: int = 0) -> jax.Array:
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


def all_pairs(function: Callable[[State, State], jax.Array], a: Stacks[State], b: Stacks[State]) -> jax.Array:
    """The matrix ``function(a_i, b_j)``, pair after pair, so that memory holds the intermediate arrays of one.

    Args:
        function: Takes a state of each side and returns a scalar.
        a: L_A states, stacked by shape.
        b: L_B states, stacked by shape.

    Returns:
        (L_A, L_B) array.
    """
    rows = []
    for where_a, stack_a in a:
        columns = [
            (where_b, jax.lax.map(lambda s, t=stack_b: jax.lax.map(lambda u: function(s, u), t), stack_a))
            for where_b, stack_b in b
        ]
        rows.append((where_a, in_layer_order(columns, axis=1)))
    return in_layer_order(rows)
