"""How does closeness to PCA decay: with time, depth, a penalty instead of the constraint, a closing eigengap?"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax._compat import enable_x64
from repsim_jax.theory.claims import Claim, Judged, Series, Setup, Told, interval_told, start_of
from repsim_jax.theory.departure import Departure, at_pca, depart, deviation, doubled, penalized_scales
from repsim_jax.theory.exponents import exponent
from repsim_jax.theory.networks import Network
from repsim_jax.theory.pca import ContrastivePca
from repsim_jax.theory.triplets import Triplets

PENALTIES = (1.0, 10.0, 30.0)
# Of the constraint, as in the claim on trained features; of a penalty, relative to the edge of what is stable when
# eigenvalues have grown fourfold, as those of narrow networks do.
_RATE, _SHARE, _GROWTH = 0.2, 0.25, 4.0
# Below this the embeddings have not left PCA at all; rounding gives about 1e-8.
_STAYED = 1e-6


class Case(NamedTuple):
    """One setting in which PCA is left.

    Attributes:
        label: What to call it.
        num_hidden: Hidden layers.
        num_outputs: Components K.
        penalty: Strength; None: the constraint.
        is_doubled: Whether every eigenvalue comes twice, but for the finite width.
    """

    label: str
    num_hidden: int
    num_outputs: int
    penalty: float | None = None
    is_doubled: bool = False


def beyond_pca(key: jax.Array, given: Triplets, setup: Setup, told: Told, *, horizon: float = 40.0) -> Claim:
    """Does training stay near PCA where the theorem's setting is left?

    Networks start at PCA of their features exactly, so that what is seen is departure, and not that descent has yet to
    arrive; with frozen hidden weights they stay, which is tested along the way.

    Args:
        key: Random key.
        given: From ``triplets``.
        setup: Widths, seeds, outputs and the first activation.
        told: Takes lines of progress.
        horizon: Time of training.

    Returns:
        The claim, computed in float64.
    """
    series, details, frozen = [], {}, 0.0
    with enable_x64():
        given_points = jnp.asarray(given.points)
        for case in _cases(setup):
            x = doubled(given_points) if case.is_doubled else given_points
            runs = [_departed(key, x, setup, case, width, horizon, told) for width in setup.widths]
            series.append(_series(case, setup, [one for one, _ in runs]))
            details[case.label] = _details(runs, series[-1])
            frozen = max(frozen, _frozen(key, x, setup, case, horizon))
    slopes = [one.slope for one in series]
    details["largest deviation with frozen features"] = frozen
    return Claim(
        name="beyond PCA",
        statement="Training that starts at PCA of random features leaves it the less the wider the network, also with "
        "more hidden layers, with a penalty in place of the constraint, and where the eigengap closes.",
        origin="our measurement",
        predicted="exponent of the deviation below 0 in the width (to first order -1, and +1 in time; where the gap "
        "closes like M^-1/2, -1/2 at worst by Davis-Kahan), and no deviation with frozen features",
        observed=", ".join(
            f"{one.label} {'diverged' if one.slope is None else interval_told(one.slope)}, in time "
            f"{details[one.label]['exponent in time']:.2f}"
            for one in series
        ),
        verdict=_verdict(slopes, frozen),
        quantity=f"root mean squared sine of the angles to PCA at t = {horizon:g}",
        series=tuple(series),
        details=details,
    )


def _cases(setup: Setup) -> list[Case]:
    k = setup.num_outputs
    return [
        Case("constraint", 1, k),
        *(Case(f"penalty {one:g}", 1, k, one) for one in PENALTIES),
        Case("two hidden layers", 2, k),
        Case("three hidden layers", 3, k),
        Case("gap that closes, K = 1", 1, 1, is_doubled=True),
        Case("the same data, K = 2", 1, 2, is_doubled=True),
    ]


def _network(setup: Setup, case: Case, width: int) -> Network:
    return Network(width, case.num_outputs, case.num_hidden, setup.activations[0])  # pyright: ignore[reportArgumentType]


def _started(
    key: jax.Array, x: jax.Array, setup: Setup, case: Case, width: int
) -> tuple[Network, Any, list[ContrastivePca]]:
    """Networks at PCA of their features, scaled to where the penalty is at its minimum."""
    network = _network(setup, case, width)
    placed, starts = [], []
    for seed in range(setup.num_seeds):
        at, start = at_pca(start_of(key, network, x.shape[1], seed), x, network)
        if case.penalty is not None:
            scales = penalized_scales(start.eigenvalues[: case.num_outputs], case.penalty)
            at = (*at[:-1], at[-1] * scales)
        placed.append(at)
        starts.append(start)
    return network, jax.tree.map(lambda *leaves: jnp.stack(leaves), *placed), starts


def _departed(
    key: jax.Array, x: jax.Array, setup: Setup, case: Case, width: int, horizon: float, told: Told
) -> tuple[np.ndarray, dict[str, Any]]:
    """Deviations (s, t) at one width, and what goes with them."""
    told(f"leaving PCA: {case.label}, width {width}")
    network, params, starts = _started(key, x, setup, case, width)
    rate = _rate(case, starts)
    run = depart(params, x, network=network, penalty=case.penalty, horizon=horizon, learning_rate=rate)
    return _deviations(run, starts), {
        "times": np.asarray(run.times).tolist(),
        "change of the Gram matrix, median": float(np.median(np.asarray(run.gram_change[:, -1]))),
        "distance of the output weights from orthonormal, median": float(np.median(np.asarray(run.defect[:, -1]))),
        "gap over the eigenvalue above it, median": float(
            np.median([one.gap / one.eigenvalues[case.num_outputs - 1] for one in starts])
        ),
    }


def _rate(case: Case, starts: list[ContrastivePca]) -> float:
    if case.penalty is None:
        return _RATE
    return min(_RATE, _SHARE / (case.penalty + 2 * _GROWTH * max(one.eigenvalues[0] for one in starts)))


def _deviations(run: Departure, starts: list[ContrastivePca]) -> np.ndarray:
    found = np.asarray(run.embeddings)
    return np.asarray(
        [
            [deviation(look, start) if np.isfinite(look).all() else np.nan for look in one]
            for one, start in zip(found, starts, strict=True)
        ]
    )


def _frozen(key: jax.Array, x: jax.Array, setup: Setup, case: Case, horizon: float) -> float:
    """Largest deviation of the narrowest networks with frozen hidden weights: that of rounding."""
    network, params, starts = _started(key, x, setup, case, setup.widths[0])
    run = depart(
        params, x, network=network, penalty=case.penalty, train_hidden=False, horizon=horizon,
        learning_rate=_rate(case, starts),
    )  # fmt: skip
    return float(_deviations(run, starts).max())


def _series(case: Case, setup: Setup, deviations: list[np.ndarray]) -> Series:
    values = np.asarray([one[:, -1] for one in deviations])
    slope = None
    if np.isfinite(values).all() and (values > 0).all():
        slope = exponent(np.random.default_rng(0), np.asarray(setup.widths), values)
    return Series(case.label, setup.widths, values, slope)


def _details(runs: list[tuple[np.ndarray, dict[str, Any]]], one: Series) -> dict[str, Any]:
    """By width, and the exponent in time at the largest."""
    deviations, last = runs[-1]
    in_time = np.polyfit(np.log(last["times"]), np.log(np.maximum(deviations, 1e-300)).mean(0), 1)[0]
    return {
        "deviation over time, widest, median": np.median(deviations, axis=0).tolist(),
        "exponent in time": float(in_time),
        "deviation, median by width": np.median(one.values, axis=1).tolist(),
        **{name: [told[name] for _, told in runs] for name in last if name != "times"},
        "times": last["times"],
    }


def _verdict(slopes: list[Any], frozen: float) -> Judged:
    if frozen > _STAYED or any(one is None or one.low > 0 for one in slopes):
        return "does not hold"
    return "holds" if all(one.high < 0 for one in slopes) else "undecided"
