"""Layer matching against exhaustive search."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repsim_jax.evaluation import best_layers, best_path


def best_mean_of_all_monotone_paths(matrix: np.ndarray) -> float:
    paths = itertools.combinations_with_replacement(range(matrix.shape[1]), len(matrix))
    return max(float(np.mean([matrix[i, j] for i, j in enumerate(path)])) for path in paths)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1), st.booleans())
def test_no_order_keeping_path_beats_the_best_path(num_a: int, num_b: int, seed: int, coarse: bool):
    matrix = np.random.default_rng(seed).normal(size=(num_a, num_b))
    matrix = matrix.round() if coarse else matrix  # rounding makes ties
    path = best_path(matrix)
    assert path.mean == pytest.approx(best_mean_of_all_monotone_paths(matrix), abs=1e-12)
    assert (np.diff(path.layers) >= 0).all()
    np.testing.assert_array_equal(path.values, matrix[np.arange(num_a), path.layers])


def test_a_path_through_a_distance_is_the_path_through_its_negative():
    matrix = np.random.default_rng(0).normal(size=(6, 7))
    down, up = best_path(-matrix, larger_is_more_similar=False), best_path(matrix)
    np.testing.assert_array_equal(down.layers, up.layers)
    assert down.mean == -up.mean


def test_the_path_of_a_model_with_itself_is_the_diagonal():
    matrix = np.exp(-np.abs(np.subtract.outer(np.arange(9.0), np.arange(9.0))))
    np.testing.assert_array_equal(best_path(matrix).layers, np.arange(9))


def test_the_best_layer_comes_with_its_lead_over_the_second():
    best = best_layers(np.array([[0.1, 0.9, 0.6], [0.5, 0.2, 0.5]]))
    np.testing.assert_array_equal(best.layers, [1, 0])
    np.testing.assert_array_equal(best.runners_up, [2, 2])
    np.testing.assert_allclose(best.margins, [0.3, 0.0])


def test_the_nearest_layer_of_a_distance_is_the_smallest():
    best = best_layers(np.array([[0.1, 0.9, 0.6]]), larger_is_more_similar=False)
    assert (best.layers[0], best.values[0], best.runners_up[0]) == (0, 0.1, 2)
    assert best.margins[0] == pytest.approx(0.5)


def test_a_single_layer_has_no_runner_up():
    best = best_layers(np.array([[0.4], [0.2]]))
    np.testing.assert_array_equal(best.runners_up, [-1, -1])
    assert np.isnan(best.margins).all()


@pytest.mark.parametrize("matrix", [np.zeros(3), np.zeros((0, 2)), np.array([[np.nan]]), np.array([[1.0, np.inf]])])
@pytest.mark.parametrize("match", [best_layers, best_path])
def test_what_is_not_a_finite_matrix_is_refused(match, matrix: np.ndarray):
    with pytest.raises(ValueError, match="layer matching wants a non-empty matrix"):
        match(matrix)
