"""The metagradient is what training does when an example weighs a little more; models may be averaged over."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from influence_cases import N, linear_problem, predictor, small_problem
from scipy.stats import spearmanr

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.influence import (
    BYOL,
    Distance,
    Identity,
    SimCLR,
    VICReg,
    metagradient,
    outcomes,
    over_checkpoints,
    retrained,
    self_influence,
)

KEY = jax.random.key(4)
# a rate that falls, so that steps are not alike, and an optimizer with state
ADAM = optax.adam(optax.linear_schedule(0.03, 0.003, 11), eps_root=1e-10)
TRAINING = {"optimizer": ADAM, "num_steps": 11, "views_per_step": 2}
# a power of two, so that 1 + H is a number
H = 2.0**-12


def differences(posed: Any, rows: list[int], **options: Any) -> np.ndarray:
    """Central differences of the stability by the weight of some examples, (m, k)."""
    weights = np.ones((2 * len(rows), N))
    for place, row in enumerate(rows):
        weights[2 * place : 2 * place + 2, row] += [H, -H]
    measured = outcomes(posed, retrained(KEY, posed, weights, **options), posed.train)
    return ((measured[::2] - measured[1::2]) / (2 * H)).T


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (SimCLR(), {}),
        (VICReg(), {"batch": 8}),
        (BYOL(predictor=predictor), {"target_decay": 0.7}),
    ],
    ids=["SimCLR", "VICReg in batches", "BYOL with a moving target"],
)
@pytest.mark.slow
def test_the_metagradient_is_the_difference_that_a_little_weight_makes(objective: Any, options: dict[str, Any]):
    with enable_x64():
        posed = small_problem(objective, batch_size=options.pop("batch", N))
        found = metagradient(KEY, posed, posed.train, block=5, **TRAINING, **options)
        expected = differences(posed, [0, 7], **TRAINING, **options)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.values[:, [0, 7]], expected, atol=1e-5 * scale)
        trained = retrained(KEY, posed, np.ones((1, N)), **TRAINING, **options)
        np.testing.assert_allclose(found.measurements, outcomes(posed, trained, posed.train)[0], rtol=1e-10)


@pytest.mark.slow
def test_a_measurement_of_pairs_has_a_row_for_each_pair():
    posed = linear_problem()
    found = metagradient(KEY, posed, posed.train, optimizer=optax.sgd(0.1), num_steps=3, measurement=Distance())
    assert found.values.shape == (N // 2, N)
    assert found.options["mode"] == "metagradient"


@pytest.mark.slow
def test_a_target_that_forgets_nothing_never_moves_and_one_that_keeps_nothing_is_the_model():
    posed = small_problem(BYOL(predictor=predictor))
    options = {"optimizer": optax.sgd(0.1), "num_steps": 6}
    everything = np.ones((1, N))
    follows, own = (
        jax.tree.leaves(retrained(KEY, posed, everything, **options, **decay)) for decay in ({"target_decay": 0.0}, {})
    )
    for one, other in zip(follows, own, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    fixed = replace(posed, objective=replace(posed.objective, target_params=posed.params))
    slow = jax.tree.leaves(retrained(KEY, posed, everything, **options, target_decay=1 - 1e-7))
    for one, other in zip(slow, jax.tree.leaves(retrained(KEY, fixed, everything, **options)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert max(np.abs(np.asarray(one) - np.asarray(other)).max() for one, other in zip(slow, own, strict=True)) > 1e-2


def test_influence_over_models_is_their_mean_with_its_standard_error():
    posed = small_problem()
    checkpoints = [jax.tree.map(lambda leaf, by=by: leaf * by, posed.params) for by in (0.5, 1.0, 1.5)]
    told: list[tuple[int, int]] = []

    def estimate(key: jax.Array, at: Any) -> Any:
        return self_influence(key, at, curvature=Identity(), view_groups=0)

    found = over_checkpoints(KEY, posed, checkpoints, estimate, on_progress=lambda *step: told.append(step))
    assert told == [(1, 3), (2, 3), (3, 3)]
    each = np.stack([estimate(KEY, replace(posed, params=params)).values for params in checkpoints])
    np.testing.assert_allclose(found.each, each, rtol=1e-5)
    np.testing.assert_allclose(found.values, each.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.standard_errors, each.std(0, ddof=1) / 3**0.5, rtol=1e-5)
    assert found.agreement[0, 2] == pytest.approx(spearmanr(each[0], each[2]).statistic, abs=1e-5)


def test_each_model_has_the_target_that_belongs_to_it():
    posed = small_problem(BYOL(predictor=predictor))
    other = jax.tree.map(lambda leaf: leaf * 0.5, posed.params)
    seen: list[Any] = []

    def estimate(key: jax.Array, at: Any) -> Any:
        seen.append(at.objective.target_params)
        return self_influence(key, at, curvature=Identity(), view_groups=0)

    over_checkpoints(KEY, posed, [posed.params, posed.params], estimate, targets=[other, posed.params])
    assert seen == [other, posed.params]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda posed: metagradient(KEY, posed, posed.train, optimizer=ADAM, num_steps=0), "num_steps >= 1"),
        (lambda posed: retrained(KEY, posed, np.ones((1, 3)), optimizer=ADAM, num_steps=1), r"weights \(s, 12\)"),
        (lambda posed: retrained(KEY, posed, -np.ones((1, N)), optimizer=ADAM, num_steps=1), "finite and >= 0"),
        (lambda posed: retrained(KEY, posed, np.eye(N)[:1], optimizer=ADAM, num_steps=1), "at least two examples"),
        (
            lambda posed: retrained(KEY, posed, np.ones((1, N)), optimizer=ADAM, num_steps=1, views_per_step=9),
            "views_per_step from 2 to the number of views, 4",
        ),
        (
            lambda posed: retrained(KEY, posed, np.ones((1, N)), optimizer=ADAM, num_steps=1, target_decay=0.9),
            "for BYOL only",
        ),
        pytest.param(
            lambda posed: metagradient(KEY, linear_problem(), posed.train, optimizer=optax.sgd(1e30), num_steps=3),
            "diverges",
            marks=pytest.mark.slow,
        ),
        (lambda posed: over_checkpoints(KEY, posed, [posed.params], None), "at least two checkpoints"),
        (
            lambda posed: over_checkpoints(KEY, posed, [posed.params] * 2, None, targets=[posed.params] * 2),
            "targets for BYOL",
        ),
        (
            lambda posed: over_checkpoints(KEY, posed, [jax.tree.map(jnp.zeros_like, posed.params)] * 2, None),
            "has collapsed",
        ),
        (
            lambda posed: over_checkpoints(
                KEY, posed, [jax.tree.map(lambda leaf: leaf * jnp.nan, posed.params)] * 2, None
            ),
            "parameters hold NaN",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(call: Any, match: str):
    with pytest.raises(BadArrayError, match=match):
        call(small_problem())
