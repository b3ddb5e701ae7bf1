"""Influence of a linear encoder is its closed form: tr(W S_i (Sigma + damping)^-1 S_j W^T), to 1e-10 in float64."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from influence_cases import VIEWS, D, K, N, V, W, X, examples, linear_problem

from repsim_jax._compat import enable_x64
from repsim_jax.influence import (
    Damping,
    dense,
    influence,
    low_rank,
    self_influence,
    woodbury,
)
from repsim_jax.influence.examples import with_views

KEY = jax.random.key(0)
DAMPING = 0.3
DIFFERENCES = X[:, None] - VIEWS
MOMENTS = np.einsum("nva,nvb->nab", DIFFERENCES, DIFFERENCES) / V


def closed_form(moments: np.ndarray, damping: float) -> np.ndarray:
    inverse = np.linalg.inv(moments.mean(0) + damping * np.eye(D))
    return np.einsum("ak,iab,bc,jcd,dk->ij", W, moments, inverse, moments, W)


CURVATURES = {
    "dense": lambda posed: dense(KEY, posed, of="alignment"),
    "woodbury": lambda posed: woodbury(KEY, posed),
    "low_rank": lambda posed: low_rank(KEY, posed, of="alignment", rank=D * K),
}


@pytest.mark.parametrize("fit", CURVATURES.values(), ids=CURVATURES)
def test_pairwise_and_self_influence_are_the_closed_form(fit: Callable[..., Any]):
    with enable_x64():
        posed = linear_problem()
        options: dict[str, Any] = {"curvature": fit(posed), "mode": "paper", "damping": Damping(0.0, DAMPING)}
        expected = closed_form(MOMENTS, DAMPING)
        pairs = influence(KEY, posed, posed.train, **options)
        np.testing.assert_allclose(pairs.values, -expected, rtol=0, atol=1e-10)
        own = self_influence(KEY, posed, **options, view_groups=0)
        np.testing.assert_allclose(own.values, np.diag(expected), rtol=0, atol=1e-10)


def test_one_view_gives_the_product_of_representation_change_and_leverage():
    with enable_x64():
        posed = linear_problem(train=with_views(X, np.repeat(VIEWS[:, :1], 2, axis=1)))
        curvature = dense(KEY, posed, of="alignment")
        own = self_influence(KEY, posed, curvature=curvature, mode="paper", damping=Damping(0.0, DAMPING))
        change = np.square(DIFFERENCES[:, 0] @ W).sum(1)
        sigma = DIFFERENCES[:, 0].T @ DIFFERENCES[:, 0] / N + DAMPING * np.eye(D)
        leverage = np.einsum("na,ab,nb->n", DIFFERENCES[:, 0], np.linalg.inv(sigma), DIFFERENCES[:, 0])
        np.testing.assert_allclose(own.values, change * leverage, rtol=1e-10)


def test_the_curvature_of_alignment_is_that_of_the_differences_for_every_output():
    with enable_x64():
        curvature = dense(KEY, linear_problem(), of="alignment")
        matrix = (curvature.vectors * curvature.values) @ curvature.vectors.T
        np.testing.assert_allclose(matrix, np.kron(MOMENTS.mean(0), np.eye(K)), atol=1e-12)


def test_an_exact_duplicate_is_parallel_to_its_twin_and_has_less_influence_than_alone():
    with enable_x64():
        copied = np.r_[np.arange(N), 0]
        twice = linear_problem(train=examples(copied))
        options: dict[str, Any] = {"mode": "paper", "damping": Damping(0.0, 1e-3)}
        values = -influence(KEY, twice, twice.train, curvature=woodbury(KEY, twice), **options).values
        cosine = values[0, -1] / np.sqrt(values[0, 0] * values[-1, -1])
        np.testing.assert_allclose(cosine, 1, atol=1e-10)
        alone = linear_problem()
        before = self_influence(KEY, alone, curvature=woodbury(KEY, alone), **options, view_groups=0).values[0]
        assert values[0, 0] < before


def test_an_example_whose_views_are_itself_has_no_influence():
    with enable_x64():
        views = VIEWS.copy()
        views[3] = X[3]
        posed = linear_problem(train=with_views(X, views))
        found = influence(KEY, posed, posed.train, curvature=woodbury(KEY, posed), mode="paper").values
        np.testing.assert_allclose(found[:, 3], 0, atol=1e-12)
        np.testing.assert_allclose(found[3], 0, atol=1e-12)
