r"""Which random gradients have the curvature for their second moment? Those of the residuals, with random signs.

For residuals r with :math:`C = J_r^T J_r` and signs :math:`\epsilon`, the gradient of :math:`\epsilon^T r` has the
second moment C. Every curvature of this package is fitted on such gradients, or on those of all residuals one by one,
and never on those of the loss itself, whose second moment (the empirical Fisher) is another matrix.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.influence.derivatives import spread
from repsim_jax.influence.footprints import footprint
from repsim_jax.influence.problems import Of, Problem, Unit, in_batches
from repsim_jax.kernels.layerwise import Layers, Layout, Sides, layers_of, sides_of
from repsim_jax.linalg import precise_jit

Told = Callable[[int, int], None]
# Numbers that are held at once, 32 MiB in float32 on a CPU: what is larger is given back to the system and fetched anew
# for every block, which took a fifth of the time; and convolutions are slow inside of compiled loops. Other devices do
# better with larger products, of 256 MiB.
_HELD = {"cpu": 2**23}
_HELD_ELSEWHERE = 2**26


class Part(NamedTuple):
    """A number of units, and how their residuals are combined.

    Attributes:
        rows: (u, b) numbers of training examples.
        weights: (u, b); zero for those that only fill a batch.
        counts: (u,) whether a unit counts, 0 or 1.
        keys: (u, c) random keys of signs, or numbers of single residuals.
    """

    rows: jax.Array
    weights: jax.Array
    counts: jax.Array
    keys: jax.Array


@dataclass(frozen=True)
class Draws:
    """Random gradients of a problem, or those of all its residuals, in parts.

    Attributes:
        of: What the curvature is of.
        layout: How gradients are arranged.
        parts: What is computed together.
        total: Over how many gradients the mean is taken; where residuals stand alone, over how many units.
    """

    of: Of
    layout: Layout
    parts: tuple[Part, ...]
    total: int


def draws_of(
    key: jax.Array, posed: Problem, of: Of, *, num_samples: int | None, max_units: int | None = None,
    block: int | None = None, multiple: int = 1,
) -> Draws:  # fmt: skip
    """Plans the random gradients of a problem.

    Args:
        key: Random key of batches and signs.
        posed: The problem.
        of: What the curvature is of.
        num_samples: How many gradients at least; each unit (a batch of the objective, or an example whose views are
            aligned) gives the same number of them. None takes each residual by itself: exact, for small problems.
        max_units: How many units are drawn at random to fit on; None: all of them.
        block: Units times gradients that are computed at once; None: what 32 MiB hold on a CPU, 256 MiB elsewhere.
        multiple: The number of units of each part is a multiple of this.

    Returns:
        The plan.

    Raises:
        BadArrayError: If ``num_samples``, ``max_units`` or ``block`` is below 1.
    """
    if any(given is not None and given < 1 for given in (num_samples, max_units, block)):
        raise BadArrayError(
            f"curvature needs num_samples >= 1, max_units >= 1 and block >= 1, got {num_samples}, {max_units}, {block}."
        )
    key_batches, key_signs = jax.random.split(key)
    batches = in_batches(key_batches, len(posed.train), posed.batch_size if of == "objective" else 1)
    num_units = min(len(batches.rows), max_units or len(batches.rows))  # they have been shuffled
    layers = unit_layers(posed, of, len(batches.rows[0]))
    each, each_at_once, at_once = _sizes(layers, num_units, num_samples, block, multiple)
    parts = []
    for numbers in np.arange(-(-num_units // at_once) * at_once).reshape(-1, at_once):
        inside = np.minimum(numbers, num_units - 1)
        rows, weights = (jnp.asarray(side[inside]) for side in (batches.rows, batches.weights))
        for start in range(0, each, each_at_once):
            which = jnp.arange(start, start + each_at_once)  # beyond the last residual there is none, which gives zero
            alone = num_samples is None
            keys = jnp.tile(which, (at_once, 1)) if alone else _keys(key_signs, jnp.asarray(inside), which)
            parts.append(Part(rows, weights, jnp.asarray(numbers < num_units, jnp.float32), keys))
    drawn = -(-each // each_at_once) * each_at_once
    return Draws(of, layers.layout, tuple(parts), num_units * (1 if num_samples is None else drawn))


def _sizes(
    layers: Layers, num_units: int, num_samples: int | None, block: int | None = None, multiple: int = 1
) -> tuple[int, int, int]:
    """Gradients of each unit; how many of them, and of how many units, are computed at once."""
    each = layers.made.num_outputs if num_samples is None else -(-num_samples // num_units)
    held = units_at_once(layers) if block is None else block
    each_at_once = min(each, held)
    at_once = -(-max(1, min(num_units, held // each_at_once)) // multiple) * multiple
    return each, each_at_once, at_once


def part_footprint(posed: Problem, of: Of, *, num_samples: int | None, formed: bool = True) -> int:
    """Bytes that random gradients take while they are drawn, from shapes alone.

    Args:
        posed: The problem.
        of: What the curvature is of.
        num_samples: As in ``draws_of``.
        formed: Whether the gradients themselves are formed, or both sides of each layer are all that is used.

    Returns:
        A count.
    """
    n = len(posed.train)
    size = posed.batch_size if of == "objective" else 1
    num_units = -(-n // size)
    size = -(-n // num_units)
    layers = unit_layers(posed, of, size)
    _, gradients, units = _sizes(layers, num_units, num_samples)
    shape: Any = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct(sizes, dtype)  # noqa: E731
    keys: Any = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (units, gradients)))
    part = Part(shape(units, size, dtype=jnp.int32), shape(units, size), shape(units), keys)

    def drawn(posed: Problem, part: Part) -> Any:
        found = _drawn(posed, part, None, of, layers.layout)
        return found.gradients() if formed else found

    return footprint(drawn, posed, part)


def unit_layers(posed: Problem, of: Of, size: int) -> Layers:
    """The layers of the residuals of one unit, from shapes alone.

    Args:
        posed: The problem.
        of: What the curvature is of.
        size: Examples of the unit.

    Returns:
        The layers.
    """
    rows, weights = jax.ShapeDtypeStruct((size,), jnp.int32), jax.ShapeDtypeStruct((size,), jnp.float32)
    return layers_of(_function(posed, of), posed.leaves(), jax.eval_shape(posed.unit, rows, weights))


@jax.jit
def _keys(key: jax.Array, units: jax.Array, which: jax.Array) -> jax.Array:
    of_unit = jax.vmap(lambda unit: jax.random.fold_in(key, unit))(units)
    return jax.vmap(lambda one: jax.vmap(lambda c: jax.random.fold_in(one, c))(which))(of_unit)


def _function(posed: Problem, of: Of) -> Callable[[Any, Unit], jax.Array]:
    return lambda arrays, unit: posed.residuals(arrays, unit, of)


def units_at_once(layers: Layers) -> int:
    """How many units fit into what is held at once.

    Args:
        layers: Of one unit.

    Returns:
        At least 1.
    """
    return max(1, _HELD.get(jax.default_backend(), _HELD_ELSEWHERE) // numbers_of_unit(layers))


def numbers_of_unit(layers: Layers) -> int:
    """Numbers that are held for one unit and one combination of residuals: both sides, and the gradients from them.

    Args:
        layers: Of one unit.

    Returns:
        A count.
    """
    held = layers.made.closed.out_avals[0].size  # each residual has its sign: millions, for pairs of large batches
    for site, _, _ in layers.made.sites.values():
        weight, outputs = int(np.prod(site.weight_shape)), int(np.prod(site.output_shape))
        arriving = weight // site.num_outputs() * site.params.get("feature_group_count", 1)
        held += outputs + weight + site.num_positions() * arriving
    return held


class Drawn(NamedTuple):
    """Random gradients of one part, as products of both sides of each layer; zero where a unit does not count.

    Attributes:
        sides: Of each matrix of the layout: inputs (u, b, s, k) and signals (u, c, b, s, f).
        rest: Gradients (u, c, 1, size, 1) of each parameter that is in no matrix.
    """

    sides: list[Sides]
    rest: list[Float[Array, "u c 1 k 1"]]

    def gradients(self) -> list[Float[Array, "uc b k f"]]:
        """The gradients themselves, one after the other.

        Returns:
            As the layout's ``split`` arranges them.
        """
        every = [jax.vmap(Sides.gradients)(side) for side in self.sides] + self.rest
        return [gradient.reshape(-1, *gradient.shape[2:]) for gradient in every]


Step = Callable[[Any, Drawn, Layout], Any]


def summed(
    posed: Problem, draws: Draws, step: Step, state: Any, *, projections: Any = None, mesh: Any = None,
    on_progress: Told | None = None,
) -> Any:  # fmt: skip
    """Sums what a function makes of every part, and divides by the number of random gradients.

    Args:
        posed: The problem.
        draws: From ``draws_of``.
        step: ``step(state, drawn, layout)`` gives a pytree of arrays to sum; a module's own function, so that it is
            compiled once.
        state: What ``step`` takes besides, a pytree of arrays.
        projections: What the inputs of each matrix are multiplied by, (b, k, r); None leaves them as they are.
        mesh: Devices over which the units of each part are spread; their number divides that of the units.
        on_progress: Called as ``on_progress(done, all)`` between parts.

    Returns:
        The mean over random gradients; where residuals stand alone, the sum over them and the mean over units.
    """
    total = None
    for done, part in enumerate(draws.parts, 1):
        found = _stepped(posed, state, projections, part, of=draws.of, layout=draws.layout, step=step, mesh=mesh)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        if on_progress is not None:
            jax.block_until_ready(total)  # what was only dispatched is not done
            on_progress(done, len(draws.parts))
    return jax.tree.map(lambda sum_: sum_ / draws.total, total)


def drawn_rows(posed: Problem, draws: Draws, on_progress: Told | None = None) -> np.ndarray:
    """Random gradients as rows.

    Args:
        posed: The problem.
        draws: Which.
        on_progress: Called as ``on_progress(done, all)`` between parts.

    Returns:
        (r, p) array R, scaled so that R^T R is the curvature or an estimate of it.
    """
    rows = []
    for done, part in enumerate(draws.parts, 1):
        found = np.asarray(_flat_gradients(posed, part, of=draws.of, layout=draws.layout))
        rows.append(found.reshape(len(part.counts), -1, found.shape[-1])[np.asarray(part.counts) > 0])
        if on_progress is not None:
            on_progress(done, len(draws.parts))
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in rows]) / np.sqrt(draws.total)


@precise_jit(static_argnames=("of", "layout"))
def _flat_gradients(posed: Problem, part: Part, *, of: Of, layout: Layout) -> Float[Array, "uc p"]:
    return flat(layout.joined(_drawn(posed, part, None, of, layout).gradients()))


@precise_jit(static_argnames=("of", "layout", "step", "mesh"))
def _stepped(
    posed: Problem, state: Any, projections: Any, part: Part, *, of: Of, layout: Layout, step: Any, mesh: Any
) -> Any:
    part = Part(*(spread(side, mesh) for side in part))
    return step(state, _drawn(posed, part, projections, of, layout), layout)


def _drawn(posed: Problem, part: Part, projections: Any, of: Of, layout: Layout) -> Drawn:
    def one(rows: jax.Array, weights: jax.Array, count: jax.Array, keys: jax.Array) -> Drawn:
        unit = posed.unit(rows, weights)
        layers = layers_of(_function(posed, of), posed.leaves(), unit, layout)
        signs = _signs(keys, layers)
        found = Drawn(*sides_of(layers, posed.leaves().arrays, unit, signs, projections))
        return jax.tree.map(lambda leaf: leaf * count.astype(leaf.dtype), found)

    return jax.vmap(one)(*part)


def _signs(keys: jax.Array, layers: Layers) -> Float[Array, "c r"]:
    out = layers.made.closed.out_avals[0]
    if jnp.issubdtype(keys.dtype, jnp.integer):
        return jax.nn.one_hot(keys, out.shape[0], dtype=out.dtype)
    return jax.vmap(lambda key: jax.random.rademacher(key, out.shape, out.dtype))(keys)


def flat(arrays: Sequence[Float[Array, "m *shape"]]) -> Float[Array, "m p"]:
    """Parameters in a row.

    Args:
        arrays: For each parameter an array (m, *shape).

    Returns:
        (m, p) array.
    """
    return jnp.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def unflat(rows: Float[Array, "m p"], like: Sequence[Any]) -> list[Float[Array, "m *shape"]]:
    """Turns ``flat`` around.

    Args:
        rows: (m, p).
        like: Arrays (any, *shape).

    Returns:
        For each parameter an array (m, *shape).
    """
    sizes = np.cumsum([int(np.prod(array.shape[1:])) for array in like])[:-1]
    parts = jnp.split(rows, [int(size) for size in sizes], axis=1)
    return [part.reshape(len(rows), *array.shape[1:]) for part, array in zip(parts, like, strict=True)]
