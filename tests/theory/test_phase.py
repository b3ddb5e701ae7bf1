"""Regimes and exponents are found where they were planted, and the diagram is that of the runs it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.theory import Network, Objective, triplets
from repsim_jax.theory.architectures import Encoder
from repsim_jax.theory.descent import descend
from repsim_jax.theory.phase import exponents_of, phase_diagram, regimes_of

DATA = np.random.default_rng(0).normal(size=(60, 20)) + np.repeat(np.eye(20)[:4] * 3, 15, axis=0)
GIVEN = triplets(jax.random.key(0), DATA, num_triplets=4)
LOSSES = (Objective("linear", "dot"), Objective("logistic", "cosine", 0.5))
OPTIONS = {
    "losses": LOSSES, "widths": (8, 32), "rates": (0.1, 1.0), "num_seeds": 3, "num_outputs": 4, "first_time": 0.5,
    "horizon": 32.0, "num_records": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "diverged", "off", "regime"),
    [
        ([0.05, 0.06, 0.2], [0, 0, 0], [0, 0, 0], "lazy"),
        ([0.05, 0.1, 0.2], [0, 0, 0], [0, 0, 0], "rich"),
        ([0.05, np.nan, np.inf], [0, 0, 0], [0, 0, 0], "diverged"),
        ([0.05, 0.06, 0.07], [1, 1, 0], [0, 0, 0], "diverged"),
        ([0.05, 0.06, 0.07], [1, 0, 0], [0, 0, 0], "lazy"),
        ([0.05, np.nan, np.nan], [0, 1, 1], [1, 1, 0], "within a step"),
    ],
)
def test_the_regime_is_that_of_most_seeds(change: list, diverged: list, off: list, regime: str):
    found = regimes_of(np.asarray([change]), np.asarray([diverged], bool), np.asarray([off], bool))
    assert found.tolist() == [regime]


def test_a_planted_exponent_is_found_and_none_is_made_up_where_training_diverged():
    widths = np.array([64, 256, 1024])
    noise = np.exp(0.05 * np.random.default_rng(1).normal(size=(3, 5)))
    change = (3 * widths[:, None] ** -0.8 * noise)[None, :, None, None]
    lazy = np.full((1, 3, 1, 1), "lazy", "<U16")
    value, low, high = exponents_of(widths, change, lazy)[0, 0, 0]
    assert low <= value <= high
    assert value == pytest.approx(-0.8, abs=0.1)
    for word in ("diverged", "within a step"):
        broken = lazy.copy()
        broken[0, 1] = word
        assert np.isnan(exponents_of(widths, change, broken)).all()


@pytest.mark.slow
def test_the_diagram_is_made_of_the_runs_of_descent():
    lines: list[str] = []
    found = phase_diagram(jax.random.key(2), GIVEN, on_progress=lines.append, **OPTIONS)
    assert found.change.shape == (2, 2, 2, 4, 3)
    assert found.losses == ("linear, dot", "logistic, cosine, temperature 0.5")
    assert [line for line in lines if "width 32" in line] == ["linear, dot, width 32", "logistic, cosine, width 32"]
    with enable_x64():
        alone = descend(
            jax.random.key(2), jnp.asarray(GIVEN.points), encoder=Encoder(Network(32, 4)), losses=LOSSES[1:],
            num_seeds=3, num_records=4, temperature=0.5, rate=1.0, horizon=32.0, first_time=0.5,
        )  # fmt: skip
    np.testing.assert_allclose(found.change[1, 1, 1], alone.change.T, rtol=1e-6)
    np.testing.assert_allclose(found.stable_rates[1, 1], alone.stable_rate, rtol=1e-6)
    np.testing.assert_allclose(found.loss[1, 1, 1], (alone.loss / jnp.abs(alone.start_loss)[:, None]).T, rtol=1e-6)
    # The linear loss of dot products runs away, and no cosine does.
    assert np.isin(found.regimes[0, :, :, -1], ("rich", "diverged")).all()
    assert np.isfinite(found.change[1]).all()
    assert (np.isnan(found.exponents).any(-1) == ~np.isin(found.regimes, ("lazy", "rich")).all(1)).all()
    assert "within a step" in found.regimes[0, :, 1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ()}, "a loss or more"),
        ({"widths": (64,)}, "two rising widths"),
        ({"widths": (64, 32)}, "two rising widths"),
        ({"rates": (1.0, 0.5)}, "rising learning rates"),
        ({"rates": (0.0, 0.5)}, "rising learning rates"),
        ({"first_time": 0.0}, "0 < first_time < horizon"),
        ({"horizon": 0.1}, "0 < first_time < horizon"),
    ],
)
def test_a_diagram_of_nothing_is_refused(changes: dict, message: str):
    with pytest.raises(BadArrayError, match=message):
        phase_diagram(jax.random.key(2), GIVEN, **{**OPTIONS, **changes})
