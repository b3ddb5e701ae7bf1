"""neural-tangents runs on this JAX: its numbers are those of explicit formulas, and JAX is left as it was."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax.errors import MissingPackageError
from repsim_jax.kernels.neural_tangents import load

nt = load()
stax = nt.stax
X, Y = (np.random.default_rng(seed).standard_normal((n, 5)).astype(np.float32) for seed, n in ((0, 4), (1, 3)))
IMAGES = np.random.default_rng(2).standard_normal((2, 4, 4, 2)).astype(np.float32)
IMPLEMENTATIONS = list(nt.NtkImplementation)

AFTER_A_FAILED_IMPORT = """
import sys
import jax, jax.core, jax.extend.core, jax.interpreters.ad
from types import ModuleType
try:
    import neural_tangents
except ImportError:
    pass
else:
    raise SystemExit("neural-tangents now imports by itself: load() may no longer be needed")

def names():
    return {module: {name for name, value in vars(sys.modules[module]).items() if not isinstance(value, ModuleType)}
            for module in before_modules}

before_modules = [name for name in sys.modules if name.split(".")[0] in ("jax", "jaxlib")]
before, had_util = names(), "jax.util" in sys.modules
from repsim_jax.kernels.neural_tangents import load
nt = load()
assert nt is load() is sys.modules["neural_tangents"]
changed = {module: found ^ before[module] for module, found in names().items() if found != before[module]}
assert not changed, changed
assert had_util == ("jax.util" in sys.modules)
assert "tensorflow" not in sys.modules
assert "neural_tangents.experimental" not in sys.modules and not hasattr(nt, "experimental")
"""


def test_loading_leaves_jax_as_it_was_even_after_a_failed_import():
    command = [sys.executable, "-c", AFTER_A_FAILED_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["neural_tangents", "frozendict", "scipy"])
def test_a_missing_package_says_how_to_install_it_without_tensorflow(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    command = r"pip install --no-deps neural-tangents==0\.6\.5 frozendict && pip install scipy"
    with pytest.raises(MissingPackageError, match=f"{name} is not installed.*{command}"):
        load.__wrapped__()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.6.4")
    with pytest.raises(MissingPackageError, match=r"0\.6\.5 is needed .* version 0\.6\.4 is installed"):
        load.__wrapped__()


def direct(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Calls with rules of their own (custom_jvp, jit), a reshape, a scaled and a transposed parameter."""
    h = jax.nn.relu(x.reshape(len(x), -1) @ params["first"] + params["bias"])
    h = jax.nn.gelu(h @ (0.5 * params["second"]).T)
    return h / jnp.sqrt(1 + jnp.sum(jnp.square(h), axis=1, keepdims=True))


def dense_model() -> tuple[Callable[..., Any], Any]:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"first": (5, 6), "bias": (6,), "second": (2, 6)}
    return direct, {name: jax.random.normal(key, shapes[name]) for key, name in zip(keys, shapes, strict=True)}


def convolutional_model() -> tuple[Callable[..., Any], Any]:
    layers = stax.Conv(3, (3, 3), (2, 2), padding="SAME"), stax.Relu(), stax.Flatten(), stax.Dense(2)
    init_fn, apply_fn, _ = stax.serial(*layers)
    return apply_fn, init_fn(jax.random.PRNGKey(0), IMAGES.shape)[1]


