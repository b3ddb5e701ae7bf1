"""The empirical NTK is that of explicit Jacobians, however the model is written and however it is cut into blocks."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from house.source import ROOT
from kernels.twins import TRACES_AS_EXPECTED, Mixed, error, explicit_jacobian, explicit_ntk, trace

from repsim_jax._compat import enable_x64
from repsim_jax.encoders.convnet import ConvNet, ConvNetConfig
from repsim_jax.kernels import blocks, empirical
from repsim_jax.kernels.empirical import ntk, ntk_by_layer, ntk_diagonal
from repsim_jax.kernels.models import as_model, leaves_of
from repsim_jax.kernels.neural_tangents import load
from repsim_jax.kernels.tangents import Jacobian, Product, plan

N, D, M, NUM_OUTPUTS = 7, 5, 6, 3


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X, Y = normal(0, N, D), normal(1, 4, D)
TWO_LAYER = {"v": normal(2, M, D), "w": normal(3, M, NUM_OUTPUTS)}
STACK = {"v": normal(4, 3, M, M), "first": normal(5, D, M), "b": normal(6, 3, M)}


def two_layer(params: dict[str, Any], x: Any) -> Any:
    """Dossier A.1: f(x) = W^T tanh(V x) / sqrt(M)."""
    return jnp.tanh(x @ params["v"].T) @ params["w"] / np.sqrt(M)


def in_scan(params: dict[str, Any], x: Any) -> Any:
    def step(h: Any, layer: Any) -> tuple[Any, None]:
        return jnp.tanh(h @ layer[0] + layer[1]), None

    return jax.lax.scan(step, x @ params["first"], (params["v"], params["b"]))[0]


def unrolled(params: dict[str, Any], x: Any) -> Any:
    h = x @ params["first"]
    for i in range(3):
        h = jnp.tanh(h @ params["v"][i] + params["b"][i])
    return h


def in_nested_scans(params: dict[str, Any], x: Any) -> Any:
    """Each weight is held by an outer scan, and gone along by an inner one, backwards."""

    def outer(h: Any, _: Any) -> tuple[Any, None]:
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w.T), None), h, params["v"], reverse=True)[0], None

    return jax.lax.scan(outer, x @ params["first"], None, length=2)[0]


def recurrent(params: dict[str, Any], x: Any) -> Any:
    return jax.lax.scan(lambda h, _: (jnp.tanh(h @ params["v"][1]), None), x @ params["first"], None, length=3)[0]


WAYS: dict[str, Callable[..., Any]] = {
    "direct": lambda p, x: jnp.tanh(jnp.einsum("nd,md->nm", x, p["v"])) @ p["w"],
    "transposed": lambda p, x: (p["w"].T @ jnp.tanh(p["v"] @ x.T)).T,
    "scaled": lambda p, x: jnp.tanh(x @ (p["v"].T * 0.5)) @ (3 * p["w"] / np.sqrt(M)),
    "negated": lambda p, x: jnp.tanh(x @ -p["v"].T) @ p["w"],
    "reshaped": lambda p, x: jnp.tanh(x @ p["v"].reshape(2, 3, D).transpose(2, 1, 0).reshape(D, M)) @ p["w"],
    "flipped": lambda p, x: jnp.tanh(x @ p["v"][::-1].T) @ p["w"],
    "sliced": lambda p, x: jnp.tanh(x @ p["v"][1::2].T) @ p["w"][:3] + jnp.sin(x @ p["v"][::2].T) @ p["w"][3:],
    "jitted": lambda p, x: jax.jit(two_layer)(p, x),
    "rematerialized": lambda p, x: jax.checkpoint(two_layer)(p, x),
    "branched": lambda p, x: jax.lax.cond(jnp.asarray(True), two_layer, lambda p, x: 2 * two_layer(p, x), p, x),
}
SHARED: dict[str, Callable[..., Any]] = {
    "twice": lambda p, x: jnp.tanh(jnp.tanh(x @ p["v"].T) @ p["v"]),
    "overlapping": lambda p, x: jnp.tanh(x @ p["v"][:4].T) @ p["w"][:4] + x @ p["v"][3:].T,
    "as weight and as scale": lambda p, x: jnp.tanh(x @ p["v"].T) * p["v"][:, 0] @ p["w"],
    "divided by its norm": lambda p, x: jnp.tanh(x @ (p["v"] / jnp.linalg.norm(p["v"])).T) @ p["w"],
    "times a learned number": lambda p, x: jnp.tanh(x @ (p["v"] * p["w"][0, 0]).T) @ p["w"],
    "a product of weights": lambda p, x: x @ (p["v"].T @ p["w"]),
    "repeated": lambda p, x: x @ jnp.broadcast_to(p["v"][:1], (M, D)).T @ p["w"],
    "an output": lambda p, x: x[:, :3] @ p["w"][:3] + p["w"][4] + 0 * p["v"].sum(),
    "stopped": lambda p, x: jnp.tanh(x @ jax.lax.stop_gradient(p["v"]).T) @ p["w"],
    "gathered": lambda p, x: p["w"][jnp.argmax(x, axis=1)] + jnp.tanh(x @ p["v"].T) @ p["w"],
}


def terms_of(function: Callable[..., Any], params: Any, x: np.ndarray) -> set[str]:
    """Which parameters are taken by layers, not differentiated one by one."""
    leaves = leaves_of(params)
    made = plan(
        lambda arrays, row: function(leaves.restore(arrays), row[None])[0],
        leaves,
        jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
    )
    return {name for i, name in enumerate(leaves.names) if i not in made.others}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_the_way_in_which_a_weight_is_written_changes_nothing(way: str):
    assert error(ntk(WAYS[way], TWO_LAYER, X), trace(explicit_ntk(WAYS[way], TWO_LAYER, X))) < 1e-5
    by_layers = set() if way == "branched" else {"v", "w"}
    if way == "sliced" and not TRACES_AS_EXPECTED:
        pytest.skip("this JAX traces the slice otherwise")
    assert terms_of(WAYS[way], TWO_LAYER, X) == by_layers


@pytest.mark.parametrize("way", sorted(SHARED))
def test_weights_that_are_used_twice_or_otherwise_are_exact(way: str):
    full = explicit_ntk(SHARED[way], TWO_LAYER, X)
    assert error(ntk(SHARED[way], TWO_LAYER, X), trace(full)) < 1e-5
    assert terms_of(SHARED[way], TWO_LAYER, X) != {"v", "w"}


@pytest.mark.parametrize("function", [in_scan, unrolled, in_nested_scans, recurrent], ids=lambda f: f.__name__)
def test_layers_in_a_scan_are_found_and_exact(function: Callable[..., Any]):
    full = explicit_ntk(function, STACK, X)
    assert error(ntk(function, STACK, X), trace(full)) < 1e-5
    assert error(ntk(function, STACK, X, outputs="full"), full) < 1e-5
    assert {"first", "v"} <= terms_of(function, STACK, X)


@jax.custom_vjp
def halved(h: Any) -> Any:
    """The identity, whose signals are halved on the way back."""
    return h


halved.defvjp(lambda h: (h, None), lambda _, signal: (signal / 2,))


@pytest.mark.parametrize("change", [jax.lax.stop_gradient, halved], ids=["stopped", "halved"])
def test_what_changes_signals_on_their_way_back_is_kept(change: Callable[..., Any]):
    def function(params: Any, x: Any) -> Any:
        h = jnp.tanh(x @ params["v"].T)
        return (h * change(h) + change(h)) @ params["w"]

    assert error(ntk(function, TWO_LAYER, X), trace(explicit_ntk(function, TWO_LAYER, X))) < 1e-5


def test_a_scaling_by_the_input_is_followed():
    def function(params: Any, x: Any) -> Any:
        return jax.vmap(lambda row: jnp.tanh((params["v"] * row[0]) @ row) @ params["w"])(x)

    assert error(ntk(function, TWO_LAYER, X), trace(explicit_ntk(function, TWO_LAYER, X))) < 1e-5
    assert terms_of(function, TWO_LAYER, X) == {"v", "w"}


@pytest.mark.parametrize("y", [None, Y], ids=["symmetric", "rectangular"])
def test_all_outputs_against_explicit_jacobians(y: np.ndarray | None):
    full = explicit_ntk(two_layer, TWO_LAYER, X, y)
    assert error(ntk(two_layer, TWO_LAYER, X, y, outputs="full"), full) < 1e-5
    assert error(ntk(two_layer, TWO_LAYER, X, y), trace(full)) < 1e-5
    assert error(ntk(two_layer, TWO_LAYER, X, y, outputs="sum"), np.einsum("nomp->nm", full) / NUM_OUTPUTS) < 1e-5


def test_the_formula_of_a_two_layer_network():
    """Dossier A.1: delta_kl phi.phi'/M + <x, x'> sum_m W_mk W_ml phi'(v_m.x) phi'(v_m.x') / M."""
    v, w, x = (a.astype(np.float64) for a in (TWO_LAYER["v"], TWO_LAYER["w"], X))
    phi = np.tanh(x @ v.T)
    slope = 1 - phi**2
    readout = np.einsum("nm,jk->njmk", phi @ phi.T, np.eye(NUM_OUTPUTS)) / M
    hidden = np.einsum("nm,hj,hk,nh,mh->njmk", x @ x.T, w, w, slope, slope) / M
    assert error(ntk(two_layer, TWO_LAYER, X, outputs="full"), readout + hidden) < 1e-5


def test_a_linear_network_has_the_kernel_of_its_inputs():
    kernel = ntk(lambda w, x: x @ w, normal(9, D, NUM_OUTPUTS), X)
    np.testing.assert_allclose(kernel, X @ X.T, rtol=1e-5, atol=1e-5)


def test_finite_differences_give_the_kernel():
    with enable_x64():
        params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), TWO_LAYER)
        flat, restore = jax.flatten_util.ravel_pytree(params)
        x = jnp.asarray(X, jnp.float64)
        step = 1e-6

        def column(i: int) -> np.ndarray:
            shift = jnp.zeros_like(flat).at[i].set(step)
            return np.asarray(two_layer(restore(flat + shift), x) - two_layer(restore(flat - shift), x)) / (2 * step)

        jacobian = np.stack([column(i) for i in range(flat.size)], axis=-1)
        expected = np.einsum("nop,mqp->nomq", jacobian, jacobian)
        assert error(ntk(two_layer, params, x, outputs="full"), expected) < 1e-8


