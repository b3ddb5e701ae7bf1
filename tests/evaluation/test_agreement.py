"""Agreement of measures against scipy's rank correlation."""

import numpy as np
import pytest
from scipy import stats

from repsim_jax.evaluation import disagreements, mean_agreement, normalized_ranks, rank_correlations


@pytest.mark.parametrize("decimals", [16, 1], ids=["distinct", "tied"])
def test_rank_correlations_are_spearmans(decimals: int):
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).round(decimals)
    found = rank_correlations(values, (True,) * 4)
    expected = stats.spearmanr(values.reshape(4, -1), axis=1).statistic
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_distance_agrees_with_the_similarity_that_it_mirrors():
    values = np.random.default_rng(0).normal(size=(3, 4))
    found = rank_correlations(np.stack([values, -values]), (True, False))
    np.testing.assert_allclose(found, np.ones((2, 2)))


def test_a_measure_that_ranks_all_pairs_the_same_has_no_correlation():
    values = np.stack([np.arange(6.0).reshape(2, 3), np.ones((2, 3)), np.arange(6.0).reshape(2, 3)])
    found = rank_correlations(values, (True,) * 3)
    assert np.isnan(found[0, 1])
    np.testing.assert_array_equal(np.diag(found), 1)
    np.testing.assert_allclose(mean_agreement(found), [1, np.nan, 1])


def test_ranks_run_from_least_to_most_alike():
    ranks = normalized_ranks(np.array([[[3.0, 1.0, 2.0]], [[3.0, 1.0, 2.0]]]), (True, False))
    np.testing.assert_array_equal(ranks[:, 0], [[1, 0, 0.5], [0, 1, 0.5]])
    np.testing.assert_array_equal(normalized_ranks(np.ones((1, 1, 1)), (True,)), [[[0.5]]])


def test_the_largest_disagreement_comes_first():
    first = np.arange(12.0).reshape(3, 4)
    second = first.copy()
    second[2, 3], second[0, 0] = second[0, 0], second[2, 3]
    worst = disagreements(np.stack([first, second]), (True, True), top=2)
    assert {(one.layer_a, one.layer_b, one.higher, one.lower) for one in worst} == {(0, 0, 1, 0), (2, 3, 0, 1)}
    assert {(one.rank_higher, one.rank_lower) for one in worst} == {(1.0, 0.0)}


def test_measures_that_agree_have_no_disagreement():
    values = np.arange(12.0).reshape(3, 4)
    assert disagreements(np.stack([values, values**3]), (True, True)) == ()
