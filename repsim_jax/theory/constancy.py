"""Under which losses does the tangent kernel of a wide network stay what it was at the start, and for how long?"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from repsim_jax.theory.claims import Claim, Judged, Series, Setup, Told, interval_told, start_of
from repsim_jax.theory.courses import ESCAPED, Course, follow
from repsim_jax.theory.networks import Network, Params
from repsim_jax.theory.objectives import Objective

_COSINE = tuple(Objective(loss, "cosine") for loss in ("linear", "logistic", "infonce", "attraction"))
_DOT_BELOW = tuple(Objective(loss, "dot") for loss in ("logistic", "infonce", "spectral", "barlow_twins"))
_DOT_UNBOUNDED = tuple(Objective(loss, "dot") for loss in ("linear", "attraction"))
# A cosine turns without bound where an embedding of it vanishes, and its flow becomes stiff.
_NEAR_ZERO = 0.05
# One program for each width serves them all.
OBJECTIVES = _COSINE + _DOT_BELOW + _DOT_UNBOUNDED


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
    courses = [one for activation in setup.activations for one in courses_of(key, x, setup, _COSINE, activation, told)]
    verdict, until = _judged(courses, setup.horizon)
    series = [_at(one, until or setup.horizon) for one in courses]
    slopes = [one.slope for one in series if one.slope is not None]
    return Claim(
        name="cosine losses keep the kernel",
        statement="The tangent kernel of a wide network stays almost constant under losses of cosine similarity.",
        origin="the paper",
        predicted="exponent of the largest change so far in the width below 0; the usual bounds give -1/2",
        observed=_exponents_told(series, until or setup.horizon) + _stiffness_told(courses, setup.horizon),
        verdict=verdict,
        until=until,
        quantity=f"largest relative change of the tangent kernel until t = {until or setup.horizon:.3g}",
        series=tuple(series),
        courses=tuple(courses),
        details={
            "integration error": max(one.error for one in courses),
            "drift of the conserved norm of the output weights": max(one.norm_drift for one in courses),
            "faster than -1/2": sum(slope.high < -0.5 for slope in slopes),
            "settings": len(slopes),
            "kept until": {one.label: one.kept_until for one in courses},
            "followed until": {one.label: one.followed_until for one in courses},
        },
    )


def dot_boundary(key: jax.Array, x: jax.Array, setup: Setup, told: Told) -> Claim:
    """Which losses of dot products keep the kernel all the same?

    Args:
        key: Random key.
        x: Points in float64.
        setup: Widths, seeds and horizons.
        told: Takes lines of progress.

    Returns:
        The claim.
    """
    activation = setup.activations[0]
    courses = courses_of(key, x, setup, _DOT_BELOW + _DOT_UNBOUNDED, activation, told)
    bounded, unbounded = courses[: len(_DOT_BELOW)], courses[len(_DOT_BELOW) :]
    kept = [one for one in courses if one.kept_until == setup.horizon]
    escaped = [one for one in courses if np.isfinite(one.escape_times()).all()]
    agree = [one in kept for one in bounded] + [one in escaped for one in unbounded]
    against = [one in escaped and one not in kept for one in bounded] + [one in kept for one in unbounded]
    return Claim(
        name="losses without a lower bound escape, others stay",
        statement="The line is not between dot product and cosine, but between losses that have a lower bound and "
        "losses that fall forever: the former keep the kernel under dot products too.",
        origin="our measurement",
        predicted=f"exponent of the change in the width below 0 up to t = {setup.horizon:g} for {_names(bounded)}; a "
        f"change above {ESCAPED:g} at every width for {_names(unbounded)}",
        observed=f"kept: {_names(kept) or 'none'}; escaped at every width: {_names(escaped) or 'none'}; "
        + _exponents_told([_at(one, one.kept_until) for one in courses if one.kept_until], None),
        verdict="holds" if all(agree) else "does not hold" if any(against) else "undecided",
        quantity=f"largest relative change of the tangent kernel until t = {setup.horizon:.3g}",
        series=tuple(_at(one, setup.horizon) for one in courses if one.kept_until == setup.horizon),
        courses=tuple(courses),
        details={
            "integration error": max(one.error for one in courses),
            "kept until": {one.label: one.kept_until for one in courses},
            "followed until": {one.label: one.followed_until for one in courses},
            f"times of a change of {ESCAPED:g}, by width and seed": {
                one.label: one.escape_times().tolist() for one in courses
            },
        },
    )


def courses_of(
    key: jax.Array, x: jax.Array, setup: Setup, objectives: Sequence[Objective], activation: str, told: Told
) -> list[Course]:
    """Courses of the kernel under some losses, those of the claims by one program for each width.

    Args:
        key: Random key.
        x: Points in float64.
        setup: Widths, seeds and horizons.
        objectives: Losses.
        activation: Of the hidden units.
        told: Takes lines of progress.

    Returns:
        One for each loss.
    """
    known = OBJECTIVES if set(objectives) <= set(OBJECTIVES) else tuple(objectives)
    networks = [setup.network(width, activation) for width in setup.widths]
    start = partial(_start, key, x.shape[1])
    return follow(start, x, setup.times, networks, setup.num_seeds, known, [*map(known.index, objectives)], told)


def _start(key: jax.Array, num_inputs: int, network: Network, seed: int) -> Params:
    return start_of(key, network, num_inputs, seed)


def _judged(courses: Sequence[Course], horizon: float) -> tuple[Judged, float | None]:
    """Whether the kernel is kept, and until when if not to the end."""
    until = min(one.kept_until for one in courses)
    if until == horizon:
        return "holds", None
    if until > 0:
        return "holds until", until
    return ("does not hold" if any(one.is_refuted for one in courses) else "undecided"), None


def _at(course: Course, time: float) -> Series:
    """The changes at one of the times of a course."""
    place = int(np.abs(course.times - time).argmin())
    return Series(course.label, course.widths, course.change[:, place], course.slopes[place])


def _exponents_told(series: Sequence[Series], time: float | None) -> str:
    told = [f"{one.label}: {interval_told(one.slope)}" for one in series if one.slope is not None]
    when = "as long as it was kept" if time is None else f"at t = {time:.3g}"
    return f"exponents {when}: " + ", ".join(told)


def _stiffness_told(courses: Sequence[Course], horizon: float) -> str:
    """Where flows could not be followed, with the reason."""
    lost = [one for one in courses if one.followed_until < horizon]
    if not lost:
        return ""
    least = min(one.norm_least for one in lost)
    why = f", an embedding having come near zero (to {least:.1g} of the mean norm)" if least < _NEAR_ZERO else ""
    told = ", ".join(f"{one.label} until t = {one.followed_until:.3g}" for one in lost)
    return f"; not followed finely enough to the end{why}: {told}"


def _names(courses: Sequence[Course]) -> str:
    return ", ".join(one.label.split(",")[0] for one in courses)
