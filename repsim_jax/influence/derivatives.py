"""How do measurements, and what examples add to training, change with the parameters? Compiled, block by block."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.influence.examples import Examples
from repsim_jax.influence.problems import Problem
from repsim_jax.kernels.layerwise import plain_gradients
from repsim_jax.linalg import precise_jit

Mode = Literal["batch", "paper"]


@precise_jit(static_argnames=("size", "mesh"))
def measured_gradients(
    posed: Problem, queries: Examples, measurement: Any, *, size: int, mesh: Any = None
) -> tuple[Float[Array, " m"], list[Float[Array, "m *shape"]]]:
    """Measurements, and their gradients in the parameters.

    Args:
        posed: The problem.
        queries: Those of all measurements, one after the other.
        measurement: What is measured.
        size: Number of measurements m.
        mesh: Devices over which measurements are spread.

    Returns:
        (m,) measurements; for each parameter an array (m, *shape).
    """
    leaves = posed.leaves()
    seen = queries.seen()
    seen = spread(seen.reshape(size, -1, *seen.shape[1:]), mesh)

    def measured(arrays: Any, group: jax.Array) -> jax.Array:
        return measurement(posed.seeing(arrays), group).reshape(1)

    return jax.vmap(partial(measured, leaves.arrays))(seen)[:, 0], plain_gradients(measured, leaves, seen)


def spread(x: jax.Array, mesh: Any) -> jax.Array:
    """Spreads the first axis over devices.

    Args:
        x: Any array.
        mesh: The devices, whatever its axes; None leaves the array where it is.

    Returns:
        The array.
    """
    if mesh is None:
        return x
    flat = jax.sharding.Mesh(mesh.devices.ravel(), ("examples",))
    return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(flat, jax.sharding.PartitionSpec("examples")))


def contributions(posed: Problem, arrays: Any, rows: jax.Array, weights: Float[Array, " b"], mode: Mode) -> jax.Array:
    """What each example of a batch adds to training, as a function of the parameters: its gradient is influence's.

    Args:
        posed: The problem.
        arrays: Parameters.
        rows: Numbers of the examples.
        weights: Zero for those that only fill the batch.
        mode: As in ``influence``.

    Returns:
        (b,) array.
    """
    unit = posed.unit(rows, weights)
    if mode == "paper":
        return jax.vmap(lambda seen: posed.stability(posed.seeing(arrays), seen[None]))(unit.seen)
    return jax.grad(lambda w: posed.loss(arrays, unit.seen, w))(unit.weights)


def _along(posed: Problem, directions: Any, rows: jax.Array, weights: jax.Array, scale: Any, mode: Mode) -> jax.Array:
    """Derivatives (m, b) of the contributions of a batch along m directions: no gradient of an example is formed."""
    arrays = posed.leaves().arrays
    _, push = jax.linearize(lambda a: contributions(posed, a, rows, weights, mode), arrays)
    along = jax.vmap(push)(directions)
    return along * scale if mode == "batch" else along


@precise_jit(static_argnames=("mode", "mesh"))
def all_products(
    posed: Problem, directions: Any, rows: jax.Array, weights: jax.Array, scale: Any, *, mode: Mode, mesh: Any
) -> Float[Array, "m k b"]:
    """Derivatives of the contributions of all training examples along some directions.

    Args:
        posed: The problem.
        directions: For each parameter an array (m, *shape).
        rows: (k, b) numbers of the examples of each batch.
        weights: (k, b) of the examples.
        scale: Share of a batch in the objective.
        mode: As in ``influence``.
        mesh: Devices over which batches are spread; k is a multiple of their number.

    Returns:
        (m, k, b) array.
    """

    def along(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _along(posed, directions, batch[0], batch[1], scale, mode)

    if mesh is None:
        return jnp.moveaxis(jax.lax.map(along, (rows, weights)), 0, 1)
    devices = mesh.devices.size
    rows, weights = (spread(side.reshape(devices, -1, side.shape[1]), mesh) for side in (rows, weights))
    found = jax.vmap(lambda *one: jax.lax.map(along, one))(rows, weights)
    return jnp.moveaxis(spread(found, mesh).reshape(-1, *found.shape[2:]), 0, 1)


@precise_jit(static_argnames=("mode", "mesh"))
def own_products(
    posed: Problem, directions: Any, rows: jax.Array, weights: jax.Array, places: jax.Array, scale: Any,
    *, mode: Mode, mesh: Any,
) -> Float[Array, "k s"]:  # fmt: skip
    """Derivatives of the contributions of some examples of each batch, each along its own direction.

    Args:
        posed: The problem.
        directions: For each parameter an array (k s, *shape), in the order of batches.
        rows: (k, b) numbers of the examples of each batch.
        weights: (k, b) of the examples.
        places: (s,) the places of these examples in each batch.
        scale: Share of a batch in the objective.
        mode: As in ``influence``.
        mesh: Devices over which batches are spread.

    Returns:
        (k, s) array.
    """
    own = jax.tree.map(lambda leaf: spread(leaf.reshape(len(rows), len(places), *leaf.shape[1:]), mesh), directions)

    def of_batch(rows: jax.Array, weights: jax.Array, directions: Any) -> jax.Array:
        found = _along(posed, directions, rows, weights, scale, mode)
        return jnp.take_along_axis(found, places[:, None], axis=1)[:, 0]

    return jax.vmap(of_batch)(spread(rows, mesh), spread(weights, mesh), own)


@precise_jit()
def dots(left: list[Float[Array, "m *shape"]], right: list[Float[Array, "m *shape"]]) -> Float[Array, " m"]:
    """Products of directions and gradients, row by row.

    Args:
        left: For each parameter an array (m, *shape).
        right: Likewise.

    Returns:
        (m,) array.
    """
    return sum(
        ((one * other).reshape(len(one), -1).sum(1) for one, other in zip(left, right, strict=True)), jnp.zeros(())
    )