@pytest.mark.parametrize("y", [None, pytest.param(Y, marks=pytest.mark.slow)], ids=["symmetric", "rectangular"])
def test_float64_agrees_to_ten_digits(y: np.ndarray | None):
    with enable_x64():
        x = jnp.asarray(X, jnp.float64)
        columns = None if y is None else jnp.asarray(y, jnp.float64)
        exact = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), STACK)
        full = explicit_ntk(in_scan, exact, x, columns)
        found = ntk(in_scan, exact, x, columns, outputs="full")
        assert found.dtype == jnp.float64
        assert error(found, full) < 1e-13
        assert error(ntk(in_scan, exact, x, columns, block=2, output_block=2), trace(full)) < 1e-13


IMAGES = normal(7, 5, 9, 8, 2)


@pytest.fixture(scope="module")
def linen_model() -> tuple[Mixed, Any]:
    return Mixed(), jax.jit(Mixed().init)(jax.random.key(0), IMAGES)


@pytest.fixture(scope="module")
def nnx_model() -> ConvNet:
    return ConvNet(ConvNetConfig(widths=(3, 4), hidden=5, num_outputs=2, channels=2), rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_a_linen_model_of_many_kinds_of_layers(linen_model: tuple[Mixed, Any]):
    module, variables = linen_model
    full = explicit_ntk(lambda p, x: module.apply({"params": p}, x), variables["params"], IMAGES)
    assert error(ntk(module, variables, IMAGES), trace(full)) < 1e-5
    assert error(ntk(module, variables, IMAGES, outputs="full"), full) < 1e-5
    np.testing.assert_allclose(ntk_diagonal(module, variables, IMAGES), np.diag(trace(full)), rtol=1e-5)
    kernels_ = terms_of(lambda p, x: module.apply({"params": p}, x), variables["params"], IMAGES)
    names = leaves_of(variables["params"]).names
    assert {name for name in names if name.endswith("kernel")} <= kernels_
    assert not any(name.startswith("LayerNorm") for name in kernels_)


def test_an_nnx_model_and_its_layers(nnx_model: ConvNet):
    graphdef, params, rest = nnx.split(nnx_model, nnx.Param, ...)

    def function(params: Any, x: Any) -> Any:
        return nnx.merge(graphdef, params, rest)(x)

    jacobian = explicit_jacobian(function, params, IMAGES)
    layers = ntk_by_layer(nnx_model, None, IMAGES)
    assert list(layers) == ["block_0/convolution", "block_1/convolution", "head", "hidden/linear"]
    for name, kernel in layers.items():
        path = "".join(f"['{part}']" for part in name.split("/"))
        rows = [j for key, j in jacobian.items() if key.startswith(path)]
        assert len(rows) == 2
        expected = sum(np.einsum("nop,mop->nm", j, j) for j in rows) / 2
        assert error(kernel, expected) < 1e-5
    assert error(sum(layers.values()), np.asarray(ntk(nnx_model, None, IMAGES), np.float64)) < 1e-6


def test_a_model_in_training_mode_is_read_in_evaluation_mode_and_keeps_its_mode():
    class Normed(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.linear, self.norm = nnx.Linear(D, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(self.linear(x))

    model = Normed(nnx.Rngs(0))
    kernel = ntk(model, None, X)
    assert not model.norm.use_running_average
    scale = 1 / np.sqrt(1 + 1e-5)
    normalized = X @ np.asarray(model.linear.kernel[...]) * scale
    expected = (X @ X.T + 1) * scale**2 + normalized @ normalized.T / 4 + 1  # kernel, bias; scale, bias of the norm
    assert error(kernel, expected) < 1e-5


@pytest.mark.parametrize("block", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 7, 100))])
@pytest.mark.parametrize("y", [None, Y], ids=["symmetric", "rectangular"])
def test_blocks_of_any_size_give_the_same(block: int, y: np.ndarray | None):
    expected = trace(explicit_ntk(two_layer, TWO_LAYER, X, y))
    assert error(ntk(two_layer, TWO_LAYER, X, y, block=block, output_block=2), expected) < 1e-5


