"""Products of whitened gradients are influence, with whatever part of the model a measurement is of."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from influence_cases import SMALL, N, examples, flat_rows, small_problem

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.influence import (
    Custom,
    Damping,
    Identity,
    Problem,
    SimCLR,
    Stability,
    ekfac,
    influence,
    logra,
    problem,
    self_influence,
)
from repsim_jax.influence.derivatives import measured_gradients
from repsim_jax.influence.whitened import squared_norms, whitened_at_once, whitened_rows

KEY = jax.random.key(2)
DAMPING = Damping(0.1, 0.01)
FITS: dict[str, Any] = {"ekfac": ekfac, "logra": lambda *args, **options: logra(*args, rank=2, **options)}


def by_solving(posed: Problem, curvature: Any) -> np.ndarray:
    _, gradients = measured_gradients(posed, posed.train, posed.stability, size=N)
    return flat_rows(gradients) @ flat_rows(curvature.solve(gradients, DAMPING)).T


def hidden(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])


def encoder_and_projector(params: Any, x: jax.Array) -> jax.Array:
    return hidden(params, x) @ params["last"]["kernel"]


@pytest.mark.parametrize("name", FITS)
def test_products_of_whitened_gradients_are_those_with_curvature_divided_out(name: str):
    with enable_x64():
        posed = small_problem()
        curvature = FITS[name](KEY, posed, of="alignment", num_samples=N)
        expected = by_solving(posed, curvature)
        seen, rows = whitened_rows(posed, curvature, posed.train, posed.stability, DAMPING)
        np.testing.assert_allclose(rows @ rows.T, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
        found, norms = squared_norms(posed, curvature, posed.train, posed.stability, DAMPING)
        np.testing.assert_allclose(norms, np.diag(expected), rtol=1e-9)
        np.testing.assert_array_equal(found, seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_self_influence_is_the_diagonal_of_influence(name: str):
    with enable_x64():
        posed = small_problem(batch_size=5)
        options: dict[str, Any] = {
            "curvature": FITS[name](KEY, posed, of="alignment", num_samples=N), "mode": "paper", "damping": DAMPING,
        }  # fmt: skip
        pairs = influence(KEY, posed, posed.train, block=5, **options)
        own = self_influence(KEY, posed, view_groups=0, block=3, **options)
        np.testing.assert_allclose(own.values, -np.diag(pairs.values), rtol=1e-9)
        np.testing.assert_allclose(own.measurements, pairs.measurements, rtol=1e-12)
        other = Stability(side="views")  # another measurement than the side that trains: two gradients
        expected = influence(KEY, posed, posed.train, measurement=other, **options).values
        own = self_influence(KEY, posed, view_groups=0, measurement=other, **options)
        np.testing.assert_allclose(own.values, -np.diag(expected), rtol=1e-9)


@pytest.mark.slow
def test_a_representation_below_the_projector_has_curvature_of_the_whole_model():
    with enable_x64():
        params = jax.tree.map(jnp.asarray, {name: SMALL[name] for name in ("first", "last")})
        posed = problem(encoder_and_projector, params, examples(), objective=SimCLR(), represent=hidden)
        curvature = ekfac(KEY, posed, num_samples=4)
        assert whitened_at_once(posed, curvature, posed.stability)
        expected = by_solving(posed, curvature)
        _, rows = whitened_rows(posed, curvature, posed.train, posed.stability, DAMPING)
        np.testing.assert_allclose(rows @ rows.T, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.slow
def test_parameters_that_are_used_in_another_way_are_solved_for_instead():
    with enable_x64():
        params = jax.tree.map(jnp.asarray, {name: SMALL[name] for name in ("first", "last")})
        twice = lambda p, x: hidden(p, x) @ p["last"]["kernel"] @ p["last"]["kernel"].T  # noqa: E731
        posed = problem(encoder_and_projector, params, examples(), objective=SimCLR(), represent=twice)
        curvature = ekfac(KEY, posed, num_samples=4)
        assert not whitened_at_once(posed, curvature, posed.stability)
        found = self_influence(KEY, posed, curvature=curvature, mode="paper", damping=DAMPING, view_groups=0)
        np.testing.assert_allclose(found.values, np.diag(by_solving(posed, curvature)), rtol=1e-9)


def test_only_layers_whiten():
    assert not whitened_at_once(small_problem(), Identity(), Stability())


@pytest.mark.slow
def test_a_fit_on_some_examples_is_that_of_a_problem_with_these_alone():
    """Every residual of four examples: whichever four were drawn, they tell which by their curvature."""
    with enable_x64():
        posed = small_problem()
        found = ekfac(KEY, posed, of="alignment", num_samples=None, max_units=4)
        drawn = np.asarray(jax.random.permutation(jax.random.split(KEY)[0], N))[:4]
        alone = small_problem(train=examples(np.sort(drawn)))
        expected = ekfac(KEY, alone, of="alignment", num_samples=None)
        for left, right in zip(found.values, expected.values, strict=True):
            np.testing.assert_allclose(left, right, rtol=0, atol=1e-10)


def test_a_fit_on_no_example_is_refused():
    with pytest.raises(BadArrayError, match="max_units >= 1"):
        ekfac(KEY, small_problem(Custom(lambda p, v, w: v.sum())), max_units=0)
