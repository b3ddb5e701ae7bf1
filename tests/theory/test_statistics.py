"""Exponents and laws are found in data where they are known, and intervals hold the truth as often as they say."""

import numpy as np
import pytest

from repsim_jax.errors import BadArrayError
from repsim_jax.theory.exponents import crossing_time, exponent, laws

WIDTHS = np.array([64, 256, 1024, 4096])


def test_a_known_exponent_is_found_and_its_interval_covers_it():
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        values = WIDTHS[:, None] ** -0.8 * np.exp(0.3 * generator.normal(size=(4, 8)))
        slope = exponent(generator, WIDTHS, values)
        covered += slope.low <= -0.8 <= slope.high
        assert abs(slope.value + 0.8) < 0.2
    # Eight seeds: the percentile bootstrap covers somewhat less than it says.
    assert 0.85 <= covered / 200 <= 0.98


def test_the_logarithm_and_the_power_are_told_apart():
    generator = np.random.default_rng(0)
    noise = 1 + 0.01 * generator.normal(size=(4, 6))
    logarithmic = laws(generator, WIDTHS, (0.1 + 0.04 * np.log(WIDTHS))[:, None] * noise)
    assert logarithmic.advantage > 2
    assert logarithmic.slope.low < 0.04 < logarithmic.slope.high
    power = laws(generator, WIDTHS, (0.02 * WIDTHS**0.5)[:, None] * noise)
    assert power.advantage < -2
    assert abs(power.exponent.value - 0.5) < 0.02


def test_a_threshold_is_passed_between_two_looks():
    times = np.arange(1.0, 6.0)
    assert crossing_time(times, np.exp(times), np.exp(2.5)) == pytest.approx(2.5)
    assert crossing_time(times, np.array([1.0, 2.0, np.nan, 1.0, 1.0]), 10.0) == 3.0
    assert crossing_time(times, np.full(5, 0.01), 0.1) == np.inf
    assert crossing_time(times, np.full(5, 0.2), 0.1) == 1.0


@pytest.mark.parametrize(
    ("widths", "values"),
    [
        ([64], np.ones((1, 3))),
        ([64, 64], np.ones((2, 3))),
        ([64, 256], np.ones(2)),
        ([64, 256], np.array([[1.0, 2.0], [0.0, 1.0]])),
        ([64, 256], np.array([[1.0, 2.0], [np.nan, 1.0]])),
    ],
)
def test_what_has_no_exponent_is_refused(widths: list[int], values: np.ndarray):
    with pytest.raises(BadArrayError, match="an exponent needs"):
        exponent(np.random.default_rng(0), np.asarray(widths), values)


def test_two_widths_cannot_tell_two_laws_apart():
    with pytest.raises(BadArrayError, match="three widths"):
        laws(np.random.default_rng(0), np.array([64, 256]), np.ones((2, 3)))
