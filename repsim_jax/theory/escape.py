"""The linear loss of dot products grows without bound: when does it leave the linear regime?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.theory.claims import Claim, Judged, Series, Setup, Told, interval_told, start_of
from repsim_jax.theory.constancy import OBJECTIVES
from repsim_jax.theory.courses import ESCAPED
from repsim_jax.theory.exponents import Laws, Slope, crossing_time, exponent, laws
from repsim_jax.theory.flow import Trajectory, gradient_flow
from repsim_jax.theory.kernel_regime import Growth, growth, relative_error
from repsim_jax.theory.networks import Network, Params, apply, tangent_kernel
from repsim_jax.theory.objectives import Objective

_LINEAR = OBJECTIVES.index(Objective("linear", "dot"))
# When the closed form is held against networks, in units of the time in which embeddings grow by e: before any escape.
_COMPARED = 1.0
# The kernel changes by order one when embeddings have grown to the root of the width: exp(lambda t) = M^(1/2).
_SLOPE = 0.5
_kernel = jax.jit(tangent_kernel, static_argnums=2)
_outputs = jax.jit(apply, static_argnums=2)


class _Escape(NamedTuple):
    """One network's way out: its growth rate, its time of escape in units of that rate, the closed form's error."""

    rate: float
    growths: float
    closed_form_error: float


def dot_escape(key: jax.Array, x: jax.Array, setup: Setup, told: Told) -> Claim:
    """The linear loss of dot products leaves the linear regime at a time that grows like the logarithm of the width.

    Args:
        key: Random key.
        x: Points in float64.
        setup: Widths, seeds and horizons.
        told: Takes lines of progress.

    Returns:
        The claim.
    """
    activation = setup.activations[0]
    seen = [[_escape(key, x, setup, width, activation, seed, told) for seed in range(setup.num_seeds)]
            for width in setup.widths]  # fmt: skip
    escape = np.asarray([[one.growths for one in row] for row in seen])
    errors = np.asarray([[one.closed_form_error for one in row] for row in seen])
    rates = np.asarray([[one.rate for one in row] for row in seen])
    found, closed = _laws(setup, escape), _exponent(setup, errors)
    return Claim(
        name="the linear loss of dot products escapes",
        statement="Under dot products the kernel does not stay: the linear loss grows the embeddings exponentially, "
        "and leaves the linear regime at a time that grows only like log M. Until then the closed form of a constant "
        "kernel is right, the closer the wider the network.",
        origin="the paper (that it does not stay); our derivation (the logarithm and its slope)",
        predicted=f"lambda t at a change of {ESCAPED:g} grows by {_SLOPE:g} for each unit of log M, where lambda is "
        "the network's own rate of growth",
        observed=_escape_told(found, escape) + _closed_form_told(errors, closed),
        verdict="undecided" if found is None else _escape_verdict(found),
        quantity=f"time lambda t when the kernel has changed by {ESCAPED:g}",
        series=(
            Series(f"{OBJECTIVES[_LINEAR].name}; {activation}", setup.widths, escape, found and found.slope),
        ),
        details={
            "growth rates lambda, by width and seed": rates.tolist(),
            "advantage of the logarithm over a power law (AIC)": found and found.advantage,
            "exponent of a power law": found and found.exponent._asdict(),
            f"relative error of the closed form at lambda t = {_COMPARED:g}, by width and seed": errors.tolist(),
            "exponent of that error in the width": closed and closed._asdict(),
        },
    )  # fmt: skip


def _escape(key: jax.Array, x: jax.Array, setup: Setup, width: int, activation: str, seed: int, told: Told) -> _Escape:
    told(f"linear loss of dot products, width {width:,}, seed {seed}")
    network = setup.network(width, activation)
    params = start_of(key, network, x.shape[1], seed)
    modes = growth(np.asarray(_kernel(params, x, network)))
    follow = partial(gradient_flow, params, x, network=network, objectives=OBJECTIVES, which=_LINEAR)
    # Long enough for the embeddings to grow by the root of the width, and as much again.
    times = np.linspace(_COMPARED, np.log(width) + 6.0, setup.num_times) / modes.largest_rate
    flow = follow(jnp.asarray(times))
    escaped = crossing_time(times, np.asarray(flow.change), ESCAPED)
    if np.isfinite(escaped):
        # Once more with all looks just before: the last one sees weights that have run away.
        place = int(np.searchsorted(times, escaped))
        closer = np.linspace(times[place - 1] if place else times[0] / 10, times[place], setup.num_times)
        escaped = crossing_time(closer, np.asarray(follow(jnp.asarray(closer)).change), ESCAPED)
    return _Escape(
        modes.largest_rate, modes.largest_rate * escaped, _closed_form_error(params, x, network, flow, modes)
    )


def _closed_form_error(params: Params, x: jax.Array, network: Network, flow: Trajectory, modes: Growth) -> float:
    """Relative error of the closed form against a network, at the first look."""
    start = _outputs(params, x, network)
    return relative_error(modes.outputs(np.asarray(start), float(flow.times[0])), flow.outputs[0])


def _exponent(setup: Setup, errors: np.ndarray) -> Slope | None:
    if not (np.isfinite(errors).all() and (errors > 0).all()):
        return None
    return exponent(np.random.default_rng(0), np.asarray(setup.widths), errors)


def _closed_form_told(errors: np.ndarray, closed: Slope | None) -> str:
    told = "" if closed is None else f", exponent {interval_told(closed)} in the width"
    return f"; error of the closed form at lambda t = {_COMPARED:g}: {errors.mean(1)[-1]:.2g} at the widest{told}"


def _laws(setup: Setup, escape: np.ndarray) -> Laws | None:
    if not np.isfinite(escape).all():
        return None
    return laws(np.random.default_rng(0), np.asarray(setup.widths), escape)


def _escape_verdict(found: Laws) -> Judged:
    # The prediction is to leading order in the width; a factor of two is what "like log M with this slope" can mean.
    right = found.slope.low <= 2 * _SLOPE and found.slope.high >= _SLOPE / 2
    return "holds" if found.slope.low > 0 and right and found.advantage > 0 else "undecided"


def _escape_told(found: Laws | None, escape: np.ndarray) -> str:
    times = ", ".join(f"{time:.3g}" for time in escape.mean(1))
    if found is None:
        return f"lambda t = {times}; some networks had not escaped at the end"
    return (
        f"lambda t = {times}; slope {interval_told(found.slope)} for each unit of log M, power law with exponent "
        f"{found.exponent.value:.2f}; AIC {found.advantage:+.1f} in favor of the logarithm"
    )