def explicit_ntk(apply_fn: Callable[..., Any], params: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m, o, o), from whole Jacobians in float64."""
    total = np.zeros(())
    jacobian = jax.jit(jax.jacobian(apply_fn))
    for a, b in zip(*(jax.tree.leaves(jacobian(params, one)) for one in (x, y)), strict=True):
        a, b = (np.asarray(one, np.float64).reshape(*one.shape[:2], -1) for one in (a, b))
        total = total + np.einsum("nop,mqp->nmoq", a, b)
    return total


@pytest.mark.parametrize("model", [dense_model, convolutional_model], ids=["dense", "convolutional"])
def test_every_empirical_implementation_is_the_product_of_jacobians(model: Callable[[], Any]):
    apply_fn, params = model()
    x, y = (X, Y) if model is dense_model else (IMAGES, IMAGES[:1])
    expected = explicit_ntk(apply_fn, params, x, y)
    # AUTO is the fastest of the others, and has its turn below.
    for implementation in set(IMPLEMENTATIONS) - {nt.NtkImplementation.AUTO}:
        whole = jax.jit(nt.empirical_ntk_fn(apply_fn, trace_axes=(), implementation=implementation))(x, y, params)
        np.testing.assert_allclose(whole, expected, atol=1e-5 * np.abs(expected).max(), err_msg=implementation.name)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda one: one.name)
def test_the_traced_and_the_diagonal_empirical_ntk_agree_with_jacobians(implementation: Any, capsys: Any):
    apply_fn, params = dense_model()
    expected = np.einsum("nmoo->nm", explicit_ntk(apply_fn, params, X, X)) / 2
    ntk_fn = nt.empirical_ntk_fn(apply_fn, trace_axes=(-1,), vmap_axes=0, implementation=implementation)
    np.testing.assert_allclose(jax.jit(ntk_fn)(X, None, params), expected, atol=1e-5 * expected.max())
    diagonal_fn = nt.empirical_ntk_fn(apply_fn, diagonal_axes=(0,), implementation=implementation)
    np.testing.assert_allclose(jax.jit(diagonal_fn)(X, None, params), np.diag(expected), rtol=1e-4)


def test_the_linearized_network_is_its_first_order_expansion():
    apply_fn, params = dense_model()
    change = jax.tree.map(lambda leaf: 0.3 * jnp.cos(leaf), params)
    moved = jax.tree.map(jnp.add, params, change)

    def along(params: Any) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda params: apply_fn(params, X), (params,), (change,))

    (output, first), (_, second) = jax.jvp(along, (params,), (change,))
    np.testing.assert_allclose(nt.linearize(apply_fn, params)(moved, X), output + first, atol=1e-5)
    np.testing.assert_allclose(nt.taylor_expand(apply_fn, params, 2)(moved, X), output + first + second / 2, atol=1e-5)
    assert np.abs(second).max() > 0.01


def test_the_analytic_kernels_of_a_random_feature_network_are_its_mean_over_seeds():
    """Exact in expectation with one hidden layer, whatever its width, so that only the seeds' spread remains."""
    init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(64), stax.Erf(), stax.Dense(1))
    ntk_fn = nt.empirical_ntk_fn(apply_fn, trace_axes=(-1,))
    draw = jax.jit(jax.vmap(lambda key: ntk_fn(X, Y, init_fn(key, X.shape)[1])))
    samples = np.asarray(draw(jax.random.split(jax.random.key(0), 400)), np.float64)
    errors = samples.mean(0) - np.asarray(kernel_fn(X, Y, "ntk"))
    assert np.abs(errors / (samples.std(0) / 20)).max() < 4.5


@pytest.fixture(scope="module")
def kernels() -> tuple[np.ndarray, np.ndarray, Callable[..., Any]]:
    kernel_fn = jax.jit(stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))[2], static_argnums=2)
    return np.asarray(kernel_fn(X, None, "ntk")), np.asarray(kernel_fn(Y, X, "ntk")), kernel_fn


TARGETS = np.array([[1.0], [-1.0], [0.5], [2.0]], np.float32)


def test_gradient_flow_is_the_exponential_of_the_kernel(kernels: Any):
    train, cross, _ = kernels
    values, vectors = np.linalg.eigh(np.asarray(train, np.float64))
    decay = vectors @ np.diag(np.exp(-2.0 * values / 4)) @ vectors.T
    expected = TARGETS - decay @ TARGETS
    tests = cross @ np.linalg.solve(train.astype(np.float64), expected)
    predict = nt.predict.gradient_descent_mse(train, TARGETS)
    start = (jnp.zeros((4, 1)), jnp.zeros((3, 1)))
    for call in (predict, jax.jit(predict)):
        for found, wanted in zip(call(2.0, *start, cross), (expected, tests), strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-4)
    inside = jax.jit(lambda train: nt.predict.gradient_descent_mse(train, TARGETS)(2.0, *start, cross)[0])
    np.testing.assert_allclose(inside(train), expected, atol=2e-4)
    integrated = nt.predict.gradient_descent(lambda f, y: jnp.mean(jnp.square(f - y)) / 2, train, TARGETS)
    np.testing.assert_allclose(integrated(2.0, *start, cross)[1], tests, atol=2e-3)


def test_the_largest_stable_learning_rate_is_that_of_the_top_eigenvalue(kernels: Any):
    train = kernels[0]
    top = np.linalg.eigvalsh(train)[-1]
    assert nt.predict.max_learning_rate(train) == pytest.approx(2 * 4 / top, rel=1e-4)


def test_batches_change_nothing(kernels: Any, recwarn: Any):
    train, _, kernel_fn = kernels
    for devices in (0, -1):
        batched = nt.batch(lambda x, y, get: kernel_fn(x, y, get), batch_size=2, device_count=devices)
        # entries of 1e-4 are left where numbers near one cancel, which batches add up in another order
        np.testing.assert_allclose(batched(X, None, "ntk"), train, rtol=1e-5, atol=1e-6)
    apply_fn, params = dense_model()
    empirical = nt.empirical_ntk_fn(apply_fn)
    np.testing.assert_allclose(
        nt.batch(empirical, batch_size=2, device_count=0)(X, None, params), empirical(X, None, params), atol=1e-5
    )