@pytest.mark.parametrize("outputs", ["trace", "full"])
def test_tiles_that_do_not_divide_n_give_the_same(monkeypatch: pytest.MonkeyPatch, outputs: Any):
    monkeypatch.setattr(blocks, "TILE", 3)
    empirical._kernels.clear_cache()
    full = explicit_ntk(two_layer, TWO_LAYER, X)
    found = ntk(two_layer, TWO_LAYER, X, outputs=outputs)
    streamed = ntk(two_layer, TWO_LAYER, X, outputs=outputs, block=3)
    empirical._kernels.clear_cache()
    for kernel in (found, streamed):
        assert error(kernel, full if outputs == "full" else trace(full)) < 1e-5
        np.testing.assert_array_equal(kernel, kernel.T if outputs == "trace" else kernel.transpose(2, 3, 0, 1))


@pytest.mark.parametrize("size", [3, 7])
def test_the_diagonal_in_blocks(size: int):
    expected = np.diag(trace(explicit_ntk(two_layer, TWO_LAYER, X)))
    np.testing.assert_allclose(ntk_diagonal(two_layer, TWO_LAYER, X, block=size), expected, rtol=1e-5)


def test_the_kernel_has_no_negative_eigenvalue_beyond_rounding(nnx_model: ConvNet):
    kernel = np.asarray(ntk(nnx_model, None, np.concatenate([IMAGES[:4], IMAGES[3:4]])), np.float64)
    values = np.linalg.eigvalsh(kernel)
    assert values.min() > -1e-5 * values.max()


