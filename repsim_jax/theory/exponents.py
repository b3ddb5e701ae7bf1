"""How fast does a quantity fall or grow with the width? Exponents with intervals over seeds, and laws against laws."""

from typing import NamedTuple

import numpy as np

from repsim_jax.errors import BadArrayError

_DRAWS = 2000


class Slope(NamedTuple):
    """A fitted slope with its 95 % bootstrap interval over seeds.

    Attributes:
        value: Fitted to the means.
        low: 2.5th percentile of the slopes of resampled seeds.
        high: 97.5th percentile.
        intercept: Of the fitted line.
        seeds: How many seeds there were at each width.
    """

    value: float
    low: float
    high: float
    intercept: float
    seeds: int


class Laws(NamedTuple):
    """Two laws of a time in the width, compared.

    Attributes:
        slope: Of time against the logarithm of the width.
        exponent: Of the power law, time against width on doubly logarithmic axes.
        advantage: AIC of the power law minus that of the logarithmic law: positive where the logarithm fits better; 2
            is weak evidence, 10 is strong.
    """

    slope: Slope
    exponent: Slope
    advantage: float


def exponent(generator: np.random.Generator, widths: np.ndarray, values: np.ndarray) -> Slope:
    r"""Fits :math:`\text{value} \propto M^b` by least squares on doubly logarithmic axes.

    Args:
        generator: Draws the seeds that are resampled.
        widths: (w,) at least two different ones.
        values: (w, s) of each width and seed, positive; seeds of different widths are independent.

    Returns:
        The exponent b, fitted to the geometric means over seeds.

    Raises:
        BadArrayError: If there are too few widths or a value is not positive and finite.
    """
    widths, values = _checked(widths, values)
    return _slope(generator, np.log(widths), np.log(values))


def laws(generator: np.random.Generator, widths: np.ndarray, times: np.ndarray) -> Laws:
    r"""Does a time grow like :math:`\log M` or like a power of M?

    Args:
        generator: Draws the seeds that are resampled.
        widths: (w,) at least three different ones.
        times: (w, s) positive.

    Returns:
        Both fits, and which is better. Both have two parameters, so that the comparison is that of the residuals of
        log(time).

    Raises:
        BadArrayError: As ``exponent``; if there are fewer than three widths.
    """
    widths, times = _checked(widths, times)
    if len(widths) < 3:
        raise BadArrayError(f"laws needs three widths or more to tell two laws apart, got {len(widths)}.")
    logs = np.log(widths)
    slope, power = _slope(generator, logs, times), _slope(generator, logs, np.log(times))
    means = np.log(times.mean(1))
    logarithmic = slope.intercept + slope.value * logs
    if (logarithmic <= 0).any():
        return Laws(slope, power, -np.inf)
    residuals = [means - np.log(logarithmic), means - _line(logs, means) @ (logs, np.ones_like(logs))]
    sums = [max(float(np.square(one).sum()), 1e-30) for one in residuals]
    return Laws(slope, power, float(len(widths) * np.log(sums[1] / sums[0])))


def crossing_time(times: np.ndarray, values: np.ndarray, threshold: float) -> float:
    """When a growing quantity first passes a threshold, between two looks on a logarithmic scale.

    Args:
        times: (t,) of the looks; the quantity is zero at time zero.
        values: (t,) >= 0; what is not finite has passed any threshold.
        threshold: > 0.

    Returns:
        The time; infinity where it never passes.
    """
    passed = ~(np.nan_to_num(values, nan=np.inf) <= threshold)
    if not passed.any():
        return float("inf")
    place = int(passed.argmax())
    if place == 0 or not np.isfinite(values[place]) or values[place - 1] <= 0:
        return float(times[place])
    low, high = np.log(values[place - 1]), np.log(values[place])
    share = (np.log(threshold) - low) / (high - low)
    return float(times[place - 1] + share * (times[place] - times[place - 1]))


def _checked(widths: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    widths, values = np.asarray(widths, float), np.asarray(values, float)
    if values.ndim != 2 or len(widths) != len(values) or len(set(widths.tolist())) < 2:
        raise BadArrayError(
            f"an exponent needs (widths, seeds) values at two widths or more, got {values.shape} for {widths.tolist()}."
        )
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise BadArrayError(
            "an exponent needs positive, finite values: the quantity vanished or blew up at some width."
        )
    return widths, values


def _line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.polyfit(x, y, 1)


def _slope(generator: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Slope:
    seeds = y.shape[1]
    value, intercept = _line(x, y.mean(1))
    picked = generator.integers(0, seeds, (_DRAWS, *y.shape))
    means = np.take_along_axis(np.broadcast_to(y, picked.shape), picked, axis=2).mean(2)
    centered = x - x.mean()
    drawn = means @ centered / (centered @ centered)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Slope(float(value), float(low), float(high), float(intercept), seeds)
