r"""What are gradients whose plain products are influence? Rows :math:`w = (C + \lambda)^{-1/2} g`, layer by layer.

In the paper's definition both sides of influence are gradients of stability, so that self-influence is
:math:`\|w\|^2`: one gradient of each example, one half of the work of dividing curvature out, and never below zero.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.influence.damping import Damping
from repsim_jax.influence.derivatives import spread
from repsim_jax.influence.examples import Examples
from repsim_jax.influence.problems import Problem
from repsim_jax.influence.pseudo import Drawn, units_at_once
from repsim_jax.kernels.layerwise import Layers, Layout, layers_as, sides_of
from repsim_jax.linalg import precise_jit


@runtime_checkable
class Whitening(Protocol):
    """A curvature that is made up of layers: ``EKFAC`` or ``LoGra``.

    Attributes:
        layout: How parameters are made up of matrices.
    """

    layout: Layout

    def projections(self) -> list[Float[Array, "b k r"]] | None:
        """What the inputs of each layer are multiplied by where they arrive; None leaves them as they are."""
        ...

    def whitened(self, drawn: Drawn, damping: Damping) -> list[Float[Array, "uc r"]]:
        """Gradients whose products are those with the damped curvature divided out, in parts."""
        ...


def whitens(posed: Problem, curvature: Any, measurement: Any) -> bool:
    """Tells whether a measurement's gradients can be whitened layer by layer.

    Args:
        posed: The problem.
        curvature: Any curvature.
        measurement: Of single queries.

    Returns:
        False where the curvature is not made up of layers, or the measurement uses parameters in another way than the
        function on which it was fitted.
    """
    if not isinstance(curvature, Whitening) or measurement.num_queries != 1:
        return False
    seen = jax.eval_shape(posed.train.rows(slice(0, 1)).seen)
    return _layers(posed, curvature, measurement, seen) is not None


def _layers(posed: Problem, curvature: Whitening, measurement: Any, seen: Any) -> Layers | None:
    example = jax.ShapeDtypeStruct(seen.shape[1:], seen.dtype)
    return layers_as(_measured(posed, measurement), posed.leaves(), example, curvature.layout)


def _measured(posed: Problem, measurement: Any) -> Any:
    return lambda arrays, one: measurement(posed.seeing(arrays), one[None]).reshape(1)


@precise_jit(static_argnames=("mesh",))
def squared_norms(
    posed: Problem, curvature: Any, queries: Examples, measurement: Any, damping: Damping, *, mesh: Any = None
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Measurements, and their gradients' squared norms with the curvature divided out.

    Args:
        posed: The problem.
        curvature: One that ``whitens``.
        queries: Examples.
        measurement: What is measured.
        damping: What is added to the curvature.
        mesh: Devices over which queries are spread.

    Returns:
        (m,) measurements, and (m,) squared norms.
    """

    def norms(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, rows = _rows(posed, curvature, seen, measurement, damping)
        return values, sum((jnp.square(row).sum(1) for row in rows), jnp.zeros_like(values))

    if mesh is not None:
        return norms(spread(queries.seen(), mesh))
    return _in_blocks(norms, posed, curvature, measurement, queries.seen())


@precise_jit()
def whitened_rows(
    posed: Problem, curvature: Any, queries: Examples, measurement: Any, damping: Damping
) -> tuple[Float[Array, " m"], Float[Array, "m r"]]:
    """Measurements, and rows whose products are their gradients' with the curvature divided out.

    Args:
        posed: The problem.
        curvature: One that ``whitens``.
        queries: Examples.
        measurement: What is measured.
        damping: What is added to the curvature.

    Returns:
        (m,) measurements, and (m, r) rows; r is the number of parameters for ``EKFAC``, and of features for ``LoGra``.
    """

    def rows(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, found = _rows(posed, curvature, seen, measurement, damping)
        return values, jnp.concatenate(found, axis=1)

    return _in_blocks(rows, posed, curvature, measurement, queries.seen())


def _rows(
    posed: Problem, curvature: Any, seen: jax.Array, measurement: Any, damping: Damping
) -> tuple[jax.Array, list[jax.Array]]:
    leaves = posed.leaves()
    layers = _layers(posed, curvature, measurement, seen)
    assert layers is not None
    measured, one = _measured(posed, measurement), jnp.ones((1, 1), leaves.arrays[0].dtype)

    def drawn(row: jax.Array) -> Drawn:
        return Drawn(*sides_of(layers, leaves.arrays, row, one, curvature.projections()))

    values = jax.vmap(lambda row: measured(leaves.arrays, row))(seen)
    return values[:, 0], curvature.whitened(jax.vmap(drawn)(seen), damping)


def _in_blocks(function: Any, posed: Problem, curvature: Any, measurement: Any, seen: jax.Array) -> Any:
    """A function of examples, of as many at a time as are held at once."""
    layers = _layers(posed, curvature, measurement, seen)
    assert layers is not None
    size = units_at_once(layers)
    if len(seen) <= size:
        return function(seen)
    count = -(-len(seen) // size)
    each = -(-len(seen) // count)
    which = jnp.minimum(jnp.arange(count * each), len(seen) - 1).reshape(count, each)
    found = jax.lax.map(lambda rows: function(seen[rows]), which)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(seen)], found)