def test_half_precision_is_summed_in_float32():
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), TWO_LAYER)
    kernel = ntk(two_layer, params, jnp.asarray(X, jnp.bfloat16))
    assert kernel.dtype == jnp.float32
    rounded = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)
    expected = trace(explicit_ntk(two_layer, rounded, jnp.asarray(X, jnp.bfloat16).astype(jnp.float32)))
    assert error(kernel, expected) < 0.03  # signals have the eight bits of bfloat16

    def mixed(params: Any, x: Any) -> Any:
        return two_layer(jax.tree.map(lambda w: w.astype(jnp.bfloat16), params), x).astype(jnp.float32)

    assert error(ntk(mixed, rounded, jnp.asarray(X, jnp.bfloat16)), expected) < 0.03
    assert terms_of(mixed, rounded, jnp.asarray(X, jnp.bfloat16)) == {"v", "w"}


def test_token_ids_are_inputs_too():
    tokens = np.random.default_rng(0).integers(0, 11, (6, 4))
    params = {"table": normal(1, 11, 5), "w": normal(2, 5, 2)}

    def function(params: Any, x: Any) -> Any:
        return jnp.tanh(params["table"][x].mean(1)) @ params["w"]

    assert error(ntk(function, params, tokens), trace(explicit_ntk(function, params, tokens))) < 1e-5


