"""Whatever numbers come in, a measure is right to the textbook's value or refuses: never a silent wrong number."""

import contextlib

import hypothesis.extra.numpy as arrays
import numpy as np
import oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repsim_jax import similarity
from repsim_jax.errors import BadArrayError

# One shape, so that Hypothesis varies the numbers and not the compilation.
X = arrays.arrays(np.float32, (9, 4), elements=st.floats(-1e6, 1e6, width=32))
Y = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
COUNTS = np.arange(36, dtype=np.float32).reshape(9, 4)


@pytest.mark.parametrize("name", ["linear_cka", "procrustes"])
@settings(max_examples=60)
@given(x=X)
@example(x=COUNTS * 0 + COUNTS[:, :1])
@example(x=np.where(COUNTS == 7, np.float32(1e6), np.float32(0)))
def test_any_finite_numbers_are_measured_rightly_or_refused(name: str, x: np.ndarray):
    try:
        found = float(getattr(similarity, name)(x, Y))
    except BadArrayError:
        assert np.unique(x, axis=0).shape[0] == 1, "refused although something varies"
        return
    assert abs(found - oracles.TWINS[name](x, Y)) < 1e-3


@settings(max_examples=60)
@given(x=arrays.arrays(np.float32, (9, 4), elements=st.floats(width=32)))
def test_any_numbers_at_all_give_a_finite_score_or_a_clear_refusal(x: np.ndarray):
    wild = not np.isfinite(x).all()
    with pytest.raises(BadArrayError, match="linear_cka got") if wild else contextlib.suppress(BadArrayError):
        assert np.isfinite(similarity.linear_cka(x, Y))


@settings(max_examples=40)
@given(order=st.permutations(range(9)), x=X)
def test_the_order_of_the_examples_does_not_matter(order: list[int], x: np.ndarray):
    if np.unique(x, axis=0).shape[0] == 1:
        return
    scores = [float(similarity.linear_cka(a, b)) for a, b in ((x, Y), (x[order], Y[order]))]
    assert abs(scores[0] - scores[1]) < 1e-4


def test_a_feature_that_is_constant_in_a_training_fold_predicts_nothing():
    """Only the row that is held out differs: its huge value must not meet a weight that was fitted to rounding."""
    x = np.where(COUNTS == 7, np.float32(1e6), np.float32(0))
    assert float(similarity.linear_predictivity(x, Y)) == pytest.approx(oracles.linear_predictivity(x, Y), abs=1e-3)
