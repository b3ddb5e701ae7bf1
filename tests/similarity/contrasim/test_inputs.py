"""Relative input is what a NumPy twin gives that inverts the d x d covariance, on bad numbers too."""

import jax.numpy as jnp
import numpy as np
import oracles_contrasim as oracles
import pytest

from repsim_jax.similarity.contrasim.inputs import relative, standard, standardized

K = 16


def rows(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def massive(x: np.ndarray) -> np.ndarray:
    """Two directions that are a thousand times larger, as in trained transformers."""
    return x * np.where(np.arange(x.shape[1]) < 2, 1000.0, 1.0)


def flat(x: np.ndarray) -> np.ndarray:
    """Rank 3, in all features."""
    return x[:, :3] @ np.random.default_rng(9).standard_normal((3, x.shape[1]))


CASES = {
    "fewer features than anchors": (6, lambda x: x, 2e-5),
    "more features than anchors": (40, lambda x: x, 2e-5),
    "rank-deficient anchors": (40, flat, 2e-5),
    "massive activations": (40, massive, 2e-4),
    "massive activations in few features": (6, massive, 2e-4),
    "an offset of 1e4": (12, lambda x: x + 1e4, 3e-3),
    "an offset of its own in each feature": (12, lambda x: x + 1e4 * np.cos(np.arange(12)), 3e-3),
    "tiny numbers": (12, lambda x: 1e-12 * x, 2e-5),
    "huge numbers": (12, lambda x: 1e12 * x, 2e-5),
}


@pytest.mark.parametrize("ridge", [0.1, 3.0])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_relative_input_is_its_twin(case: str, whiten: bool, ridge: float):
    d, change, tolerance = CASES[case]
    both = change(rows(0, 30 + K, d)).astype(np.float32)
    found = relative(jnp.asarray(both[:30]), jnp.asarray(both[30:]), whiten=whiten, ridge=ridge)
    assert found.shape == (30, K)
    # The less ridge, the more of a row's size cancels.
    tolerance = tolerance if ridge == 3.0 or not whiten else max(tolerance, 1e-3)
    np.testing.assert_allclose(found, oracles.relative(both[:30], both[30:], whiten, ridge), atol=tolerance)


@pytest.mark.parametrize("whiten", [False, True])
def test_float16_rows_are_as_good_as_their_own_float32(whiten: bool):
    x, a = (rows(seed, n, 12).astype(np.float16) for seed, n in ((0, 30), (1, K)))
    found = relative(jnp.asarray(x, jnp.float32), jnp.asarray(a, jnp.float32), whiten=whiten)
    np.testing.assert_allclose(found, oracles.relative(x, a, whiten), atol=2e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_layers_are_apart(whiten: bool):
    x, a = (rows(seed, 3 * n, 5).reshape(3, n, 5).astype(np.float32) for seed, n in ((0, 30), (1, K)))
    together = relative(jnp.asarray(x), jnp.asarray(a), whiten=whiten)
    for i in range(3):
        np.testing.assert_allclose(together[i], oracles.relative(x[i], a[i], whiten), atol=2e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_cosines_stay_in_range_and_an_anchor_is_itself(whiten: bool):
    a = rows(1, K, 40).astype(np.float32)
    found = np.asarray(relative(jnp.asarray(a), jnp.asarray(a), whiten=whiten))
    np.testing.assert_allclose(np.diagonal(found), 1, atol=1e-5)
    assert np.abs(found).max() <= 1 + 1e-5


@pytest.mark.parametrize("whiten", [False, True])
def test_constant_anchors_give_zeros_and_a_row_at_their_mean_no_nan(whiten: bool):
    a = np.concatenate([rows(1, 8, 5), -rows(1, 8, 5)]).astype(np.float32)
    assert np.isfinite(relative(jnp.zeros((2, 5)), jnp.asarray(a), whiten=whiten)).all()
    constant = np.asarray(relative(jnp.asarray(a), jnp.ones((K, 5)), whiten=whiten))
    np.testing.assert_array_equal(constant, 0)


def test_standardized_rows_have_mean_zero_and_mean_square_one():
    x = (3 + 5 * rows(0, 50, 7)).astype(np.float32)
    by = standard(jnp.asarray(x))
    made = np.asarray(standardized(jnp.asarray(x), by), np.float64)
    np.testing.assert_allclose(made.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.mean(made**2), 1, rtol=1e-5)
    np.testing.assert_allclose(made, (x - x.mean(0)) / np.sqrt(np.mean((x - x.mean(0)) ** 2)), atol=1e-5)
    np.testing.assert_array_equal(standardized(jnp.ones((4, 3)), standard(jnp.ones((4, 3)))), 0)