def test_one_compilation_serves_equal_models_and_other_numbers():
    def make(seed: int) -> ConvNet:
        return ConvNet(ConvNetConfig(widths=(2,), hidden=2, num_outputs=2), rngs=nnx.Rngs(seed))

    x = normal(3, 3, 4, 4, 1)
    ntk(make(0), None, x)
    before = empirical._kernels._cache_size()
    ntk(make(1), None, 2 * x)
    assert empirical._kernels._cache_size() == before


def test_the_kernel_can_be_differentiated_and_jitted():
    found = jax.jit(lambda params: ntk(two_layer, params, X))(TWO_LAYER)
    assert error(found, trace(explicit_ntk(two_layer, TWO_LAYER, X))) < 1e-5
    gradient = jax.grad(lambda w: ntk(lambda w, x: jnp.square(x @ w), w, X).sum())(TWO_LAYER["w"][:D])
    expected = jax.grad(lambda w: jnp.sum((X @ X.T) * (4 / NUM_OUTPUTS * (X @ w) @ (X @ w).T)))(TWO_LAYER["w"][:D])
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-3)


SPREAD = """
import jax, numpy as np
from kernels.test_empirical import TWO_LAYER, X, Y, explicit_ntk, error, trace, two_layer
from repsim_jax.kernels.empirical import ntk
assert jax.device_count() == 4
mesh = jax.make_mesh((4,), ("rows",))
for y in (None, Y):
    full = explicit_ntk(two_layer, TWO_LAYER, X, y)
    for block in (None, 3):
        assert error(ntk(two_layer, TWO_LAYER, X, y, mesh=mesh, block=block), trace(full)) < 1e-5
    assert error(ntk(two_layer, TWO_LAYER, X, y, mesh=mesh, outputs="full"), full) < 1e-5
rows = np.tile(X, (8, 1))
kernel = ntk(two_layer, TWO_LAYER, rows, mesh=mesh)
assert {shard.data.shape for shard in kernel.addressable_shards} == {(14, 56)}, kernel.sharding
"""


def test_rows_are_spread_over_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **flags, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", SPREAD], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_terms_of_one_layer_are_products_at_one_position_and_jacobians_at_many(linen_model: tuple[Mixed, Any]):
    parts = as_model(*linen_model)
    ready = empirical.prepared(parts, jnp.asarray(IMAGES), outputs="trace", output_block=None, by_layer=True)
    terms = jax.eval_shape(ready.features, IMAGES, ready.chunks[0])
    kinds = {name: {type(term) for term in layer} for name, layer in terms.items()}
    assert Product in kinds["Dense_1"]
    assert kinds["Conv_0"] == {Jacobian}


@pytest.mark.parametrize("name", ["dense", "convolution"])
def test_the_kernel_is_that_of_neural_tangents(name: str):
    """An established library: to 1e-5 in float32 and 1e-10 in float64, as the traced and as the full kernel."""
    nt = load()
    stax = nt.stax
    layers = {
        "dense": (stax.Dense(M), stax.Erf(), stax.Dense(M), stax.Relu(), stax.Dense(NUM_OUTPUTS)),
        "convolution": (stax.Conv(4, (3, 3), padding="SAME"), stax.Gelu(), stax.Flatten(), stax.Dense(NUM_OUTPUTS)),
    }[name]
    init, apply_fn, _ = stax.serial(*layers)
    with enable_x64():
        x, y = (normal(seed, n, D) if name == "dense" else normal(seed, n, 4, 4, 2) for seed, n in ((0, N), (1, 4)))
        params = init(jax.random.key(0), (-1, *x.shape[1:]))[1]
        for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.float64, 1e-10)):
            cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
            sides = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
            theirs = jax.jit(nt.empirical_ntk_fn(apply_fn, trace_axes=()))(*sides, cast)
            full = np.transpose(theirs, (0, 2, 1, 3))
            assert error(ntk(apply_fn, cast, *sides, outputs="full"), full) < tolerance
            assert error(ntk(apply_fn, cast, *sides), trace(full)) < tolerance
