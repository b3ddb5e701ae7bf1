"""Steps along a tangent and back keep columns orthonormal, and descend."""

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.linalg.stiefel import random_orthonormal, retract, tangent


def test_orthonormal_columns_are_what_retraction_leaves_alone():
    w = random_orthonormal(jax.random.key(0), (9, 3))
    np.testing.assert_allclose(w.T @ w, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(retract(w), w, atol=1e-6)
    np.testing.assert_allclose(retract(2.0 * w), w, atol=1e-6)
    scaled = np.asarray(w) @ np.triu(np.random.default_rng(0).normal(size=(3, 3)), 1) * 0.1 + np.asarray(w)
    np.testing.assert_allclose(retract(jnp.asarray(scaled)), w, atol=1e-5)


def test_a_tangent_keeps_the_columns_orthonormal_to_first_order():
    w = random_orthonormal(jax.random.key(1), (9, 3))
    step = tangent(w, jax.random.normal(jax.random.key(2), (9, 3)))
    np.testing.assert_allclose(w.T @ step + step.T @ w, 0, atol=1e-5)
    # What is tangent already stays as it is.
    np.testing.assert_allclose(tangent(w, step), step, atol=1e-5)


def test_descent_along_it_finds_the_top_eigenvectors():
    values = np.array([5.0, 4.0, 1.0, 0.5, 0.1])
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    matrix = jnp.asarray(basis @ np.diag(values) @ basis.T, jnp.float32)
    w = random_orthonormal(jax.random.key(4), (5, 2))
    for _ in range(200):
        w = retract(w + 0.1 * tangent(w, 2 * matrix @ w))
    np.testing.assert_allclose(jnp.trace(w.T @ matrix @ w), 9.0, rtol=1e-5)
    cosines = np.linalg.svd(basis[:, :2].T @ np.asarray(w), compute_uv=False)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
