"""Products, sketches and eigenpairs of a kernel that is never formed are those of the kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels.twins import error, explicit_ntk, trace

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.kernels.operators import ntk_eigenpairs, ntk_sketch, ntk_vector_product

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


X, V = normal(12, 5), normal(12, 3)
PARAMS = {"v": normal(6, 5), "w": normal(6, 3), "b": normal(3)}


def two_layer(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["v"].T) @ params["w"] + params["b"]


FULL = explicit_ntk(two_layer, PARAMS, X)
KERNELS = {"full": FULL, "trace": trace(FULL), "sum": np.einsum("nomp->nm", FULL) / 3}


@pytest.mark.parametrize("block", [None, 5])
@pytest.mark.parametrize("outputs", sorted(KERNELS))
def test_products_with_vectors(outputs: str, block: int | None):
    v = V if outputs == "full" else V[:, 0]
    expected = np.tensordot(KERNELS[outputs], v, v.ndim)
    assert error(ntk_vector_product(two_layer, PARAMS, X, v, outputs=outputs, block=block), expected) < 1e-5


@pytest.mark.parametrize("outputs", sorted(KERNELS))
def test_a_sketch_is_unbiased_and_knows_its_error(outputs: str):
    sketches = [
        ntk_sketch(jax.random.key(seed), two_layer, PARAMS, X, num_draws=64, outputs=outputs) for seed in range(30)
    ]
    kernels = np.stack([np.asarray(sketch.kernel, np.float64) for sketch in sketches])
    spread = kernels.std(0, ddof=1)
    deviation = (kernels.mean(0) - KERNELS[outputs]) / (spread / np.sqrt(30))
    # entries share their draws, so only the mean square is gated: 1 expected, 4 is twice the standard error everywhere
    assert np.mean(np.square(deviation)) < 4
    told = np.sqrt(np.mean([np.square(sketch.standard_error) for sketch in sketches], axis=0))
    np.testing.assert_allclose(np.sqrt(np.mean(told**2) / np.mean(spread**2)), 1, atol=0.15)


@pytest.mark.slow
def test_more_draws_are_closer():
    few, many = (
        ntk_sketch(jax.random.key(0), two_layer, PARAMS, X, num_draws=k).standard_error.mean() for k in (50, 800)
    )
    np.testing.assert_allclose(few / many, 4, rtol=0.2)


@pytest.mark.parametrize("outputs", ["trace", "full"])
def test_the_largest_eigenpairs(outputs: str):
    kernel = KERNELS[outputs]
    rows = int(np.sqrt(kernel.size))
    values, vectors = np.linalg.eigh(kernel.reshape(rows, rows))
    found = ntk_eigenpairs(jax.random.key(0), two_layer, PARAMS, X, num=2, outputs=outputs)
    np.testing.assert_allclose(found.values, values[::-1][:2], rtol=1e-4)
    cosines = np.abs(np.sum(np.asarray(found.vectors).reshape(rows, 2) * vectors[:, ::-1][:, :2], axis=0))
    np.testing.assert_allclose(cosines, 1, atol=1e-3)
    assert found.vectors.shape == ((12, 2) if outputs == "trace" else (12, 3, 2))
    assert np.max(found.residuals) < 1e-3
    assert 0 < int(found.num_steps) <= 100


@pytest.mark.parametrize(
    ("call", "error_", "match"),
    [
        (lambda: ntk_vector_product(two_layer, PARAMS, X, V[:, 0]), BadArrayError, r"shape \(12, 3\), got \(12,\)"),
        (lambda: ntk_vector_product(two_layer, PARAMS, X, V, outputs="trace"), BadArrayError, r"shape \(12,\)"),
        (lambda: ntk_vector_product(two_layer, PARAMS, X, V * np.nan), BadArrayError, "v holds NaN"),
        (lambda: ntk_vector_product(two_layer, PARAMS, X, V, outputs="all"), UnknownNameError, "outputs"),
        (lambda: ntk_vector_product(two_layer, PARAMS, X, V, block=0), BadArrayError, "positive integer block"),
        (lambda: ntk_sketch(jax.random.key(0), two_layer, PARAMS, X, num_draws=1), BadArrayError, "num_draws >= 2"),
        (lambda: ntk_eigenpairs(jax.random.key(0), two_layer, PARAMS, X, num=3), BadArrayError, "a fifth"),
        (lambda: ntk_eigenpairs(jax.random.key(0), two_layer, PARAMS, X, num=0), BadArrayError, "positive integer num"),
        (lambda: ntk_eigenpairs(jax.random.key(0), two_layer, PARAMS, X[:0], num=1), BadArrayError, "at least one"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: Callable[[], Any], error_: type[Exception], match: str):
    with pytest.raises(error_, match=match):
        call()
