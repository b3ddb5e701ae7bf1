"""Under which losses does the tangent kernel of a wide network stay what it was at the start?"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.theory.claims import Claim, Judged, Series, Setup, Told, flows, interval_told, networks, one_of
from repsim_jax.theory.exponents import exponent
from repsim_jax.theory.flow import Resolved, Trajectory, resolve
from repsim_jax.theory.objectives import Objective


def cosine_constancy(key: jax.Array, x: jax.Array, setup: Setup, told: Told) -> Claim:
    """Cosine losses keep the kernel: its change shrinks with the width.

    Args:
        key: Random key.
        x: Points in float64.
        setup: Widths, seeds and horizons.
        told: Takes lines of progress.

    Returns:
        The claim.
    """
    objectives = [Objective(loss, "cosine") for loss in ("linear", "logistic", "infonce")]
    series, errors, drifts = [], [], []
    for objective in objectives:
        for activation in setup.activations:
            one, error, seen = _constancy(key, x, setup, objective, activation, told)
            series.append(one)
            errors.append(error)
            drifts.append(max(float(jnp.abs(flow.output_norm - 1).max()) for flow in seen))
    slopes = [one.slope for one in series if one.slope is not None]
    return Claim(
        name="cosine losses keep the kernel",
        statement="The tangent kernel of a wide network stays almost constant under losses of cosine similarity.",
        origin="the paper",
        predicted="exponent of the change in the width below 0; the usual bounds give -1/2",
        observed=_exponents_told(series, setup.horizon),
        verdict=_all_below(series, errors, 0.0),
        quantity=f"relative change of the tangent kernel at t = {setup.horizon:g}",
        series=tuple(series),
        details={
            "integration error": max(errors),
            "drift of the conserved norm of the output weights": max(drifts),
            "faster than -1/2": sum(slope.high < -0.5 for slope in slopes),
            "settings": len(slopes),
        },
    )


def bounded_dot_constancy(key: jax.Array, x: jax.Array, setup: Setup, told: Told) -> Claim:
    """Which losses of dot products keep the kernel all the same?

    Args:
        key: Random key.
        x: Points in float64.
        setup: Widths, seeds and horizons.
        told: Takes lines of progress.

    Returns:
        The claim.
    """
    series, errors = [], []
    for loss in ("logistic", "spectral", "barlow_twins"):
        one, error, _ = _constancy(key, x, setup, Objective(loss, "dot"), setup.activations[0], told)
        series.append(one)
        errors.append(error)
    return Claim(
        name="dot products with a bounded pull keep it too",
        statement="Losses of dot products whose pull on the embeddings does not grow with them keep the kernel over "
        "the same time: the line is not between dot product and cosine, but between losses that run away and losses "
        "that do not.",
        origin="our measurement",
        predicted="exponent of the change in the width below 0",
        observed=_exponents_told(series, setup.horizon),
        verdict=_all_below(series, errors, 0.0),
        quantity=f"relative change of the tangent kernel at t = {setup.horizon:g}",
        series=tuple(series),
        details={"integration error": max(errors)},
    )


def _constancy(
    key: jax.Array, x: jax.Array, setup: Setup, objective: Objective, activation: str, told: Told
) -> tuple[Series, float, list[Trajectory]]:
    """Change of the kernel at the horizon over widths and seeds, and the error of the integration."""
    values, seen, resolved = [], [], Resolved(0, np.inf)
    for width in setup.widths:
        told(f"{objective.name}; {activation}, width {width}")
        network = setup.network(width, activation)
        params = networks(key, setup, network, x.shape[1])
        if width == setup.widths[0]:
            # The narrowest network moves its weights most, and is the stiffest.
            resolved = resolve(
                one_of(params, 0), x, network=network, objective=objective, horizon=setup.horizon,
                num_records=setup.num_records,
            )  # fmt: skip
        flow = flows(params, x, setup, network, objective, setup.horizon, resolved.num_substeps)
        values.append(np.asarray(flow.change[:, -1]))
        seen.append(flow)
    found = np.asarray(values)
    slope = None
    if np.isfinite(found).all():
        slope = exponent(np.random.default_rng(0), np.asarray(setup.widths), found)
    return Series(f"{objective.name}; {activation}", setup.widths, found, slope), resolved.error, seen


def _exponents_told(series: Sequence[Series], horizon: float) -> str:
    told = [f"{one.label}: {interval_told(one.slope)}" for one in series if one.slope is not None]
    return f"exponents at t = {horizon:g}: " + ", ".join(told)


def _all_below(series: Sequence[Series], errors: Sequence[float], limit: float) -> Judged:
    if not np.isfinite(errors).all():
        return "undecided"  # some flow was not integrated finely enough to say anything
    slopes = [one.slope for one in series if one.slope is not None]
    if len(slopes) < len(series):
        return "does not hold"
    if slopes and all(slope.high < limit for slope in slopes):
        return "holds"
    return "does not hold" if any(slope.low > limit for slope in slopes) else "undecided"
