"""The kernel of some parameters, or of one output, is that part of the whole one; costs are what they are by hand."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from kernels.twins import error, explicit_jacobian, explicit_ntk

from repsim_jax.errors import BadArrayError, RepsimError, UnknownNameError
from repsim_jax.kernels import (
    ntk,
    ntk_by_layer,
    ntk_change,
    ntk_cost,
    ntk_diagonal,
    ntk_eigenpairs,
    ntk_sketch,
    ntk_to_file,
    ntk_vector_product,
)

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


X, V = normal(12, 5), normal(12)
PARAMS = {"v": normal(6, 5), "w": normal(6, 3), "b": normal(3)}


def two_layer(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["v"].T) @ params["w"] + params["b"]


FULL = explicit_ntk(two_layer, PARAMS, X)
FIRST = FULL[:, 1, :, 1]
J = explicit_jacobian(two_layer, PARAMS, X)
ONLY_V = np.einsum("nop,mop->nm", J["['v']"], J["['v']"]) / 3


def test_one_output_is_its_block_of_the_full_kernel(tmp_path: Path):
    assert error(ntk(two_layer, PARAMS, X, outputs=1), FIRST) < 1e-5
    assert error(ntk_vector_product(two_layer, PARAMS, X, V, outputs=1), FIRST @ V) < 1e-5
    assert error(ntk_to_file(two_layer, PARAMS, X, tmp_path, outputs=1, block=5), FIRST) < 1e-5
    pairs = ntk_eigenpairs(jax.random.key(0), two_layer, PARAMS, X, num=2, outputs=1)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(FIRST)[::-1][:2], rtol=1e-4)
    sketch = ntk_sketch(jax.random.key(0), two_layer, PARAMS, X, num_draws=500, outputs=1)
    assert (np.abs(sketch.kernel - FIRST) < 5 * sketch.standard_error + 1e-6).all()


def test_the_sum_of_outputs_goes_to_a_file_too(tmp_path: Path):
    expected = np.einsum("nomp->nm", FULL) / 3
    assert error(ntk_to_file(two_layer, PARAMS, X, tmp_path, outputs="sum", block=7), expected) < 1e-5


def test_only_parameters_whose_path_matches_take_part(tmp_path: Path):
    assert error(ntk(two_layer, PARAMS, X, params_filter="^v$"), ONLY_V) < 1e-5
    assert error(ntk_diagonal(two_layer, PARAMS, X, params_filter="^v$"), np.diagonal(ONLY_V)) < 1e-5
    assert error(ntk_to_file(two_layer, PARAMS, X, tmp_path, block=5, params_filter="^v$"), ONLY_V) < 1e-5
    assert error(ntk_vector_product(two_layer, PARAMS, X, V, outputs="trace", params_filter="v"), ONLY_V @ V) < 1e-5
    assert set(ntk_by_layer(two_layer, PARAMS, X, params_filter="v|b")) == {"v", "b"}
    assert ntk_cost(two_layer, PARAMS, X, params_filter="[vb]").num_parameters == 33


def test_the_change_of_some_parameters_tangents():
    moved = {name: leaf + 0.1 * normal(*leaf.shape) for name, leaf in PARAMS.items()}
    after = explicit_jacobian(two_layer, moved, X)["['v']"]
    expected = np.einsum("nop,mop->nm", after, after) / 3 - ONLY_V
    assert error(ntk_change(two_layer, PARAMS, moved, X, params_filter="v").change, expected) < 1e-5


def test_layers_of_a_module_are_chosen_by_their_path():
    module = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
    parts = ntk_by_layer(module, None, X)
    first, last = parts
    assert error(ntk(module, None, X, params_filter=f"^{first}/"), np.asarray(parts[first], np.float64)) < 1e-6
    kernel = ntk(module, None, X, params_filter=f"^{last}/.*kernel$")
    features = np.tanh(np.asarray(module.layers[0](X), np.float64))
    assert error(kernel, features @ features.T) < 1e-5


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"params_filter": "("}, RepsimError, "no regular expression"),
        ({"params_filter": 3}, RepsimError, "no regular expression"),
        ({"params_filter": "x"}, UnknownNameError, "no parameter's path matches 'x'.*v, w"),
        ({"outputs": 3}, BadArrayError, "none of the 3 outputs, 0 to 2"),
        ({"outputs": -1}, BadArrayError, "none of the 3 outputs"),
        ({"outputs": True}, UnknownNameError, "no outputs is called 'True'"),
    ],
)
def test_what_is_not_there_is_refused(options: dict[str, Any], kind: type[Exception], match: str):
    with pytest.raises(kind, match=match):
        ntk(two_layer, PARAMS, X, **options)


def test_a_network_of_width_one_has_a_kernel():
    params = {"v": normal(1, 5), "w": normal(1, 1), "b": normal(1)}
    found = ntk(two_layer, params, X)
    assert error(found, explicit_ntk(two_layer, params, X)[:, 0, :, 0]) < 1e-5
    assert error(ntk(two_layer, params, X[:1]), explicit_ntk(two_layer, params, X[:1])[:, 0, :, 0]) < 1e-5


def test_costs_are_those_counted_by_hand():
    def network(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params["v"]) @ params["w"]

    params, x = {"v": normal(40, 30), "w": normal(30, 1)}, normal(20, 40)
    cost = ntk_cost(network, params, x, block=5)
    # 4 strips of 5 rows: 4 x 5 rows and (1 + 2 + 3 + 4) x 5 columns; 10 tiles of 5 x 5 pairs
    tangents, pairs = (20 + 50) * 3 * 2 * (40 * 30 + 30), 10 * 25 * 2 * (40 + 30 + 30 + 1)
    assert cost.flop == tangents + pairs
    assert (cost.block, cost.num_parameters, cost.num_outputs, cost.file) == (5, 1230, 1, 4 * 400)


def test_rows_fill_the_memory_that_is_given():
    cost = ntk_cost(two_layer, PARAMS, np.repeat(X, 100, 0), memory=500_000)
    assert 0.8 * 500_000 < cost.memory <= 500_000
    assert 1 < cost.block < 1200
    with pytest.raises(BadArrayError, match="do not hold the tangents of one example"):
        ntk_cost(two_layer, PARAMS, X, memory=100)
    with pytest.raises(BadArrayError, match="all pairs of outputs make a file"):
        ntk_cost(two_layer, PARAMS, X, outputs="full")
    with pytest.raises(BadArrayError, match="outputs='trace' only"):
        ntk_cost(two_layer, PARAMS, X, outputs="sum", output_block=1)
    with pytest.raises(BadArrayError, match="positive integer memory"):
        ntk_cost(two_layer, PARAMS, X, memory=0)
