"""How many bytes does a program hold at once? Counted from its traced form, before anything is compiled or computed."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

# What a compiler does not store, but computes where it is read.
_FREE = {"broadcast_in_dim", "iota", "stop_gradient", "copy"}
# What needs its inputs until its outputs are complete; all else is written over inputs that nobody reads any more.
_APART = {
    "dot_general", "conv_general_dilated", "gather", "scatter", "scatter-add", "sort", "concatenate", "scan", "while",
    "transpose", "dynamic_update_slice", "reduce_window", "cumsum",
}  # fmt: skip


def footprint(function: Callable[..., Any], *arguments: Any) -> int:
    """The most bytes that a function holds at once beside its arguments, its results included.

    Every intermediate array lives from where it is computed to where it is last read. What a compiler fuses is counted
    as if it were stored; its working room, and what compiling takes, are not counted.

    Args:
        function: Of arrays, in JAX.
        arguments: Arrays, or shapes of arrays.

    Returns:
        Bytes.
    """
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def _peak(jaxpr: Any) -> int:
    """The most bytes of what a jaxpr computes; what comes in belongs to the caller."""
    last = {one: len(jaxpr.eqns) for one in jaxpr.outvars if not hasattr(one, "val")}
    for number, eqn in reversed(list(enumerate(jaxpr.eqns))):
        for one in eqn.invars:
            if not hasattr(one, "val"):
                last.setdefault(one, number)
    held: dict[Any, int] = {}
    live = most = 0
    for number, eqn in enumerate(jaxpr.eqns):
        done = {one for one in eqn.invars if not hasattr(one, "val") and last[one] == number}
        freed = sum(held.pop(one, 0) for one in done)
        name = eqn.primitive.name
        made = {one: 0 if name in _FREE else _bytes(one.aval) for one in eqn.outvars}
        inside = max((_peak(one) for one in _inner(eqn.params)), default=0)
        if inside and name not in ("scan", "while"):  # its results are among what it holds
            inside = max(0, inside - sum(made.values()))
        apart = freed if inside or name in _APART else 0
        most = max(most, live - freed + apart + sum(made.values()) + inside)
        held |= {one: size for one, size in made.items() if one in last}
        live += sum(size for one, size in made.items() if one in last) - freed
        most = max(most, live)
    return most


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner


def _bytes(aval: Any) -> int:
    return math.prod(getattr(aval, "shape", ())) * getattr(getattr(aval, "dtype", None), "itemsize", 4)
