"""Lanczos' iteration gives the eigenpairs of NumPy, all of them after p steps and the extreme ones before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.linalg import Ritz, lanczos, precise_jit

P = 24
KEY = jax.random.key(0)


def symmetric(values: np.ndarray) -> np.ndarray:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(len(values),) * 2))[0]
    return (basis * values) @ basis.T


def pairs_of(matrix: np.ndarray, num_steps: int) -> Ritz:
    held = jnp.asarray(matrix)
    run = precise_jit(static_argnames=("num_steps",))(
        lambda a, *, num_steps: lanczos(KEY, lambda v: a @ v, a[0], num_steps=num_steps)
    )
    return run(held, num_steps=num_steps)


SPECTRA = {
    "separate": np.linspace(-3.0, 5.0, P) ** 3,
    "repeated": np.repeat([-2.0, 0.0, 1.0, 4.0], P // 4),  # the space of powers is exhausted after four steps
    "zero": np.zeros(P),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_as_many_steps_as_directions_give_all_eigenpairs(name: str):
    with enable_x64():
        matrix = symmetric(SPECTRA[name])
        found = pairs_of(matrix, P)
        np.testing.assert_allclose(found.values, np.linalg.eigh(matrix)[0], atol=1e-9 * max(1, np.abs(matrix).max()))
        vectors = np.asarray(found.vectors)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(P), atol=1e-10)
        np.testing.assert_allclose(matrix @ vectors, vectors * np.asarray(found.values), atol=1e-9 * 125)


def test_both_ends_converge_first_and_residuals_are_those_of_the_pairs():
    with enable_x64():
        matrix = symmetric(np.concatenate([np.linspace(-1, 1, P - 2), [-40.0, 50.0]]))
        found = pairs_of(matrix, 10)
        expected = np.linalg.eigh(matrix)[0]
        np.testing.assert_allclose(found.values[jnp.asarray([0, -1])], expected[[0, -1]], rtol=1e-9)
        vectors, values = np.asarray(found.vectors), np.asarray(found.values)
        np.testing.assert_allclose(
            found.residuals, np.linalg.norm(matrix @ vectors - vectors * values, axis=0), atol=1e-9
        )
        assert found.residuals[0] < 1e-4 < found.residuals[5]
