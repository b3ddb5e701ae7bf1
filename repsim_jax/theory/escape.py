"""The linear loss of dot products grows without bound: when does it leave the linear regime?"""

import jax
import numpy as np

from repsim_jax.theory.claims import Claim, Judged, Series, Setup, Told, flows, interval_told, networks, one_of
from repsim_jax.theory.exponents import Laws, crossing_time, laws
from repsim_jax.theory.flow import Trajectory
from repsim_jax.theory.kernel_regime import Growth, growth, relative_error
from repsim_jax.theory.networks import Network, Params, apply, tangent_kernel
from repsim_jax.theory.objectives import Objective

# Relative change of the kernel that counts as having left the linear regime.
ESCAPED = 0.1
# Of growth by e in a tenth of a time constant each, far below what would show.
_ESCAPE_SUBSTEPS = 10


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
    objective, activation = Objective("linear", "dot"), setup.activations[0]
    rates, times, closed = [], [], np.nan
    for width in setup.widths:
        told(f"linear loss of dot products, width {width}")
        network = setup.network(width, activation)
        params = networks(key, setup, network, x.shape[1])
        modes = [growth(np.asarray(tangent_kernel(one_of(params, s), x, network))) for s in range(setup.num_seeds)]
        rates.append([one.largest_rate for one in modes])
        # Long enough for the embeddings to grow by the root of the width, and as much again.
        horizon = (np.log(width) + 6.0) / modes[0].largest_rate
        looks = 4 * setup.num_records
        flow = flows(params, x, setup, network, objective, horizon, _ESCAPE_SUBSTEPS, num_records=looks)
        times.append([crossing_time(np.asarray(flow.times[s]), np.asarray(flow.change[s]), ESCAPED)
                      for s in range(setup.num_seeds)])  # fmt: skip
        closed = _closed_form_error(params, x, network, flow, modes[0])
    escape, rate = np.asarray(times), float(np.mean(rates))
    found = _laws(setup, escape)
    predicted = 1.0 / (2.0 * rate)
    return Claim(
        name="the linear loss of dot products escapes",
        statement="Under dot products the kernel does not stay: the linear loss grows the embeddings exponentially, "
        "and leaves the linear regime at a time that grows only like log M.",
        origin="the paper (that it does not stay); our derivation (the logarithm and its slope)",
        predicted=f"time of a change of {ESCAPED:g} grows by 1/(2 lambda) = {predicted:.4g} for each unit of log M",
        observed=_escape_told(found, escape),
        verdict="undecided" if found is None else _escape_verdict(found, predicted),
        quantity=f"time when the kernel has changed by {ESCAPED:g}",
        series=(
            Series(f"{objective.name}; {activation}", setup.widths, escape, None if found is None else found.slope),
        ),
        details={
            "growth rate lambda": rate,
            "predicted slope": predicted,
            "advantage of the logarithm over a power law (AIC)": None if found is None else found.advantage,
            "exponent of a power law": None if found is None else found.exponent._asdict(),
            "error of the closed form at a change of 1 %": closed,
        },
    )


def _closed_form_error(params: Params, x: jax.Array, network: Network, flow: Trajectory, modes: Growth) -> float:
    """Relative error of the closed form against the first network, when its kernel has changed by one percent."""
    changed = np.asarray(flow.change[0])
    place = int(np.argmax(~(changed < 0.01)))
    start = apply(one_of(params, 0), x, network)
    return relative_error(modes.outputs(np.asarray(start), float(flow.times[0][place])), flow.outputs[0][place])


def _laws(setup: Setup, escape: np.ndarray) -> Laws | None:
    if not np.isfinite(escape).all():
        return None
    return laws(np.random.default_rng(0), np.asarray(setup.widths), escape)


def _escape_verdict(found: Laws, predicted: float) -> Judged:
    # The prediction is to leading order in the width; a factor of two is what "like log M with this slope" can mean.
    right = found.slope.low <= 2 * predicted and found.slope.high >= predicted / 2
    return "holds" if found.slope.low > 0 and right and found.advantage > 0 else "undecided"


def _escape_told(found: Laws | None, escape: np.ndarray) -> str:
    times = ", ".join(f"{time:.3g}" for time in escape.mean(1))
    if found is None:
        return f"times {times}; some networks had not escaped at the end"
    return (
        f"times {times}; slope {interval_told(found.slope, 3)} for each unit of log M, power law with exponent "
        f"{found.exponent.value:.2f}; AIC {found.advantage:+.1f} in favor of the logarithm"
    )
