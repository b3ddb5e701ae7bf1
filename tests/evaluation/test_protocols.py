"""The tasks on which measures are judged: against slow loops, against chance, and with intervals that cover."""

import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax import similarity
from repsim_jax.errors import BadArrayError
from repsim_jax.evaluation.protocols import (
    bootstrap_models,
    bootstrap_units,
    choices,
    layer_accuracy,
    mean_cosine_pairs,
    trials,
)


def test_layer_accuracy_is_the_share_of_counterparts_that_win():
    scores = np.random.default_rng(0).normal(size=(3, 3, 4, 4))
    accuracy = layer_accuracy(scores)
    for a in range(3):
        for b in range(3):
            right = [max(range(4), key=lambda j: scores[a, b, i, j]) == i for i in range(4)]
            assert np.isnan(accuracy[a, b]) if a == b else accuracy[a, b] == np.mean(right)


def test_a_measure_without_an_answer_is_never_right():
    scores = np.full((2, 2, 3, 3), np.nan)
    assert layer_accuracy(scores)[0, 1] == 0
    scores[0, 1] = np.eye(3)
    assert layer_accuracy(scores)[0, 1] == 1


def test_layer_accuracy_refuses_other_shapes():
    with pytest.raises(BadArrayError, match="models, models, layers, layers"):
        layer_accuracy(np.zeros((2, 3, 4, 4)))


@pytest.mark.parametrize("kind", ["random", "hard"])
def test_the_true_candidate_is_first_and_every_example_is_asked_about(kind: str):
    y = np.random.default_rng(1).normal(size=(40, 5))
    given = trials(np.random.default_rng(2), y, size=8, kind=kind, repeats=3)
    assert given.rows.shape == (15, 8)
    assert given.candidates.shape == (15, 11, 8)
    np.testing.assert_array_equal(given.candidates[:, 0], given.rows)
    for part in np.split(given.rows, 3):
        assert sorted(part.ravel()) == list(range(40))


def test_hard_candidates_are_the_nearest_rows_in_order():
    y = np.random.default_rng(3).normal(size=(30, 6))
    given = trials(np.random.default_rng(4), y, size=6, kind="hard", alternatives=4)
    centered = y - y.mean(0)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    cosine = unit @ unit.T - 9 * np.eye(30)
    nearest = np.argsort(-cosine, axis=1)[:, :4]
    np.testing.assert_array_equal(given.candidates[:, 1:], nearest[given.rows].transpose(0, 2, 1))


def test_sets_larger_than_the_data_are_refused():
    with pytest.raises(BadArrayError, match="trials needs more than 10 rows"):
        trials(np.random.default_rng(0), np.zeros((10, 2)), size=8, kind="random")


def test_choices_takes_the_candidate_that_a_loop_over_the_measure_would_take():
    generator = np.random.default_rng(5)
    x = generator.normal(size=(48, 6)).astype(np.float32)
    y = (x @ generator.normal(size=(6, 4)) + 2 * generator.normal(size=(48, 4))).astype(np.float32)
    given = trials(generator, y, size=8, kind="random", repeats=2)
    taken = choices(similarity.measure("linear_cka").pairs, x, y, given)
    for trial, right in enumerate(taken):
        scores = [float(similarity.linear_cka(x[given.rows[trial]], y[one])) for one in given.candidates[trial]]
        assert right == (scores[0] > max(scores[1:]))
    assert 0 < taken.mean() < 1


def test_a_tie_is_no_success():
    x = np.ones((24, 2), np.float32)
    given = trials(np.random.default_rng(0), np.random.default_rng(1).normal(size=(24, 2)), size=4, kind="random")
    assert not choices(mean_cosine_pairs, x, x, given).any()


def test_mean_cosine_is_the_mean_product_of_rows():
    generator = np.random.default_rng(6)
    xs, ys = generator.normal(size=(2, 9, 3)), generator.normal(size=(4, 9, 3))
    got = mean_cosine_pairs(list(jnp.asarray(xs)), list(jnp.asarray(ys)))
    np.testing.assert_allclose(got, np.einsum("anq,bnq->ab", xs, ys) / 9, rtol=1e-5, atol=1e-6)


def test_the_interval_over_models_covers_the_truth():
    """A pair's accuracy is the mean of two models' own; the truth is known, and 95 % intervals should hold it."""
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        own = generator.normal(0.6, 0.1, size=10)
        table = (own[:, None] + own[None]) / 2
        np.fill_diagonal(table, np.nan)
        interval = bootstrap_models(np.random.default_rng(seed), [table], layers=5, draws=300)
        covered += interval.low <= 0.6 <= interval.high
    # Ten models: a percentile bootstrap covers somewhat less than it says; far less would be a wrong formula.
    assert 0.86 <= covered / 200 <= 0.98


def test_the_interval_over_units_covers_the_truth():
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(1000 + seed)
        right = [generator.random(40) < share for share in generator.normal(0.6, 0.1, size=12)]
        interval = bootstrap_units(np.random.default_rng(seed), right, draws=300)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.9 <= covered / 200 <= 1.0


def test_intervals_count_decisions_and_units():
    table = np.array([[np.nan, 0.5], [1.0, np.nan]])
    assert bootstrap_models(np.random.default_rng(0), [table, table], layers=6, draws=50)[3:] == (24, 4)
    assert bootstrap_units(np.random.default_rng(0), [np.ones(3, bool), np.zeros(5, bool)], draws=50)[3:] == (8, 2)
