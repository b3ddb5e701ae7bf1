"""Kernels of infinitely wide networks are those of textbook twins, of neural-tangents, and of wide networks' means."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_kernels as oracles
import pytest
from flax import nnx

from repsim_jax import kernels
from repsim_jax._compat import enable_x64
from repsim_jax.encoders import ConvNet, ConvNetConfig
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.kernels import convnet_kernels, mlp_kernels
from repsim_jax.kernels.neural_tangents import load

analytic = importlib.import_module("repsim_jax.kernels.analytic")
ACTIVATIONS = ["relu", "erf", "gelu", "linear", "tanh"]
X, Y = (np.random.default_rng(seed).standard_normal((n, 5)) for seed, n in ((0, 4), (1, 3)))
IMAGES, OTHERS = (np.random.default_rng(seed).standard_normal((n, 3, 4, 2)) for seed, n in ((2, 3), (3, 2)))
STDS = {"weight_std": 1.3, "bias_std": 0.2}


def close(found: Any, expected: Any, tolerance: float) -> None:
    for name, one, other in zip(kernels.Kernels._fields, found, expected, strict=True):
        scale = np.abs(np.asarray(other)).max()
        np.testing.assert_allclose(np.asarray(one), other, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize(("activation", "depth"), [*((one, 2) for one in ACTIVATIONS), ("relu", 1), ("tanh", 1)])
def test_mlp_kernels_are_those_of_the_textbook(activation: str, depth: int):
    expected = oracles.mlp_kernels(X, Y, activation, depth, *STDS.values())
    with enable_x64():
        found = mlp_kernels(X, Y, activation=activation, depth=depth, **STDS)
        assert found.ntk.dtype == np.float64
        close(found, expected, 1e-10)
    close(mlp_kernels(X, Y, activation=activation, depth=depth, **STDS), expected, 3e-6)


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu"])
def test_mlp_kernels_are_those_of_neural_tangents(activation: str):
    stax = load().stax
    layers = [stax.Dense(1, 1.3, 0.2), getattr(stax, activation.capitalize())()] * 2
    kernel_fn = jax.jit(lambda x, y: stax.serial(*layers, stax.Dense(1, 1.3, 0.2))[2](x, y, ("nngp", "ntk")))
    with enable_x64():
        theirs = kernel_fn(jnp.asarray(X), jnp.asarray(Y))
        ours = mlp_kernels(X, Y, activation=activation, depth=2, **STDS)
        close(ours, (*theirs, (theirs[0] - 0.2**2) / 1.3**2), 1e-10)


@pytest.mark.parametrize(
    ("function", "name"),
    [(jax.scipy.special.erf, "erf"), (lambda u: jax.nn.gelu(u, approximate=False), "gelu"), (lambda u: u, "linear")],
    ids=["erf", "gelu", "linear"],
)
def test_the_series_of_a_function_is_its_closed_form(function: Callable[..., Any], name: str):
    with enable_x64():
        close(
            mlp_kernels(X, activation=function, depth=3, **STDS),
            mlp_kernels(X, activation=name, depth=3, **STDS),
            1e-10,
        )


def test_a_linear_network_has_one_share_of_the_ntk_per_layer():
    gram = X @ Y.T / 5
    found = mlp_kernels(X, Y, activation="linear", depth=3, weight_std=1.1)
    close(found, (1.1**8 * gram, 4 * 1.1**8 * gram, 1.1**6 * gram), 2e-6)


def test_the_stds_of_the_layers_are_their_own():
    """f = W relu(V x) / sqrt(m) without a scale on the inputs, as two-layer networks are written in theory."""
    plain = mlp_kernels(X, Y)
    close(mlp_kernels(X, Y, weight_std=(np.sqrt(5), 1.0)), [5 * one for one in plain], 2e-6)
    shifted = mlp_kernels(X, Y, bias_std=(0.0, 2.0))
    close(shifted, (plain.nngp + 4, plain.ntk + 4, plain.conjugate), 2e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_kernel_of_x_is_the_general_one_symmetric_and_positive(activation: str):
    x = np.concatenate([X, X[:1] + 1e-5, -X[1:2], np.zeros((1, 5)), 3 * X[2:3]])
    with enable_x64():
        found = mlp_kernels(x, activation=activation, depth=2, degree=600)
        close(mlp_kernels(x, x.copy(), activation=activation, depth=2, degree=600), found, 1e-10)
        for kernel in map(np.asarray, found):
            np.testing.assert_allclose(kernel, kernel.T, atol=1e-12 * np.abs(kernel).max())
            assert np.linalg.eigvalsh(kernel).min() > -1e-10 * np.abs(kernel).max()


def test_near_equal_rows_keep_their_digits_in_float32():
    """From correlations in float32 the angle of these rows drowns in rounding: neural-tangents' NTK is off by 2e-5."""
    x = X.astype(np.float32)
    near = (x * (1 + 1e-4 * np.cos(np.arange(5)))).astype(np.float32)
    expected = oracles.mlp_kernels(x.astype(np.float64), near.astype(np.float64), "relu", 3, 1.4, 0.0)
    close(mlp_kernels(x, near, depth=3, weight_std=1.4), expected, 1e-6)


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "tanh"])
def test_a_zero_row_has_the_kernels_of_a_network_without_signal(activation: str):
    zero = np.zeros((1, 5))
    for kernel in mlp_kernels(zero, X, activation=activation, depth=2):
        np.testing.assert_allclose(kernel, 0, atol=1e-6)
    assert float(mlp_kernels(zero, activation=activation, bias_std=0.5).nngp[0, 0]) > 0.25


