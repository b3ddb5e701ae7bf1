"""Influence is its definition by plain automatic differentiation, whatever is batched, left out or spread."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from house.source import ROOT
from house.test_compile_once import programs_compiled_by
from influence_cases import VIEWS, N, V, X, examples, flat_function, flat_rows, linear_problem, small_problem

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.influence import (
    BYOL,
    Custom,
    Damping,
    Distance,
    Identity,
    Problem,
    SimCLR,
    SimSiam,
    Stability,
    Uniformity,
    VICReg,
    dense,
    ekfac,
    influence,
    self_influence,
    with_views,
    woodbury,
)
from repsim_jax.influence.derivatives import measured_gradients
from repsim_jax.influence.problems import in_batches

KEY = jax.random.key(7)


def explicit(posed: Problem, matrix: np.ndarray, mode: str) -> np.ndarray:
    """-grad m_j^T matrix^-1 grad F_i for a single batch, with F_i = dL/dw_i or the stability of i."""
    row, restore = flat_function(posed)
    seen = posed.train.seen()

    def measured(w: jax.Array) -> jax.Array:
        return jax.vmap(lambda one: posed.stability(posed.seeing(restore(w)), one[None]))(seen)

    def added(w: jax.Array) -> jax.Array:
        if mode == "paper":
            return measured(w)
        return jax.grad(lambda weights: posed.loss(restore(w), seen, weights))(jnp.ones(len(seen)))

    queries, training = (np.asarray(jax.jit(jax.jacrev(one))(jnp.asarray(row))) for one in (measured, added))
    return -queries @ np.linalg.solve(matrix, training.T)


OBJECTIVES = {"simclr": SimCLR(0.3), "vicreg": VICReg(), "simsiam": SimSiam(lambda p, z: z @ p["predictor"])}


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("vicreg", "simsiam")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", *SLOWER])
def test_batch_mode_is_the_derivative_by_weights_of_the_objective(name: str):
    with enable_x64():
        posed = small_problem(OBJECTIVES[name])
        expected = explicit(posed, 0.5 * np.eye(posed.num_params()), "batch") * 0.5
        found = influence(KEY, posed, posed.train, curvature=Identity(), block=5)
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
        own = self_influence(KEY, posed, curvature=Identity(), view_groups=0, block=5)
        np.testing.assert_allclose(own.values, -np.diag(expected), rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["batch", "paper"])
def test_curvature_stands_between_both_sides(mode: Any):
    with enable_x64():
        posed = small_problem()
        curvature = dense(KEY, posed, of="alignment")
        matrix = np.asarray((curvature.vectors * curvature.values) @ curvature.vectors.T)
        expected = explicit(posed, matrix + 0.02 * np.eye(len(matrix)), mode)
        found = influence(KEY, posed, posed.train, curvature=curvature, mode=mode, damping=Damping(0.0, 0.02))
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
        row, restore = flat_function(posed)
        stable = [posed.stability(posed.seeing(restore(jnp.asarray(row))), one[None]) for one in posed.train.seen()]
        np.testing.assert_allclose(found.measurements, stable, rtol=1e-10)
        if mode == "paper":
            np.testing.assert_allclose(found.values, found.values.T, atol=1e-10)
            assert np.linalg.eigvalsh(-found.values).min() > -1e-10


def test_gradients_of_queries_from_layers_are_those_of_autodiff():
    with enable_x64():
        posed = small_problem()
        row, restore = flat_function(posed)
        one = lambda w, seen: posed.stability(posed.seeing(restore(w)), seen[None])  # noqa: E731
        expected = jax.vmap(jax.grad(one), (None, 0))(jnp.asarray(row), posed.train.seen())
        _, found = measured_gradients(posed, posed.train, posed.stability, size=N)
        np.testing.assert_allclose(flat_rows(found), expected, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_batches_are_taken_apart_and_only_filled_with_what_does_not_count():
    with enable_x64():
        rows = np.arange(11)
        posed = small_problem(train=examples(rows), batch_size=4)
        found = influence(KEY, posed, posed.train, curvature=Identity()).values
        batches = in_batches(KEY, 11, 4)
        assert sorted(batches.weights.sum(1)) == [3, 4, 4]
        for members, weights in zip(batches.rows, batches.weights, strict=True):
            members = members[weights > 0]
            alone = small_problem(train=examples(members))
            expected = influence(KEY, alone, posed.train, curvature=Identity()).values / 3
            np.testing.assert_allclose(found[:, members], expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_order_of_examples_and_queries_plays_no_part():
    with enable_x64():
        order = np.random.default_rng(4).permutation(N)
        plain, shuffled = small_problem(), small_problem(train=examples(order))
        curvature = woodbury(KEY, plain, of="objective")
        found = influence(KEY, shuffled, examples(order[:6]), curvature=curvature).values
        expected = influence(KEY, plain, plain.train, curvature=curvature).values[order[:6]][:, order]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.slow
def test_turning_the_basis_of_a_linear_encoder_changes_nothing():
    with enable_x64():
        turn = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))[0]
        posed = linear_problem()
        turned = replace(posed, params={"w": posed.params["w"] @ jnp.asarray(turn)})
        values = [
            influence(KEY, one, one.train, curvature=woodbury(KEY, one), mode="paper").values for one in (posed, turned)
        ]
        np.testing.assert_allclose(*values, rtol=0, atol=1e-10)


def test_standard_errors_are_the_jackknife_over_views():
    with enable_x64():
        posed = small_problem()
        curvature = woodbury(KEY, posed)
        options: dict[str, Any] = {"curvature": curvature, "mode": "paper"}
        found = self_influence(KEY, posed, **options, view_groups=V)
        left_out = []
        for view in range(V):
            kept = np.delete(np.arange(V), view)
            less = small_problem(train=with_views(X, VIEWS[:, kept]))
            left_out.append(self_influence(KEY, less, **options, view_groups=0).values)
        expected = np.sqrt((V - 1) / V * np.square(np.stack(left_out) - np.mean(left_out, 0)).sum(0))
        assert found.standard_errors is not None
        np.testing.assert_allclose(found.standard_errors, expected, rtol=1e-8)
        assert self_influence(KEY, posed, **options, view_groups=0).standard_errors is None


def test_a_target_is_held_fast_and_every_parameter_of_the_predictor_counts():
    with enable_x64():
        target = jax.tree.map(lambda w: w + 0.1, small_problem().params)
        byol = BYOL(target, predictor=lambda p, z: z @ p["predictor"])
        posed = small_problem(byol)
        row, restore = flat_function(posed)
        found = jax.grad(lambda w: posed.loss(restore(w), posed.train.seen(), jnp.ones(N)))(jnp.asarray(row))
        step, numeric = 1e-6, np.zeros_like(row)
        value = jax.jit(lambda w: posed.loss(restore(w), posed.train.seen(), jnp.ones(N)))
        for i in range(0, len(row), 7):
            moved = np.eye(len(row))[i] * step
            numeric[i] = (value(jnp.asarray(row + moved)) - value(jnp.asarray(row - moved))) / (2 * step)
            np.testing.assert_allclose(found[i], numeric[i], atol=1e-8)
        assert np.abs(found[-9:]).max() > 1e-4  # the predictor's own


def test_what_was_chosen_is_recorded():
    posed = small_problem(stability=Stability("views"))
    found = self_influence(KEY, posed, curvature=Identity(), mode="paper", view_groups=2)
    assert found.options | {
        "mode": "paper", "objective": "SimCLR", "measurement": "Stability", "stability_side": "views", "view_groups": 2,
        "curvature": "Identity", "damping_relative": 0.001, "damping_absolute": 0.0, "train_views": V, "batch_size": N,
    } == found.options  # fmt: skip


def test_progress_is_told_to_the_end():
    told: list[tuple[int, int]] = []
    posed = small_problem()
    self_influence(
        KEY, posed, curvature=Identity(), block=5, view_groups=2, on_progress=lambda *step: told.append(step)
    )
    assert told[-1] == (9, 9)
    assert len(told) == 9


SPREAD = """
import jax, numpy as np
from influence_cases import random_gradients, small_problem
from repsim_jax._compat import enable_x64
from repsim_jax.influence import Damping, influence, self_influence, ekfac
assert jax.device_count() == 2
mesh = jax.make_mesh((2,), ("rows",))
key = jax.random.key(0)

