"""Gradients put together from both sides of each layer are those of automatic differentiation, in any model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from kernels.twins import TRACES_AS_EXPECTED, Mixed

from repsim_jax._compat import enable_x64
from repsim_jax.kernels.layerwise import Layers, Layout, gradients_of, layers_of, sides_of
from repsim_jax.kernels.models import as_model, leaves_of


class Small(nnx.Module):
    """A convolution with stride and groups, a dense layer that is used at several positions, tied weights."""

    def __init__(self, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(2, 4, (3, 3), strides=2, feature_group_count=2, rngs=rngs)
        self.dense = nnx.Linear(4, 3, rngs=rngs)
        self.tied = nnx.Param(jax.random.normal(rngs.params(), (3, 3)))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.gelu(self.convolution(x)).reshape(len(x), -1, 4)
        x = nnx.tanh(self.dense(x)).mean(1)
        return jnp.tanh(x @ self.tied[...]) @ self.tied[...].T


def models() -> dict[str, tuple[Any, Any]]:
    mixed = Mixed()
    return {
        "nnx": (nnx.clone(Small(nnx.Rngs(0))), None),
        "linen": (mixed, mixed.init(jax.random.key(1), jnp.zeros((1, 9, 8, 2)))),
    }


X = np.random.default_rng(0).normal(size=(3, 4, 9, 8, 2))  # three examples of four views


def found(name: str, dtype: Any) -> tuple[Layers, list[Any], Any, Any]:
    parts = as_model(*models()[name])
    leaves = leaves_of(jax.tree.map(lambda w: jnp.asarray(w, dtype), parts.params))

    def function(arrays: Any, views: jax.Array) -> jax.Array:
        z = parts.apply(leaves.restore(arrays), parts.rest, views)
        return jnp.sin((z[0] - z[1:]).ravel())

    x = jnp.asarray(X, dtype)
    return layers_of(function, leaves, x[0]), leaves.arrays, function, x


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnx", "linen"])
def test_gradients_from_both_sides_of_each_layer_are_those_of_autodiff(name: str):
    with enable_x64():
        layers, leaves, function, x = found(name, jnp.float64)
        cotangents = jnp.asarray(np.random.default_rng(1).normal(size=(2, layers.made.num_outputs)))
        ours = jax.jit(jax.vmap(lambda one: gradients_of(layers, leaves, one, cotangents)))(x)
        ours = layers.layout.joined([gradient.reshape(6, *gradient.shape[2:]) for gradient in ours])
        pull = lambda one, c: jax.grad(lambda w: c @ function(w, one))(leaves)  # noqa: E731
        expected = jax.jit(jax.vmap(lambda one: jax.vmap(lambda c: pull(one, c))(cotangents)))(x)
        largest = max(float(jnp.abs(one).max()) for one in expected)
        for left, right in zip(ours, expected, strict=True):
            np.testing.assert_allclose(left, right.reshape(left.shape), rtol=0, atol=1e-10 * largest)


@pytest.mark.skipif(not TRACES_AS_EXPECTED, reason="older JAX traces these models otherwise")
def test_each_dense_and_convolution_layer_is_a_matrix_with_its_bias():
    layout = found("nnx", jnp.float32)[0].layout
    named = {m.name: (m.site.name, m.bias is not None and layout.names[m.bias]) for m in layout.matrices}
    assert named == {
        "convolution/kernel": ("conv_general_dilated", "convolution/bias"),
        "dense/kernel": ("dot_general", "dense/bias"),
    }
    assert [layout.names[i] for i in layout.rest] == ["tied"]


def test_matrices_turn_back_into_the_gradients_that_they_came_from():
    layers, leaves, *_ = found("linen", jnp.float32)
    rng = np.random.default_rng(2)
    gradients = [jnp.asarray(rng.normal(size=(2, *w.shape)), jnp.float32) for w in leaves]
    for back, gradient in zip(layers.layout.joined(layers.layout.split(gradients)), gradients, strict=True):
        np.testing.assert_array_equal(back, gradient)


def test_the_ones_of_a_bias_stand_last_among_the_inputs():
    layers, leaves, _, x = found("nnx", jnp.float32)
    sides, _ = sides_of(layers, leaves, x[0], jnp.ones((1, layers.made.num_outputs)))
    for side, matrix in zip(sides, layers.layout.matrices, strict=True):
        assert matrix.bias is not None
        np.testing.assert_array_equal(side.inputs[..., -1], 1)


def test_a_scanned_layer_is_left_whole():
    class Deep(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            layer = linen.scan(
                lambda module, carry, _: (jnp.tanh(module(carry)), None),
                variable_axes={"params": 0}, split_rngs={"params": True}, length=2,
            )  # fmt: skip
            return layer(linen.Dense(3), x, None)[0]

    module = Deep()
    parts = as_model(module, module.init(jax.random.key(0), jnp.zeros((1, 3))))
    leaves = leaves_of(parts.params)
    layers = layers_of(lambda w, x: parts.apply(leaves.restore(w), {}, x).ravel(), leaves, jnp.ones((2, 3)))
    assert not layers.layout.matrices
    assert len(layers.layout.rest) == 2


RNG = np.random.default_rng(3)
DENSE = {"b": jnp.asarray(RNG.normal(size=3)), "w": jnp.asarray(RNG.normal(size=(4, 3)))}


def plain(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["w"] + p["b"])


def one_by_one(p: Any, x: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: jnp.tanh(row @ p["w"] + p["b"]))(x)


def compiled(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(jax.jit(lambda a, w: a @ w)(x, p["w"]) + p["b"])


def also_before(p: Any, x: jax.Array) -> jax.Array:
    y = x @ p["w"]
    return jnp.tanh(y + p["b"]) + y


def also_elsewhere(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["w"] + p["b"]) * p["b"]


def subtracted(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["w"] - p["b"])


def of_one_position(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh((x @ p["w"]).at[0].add(p["b"]))


def turned_around(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["w"] + p["b"][::-1])


WRITTEN = {
    plain: True, one_by_one: True, compiled: True, also_before: False, also_elsewhere: False, subtracted: False,
    of_one_position: False, turned_around: False,
}  # fmt: skip


@pytest.mark.parametrize("function", WRITTEN, ids=lambda one: one.__name__)
def test_a_bias_is_what_is_added_once_to_every_position_of_a_product_and_to_nothing_else(function: Any):
    leaves = leaves_of(DENSE)
    layers = layers_of(lambda w, x: function(leaves.restore(w), x).ravel(), leaves, jnp.ones((5, 4)))
    (matrix,) = layers.layout.matrices
    assert (matrix.bias is not None) == WRITTEN[function]
    assert layers.layout.rest == (() if WRITTEN[function] else (0,))


def test_layouts_are_equal_where_they_arrange_alike():
    leaves = leaves_of(DENSE)

    def layout(function: Any, n: int = 5) -> Layout:
        return layers_of(lambda w, x: function(leaves.restore(w), x).ravel(), leaves, jnp.ones((n, 4))).layout

    assert layout(plain) == layout(one_by_one, n=7)
    assert hash(layout(plain)) == hash(layout(one_by_one, n=7))
    assert layout(plain) != layout(subtracted)


@pytest.mark.slow
def test_projected_inputs_are_inputs_times_the_projection():
    with enable_x64():
        layers, leaves, _, x = found("linen", jnp.float64)
        cotangents = jnp.ones((1, layers.made.num_outputs))
        plain_sides, _ = sides_of(layers, leaves, x[0], cotangents)
        rng = np.random.default_rng(4)
        directions = [jnp.asarray(rng.normal(size=(*side.inputs.shape[::2], 2))) for side in plain_sides]
        projected, _ = sides_of(layers, leaves, x[0], cotangents, directions)
        for side, whole, p in zip(projected, plain_sides, directions, strict=True):
            np.testing.assert_allclose(side.inputs, whole.inputs @ p, rtol=0, atol=1e-10)
            np.testing.assert_array_equal(side.signals, whole.signals)
