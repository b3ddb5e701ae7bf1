"""Measures of change are those of their formulas, keep their digits, and say no to what has none."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from kernels.twins import Mixed, error, explicit_ntk, trace

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.kernels import change, motion

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


A, B = (z @ z.T for z in (normal(9, 4), normal(9, 4)))
FULL = np.einsum("nop,mqp->nomq", z := normal(4, 2, 5), z)
X = normal(6, 5)
PARAMS = {"v": normal(7, 5), "w": normal(7, 3), "b": normal(3)}
MOVED = jax.tree.map(lambda w: (w + 0.1 * normal(*w.shape)).astype(np.float32), PARAMS)


def two_layer(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["v"].T) @ params["w"] + params["b"]


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_distance_is_one_less_the_cosine(scale: float):
    a, b = A.astype(np.float64), B.astype(np.float64)
    expected = 1 - np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))
    found = change.kernel_distance(np.float32(scale) * A, B)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_distance_keeps_its_digits_near_zero():
    other = A.astype(np.float64) + 1e-4 * B
    a, b = A.astype(np.float64), other.astype(np.float32).astype(np.float64)
    expected = np.sum(np.square(a / np.linalg.norm(a) - b / np.linalg.norm(b))) / 2
    assert expected < 1e-7  # below the rounding of 1 - cosine in float32
    np.testing.assert_allclose(change.kernel_distance(A, other.astype(np.float32)), expected, rtol=1e-2)


def test_distance_of_multiples_is_zero():
    assert float(change.kernel_distance(FULL, 3 * FULL)) < 1e-12


def test_velocity_is_distance_over_time():
    found = change.kernel_velocity(np.stack([A, B, A]), [0.0, 2.0, 2.5])
    distance = float(change.kernel_distance(A, B))
    np.testing.assert_allclose(found, [distance / 2, distance / 0.5], rtol=1e-5)


def test_relative_change():
    np.testing.assert_allclose(change.relative_change(A, 1.5 * A), 0.5, rtol=1e-5)
    expected = np.linalg.norm(B - A) / np.linalg.norm(A)
    np.testing.assert_allclose(change.relative_change(A, B), expected, rtol=1e-5)


@pytest.mark.parametrize("centered", [True, False])
def test_alignment_with_labels(centered: bool):
    labels = np.asarray([0, 1, 2, 0, 1, 2, 7, 7, 0])
    targets = np.equal.outer(labels, np.unique(labels)).astype(np.float64)
    k, l = A.astype(np.float64), targets @ targets.T  # noqa: E741
    if centered:
        h = np.eye(9) - 1 / 9
        k, l = h @ k @ h, h @ l @ h  # noqa: E741
    expected = np.sum(k * l) / (np.linalg.norm(k) * np.linalg.norm(l))
    np.testing.assert_allclose(change.kernel_alignment(A, labels, centered=centered), expected, rtol=1e-5)
    found = change.kernel_alignment(A, targets.astype(np.float32), centered=centered)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_kernel_of_the_labels_is_wholly_aligned():
    targets = np.eye(3, dtype=np.float32)[np.asarray([0, 1, 2, 0, 1])]
    np.testing.assert_allclose(change.kernel_alignment(targets @ targets.T, targets), 1, rtol=1e-6)


def test_spectrum_of_a_kernel_of_all_outputs():
    expected = np.linalg.eigvalsh(FULL.reshape(8, 8).astype(np.float64))[::-1]
    np.testing.assert_allclose(change.spectrum(FULL), expected, atol=1e-5 * expected[0])


def test_effective_ranks():
    values = np.asarray([4.0, 2.0, 1.0, 0.0], np.float32)
    q = np.linalg.qr(normal(4, 4))[0]
    shares = values[:3].astype(np.float64) / 7
    found = change.effective_rank((q * values) @ q.T)
    np.testing.assert_allclose(found.participation, 49 / 21, rtol=1e-5)
    np.testing.assert_allclose(found.entropy, np.exp(-np.sum(shares * np.log(shares))), rtol=1e-4)
    equal = change.effective_rank(np.eye(5, dtype=np.float32))
    np.testing.assert_allclose([equal.participation, equal.entropy], 5, rtol=1e-5)


@pytest.mark.parametrize("block", [None, 4])
def test_the_change_of_the_kernel_is_the_difference_of_kernels(block: int | None):
    before, after = (trace(explicit_ntk(two_layer, params, X)) for params in (PARAMS, MOVED))
    found = motion.ntk_change(two_layer, PARAMS, MOVED, X, block=block)
    assert error(found.kernel, before) < 1e-5
    assert error(found.change, after - before) < 1e-5
    np.testing.assert_allclose(found.relative, np.linalg.norm(after - before) / np.linalg.norm(before), rtol=1e-5)


def test_a_change_below_the_rounding_of_the_kernel_is_seen():
    """Wide enough that kernels in float32 differ by their rounding only."""
    wide = {"v": normal(2000, 5), "w": normal(2000, 3), "b": normal(3)}
    near = jax.tree.map(lambda w: (w + 1e-5 * normal(*w.shape)).astype(np.float32), wide)
    found = motion.ntk_change(two_layer, wide, near, X)
    with enable_x64():
        exact = [
            trace(explicit_ntk(two_layer, jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), p), X.astype(np.float64)))
            for p in (wide, near)
        ]
    expected = exact[1] - exact[0]
    from repsim_jax.kernels.empirical import ntk

    differenced = np.asarray(ntk(two_layer, near, X)) - np.asarray(ntk(two_layer, wide, X))
    ours, plain = error(found.change, expected), error(differenced, expected)
    assert np.linalg.norm(expected) < 1e-5 * np.linalg.norm(exact[0])
    assert ours < 0.1
    assert ours < plain / 3


@pytest.mark.slow
def test_the_change_of_models_with_many_positions():
    x = normal(3, 9, 8, 2)
    module, variables = Mixed(), jax.jit(Mixed().init)(jax.random.key(0), x)
    moved = jax.tree.map(lambda w: w + 0.1 * jnp.asarray(normal(*w.shape)), variables)
    before, after = (
        trace(explicit_ntk(lambda p, x: module.apply({"params": p}, x), v["params"], x)) for v in (variables, moved)
    )
    found = motion.ntk_change(module, variables, moved, x)
    assert error(found.change, after - before) < 1e-5


def test_parameter_distance():
    absolute = np.sqrt(sum(np.sum(np.square(MOVED[k].astype(np.float64) - PARAMS[k])) for k in PARAMS))
    size = np.sqrt(sum(np.sum(np.square(PARAMS[k].astype(np.float64))) for k in PARAMS))
    found = motion.parameter_distance(PARAMS, MOVED)
    np.testing.assert_allclose(found, (absolute, absolute / size), rtol=1e-5)


def test_the_linearized_model_is_the_model_at_first_order():
    linear = motion.linearize(two_layer, PARAMS)
    np.testing.assert_allclose(linear(PARAMS, X), two_layer(PARAMS, X), rtol=1e-6)
    jacobian = jax.jacobian(lambda p: two_layer(p, X))(PARAMS)
    step = sum(np.tensordot(jacobian[k], MOVED[k] - PARAMS[k], MOVED[k].ndim) for k in PARAMS)
    np.testing.assert_allclose(linear(MOVED, X), two_layer(PARAMS, X) + step, rtol=1e-4, atol=1e-4)


def test_the_linearization_error_falls_with_the_step():
    def moved(scale: float) -> Any:
        return jax.tree.map(lambda a, b: a + scale * (b - a), PARAMS, MOVED)

    linear = motion.linearize(two_layer, PARAMS)
    f0, f1, lin = (np.asarray(f, np.float64) for f in (two_layer(PARAMS, X), two_layer(MOVED, X), linear(MOVED, X)))
    expected = np.linalg.norm(f1 - lin) / np.linalg.norm(f1 - f0)
    errors = [float(motion.linearization_error(two_layer, PARAMS, moved(s), X)) for s in (1.0, 0.1, 0.01)]
    np.testing.assert_allclose(errors[0], expected, rtol=1e-3)
    assert 0.08 < errors[2] / errors[1] < 0.12  # of first order in the step


def test_the_error_of_a_linear_model_is_zero():
    assert float(motion.linearization_error(lambda w, x: x @ w, PARAMS["v"].T, MOVED["v"].T, X)) < 1e-5


def test_an_nnx_model_with_other_parameters():
    model, other = nnx.Linear(5, 3, rngs=nnx.Rngs(0)), nnx.Linear(5, 3, rngs=nnx.Rngs(1))
    found = motion.ntk_change(model, None, nnx.state(other, nnx.Param), X)
    np.testing.assert_allclose(found.kernel, X @ X.T + 1, rtol=1e-4, atol=1e-5)
    assert float(found.relative) == 0
    assert float(motion.linearization_error(model, None, nnx.state(other, nnx.Param), X)) < 1e-5


def test_a_scaled_model_is_zero_at_first_and_lazier_the_larger_its_scale():
    scaled = motion.scaled_output(two_layer, PARAMS, 10.0)
    np.testing.assert_array_equal(scaled(PARAMS, X), 0)
    np.testing.assert_allclose(scaled(MOVED, X), 10 * (two_layer(MOVED, X) - two_layer(PARAMS, X)), rtol=1e-5)

    def relative_change_after_training(scale: float) -> float:
        model = motion.scaled_output(two_layer, PARAMS, scale)

        def loss(params: Any) -> Any:
            return jnp.mean(jnp.square(model(params, X) - 1)) / scale**2

        params = PARAMS
        for _ in range(5):
            params = jax.tree.map(lambda w, g: w - 0.05 * g, params, jax.jit(jax.grad(loss))(params))
        return float(motion.ntk_change(two_layer, PARAMS, params, X).relative)

    lazy, rich = map(relative_change_after_training, (100.0, 10.0))
    assert 5 < rich / lazy < 20  # 1 / alpha


def spoiled(kernel: Any, row: int, value: float) -> np.ndarray:
    kernel = np.array(kernel)
    kernel[row] = kernel[:, row] = value
    return kernel


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: change.kernel_distance(A, B[:5, :5]), r"got kernel \(9, 9\) and other \(5, 5\)"),
        (lambda: change.kernel_distance(A[:, :4], B), r"needs kernel of shape \(n, n\)"),
        (lambda: change.kernel_distance(A, np.zeros_like(B)), "nothing but zeros"),
        (lambda: change.relative_change(A, np.full_like(B, np.nan)), "after holds NaN"),
        (lambda: change.spectrum(spoiled(A, 3, np.nan)), "kernel holds NaN, most of it in row 3"),
        (lambda: change.spectrum(spoiled(A, 5, np.inf)), "kernel holds infinity, most of it in row 5"),
        (lambda: change.spectrum(A.astype(int)), "floating-point"),
        (lambda: change.spectrum(A[:0, :0]), "got shape"),
        (lambda: change.effective_rank(np.zeros((3, 3), np.float32)), "nothing but zeros"),
        (lambda: change.kernel_velocity(A[None], [0.0]), "t >= 2 times"),
        (lambda: change.kernel_velocity(np.stack([A, B]), [1.0, 1.0]), "increasing times"),
        (lambda: change.kernel_velocity(np.stack([A, 0 * B]), [0.0, 1.0]), r"kernels\[1\] holds"),
        (lambda: change.kernel_alignment(A, np.zeros(8, int)), "labels"),
        (lambda: change.kernel_alignment(A, np.zeros(9)), "integers"),
        (lambda: change.kernel_alignment(A, np.zeros(9, int)), "do not vary"),
        (lambda: motion.ntk_change(two_layer, PARAMS, {**MOVED, "b": MOVED["b"][:2]}, X), "parameters of one model"),
        (lambda: motion.ntk_change(two_layer, PARAMS, MOVED, X * np.nan), "NaN"),
        (lambda: motion.ntk_change(two_layer, PARAMS, MOVED, X, block=0), "positive integer block"),
        (lambda: motion.parameter_distance(PARAMS, {"v": PARAMS["v"]}), "parameters of one model"),
        (lambda: motion.linearization_error(two_layer, PARAMS, {"v": 1.0}, X), "parameters of one model"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[], Any], match: str):
    with pytest.raises(BadArrayError, match=match):
        call()