def alike(two, one):
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-10 * np.abs(one).max())

with enable_x64():
    posed = small_problem(batch_size=4)
    curvature = ekfac(key, posed, of="alignment")
    spread = ekfac(key, posed, of="alignment", block=99, mesh=mesh)  # an odd number of units at once
    gradients = random_gradients(posed)
    for two, one in zip(*(fit.solve(gradients, Damping(0.1, 0.01)) for fit in (spread, curvature))):
        alike(two, one)
    for mode in ("batch", "paper"):
        options = dict(curvature=curvature, mode=mode)
        one = influence(key, posed, posed.train, **options).values
        alike(influence(key, posed, posed.train, mesh=mesh, **options).values, one)
        one = self_influence(key, posed, view_groups=0, block=3, **options).values
        alike(self_influence(key, posed, view_groups=0, block=3, mesh=mesh, **options).values, one)
"""


@pytest.mark.slow
def test_devices_share_the_work_and_give_the_same_numbers():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **flags, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", SPREAD], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr


@cache
def refused() -> Problem:
    return small_problem()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"mode": "papers"}, UnknownNameError, "no mode is called 'papers'"),
        ({"damping": Damping(0.0, 0.0)}, BadArrayError, "not both zero"),
        ({"damping": Damping(-0.1)}, BadArrayError, "finite parts >= 0"),
        ({"damping": Damping(float("nan"))}, BadArrayError, "finite parts >= 0"),
        ({"damping": 0.1}, BadArrayError, "got 0.1"),
        ({"curvature": "ekfac"}, BadArrayError, "curvature from ekfac or its like: got Examples and str"),
        ({"block": 0}, BadArrayError, "block >= 1"),
        ({"view_groups": 1}, BadArrayError, "view_groups 0, or from 2"),
        ({"view_groups": V + 1}, BadArrayError, "view_groups 0, or from 2"),
        ({"measurement": Distance()}, BadArrayError, "measurement of single queries"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        self_influence(KEY, refused(), **{"curvature": Identity(), **options})


def test_queries_that_do_not_fit_are_refused():
    posed = refused()
    with pytest.raises(BadArrayError, match=r"queries like the training examples, \(5,\)"):
        influence(KEY, posed, with_views(X[:, :4], X[:, None, :4] + np.ones((N, 2, 1))), curvature=Identity())
    with pytest.raises(BadArrayError, match=r"queries from augmented or with_views.*got ndarray"):
        influence(KEY, posed, X, curvature=Identity())  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadArrayError, match="11 queries do not divide"):
        influence(KEY, posed, examples(slice(11)), curvature=Identity(), measurement=Distance())
    with pytest.raises(BadArrayError, match="Uniformity is of at least 2 queries, got 1"):
        influence(KEY, posed, examples(slice(1)), curvature=Identity(), measurement=Uniformity())


def test_a_value_that_is_not_finite_is_named():
    broken = small_problem(
        Custom(lambda p, views, w: jnp.sqrt(w - 1).sum() * p["first"]["bias"].sum() + 0 * views.sum())
    )
    with pytest.raises(BadArrayError, match=r"NaN or infinite for 144 values, the first at \(0, 0\)"):
        influence(KEY, broken, broken.train, curvature=Identity())


@pytest.mark.slow
def test_another_damping_or_temperature_compiles_nothing():
    def scores(temperature: float, relative: float) -> np.ndarray:
        posed = small_problem(SimCLR(temperature))
        return influence(KEY, posed, posed.train, curvature=curvature, damping=Damping(relative)).values

    curvature = ekfac(KEY, small_problem(), of="alignment")
    scores(0.5, 0.1)
    assert programs_compiled_by(lambda: scores(0.4, 0.2)) == 0
