"""Losses are their closed forms, and show what is wrong with the paper's: shrinking pays, and its prior has a floor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax import canonicalization as canon
from repsim_jax.errors import BadArrayError, UnknownNameError

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(4, 5, 3))


def test_contrasts_are_means_of_products_of_different_poses():
    wanted = 0.0
    unit = VECTORS / np.linalg.norm(VECTORS, axis=-1, keepdims=True)
    cosines = 0.0
    for b in range(5):
        for i in range(4):
            for j in range(4):
                wanted += abs(VECTORS[i, b] @ VECTORS[j, b]) * (i != j) / 80
                cosines += abs(unit[i, b] @ unit[j, b]) * (i != j) / 80
    x = jnp.asarray(VECTORS, jnp.float32)
    np.testing.assert_allclose(canon.dot_contrast(x), wanted, rtol=1e-5)
    np.testing.assert_allclose(canon.cosine_contrast(x), cosines, rtol=1e-5)


def test_the_dot_contrast_is_minimized_by_shrinking_and_the_cosine_contrast_is_not():
    x = jnp.asarray(VECTORS, jnp.float32)
    along = lambda loss: float(jax.grad(lambda scale: loss(scale * x))(1.0))  # noqa: E731
    np.testing.assert_allclose(along(canon.dot_contrast), 2 * float(canon.dot_contrast(x)), rtol=1e-5)
    assert abs(along(canon.cosine_contrast)) < 1e-6
    assert float(canon.dot_contrast(0 * x)) == 0


@pytest.mark.parametrize("order", [4, 8])
def test_the_prior_on_cosines_at_temperature_1_has_its_floor_and_at_a_tenth_has_none(order: int):
    """Best are cosines of 1 for the identity and -1 for all else: log(1 + (|G| - 1) exp(-2))."""
    energies = jnp.ones((3, order)).at[:, 0].set(-1.0)
    upright = jnp.zeros(order).at[0].set(1.0)
    floor = np.log1p((order - 1) * np.exp(-2))
    np.testing.assert_allclose(canon.prior_loss(energies, upright, 1.0), floor, rtol=1e-5)
    assert abs(floor - {4: 0.341, 8: 0.666}[order]) < 1e-3
    assert float(canon.prior_loss(energies, upright, 0.1)) < 1e-5
    gradient = np.asarray(jax.grad(canon.prior_loss)(energies, upright, 1.0))
    assert (gradient[:, 0] > 0).all()
    assert (gradient[:, 1:] < 0).all()


def test_any_prior_is_best_met_by_itself():
    prior = jnp.asarray([0.5, 0.2, 0.2, 0.1])
    met = canon.prior_loss(-0.1 * jnp.log(prior)[None], prior, 0.1)
    np.testing.assert_allclose(met, -(prior * jnp.log(prior)).sum(), rtol=1e-5)
    assert float(canon.prior_loss(jnp.zeros((1, 4)), prior, 0.1)) > float(met)


def test_entropy_is_zero_for_the_sure_and_greatest_for_the_undecided():
    np.testing.assert_allclose(canon.entropy_loss(jnp.zeros((2, 8)), 0.1), np.log(8), rtol=1e-5)
    assert float(canon.entropy_loss(jnp.eye(8), 0.01)) > 1
    assert float(canon.entropy_loss(-jnp.eye(8), 0.01)) < 1e-6
    assert float(canon.artifact_loss(jnp.ones((2, 3)), jnp.zeros((2, 3)))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_weight": -1.0}, "weights >= 0"),
        ({"prior_weight": 0.0, "contrast_weight": 0.0}, "one of them above 0"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"prior": (0.5, 0.4)}, "add to one"),
    ],
)
def test_objectives_without_sense_are_refused(options: dict, message: str):
    with pytest.raises(BadArrayError, match=message):
        canon.Objective(**options)


def test_a_prior_fits_its_group_and_a_contrast_has_a_known_name():
    with pytest.raises(BadArrayError, match="2 probabilities for 4 of C4"):
        canon.Objective(prior=(0.5, 0.5)).prior_of(canon.cyclic(4))
    with pytest.raises(UnknownNameError, match="cosine"):
        canon.Objective(contrast="cos")  # pyright: ignore[reportArgumentType]
