"""Influence foretells what leaving examples out does, where that has a closed form, and is scored as it should be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from influence_cases import N, examples, small_problem
from scipy.stats import spearmanr

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.influence import (
    Custom,
    Damping,
    FeatureDirection,
    Identity,
    SimCLR,
    Stability,
    damping_sweep,
    datamodeling_score,
    dense,
    influence,
    leave_one_out,
    noise_ceiling,
    outcomes,
    problem,
    random_subsets,
    retrained,
    self_influence,
    with_views,
)

KEY = jax.random.key(1)
RIDGE = 0.1


def ridge_loss(params: Any, views: jax.Array, weights: jax.Array) -> jax.Array:
    """Least squares of the last entry of an example by the others; a sum over examples, divided by all 15."""
    x, y = views[:, 0, :-1], views[:, 0, -1]
    return (weights * jnp.square(x @ params["w"][:, 0] - y)).sum() / 30 + RIDGE / 2 * jnp.square(params["w"]).sum()


def test_leaving_one_out_of_a_ridge_regression_is_foretold_up_to_its_leverage():
    with enable_x64():
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(15, 5))
        x, y = rows[:, :-1], rows[:, -1]
        hessian = x.T @ x / 15 + RIDGE * np.eye(4)
        fitted = np.linalg.solve(hessian, x.T @ y / 15)
        views = np.repeat(rows[:, None], 2, axis=1)
        views[:, 1] += 1
        posed = problem(
            lambda params, rows: jnp.concatenate([rows[:, :-1] @ params["w"], rows[:, -1:]], axis=1),
            {"w": jnp.asarray(fitted[:, None])}, with_views(rows, views), objective=Custom(ridge_loss),
        )  # fmt: skip
        found = influence(
            KEY, posed, posed.train, curvature=dense(KEY, posed, of="hessian"), damping=Damping(0.0, 1e-12),
            measurement=FeatureDirection(jnp.asarray([1.0, 0.0])),
        )  # fmt: skip
        leverage = np.einsum("na,ab,nb->n", x, np.linalg.inv(hessian), x) / 15
        for i in range(15):
            kept = np.delete(np.arange(15), i)
            without = np.linalg.solve(x[kept].T @ x[kept] / 15 + RIDGE * np.eye(4), x[kept].T @ y[kept] / 15)
            np.testing.assert_allclose(found.values[:, i] / (1 - leverage[i]), x @ (fitted - without), atol=1e-10)


OPTIMIZER = optax.sgd(0.3, momentum=0.9)


@pytest.mark.slow
def test_training_many_subsets_at_once_is_training_each_by_itself():
    posed = small_problem(SimCLR())
    masks = random_subsets(KEY, N, num_subsets=3, share=0.75)
    told: list[tuple[int, int]] = []
    together = retrained(
        KEY, posed, masks, optimizer=OPTIMIZER, num_steps=130, lanes=2, on_progress=lambda *step: told.append(step)
    )
    assert told == [(i, 4) for i in range(1, 5)]
    measured = outcomes(posed, together, posed.train)
    assert measured.shape == (3, N)
    kept = np.flatnonzero(masks[1])
    alone = small_problem(SimCLR(), train=examples(kept))
    single = retrained(KEY, alone, np.ones((1, len(kept)), bool), optimizer=OPTIMIZER, num_steps=130)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(ours[1], theirs[0], atol=2e-3)
    np.testing.assert_allclose(outcomes(alone, single, posed.train)[0], measured[1], atol=2e-3)


def test_subsets_have_one_size_and_leave_one_out_leaves_one_out():
    masks = random_subsets(KEY, 20, num_subsets=50, share=0.3)
    assert (masks.sum(1) == 6).all()
    assert len(np.unique(masks, axis=0)) == 50
    assert masks.mean(0).min() > 0.1
    np.testing.assert_array_equal(leave_one_out(3).sum(0), 2)
    assert not leave_one_out(3).diagonal().any()


def test_the_datamodeling_score_is_one_where_outcomes_are_sums_of_influence():
    rng = np.random.default_rng(0)
    values, masks = rng.normal(size=(4, 20)), random_subsets(KEY, 20, num_subsets=40)
    exact = datamodeling_score(KEY, values, masks, np.exp(masks @ values.T))
    assert exact.value == pytest.approx(1)
    assert exact.interval == pytest.approx((1, 1))
    np.testing.assert_allclose(exact.by_query, 1, atol=1e-6)
    opposite = datamodeling_score(KEY, -values, masks, masks @ values.T)
    assert opposite.value == pytest.approx(-1)
    unrelated = datamodeling_score(KEY, rng.normal(size=(4, 20)), masks, masks @ values.T)
    assert unrelated.interval[0] < 0 < unrelated.interval[1]
    noisy = datamodeling_score(KEY, values, masks, masks @ values.T + rng.normal(size=(len(masks), len(values))))
    assert noisy.interval[0] < noisy.value < noisy.interval[1]
    rounded = np.round(masks @ values.T)  # with ties
    found = datamodeling_score(KEY, values, masks, rounded).by_query
    expected = [spearmanr(masks @ one, seen).statistic for one, seen in zip(values, rounded.T, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_ceiling_is_the_correlation_of_a_perfect_predictor_with_noisy_repeats():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 1))
    repeats = truth + rng.normal(size=(3, 4000, 1))
    reached = np.corrcoef(truth[:, 0], repeats.mean(0)[:, 0])[0, 1]
    assert noise_ceiling(repeats) == pytest.approx(reached, abs=0.02)
    of_one = spearmanr(truth[:, 0], repeats[0, :, 0]).statistic
    assert noise_ceiling(repeats, judged_on=1) == pytest.approx(of_one, abs=0.02)
    assert noise_ceiling(rng.normal(size=(2, 4000, 1))) < 0.3


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: random_subsets(KEY, 10, num_subsets=2, share=1.0), "2 to n - 1"),
        (lambda: random_subsets(KEY, 10, num_subsets=0), "num_subsets >= 1"),
        (lambda: noise_ceiling(np.ones((1, 4, 2))), "r >= 2 repeats"),
        (lambda: noise_ceiling(np.ones((2, 4, 2)), judged_on=0), "judged_on >= 1"),
        (lambda: datamodeling_score(KEY, np.ones((2, 5)), np.ones((2, 5)), np.ones((2, 2))), "s >= 3"),
        (lambda: datamodeling_score(KEY, np.ones((3, 5)), np.ones((4, 5)), np.ones((4, 2))), "outcomes"),
        (
            lambda: retrained(KEY, small_problem(), np.ones((2, 3)), optimizer=OPTIMIZER, num_steps=1),
            r"weights \(s, 12\)",
        ),
        (lambda: damping_sweep(KEY, small_problem(), curvature=Identity(), relative=()), "at least one damping"),
    ],
)
def test_what_cannot_be_scored_is_refused(call: Any, match: str):
    with pytest.raises(BadArrayError, match=match):
        call()


def test_the_sweep_is_self_influence_at_each_damping():
    posed = small_problem(stability=Stability("views"))
    curvature = dense(KEY, posed, of="alignment")
    sweep = damping_sweep(KEY, posed, curvature=curvature, relative=(0.1, 1.0, 1e7), mode="paper")
    own = self_influence(KEY, posed, curvature=curvature, mode="paper", damping=Damping(1.0), view_groups=0)
    np.testing.assert_allclose(sweep.values[1], own.values, rtol=1e-5)
    np.testing.assert_allclose(np.diag(sweep.agreement), 1, atol=1e-6)
    assert sweep.split_half.shape == (3,)
    assert (np.abs(sweep.split_half) <= 1 + 1e-6).all()
    plain = self_influence(KEY, posed, curvature=Identity(), mode="paper", view_groups=0).values
    ratio = sweep.values[2] / plain
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
