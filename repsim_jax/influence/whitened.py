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
from repsim_jax.kernels.layerwise import Layers, Layout, layers_as, layers_of, plain_gradients, sides_of
from repsim_jax.linalg import precise_jit


@runtime_checkable
class Whitening(Protocol):
    """A curvature that is made up of layers: ``EKFAC`` or ``LoGra``.

    Attributes:
        layout: How parameters are made up of matrices.
    """

    layout: Layout

    def projections(self) -> list[Float[Array, "b k r"]] | None:
        """What the inputs of each layer are multiplied by where they arrive.

        Returns:
            A matrix for each layer; None leaves inputs as they are.
        """
        ...

    def whitened(self, drawn: Drawn, damping: Damping) -> list[Float[Array, "uc r"]]:
        """Gradients whose products are those with the damped curvature divided out, in parts.

        Args:
            drawn: Gradients, as both sides of each layer.
            damping: What is added to the curvature.

        Returns:
            Arrays (uc, r); the product of two gradients is the sum over parts.
        """
        ...


def whitened_at_once(posed: Problem, curvature: Any, measurement: Any) -> int:
    """Of how many examples the gradients of a measurement are whitened at once.

    Args:
        posed: The problem.
        curvature: Any curvature.
        measurement: What is measured.

    Returns:
        0 where the curvature is not made up of layers, the measurement is of several queries together, or it uses
        parameters in another way than the function on which the curvature was fitted.
    """
    if not isinstance(curvature, Whitening) or measurement.num_queries != 1:
        return 0
    layers = _layers(posed, curvature, measurement, jax.eval_shape(posed.train.rows(slice(0, 1)).seen))
    return units_at_once(layers) if layers else 0


def gradients_at_once(posed: Problem, measurement: Any) -> int:
    """Of how many examples the gradients of a measurement are held at once.

    Args:
        posed: The problem.
        measurement: Of single queries.

    Returns:
        At least 1.
    """
    seen = jax.eval_shape(posed.train.rows(slice(0, 1)).seen)
    example = jax.ShapeDtypeStruct(seen.shape[1:], seen.dtype)
    return units_at_once(layers_of(_measured(posed, measurement), posed.leaves(), example))


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
        curvature: One that can whiten.
        queries: Examples.
        measurement: What is measured.
        damping: What is added to the curvature.
        mesh: Devices over which queries are spread.

    Returns:
        (m,) measurements, and (m,) squared norms.
    """
    values, rows = _rows(posed, curvature, spread(queries.seen(), mesh), measurement, damping)
    return values, sum((jnp.square(row).sum(1) for row in rows), jnp.zeros_like(values))


@precise_jit()
def whitened_rows(
    posed: Problem, curvature: Any, queries: Examples, measurement: Any, damping: Damping
) -> tuple[Float[Array, " m"], Float[Array, "m r"]]:
    """Measurements, and rows whose products are their gradients' with the curvature divided out.

    Args:
        posed: The problem.
        curvature: One that can whiten.
        queries: Examples.
        measurement: What is measured.
        damping: What is added to the curvature.

    Returns:
        (m,) measurements, and (m, r) rows; r is the number of parameters for ``EKFAC``, and of features for ``LoGra``.
    """
    values, rows = _rows(posed, curvature, queries.seen(), measurement, damping)
    return values, jnp.concatenate(rows, axis=1)


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


@precise_jit(static_argnames=("mesh",))
def stability_products(
    posed: Problem, directions: list[Float[Array, "m *shape"]], rows: jax.Array, *, mesh: Any = None
) -> Float[Array, "m u"]:
    """Derivatives of the stability of training examples along directions, by one gradient of each example.

    Args:
        posed: The problem.
        directions: For each parameter an array (m, *shape).
        rows: (u,) numbers of the examples.
        mesh: Devices over which examples are spread.

    Returns:
        (m, u) array.
    """
    seen = spread(posed.train.rows(rows).seen(), mesh)
    gradients = plain_gradients(_measured(posed, posed.stability), posed.leaves(), seen)
    products = [v.reshape(len(v), -1) @ g.reshape(len(g), -1).T for v, g in zip(directions, gradients, strict=True)]
    return sum(products, jnp.zeros((), products[0].dtype))
