"""Held to training anew, the truth gets full marks, and presence none for queries that were never trained on."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from influence_cases import SMALL, N, examples, small_problem

from repsim_jax.errors import BadArrayError
from repsim_jax.influence import Identity, influence, outcomes, retrained
from repsim_jax.influence.counterfactual import datamodeling_score
from repsim_jax.influence.verification import BASELINES, Truth, Verification, judged, trained_without, verification

KEY = jax.random.key(2)
M = N // 2
HOW: dict[str, Any] = {"optimizer": optax.sgd(0.1), "num_steps": 3, "lanes": 8}


@pytest.fixture(scope="module")
def start() -> Any:
    return small_problem(train=examples(slice(0, M)))


@pytest.fixture(scope="module")
def true(start: Any) -> Truth:
    held_out = examples(slice(M, N))
    return trained_without(KEY, start, held_out=held_out, initial=lambda _: start.params, num_subsets=6, **HOW)


@pytest.fixture(scope="module")
def found(start: Any) -> Verification:
    fits = {"plain": lambda _: Identity()}
    return verification(
        KEY, start, fits=fits, held_out=examples(slice(M, N)), modes=("batch",), num_subsets=6, **HOW,
        initial=lambda key: jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), start.params),
    )  # fmt: skip


def test_what_was_left_out_is_what_training_without_it_did(true: Truth, start: Any):
    masks = np.ones((8, M), bool)
    masks[1, 3] = False  # the other trainings fill the lanes
    params = retrained(jax.random.split(KEY, 3)[0], start, masks, **HOW)
    measured = outcomes(start, params, examples(slice(M, N)))
    np.testing.assert_allclose(true.left_out_others[:, 3], measured[0] - measured[1], rtol=1e-3, atol=1e-6)
    assert true.left_out.shape == (M, M)
    assert [one.shape for one in (*true.masks, *true.own, *true.others)] == [(6, M), (6, M), (6, M)]
    assert len(true.posed.params["first"]["bias"]) == len(SMALL["first"]["bias"])


def test_trainings_from_the_same_weights_agree_in_full(true: Truth):
    # all views and all examples at each step: nothing is left to chance
    assert true.ceilings == pytest.approx((1.0,), abs=1e-4)
    assert true.ceilings_others == pytest.approx((1.0,), abs=1e-4)


def test_what_happened_gets_full_marks_and_its_opposite_none(true: Truth):
    rng = np.random.default_rng(0)
    values, others = rng.normal(size=(M, M)), rng.normal(size=(M, M))
    masks = true.masks[0]
    planted = true._replace(
        own=(masks @ values.T,), others=(masks @ others.T,), left_out=values, left_out_others=others
    )  # fmt: skip
    best, worst = judged(KEY, planted, values, others), judged(KEY, planted, -values, -others)
    for one, sign in ((best, 1), (worst, -1)):
        assert one.scores[0].value == pytest.approx(sign, abs=1e-5)
        assert one.held_out[0].value == pytest.approx(sign, abs=1e-5)
        assert [one.memorization, one.leave_one_out, one.leave_one_out_held_out] == pytest.approx([sign] * 3, abs=1e-5)
    assert best.memorization_by_subsets == -worst.memorization_by_subsets
    with pytest.raises(BadArrayError, match="held-out queries"):
        judged(KEY, true, values)


@pytest.mark.slow
def test_presence_tells_nothing_of_queries_that_were_never_trained_on(found: Verification):
    assert found.names == ("batch, plain", *BASELINES)
    assert found.held_out[-1].value == 0
    assert len(found.scores) == len(found.held_out) == 3
    assert np.isnan(found.memorization[1:]).all()
    assert not np.isnan(found.memorization[0])
    assert (found.num_examples, found.num_held_out, found.num_subsets, found.num_steps) == (M, M, 6, 3)
    assert 0 <= (found.ceiling or 0) <= 1


@pytest.mark.slow
def test_scores_are_those_of_influence_in_the_trained_network(found: Verification, start: Any):
    key_train, key_fit, key_interval = jax.random.split(KEY, 3)
    true = trained_without(key_train, start, num_subsets=6, **HOW)
    assert true.held_out is None
    assert true.ceilings is None
    values = influence(key_fit, true.posed, start.train, curvature=Identity()).values
    score = datamodeling_score(key_interval, values, true.masks[0], true.own[0])
    assert found.scores[0].value == pytest.approx(score.value, abs=1e-5)
