"""A report on a kernel tells rounding from what is wrong, and names the rows that repeat others."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, RoundingWarning
from repsim_jax.kernels import near_duplicates, ntk, ntk_change, psd_report, relative_change, summarize_kernel

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


PARAMS = {"v": normal(5, 64) / 2, "w": normal(64, 2) / 8}
X = normal(30, 5)


def network(params: Any, x: Any) -> Any:
    return jnp.maximum(x @ params["v"], 0) @ params["w"]


def with_eigenvalues(*values: float) -> np.ndarray:
    q = np.linalg.qr(GENERATOR.standard_normal((len(values), len(values))))[0]
    return (q * np.asarray(values)) @ q.T


@pytest.mark.parametrize(
    ("values", "dtype", "verdict"),
    [
        ((3.0, 2.0, 1.0), np.float64, "positive definite"),
        ((3.0, 2.0, 0.0), np.float64, "positive semidefinite up to rounding"),
        ((3.0, 2.0, -1e-7), np.float32, "positive semidefinite up to rounding"),
        ((3.0, 2.0, -1e-7), np.float64, "not positive semidefinite"),
        ((3.0, 2.0, -0.1), np.float32, "not positive semidefinite"),
        ((3.0, 2.0, -1e-3), np.float16, "positive semidefinite up to rounding"),
        ((3.0, 2.0, -0.1), np.float16, "not positive semidefinite"),
        ((-3.0, -2.0, -1.0), np.float32, "not positive semidefinite"),
    ],
)
def test_definiteness_follows_from_eigenvalues_and_dtype(values: tuple[float, ...], dtype: Any, verdict: str):
    found = psd_report(with_eigenvalues(*values), dtype=dtype)
    assert found.verdict == verdict
    np.testing.assert_allclose([found.largest, found.smallest], [max(values), min(values)], atol=1e-12)
    assert bool(found.advice) == (verdict != "positive definite")
    if "not" not in verdict:
        assert found.rounding == pytest.approx(4 * np.finfo(dtype).eps * sum(values), rel=1e-6)


@pytest.mark.parametrize(("dtype", "epsilon"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_half_precision_has_its_own_rounding_stated_or_found(dtype: str, epsilon: float):
    kernel = jnp.asarray(np.diag([3.0, 2.0, 1.0]), dtype)
    assert psd_report(kernel).rounding == psd_report(np.diag([3.0, 2.0, 1.0]), dtype=dtype).rounding == 24 * epsilon
    nearly = np.asarray([[1.0, 1 - 3 * epsilon], [1 - 3 * epsilon, 1.0]])
    assert near_duplicates(nearly, dtype=dtype).num_pairs == 1
    assert near_duplicates(np.where(np.eye(2), 1, 1 - 16 * epsilon), dtype=dtype).num_pairs == 0
    assert near_duplicates(nearly, dtype="float32").num_pairs == 0


@pytest.mark.parametrize("copies", [2, 10])
@pytest.mark.parametrize("x64", [False, True])
def test_rounding_explains_the_negative_eigenvalues_of_kernels_with_repeated_rows(copies: int, x64: bool):
    with enable_x64():
        dtype = np.float64 if x64 else np.float32
        params = {name: jnp.asarray(leaf, dtype) for name, leaf in PARAMS.items()}
        kernel = ntk(network, params, jnp.asarray(np.tile(X, (copies, 1)), dtype))
        found = psd_report(kernel)
    assert found.verdict == "positive semidefinite up to rounding"
    assert -found.rounding / 4 < found.smallest < found.rounding / 4


def test_repeated_scaled_and_zero_rows_are_named():
    x = np.concatenate([X, X[3:4], 2 * X[5:6], 0 * X[:1]])
    found = near_duplicates(ntk(network, PARAMS, x))
    assert found.num_pairs == 2
    assert found.pairs.tolist() == [[3, 30], [5, 31]]
    assert found.zero_rows.tolist() == [32]
    assert near_duplicates(ntk(network, PARAMS, X)).num_pairs == 0
    one = near_duplicates(ntk(network, PARAMS, x), limit=1)
    assert (one.num_pairs, one.pairs.tolist()) == (2, [[3, 30]])


def test_pairs_in_different_blocks_of_rows_are_found():
    features = np.random.default_rng(1).standard_normal((2100, 40))
    features[2050] = features[7]
    assert near_duplicates(features @ features.T, dtype=np.float32).pairs.tolist() == [[7, 2050]]


def test_a_summary_agrees_with_its_parts():
    kernel = np.asarray(ntk(network, PARAMS, X))
    found = summarize_kernel(kernel, labels=(X[:, 0] > 0).astype(int))
    expected = np.linalg.eigvalsh(kernel.astype(np.float64))[::-1]
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-6 * expected[0])
    np.testing.assert_allclose(found.trace, expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.rank.participation, expected.sum() ** 2 / (expected**2).sum(), rtol=1e-4)
    assert found.definiteness == psd_report(kernel)
    assert 0 < found.alignment < 1
    assert (found.num_examples, found.dtype) == (30, "float32")
    assert summarize_kernel(kernel).alignment is None


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: psd_report(np.ones((2, 3))), r"psd_report needs kernel of shape"),
        (lambda: psd_report(np.ones((2, 2, 2, 2))), "needs a kernel \\(n, n\\)"),
        (lambda: psd_report(np.zeros((2, 2))), "nothing but zeros"),
        (lambda: near_duplicates(np.full((2, 2), np.nan)), "holds NaN"),
        (lambda: psd_report(np.eye(2), dtype="float31"), "psd_report needs a floating-point dtype.*'float31'"),
        (lambda: near_duplicates(np.eye(2), dtype=np.int32), "near_duplicates needs a floating-point dtype"),
        (lambda: near_duplicates(np.eye(2), limit=-1), "limit >= 0"),
        (lambda: summarize_kernel(np.eye(3), labels=[0, 1]), "kernel_alignment needs"),
    ],
)
def test_what_is_no_kernel_is_refused(call: Callable[[], Any], match: str):
    with pytest.raises(BadArrayError, match=match):
        call()


def test_a_change_that_float32_cannot_hold_is_told():
    kernel = np.asarray(ntk(network, PARAMS, X))
    near = kernel * np.float32(1 + 1e-6)
    with pytest.warns(RoundingWarning, match=r"in float32 rounding alone may make 9.5e-06. Take ntk_change"):
        relative_change(kernel, near)
    moved = {**PARAMS, "w": PARAMS["w"].copy()}
    moved["w"][0, 0] = np.nextafter(moved["w"][0, 0], np.float32(10))
    with pytest.warns(RoundingWarning, match="ntk_change: a relative change of .* Compute in float64"):
        ntk_change(network, PARAMS, moved, X)


def test_no_change_and_a_change_that_float64_holds_are_not_told():
    kernel = np.asarray(ntk(network, PARAMS, X))
    assert relative_change(kernel, kernel) == 0
    with enable_x64():
        exact = jnp.asarray(kernel, jnp.float64)
        np.testing.assert_allclose(relative_change(exact, exact * (1 + 1e-8)), 1e-8, rtol=1e-4)
