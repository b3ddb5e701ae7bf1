"""What does canonicalization cost? Milliseconds of each part beside those of the model, and its arithmetic.

Each part is compiled alone, its compilation timed apart, and run many times; what a program of all parts fuses away
makes the whole cheaper than their sum.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.canonicalization.canonicalizers import (
    Canonicalizer,
    checked,
    energy_at,
    orbit_energies,
    orbit_views,
    shown,
)
from repsim_jax.canonicalization.groups import Elements
from repsim_jax.canonicalization.searching import refined
from repsim_jax.canonicalization.selection import choose
from repsim_jax.canonicalization.wrapping import Equivariant
from repsim_jax.errors import BadArrayError

VIEWS, NETWORK, SELECTION, REFINEMENT, INVERSION = "views", "network", "selection", "refinement", "inversion"
CANONICALIZER, MODEL, WHOLE = "canonicalizer in all", "model alone", "repaired model"
# Runs before those that count: caches fill, and a processor leaves its sleep.
_WARM_UP = 2


class Timing(NamedTuple):
    """How long one part takes for one batch.

    Attributes:
        name: Of the part.
        batch: Inputs at once.
        median_ms: Milliseconds of a batch, the median of all runs.
        p90_ms: The 90th percentile.
        compile_s: Seconds of compilation, once for each shape; NaN of what is not compiled here.
        flops: Floating-point operations of a batch by the compiler's count; NaN where it has none.
    """

    name: str
    batch: int
    median_ms: float
    p90_ms: float
    compile_s: float
    flops: float


class Latency(NamedTuple):
    """What canonicalization costs beside the model.

    Attributes:
        timings: By batch, in the order of computation.
        num_repeats: Runs of each.
        device: On what.
    """

    timings: tuple[Timing, ...]
    num_repeats: int
    device: str

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes of batches."""
        return tuple(dict.fromkeys(one.batch for one in self.timings))

    def of(self, name: str, batch: int) -> Timing:
        """The timing of one part.

        Args:
            name: Of the part.
            batch: Inputs at once.

        Returns:
            The timing.

        Raises:
            BadArrayError: If that was not timed.
        """
        for one in self.timings:
            if (one.name, one.batch) == (name, batch):
                return one
        raise BadArrayError(f"no timing of {name!r} for a batch of {batch}.")

    def ratio(self, batch: int) -> float:
        """Time of the canonicalizer over that of the model, by medians.

        Args:
            batch: Inputs at once.

        Returns:
            At least 0; 1 doubles the time of an answer.

        Raises:
            BadArrayError: If that batch was not timed.
        """
        return self.of(CANONICALIZER, batch).median_ms / self.of(MODEL, batch).median_ms


def latency_audit(
    wrapped: Equivariant,
    x: Float[Array, "n *shape"] | np.ndarray,
    *,
    batches: Sequence[int] = (1, 32),
    num_repeats: int = 30,
) -> Latency:
    """Times views, network, selection, inversion, the canonicalizer in all, the model, and both together.

    Args:
        wrapped: From ``equivariant``, of one input.
        x: Inputs; repeated where a batch has more.
        batches: Inputs at once.
        num_repeats: Runs of each part, at least 1.

    Returns:
        Timings; on a shared machine the medians are the firmest part of them.

    Raises:
        BadArrayError: If the inputs do not fit, a number is below 1, or the model takes several inputs.
    """
    if num_repeats < 1 or not batches or min(batches) < 1:
        raise BadArrayError(f"latency_audit needs num_repeats and batches >= 1, got {num_repeats} and {batches}.")
    if len(wrapped.in_actions) != 1:
        raise BadArrayError(f"latency_audit needs a model of one input, got one of {len(wrapped.in_actions)}.")
    x = checked(wrapped.canonicalizer, x)
    timings: list[Timing] = []
    for batch in dict.fromkeys(batches):
        part = x[jnp.arange(batch) % len(x)]
        for name, function, arguments in _parts(wrapped, part):
            compiles = not (wrapped.on_host and name == MODEL) and name != WHOLE
            timings.append(_timed(name, batch, function, arguments, num_repeats, compiles))
    return Latency(tuple(timings), num_repeats, sorted({device.device_kind for device in jax.devices()})[0])