FUNCTIONS = {
    "relu": jax.nn.relu,
    "erf": jax.scipy.special.erf,
    "gelu": lambda u: jax.nn.gelu(u, approximate=False),
    "tanh": jnp.tanh,
}


def sampled(activation: str, width: int, num_seeds: int) -> list[np.ndarray]:
    """(seeds, n, m) products of outputs, NTKs and products of hidden features of two-layer networks."""

    def features(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return FUNCTIONS[activation](1.3 / np.sqrt(5) * x @ params["first"] + 0.2 * params["bias"])

    def outputs(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return 1.3 / np.sqrt(width) * features(params, x) @ params["last"] + 0.2 * params["shift"]

    def kernels_of(key: jax.Array) -> tuple[jax.Array, ...]:
        shapes = {"first": (5, width), "bias": (width,), "last": (width,), "shift": ()}
        keys = jax.random.split(key, len(shapes))
        params = {name: jax.random.normal(one, shapes[name]) for name, one in zip(shapes, keys, strict=True)}
        left, right = (jax.tree.leaves(jax.jacobian(outputs)(params, one)) for one in (X32, Y32))
        ntk = sum(
            jnp.reshape(a, (len(a), -1)) @ jnp.reshape(b, (len(b), -1)).T for a, b in zip(left, right, strict=True)
        )
        nngp = jnp.outer(outputs(params, X32), outputs(params, Y32))
        return nngp, jnp.asarray(ntk), features(params, X32) @ features(params, Y32).T / width

    draws = jax.jit(jax.vmap(kernels_of))(jax.random.split(jax.random.key(0), num_seeds))
    return [np.asarray(draw, np.float64) for draw in draws]


X32, Y32 = (one.astype(np.float32) for one in (X, Y))


@pytest.mark.parametrize(
    "activation", ["relu", "tanh", *(pytest.param(one, marks=pytest.mark.slow) for one in ("erf", "gelu"))]
)
def test_two_layer_networks_have_these_kernels_on_average(activation: str):
    """With one hidden layer all three are exact in expectation at any width: only the seeds' spread remains."""
    expected = mlp_kernels(X, Y, activation=activation, **STDS)
    for name, draws, limit in zip(kernels.Kernels._fields, sampled(activation, 64, 1000), expected, strict=True):
        error = (draws.mean(0) - limit) / (draws.std(0) / np.sqrt(1000))
        assert np.abs(error).max() < 4.5, name


def test_the_spread_of_the_ntk_shrinks_with_the_width():
    spreads = [sampled("relu", width, 300)[1].std(0).mean() for width in (16, 256)]
    assert spreads[0] / spreads[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("strides", [(1, 2), pytest.param((2, 1), marks=pytest.mark.slow)])
def test_convnet_kernels_are_those_of_the_textbook(strides: tuple[int, ...]):
    expected = oracles.convnet_kernels(IMAGES, OTHERS, strides, *STDS.values())
    with enable_x64():
        close(convnet_kernels(IMAGES, OTHERS, strides=strides, **STDS), expected, 1e-9)
    close(convnet_kernels(IMAGES, OTHERS, strides=strides, **STDS), expected, 3e-6)


@pytest.mark.slow
def test_convnet_kernels_are_those_of_neural_tangents():
    stax = load().stax
    stds = {"W_std": 1.3, "b_std": 0.2}
    convolutions = stax.Conv(1, (3, 3), (2, 2), padding="SAME", **stds), stax.Relu()
    head = stax.GlobalAvgPool(), stax.Dense(1, **stds), stax.Relu(), stax.Dense(1, **stds)
    kernel_fn = stax.serial(*convolutions, *head)[2]
    theirs = kernel_fn(*(jnp.asarray(each, jnp.float32) for each in (IMAGES, OTHERS)), ("nngp", "ntk"))
    ours = convnet_kernels(IMAGES, OTHERS, strides=(2,), **STDS)
    close(ours, (*theirs, (theirs[0] - 0.2**2) / 1.3**2), 1e-5)


def test_blocks_and_the_symmetric_half_change_nothing():
    whole = convnet_kernels(IMAGES, strides=(2,))
    close(convnet_kernels(IMAGES, strides=(2,), block=2), whole, 1e-6)
    close(convnet_kernels(IMAGES, OTHERS, strides=(2,), block=2), convnet_kernels(IMAGES, OTHERS, strides=(2,)), 1e-6)
    with enable_x64():
        whole = convnet_kernels(IMAGES, strides=(2,))
        close(convnet_kernels(IMAGES, IMAGES.copy(), strides=(2,)), whole, 1e-7)
        for kernel in map(np.asarray, whole):
            assert np.linalg.eigvalsh(kernel).min() > -1e-12


@pytest.mark.slow
def test_the_convnet_of_the_encoders_tends_to_these_kernels():
    """Its mean has an error of the order 1 / width, which two widths together cancel."""
    images = np.random.default_rng(4).uniform(size=(3, 8, 8, 1)).astype(np.float32)

    def features(key: jax.Array, width: int) -> jax.Array:
        model = ConvNet(ConvNetConfig(widths=(width,) * 3, hidden=width), rngs=nnx.Rngs(params=key))
        x = jnp.asarray(images)
        for i in range(3):
            x = getattr(model, f"block_{i}")(x)
        hidden = model.hidden(x.mean((1, 2)))
        return hidden @ hidden.T / width

    means, errors = [], []
    for width in (32, 64):
        sample = jax.jit(lambda keys, width=width: jax.lax.map(lambda key: features(key, width), keys))
        draws = np.asarray(sample(jax.random.split(jax.random.key(0), 4000)), np.float64)
        means.append(draws.mean(0))
        errors.append(draws.std(0) / np.sqrt(len(draws)))
    extrapolated, error = 2 * means[1] - means[0], np.hypot(2 * errors[1], errors[0])
    limit = np.asarray(convnet_kernels(images).conjugate)
    assert np.abs((extrapolated - limit) / error).max() < 4.5
    assert (error / limit).max() < 0.05


def test_other_numbers_compile_nothing_and_traced_inputs_pass():
    mlp_kernels(X, Y, weight_std=1.0)
    before = analytic._mlp_kernels._cache_size()
    mlp_kernels(X + 1, Y, weight_std=1.7, bias_std=(0.1, 0.3))
    assert analytic._mlp_kernels._cache_size() == before
    inside = jax.jit(lambda x, std: mlp_kernels(x, weight_std=std))(X32, 1.2)
    close(inside, mlp_kernels(X32, weight_std=1.2), 1e-6)


def test_integers_and_lists_are_numbers():
    close(mlp_kernels([[1, 2], [3, 4]]), mlp_kernels(np.array([[1.0, 2.0], [3.0, 4.0]])), 1e-7)


NAN = np.where(np.eye(4, 5) > 0, np.nan, X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp_kernels(NAN), "NaN or infinity in 4 of the 4 rows of x"),
        (lambda: mlp_kernels(X, np.full((2, 5), np.inf)), "NaN or infinity in 2 of the 2 rows of y"),
        (lambda: mlp_kernels(X, Y[:, :3]), r"inputs of one shape: got x \(4, 5\) and y \(3, 3\)"),
        (lambda: mlp_kernels(X[0]), r"inputs \(n, d\).* got x \(5,\)"),
        (lambda: mlp_kernels(X[:0]), r"inputs \(n, d\), none of them 0, got x \(0, 5\)"),
        (lambda: mlp_kernels(X + 1j), "real numbers, got x of dtype complex128"),
        (lambda: mlp_kernels([[1.0], [1.0, 2.0]]), "cannot turn x into an array"),
        (lambda: mlp_kernels(X, depth=0), "whole number depth >= 1, got 0"),
        (lambda: mlp_kernels(X, depth=1.5), "whole number depth >= 1, got 1.5"),
        (lambda: mlp_kernels(X, degree=1), "degree >= 2, got 1"),
        (lambda: mlp_kernels(X, weight_std=0.0), "weight_std that is finite and positive, got 0.0"),
        (lambda: mlp_kernels(X, bias_std=-1.0), "bias_std that is finite and not negative, got -1.0"),
        (lambda: mlp_kernels(X, weight_std=(1.0, 1.0, 1.0)), r"one for each of its 2 dense layers, got shape \(3,\)"),
        (lambda: mlp_kernels(X, activation=jnp.sum), "elementwise function of an array"),
        (lambda: mlp_kernels(X, activation=3), "elementwise function of an array, got 3"),
        (lambda: mlp_kernels(X, activation=jax.nn.relu), "leaves out .*a function with a kink"),
        (lambda: mlp_kernels(1e3 * X, activation="tanh"), "bring the preactivations down"),
        (lambda: mlp_kernels(1e30 * X), "overflows float32"),
        (lambda: convnet_kernels(X), r"inputs \(n, h, w, c\).* got x \(4, 5\)"),
        (lambda: convnet_kernels(IMAGES, strides=()), r"len\(strides\) >= 1, got 0"),
        (lambda: convnet_kernels(IMAGES, strides=(1, 0)), r"strides\[1\] >= 1, got 0"),
        (lambda: convnet_kernels(IMAGES, block=0), "block >= 1, got 0"),
        (lambda: convnet_kernels(IMAGES, weight_std=(1.0, 2.0)), "one weight_std"),
        (lambda: convnet_kernels(IMAGES, OTHERS[:, :2]), "inputs of one shape"),
        (lambda: convnet_kernels(np.where(IMAGES > 0, np.nan, IMAGES)), "NaN or infinity"),
    ],
)
def test_what_has_no_kernel_is_refused(call: Callable[[], Any], message: str):
    with pytest.raises(BadArrayError, match=message):
        call()


def test_an_unknown_activation_is_named_with_its_neighbor():
    with pytest.raises(UnknownNameError, match=r"no activation is called 'tahn'\. Did you mean 'tanh'"):
        mlp_kernels(X, activation="tahn")


def test_the_package_names_what_it_has():
    assert {name for name in kernels.__all__ if getattr(kernels, name) is None} == set()
    with pytest.raises(AttributeError, match=r"no attribute 'tangent'; it has .*mlp_kernels"):
        kernels.tangent  # noqa: B018
