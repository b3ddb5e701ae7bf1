"""How does the tangent kernel move in time, at every width: where does it stay, and where does it escape?"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.theory.exponents import Slope, crossing_time, exponent
from repsim_jax.theory.flow import Trajectory, flow_error, gradient_flow
from repsim_jax.theory.networks import Network, Params
from repsim_jax.theory.objectives import Objective

# Relative change of the kernel that counts as having left the linear regime.
ESCAPED = 0.1
# Below it a kernel is as good as constant, and its change that of a few units (of ReLU, of those that switched).
NEGLIGIBLE = 0.01
# By how much errors of integration may move an exponent, if they are as large in every network.
_EXPONENT_ERROR = 0.1
# Of the flow, by whether units are smooth. Weights of ReLU units get stuck where the unit switches, and an integrator
# chatters there: finer steps follow the chatter, and not the flow.
_TOLERANCES = {True: 1e-4, False: 1e-3}
_FINER = 0.1
# Exponent of the change in the width that the usual bounds give.
_BOUND = -0.5


class Course(NamedTuple):
    """Largest relative change of the tangent kernel so far, over widths, times and seeds, under one setting.

    A kernel that stays is one whose change is small at all times up to some time, so it is the largest that counts.

    Attributes:
        label: The setting: "linear, cosine; tanh".
        widths: (w,).
        times: (t,).
        change: (w, t, s) largest up to each time; infinite after an escape, NaN where the flow could not be followed.
        slopes: (t,) exponents in the width; None where not every network has a change.
        errors: (t,) largest relative difference to an integration with a tenth of the tolerance, of one network at
            each end of the widths, as long as its kernel has not escaped.
        norm_drift: Largest relative change of the squared norm of the output weights.
        norm_least: Smallest norm of an embedding at any look, relative to the mean norm at the first.
    """

    label: str
    widths: tuple[int, ...]
    times: np.ndarray
    change: np.ndarray
    slopes: tuple[Slope | None, ...]
    errors: np.ndarray
    norm_drift: float
    norm_least: float

    @property
    def kept_until(self) -> float:
        """The last time up to which the change shrinks with the width or is negligible everywhere; 0 if it never is.

        Shrinks: the interval of the exponent is below zero. It is of the largest change so far, and so covers earlier
        times at which too little had changed to tell. Where the integration is not fine enough, nothing is known.
        """
        shrinks = np.asarray([slope is not None and slope.high < 0 for slope in self.slopes])
        kept = (shrinks | (self.change < NEGLIGIBLE).all(axis=(0, 2))) & (self.times <= self.followed_until)
        return float(self.times[kept].max(initial=0.0))

    @property
    def followed_until(self) -> float:
        """The last time up to which every network was followed finely enough, or has escaped."""
        followed = ~np.isnan(self.change).any(axis=(0, 2)) & self._is_resolved
        return float(self.times[followed.cumprod().sum() - 1]) if followed[0] else 0.0

    @property
    def error(self) -> float:
        """Largest error up to ``followed_until``."""
        return float(self.errors[self.times <= self.followed_until].max(initial=0.0))

    @property
    def _is_resolved(self) -> np.ndarray:
        """(t,) whether the integration was so fine that an exponent of the two ends would hardly move."""
        return self.errors <= _EXPONENT_ERROR * np.log(self.widths[-1] / self.widths[0])

    @property
    def is_refuted(self) -> bool:
        """Whether the change shrinks at no time, and surely not at one of them.

        Surely not: the widest networks have escaped, or the exponent's interval holds 0 and not the bounds' -1/2.
        """
        followed = [
            (slope, change)
            for slope, change, time in zip(self.slopes, self.change[-1], self.times, strict=True)
            if time <= self.followed_until
        ]
        escaped = any(np.isinf(change).all() for _, change in followed)
        flat = any(slope is not None and slope.high >= 0 and slope.low > _BOUND for slope, _ in followed)
        return self.kept_until == 0 and (escaped or flat)

    def escape_times(self) -> np.ndarray:
        """When each network's kernel had changed by ``ESCAPED``.

        Returns:
            (w, s); infinity where it had not at the end, or the flow could not be followed so far.
        """
        change = np.where(np.isnan(self.change), 0.0, self.change)
        return np.apply_along_axis(lambda one: crossing_time(self.times, one, ESCAPED), 1, change)


def follow(
    start: Callable[[Network, int], Params], x: jax.Array, times: np.ndarray, networks: Sequence[Network],
    num_seeds: int, objectives: tuple[Objective, ...], wanted: Sequence[int], told: Callable[[str], None],
) -> list[Course]:  # fmt: skip
    """Follows gradient flow at every width, from every seed, under several losses, with one program for each width.

    Args:
        start: Gives the weights that a network of a seed starts from.
        x: Points in float64.
        times: (t,) of the looks.
        networks: Of rising widths, otherwise alike.
        num_seeds: Networks at each width.
        objectives: All losses that the programs know.
        wanted: Numbers of those that are followed.
        told: Takes lines of progress.

    Returns:
        A course for each loss.
    """
    change = np.full((len(wanted), len(networks), len(times), num_seeds), np.nan)
    errors = np.zeros((len(wanted), len(times)))
    drift, least = np.zeros(len(wanted)), np.full(len(wanted), np.inf)
    looks = jnp.asarray(times)
    for i, network in enumerate(networks):
        for seed in range(num_seeds):
            params = start(network, seed)
            for j, which in enumerate(wanted):
                told(f"{objectives[which].name}; {network.activation}, width {network.width:,}, seed {seed}")
                flow = gradient_flow(
                    params, x, looks, network=network, objectives=objectives, which=which, tolerance=_tolerance(network)
                )
                change[j, i, :, seed] = np.maximum.accumulate(_marked(flow))
                drift[j], least[j] = max(drift[j], _drift(flow)), min(least[j], _least_norm(flow))
                if seed == 0 and i in (0, len(networks) - 1):
                    errors[j] = np.maximum(errors[j], _errors(flow, params, x, network, objectives, which))
    widths = tuple(network.width for network in networks)
    return [
        Course(
            f"{objectives[which].name}; {networks[0].activation}", widths, times, change[j],
            tuple(_exponent(widths, at) for at in change[j].swapaxes(0, 1)), errors[j], float(drift[j]),
            float(least[j]),
        )
        for j, which in enumerate(wanted)
    ]  # fmt: skip


def _errors(
    flow: Trajectory, params: Params, x: jax.Array, network: Network, objectives: tuple[Objective, ...], which: int
) -> np.ndarray:
    tolerance = _FINER * _tolerance(network)
    finer = gradient_flow(
        params, x, flow.times, network=network, objectives=objectives, which=which, tolerance=tolerance
    )
    # Of a kernel that has escaped no number is needed.
    escaped = (np.asarray(flow.change) > ESCAPED) & (np.asarray(finer.change) > ESCAPED)
    return np.where(escaped, 0.0, np.asarray(flow_error(flow, finer, floor=NEGLIGIBLE)))


def _tolerance(network: Network) -> float:
    return _TOLERANCES[network.is_smooth]


def _marked(flow: Trajectory) -> np.ndarray:
    """Changes of the kernel: infinite after an escape, NaN where the flow only could not be followed."""
    change = np.asarray(flow.change)
    seen = np.isfinite(change)
    has_escaped = bool(flow.ran_away) or (seen.any() and change[seen][-1] > ESCAPED)
    return np.where(seen, change, np.inf if has_escaped else np.nan)


def _drift(flow: Trajectory) -> float:
    norm = np.asarray(flow.output_norm)
    return float(np.abs(norm[np.isfinite(norm)] - 1).max(initial=0.0))


def _least_norm(flow: Trajectory) -> float:
    outputs = np.asarray(flow.outputs)
    norms = np.linalg.norm(outputs[np.isfinite(outputs).all(axis=(1, 2))], axis=2)
    return float(norms.min() / norms[0].mean()) if len(norms) else float("nan")


def _exponent(widths: Sequence[int], values: np.ndarray) -> Slope | None:
    if not (np.isfinite(values).all() and (values > 0).all()):
        return None
    return exponent(np.random.default_rng(0), np.asarray(widths), values)