def _parts(wrapped: Equivariant, x: jax.Array) -> list[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    canonicalizer = wrapped.canonicalizer
    given = np.asarray(x) if wrapped.on_host else x
    parts = _of_search(canonicalizer, x) if isinstance(canonicalizer, Canonicalizer) else []
    return [
        *parts,
        (CANONICALIZER, _called, (canonicalizer, x)),
        (MODEL, wrapped.model, (given,)),
        (WHOLE, lambda one: wrapped(one).outputs, (x,)),
    ]


def _called(canonicalizer: Any, x: jax.Array) -> Any:
    found = canonicalizer(x)
    return found.canonical, found.elements


def _of_search(canonicalizer: Canonicalizer, x: jax.Array) -> list[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """The parts of a search, each with what the part before it gave."""
    group, coarse = canonicalizer.group, canonicalizer.search.coarse
    # under other names than what is timed: a function that was compiled before would be compiled in no time
    seen = jax.jit(lambda one, x: shown(one, x))(canonicalizer, x)
    energies = jax.jit(lambda one, seen: orbit_energies(one, seen))(canonicalizer, seen)
    elements = group.elements(energies.argmin(-1), x.dtype)
    if hasattr(canonicalizer.energy, "of_orbit") or coarse is not None:
        # these make their own views
        first: list[Any] = [(VIEWS, shown, (canonicalizer, x)), (NETWORK, orbit_energies, (canonicalizer, seen))]
    else:
        views = jax.jit(lambda one, x: _views(one, x))(canonicalizer, x)
        first = [(VIEWS, _views, (canonicalizer, x)), (NETWORK, _energies, (canonicalizer, views))]
    last: list[Any] = [(INVERSION, _inverted, (canonicalizer, elements, x))]
    if group.is_refinable and canonicalizer.search.num_steps:
        last = [(REFINEMENT, _refined, (canonicalizer, elements, seen)), *last]
    return [*first, (SELECTION, choose, (energies, canonicalizer.selection)), *last]


def _views(canonicalizer: Canonicalizer, x: jax.Array) -> jax.Array:
    views = orbit_views(canonicalizer, canonicalizer.group, shown(canonicalizer, x))
    return views.reshape(-1, *views.shape[2:])


def _energies(canonicalizer: Canonicalizer, views: jax.Array) -> jax.Array:
    return canonicalizer.energy(views)


def _refined(canonicalizer: Canonicalizer, elements: Elements, seen: jax.Array) -> Elements:
    return refined(energy_at(canonicalizer, seen), canonicalizer.group, elements, canonicalizer.search)


def _inverted(canonicalizer: Canonicalizer, elements: Elements, x: jax.Array) -> jax.Array:
    return canonicalizer.action.invert(canonicalizer.group, elements, x)


def _timed(
    name: str, batch: int, function: Callable[..., Any], arguments: tuple[Any, ...], num_repeats: int, compiles: bool
) -> Timing:
    compile_s, flops, run = float("nan"), float("nan"), function
    if compiles:
        start = time.perf_counter()
        compiled = jax.jit(partial(function)).lower(*arguments).compile()
        compile_s, flops = time.perf_counter() - start, _flops(compiled)
        run = partial(compiled)
    for _ in range(_WARM_UP):
        jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(num_repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(1e3 * (time.perf_counter() - start))
    return Timing(name, batch, float(np.median(times)), float(np.quantile(times, 0.9)), compile_s, flops)


def _flops(compiled: Any) -> float:
    """Not every backend counts, and older versions of JAX give a list."""
    try:
        found = compiled.cost_analysis()
    except (NotImplementedError, RuntimeError):
        return float("nan")
    found = found[0] if isinstance(found, list) and found else found
    return float(found.get("flops", float("nan"))) if isinstance(found, dict) else float("nan")
