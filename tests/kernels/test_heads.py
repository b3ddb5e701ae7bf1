"""The signals of all outputs are made one where, and only where, a layer reaches them through one readout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels.twins import TRACES_AS_EXPECTED, error, explicit_ntk, trace

from repsim_jax.kernels import empirical
from repsim_jax.kernels.empirical import ntk
from repsim_jax.kernels.models import as_model

GENERATOR = np.random.default_rng(0)
SHAPES = {"v": (6, 5), "w": (6, 3), "b": (6,), "c": (3,)}
PARAMS = {name: GENERATOR.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
X = GENERATOR.standard_normal((7, 5)).astype(np.float32)


def biased(params: dict[str, Any], x: Any) -> Any:
    h = jax.nn.silu(x @ params["v"].T + params["b"])
    return (jnp.maximum(h, 0.1 * h) @ params["w"] - params["c"]) / 2


HEADS: dict[str, tuple[Callable[..., Any], bool]] = {
    "biased": (biased, True),
    "scaled by numbers": (lambda p, x: 3 * (jnp.tanh(x @ p["v"].T) @ (p["w"] / 2)), True),
    "beside a skip": (lambda p, x: (jnp.tanh(h := x @ p["v"].T) * h + h) @ p["w"], True),
    "gated by the input": (lambda p, x: jnp.tanh(x @ p["v"].T) * x[:, :1] @ p["w"], True),
    "normalized": (lambda p, x: jax.nn.softmax(x @ p["v"].T) @ p["w"], False),
    "not linear in the readout": (lambda p, x: jnp.sin(jnp.tanh(x @ p["v"].T) @ p["w"]), False),
    "scaled by the input": (lambda p, x: jnp.tanh(x @ p["v"].T) @ p["w"] * x[:, :3], False),
    "with a second way": (lambda p, x: jnp.tanh(h := x @ p["v"].T) @ p["w"] + h[:, :3], False),
    "with a custom derivative": (lambda p, x: clipped(x @ p["v"].T) @ p["w"], False),
    "of the rolled layer": (lambda p, x: (jnp.roll(h := x @ p["v"].T, 1, axis=1) * h) @ p["w"], False),
}


@jax.custom_jvp
def clipped(h: Any) -> Any:
    """The identity, whose derivative is no pointwise one."""
    return 1.0 * h


clipped.defjvp(lambda h, dh: (1.0 * h[0], jnp.cumsum(dh[0], axis=-1)))


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_readout_is_used_where_it_is_one_and_only_there(name: str):
    function, collapses = HEADS[name]
    assert error(ntk(function, PARAMS, X), trace(explicit_ntk(function, PARAMS, X))) < 1e-5
    ready = empirical.prepared(
        as_model(function, PARAMS), jnp.asarray(X), outputs="trace", output_block=None, by_layer=0
    )
    if collapses and not TRACES_AS_EXPECTED:
        pytest.skip("this JAX traces the readout otherwise")
    assert (ready.made.head is not None) == collapses


def test_a_readout_in_blocks_and_with_all_outputs():
    full = explicit_ntk(biased, PARAMS, X)
    assert error(ntk(biased, PARAMS, X, outputs="full"), full) < 1e-5
    assert error(ntk(biased, PARAMS, X, block=3, output_block=2), trace(full)) < 1e-5


def test_biases_of_one_position_are_layers():
    parts = as_model(biased, PARAMS)
    ready = empirical.prepared(parts, jnp.asarray(X), outputs="trace", output_block=None, by_layer=False)
    assert ready.made.others == ()
