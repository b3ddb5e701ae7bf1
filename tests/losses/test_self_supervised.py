"""Losses of two views are their NumPy twins, and are least where they say."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.losses import barlow_twins, negative_cosine, nt_xent, spectral_contrastive, vicreg

B, Q = 6, 4
Z, Z_POS = (np.random.default_rng(seed).normal(size=(B, Q)) for seed in (0, 1))


def nt_xent_twin(z: np.ndarray, z_pos: np.ndarray, temperature: float) -> float:
    both = np.concatenate([z, z_pos])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    total = 0.0
    for i in range(2 * B):
        weights = [np.exp(both[i] @ both[a] / temperature) for a in range(2 * B) if a != i]
        total -= np.log(np.exp(both[i] @ both[(i + B) % (2 * B)] / temperature) / sum(weights))
    return total / (2 * B)


def spectral_twin(z: np.ndarray, z_pos: np.ndarray) -> float:
    attraction = np.mean([z[i] @ z_pos[i] for i in range(B)])
    repulsion = np.mean([(z[i] @ z_pos[j]) ** 2 for i in range(B) for j in range(B) if i != j])
    return -2 * attraction + repulsion


def barlow_twin(z: np.ndarray, z_pos: np.ndarray, off_diagonal: float) -> float:
    correlation = np.corrcoef(z.T, z_pos.T)[:Q, Q:]
    off = correlation - np.diag(np.diag(correlation))
    return ((1 - np.diag(correlation)) ** 2).sum() + off_diagonal * (off**2).sum()


def vicreg_twin(z: np.ndarray, z_pos: np.ndarray) -> float:
    total = 25 * ((z - z_pos) ** 2).mean()
    for side in (z, z_pos):
        covariance = np.cov(side.T)
        total += 25 * np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean() / 2
        total += ((covariance - np.diag(np.diag(covariance))) ** 2).sum() / Q
    return total


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_of_two_views_are_their_twins(dtype: str):
    with enable_x64():
        z, z_pos = (jnp.asarray(side, dtype) for side in (Z, Z_POS))
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        for found, wanted in (
            (nt_xent(z, z_pos, temperature=0.3), nt_xent_twin(Z, Z_POS, 0.3)),
            (spectral_contrastive(z, z_pos), spectral_twin(Z, Z_POS)),
            (barlow_twins(z, z_pos, off_diagonal=0.1), barlow_twin(Z, Z_POS, 0.1)),
            (vicreg(z, z_pos), vicreg_twin(Z, Z_POS)),
        ):
            np.testing.assert_allclose(found, wanted, rtol=tolerance)


def test_barlow_twins_is_zero_where_views_agree_and_features_do_not_correlate():
    z = np.linalg.qr(np.random.default_rng(2).normal(size=(20, Q)) - 0)[0]
    z = np.linalg.qr(z - z.mean(0))[0]
    np.testing.assert_allclose(barlow_twins(jnp.asarray(z), jnp.asarray(3 * z + 1)), 0, atol=1e-5)


def test_gradients_are_finite_where_the_views_are_the_same():
    z = jnp.asarray(Z, jnp.float32)
    for loss in (nt_xent, spectral_contrastive, barlow_twins, vicreg):
        assert np.isfinite(jax.grad(loss)(z, z)).all()


WEIGHTED = (nt_xent, spectral_contrastive, barlow_twins, vicreg, negative_cosine)


@pytest.mark.parametrize("loss", WEIGHTED, ids=lambda loss: loss.__name__)
def test_an_example_of_weight_zero_is_as_if_it_were_not_there(loss: Callable[..., Any]):
    with enable_x64():
        z, z_pos = jnp.asarray(Z), jnp.asarray(Z_POS)
        kept = np.array([0, 2, 3, 5])
        weights = jnp.zeros(B).at[kept].set(1.0)
        np.testing.assert_allclose(loss(z, z_pos, jnp.ones(B)), loss(z, z_pos), rtol=1e-12)
        np.testing.assert_allclose(loss(z, z_pos, weights), loss(z[kept], z_pos[kept]), rtol=1e-12)
        gradient = jax.grad(loss)(z, z_pos, weights)
        np.testing.assert_allclose(gradient[kept], jax.grad(loss)(z[kept], z_pos[kept]), rtol=1e-10, atol=1e-14)
        np.testing.assert_array_equal(gradient[np.array([1, 4])], 0)


@pytest.mark.parametrize("loss", WEIGHTED, ids=lambda loss: loss.__name__)
def test_the_derivative_by_a_weight_is_finite_even_where_the_weight_is_zero(loss: Callable[..., Any]):
    weights = jnp.ones(B).at[1].set(0.0)
    by_weight = jax.grad(loss, argnums=2)
    assert np.isfinite(by_weight(jnp.asarray(Z), jnp.asarray(Z_POS), weights)).all()
    moved = jax.jvp(lambda z: by_weight(z, jnp.asarray(Z_POS), weights), (jnp.asarray(Z),), (jnp.ones((B, Q)),))[1]
    assert np.isfinite(moved).all()


@pytest.mark.parametrize("loss", [barlow_twins, vicreg, negative_cosine], ids=lambda loss: loss.__name__)
def test_a_weight_of_two_is_an_example_that_came_twice(loss: Callable[..., Any]):
    with enable_x64():
        repeated = np.array([0, 0, 1, 2, 3, 4, 5])
        weights = jnp.asarray([2.0, 1, 1, 1, 1, 1])
        z, z_pos = jnp.asarray(Z), jnp.asarray(Z_POS)
        np.testing.assert_allclose(loss(z, z_pos, weights), loss(z[repeated], z_pos[repeated]), rtol=1e-12)


def test_the_negative_cosine_is_its_twin():
    cosines = [Z[i] @ Z_POS[i] / np.linalg.norm(Z[i]) / np.linalg.norm(Z_POS[i]) for i in range(B)]
    np.testing.assert_allclose(negative_cosine(jnp.asarray(Z), jnp.asarray(Z_POS)), -np.mean(cosines), rtol=1e-5)
