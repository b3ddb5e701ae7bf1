"""No measure gives a silent NaN, a silent infinity or a wrong number, whatever comes in."""

import numpy as np
import pytest
from bad_inputs import CASES, Case, pair
from judging import judge

from repsim_jax import similarity
from repsim_jax.errors import BadArrayError

# What must raise compiles nothing; of the rest the field study's cases are always run, ours among the slow tests.
MARKED = [pytest.param(c, id=c.name, marks=[] if c.raises or i < 18 else pytest.mark.slow) for i, c in enumerate(CASES)]


@pytest.mark.parametrize("case", MARKED)
@pytest.mark.parametrize("name", similarity.measures())
def test_a_bad_input_is_refused_or_measured_rightly(name: str, case: Case):
    verdict = judge(name, case)
    assert verdict.right, verdict.found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (np.where(np.arange(64)[:, None] == 3, np.nan, x), y), "NaN in x: 1 of 64 rows .* rows 3"),
        (
            lambda x, y: (np.where(np.arange(64)[:, None] > 61, np.inf, x), y),
            "infinity in x: 2 of 64 rows .* rows 62, 63",
        ),
        (lambda x, y: (x, y[:60]), r"x \(64, 16\) and y \(60, 12\).*same order"),
        (lambda x, y: (x[:2], y[:2]), "needs at least 3 examples"),
        (lambda x, y: (x[:, 0], y), r"got x \(64,\). Pass x\[:, None\]"),
        (lambda x, y: (x[:, :, None], y), "Choose a layout first"),
        (lambda x, y: (x, y * 0), "undefined for y .* rows are equal"),
        (lambda x, y: (x + 1j, y), "real numbers, got x of dtype complex"),
        (lambda x, y: (x > 0, y), "astype"),
        (lambda x, y: (np.where(x > 2, np.inf, x).astype(np.float16), y), "float16 overflows at 65504"),
    ],
)
def test_the_error_says_what_came_and_what_to_do(change, said):
    with pytest.raises(BadArrayError, match=said):
        similarity.linear_cka(*change(*pair()))
