"""What a course of the kernel says is right on courses that are planted, whatever ended them."""

import numpy as np
import pytest

from repsim_jax.report.courses import courses_chart
from repsim_jax.report.plots import encode
from repsim_jax.theory import Course
from repsim_jax.theory.constancy import _judged
from repsim_jax.theory.courses import _exponent

WIDTHS, TIMES = (64, 256, 1024), 2.0 ** np.arange(-3, 3)


def planted(exponent: float = -1.0, rate: float = 0.3, errors: float = 0.0, **changes: np.ndarray) -> Course:
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=(3, 1, 4)))
    change = rate * TIMES[None, :, None] * (np.asarray(WIDTHS, float) / 64)[:, None, None] ** exponent * noise
    change = changes.get("change", change)
    slopes = tuple(_exponent(WIDTHS, at) for at in change.swapaxes(0, 1))
    return Course("linear, cosine; tanh", WIDTHS, TIMES, change, slopes, np.full(6, errors), 0.0, 1.0)


def test_a_kernel_that_stays_is_kept_to_the_end_and_escapes_where_it_passes_a_tenth():
    course = planted()
    assert course.kept_until == course.followed_until == TIMES[-1]
    times = course.escape_times()
    assert np.isfinite(times[0]).all()
    np.testing.assert_allclose(times[0].mean(), 0.1 / 0.3, rtol=0.1)
    assert np.isinf(planted(rate=0.001).escape_times()).all()
    assert _judged([course, course], TIMES[-1]) == ("holds", None)


def test_a_change_that_does_not_shrink_is_not_kept_unless_it_is_negligible():
    assert planted(exponent=0.5).kept_until == 0.0
    assert planted(exponent=0.5, rate=1e-4).kept_until == TIMES[-1]
    assert _judged([planted(exponent=0.5)], TIMES[-1]) == ("does not hold", None)


def unsure() -> np.ndarray:
    """Changes whose exponents are -1.2 for two seeds and 0.3 for two."""
    exponents = np.asarray([-1.2, -1.2, 0.3, 0.3])
    return 0.02 * (np.asarray(WIDTHS, float) / 64)[:, None, None] ** exponents * np.ones((3, 6, 4))


def test_what_shrinks_at_last_covers_earlier_times_at_which_nothing_could_be_told():
    course = planted(change=np.maximum.accumulate(np.concatenate([unsure()[:, :1], planted().change[:, 1:]], 1), 1))
    first = course.slopes[0]
    assert first is not None
    assert first.low < -0.5 < 0 < first.high
    assert course.kept_until == TIMES[-1]


def test_a_wide_interval_of_the_exponent_decides_nothing_and_a_narrow_one_refutes():
    assert _judged([planted(), planted(change=unsure())], TIMES[-1]) == ("undecided", None)
    assert _judged([planted(), planted(exponent=0.1)], TIMES[-1]) == ("does not hold", None)
    escaped = planted(change=np.full((3, 6, 4), np.inf))
    assert _judged([planted(), escaped], TIMES[-1]) == ("does not hold", None)


def test_a_flow_that_was_not_resolved_decides_nothing():
    course = planted(errors=0.5)
    assert course.kept_until == course.followed_until == course.error == 0.0
    assert _judged([planted(), course], TIMES[-1]) == ("undecided", None)


@pytest.mark.parametrize("end", [np.inf, np.nan])
def test_what_ends_early_is_kept_until_then_and_followed_only_if_it_escaped(end: float):
    change = planted().change.copy()
    change[0, 4:, 2] = end
    course = planted(change=change)
    assert course.kept_until == TIMES[3]
    assert course.followed_until == (TIMES[-1] if np.isinf(end) else TIMES[3])
    assert _judged([planted(), course], TIMES[-1]) == ("holds until", TIMES[3])
    assert np.isfinite(course.escape_times()[0, 2])


def test_courses_are_drawn_whatever_ended_them():
    change = planted().change.copy()
    change[0, 4:, 2], change[1, 3:, 1] = np.inf, np.nan
    nothing = planted(change=np.full_like(change, np.nan), errors=np.inf)
    chart = courses_chart([planted(), planted(change=change), nothing], stem="a", title="$a$ title", caption="b")
    texts = [text.get_text() for axes in chart.figure.axes for text in axes.texts]
    assert any(text.startswith("stays: change falls like width^-1") for text in texts)
    assert "known until t = 0" in " ".join(texts)
    png, svg = encode(chart.figure)
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in svg
