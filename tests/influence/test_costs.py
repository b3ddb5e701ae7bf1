"""What is told of memory before a run is what the compiled programs take, from shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax.errors import UnknownNameError
from repsim_jax.influence import Network, Problem, SimCLR, problem, with_views
from repsim_jax.influence.costs import memory_of
from repsim_jax.influence.derivatives import own_products
from repsim_jax.influence.footprints import footprint
from repsim_jax.influence.pseudo import part_footprint

KEY = jax.random.key(0)
ROWS = jax.ShapeDtypeStruct((100, 7), jnp.float32)


def products(x: jax.Array) -> jax.Array:
    return jnp.einsum("ij,kj->ik", x, x)


def posed(network: Network, n: int, batch_size: int) -> Problem:
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (n, *network.input_shape)).astype(np.float32)
    train = with_views(x, x[:, None] + np.float32([1, 2]).reshape(1, 2, 1, 1, 1))
    parts: dict[str, Any] = {"objective": SimCLR(), "represent": network.represent, "batch_size": batch_size}
    return problem(network.embed, network.initial(KEY), train, **parts)


@pytest.fixture(scope="module")
def mlp() -> Problem:
    return posed(Network((8, 8, 1), "mlp", (64,), num_features=16, projector=(16,)), 64, 32)


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (products, 100 * 100),
        (lambda x: products(x).sum(), 100 * 100 + 1),
        (lambda x: jnp.tanh(jnp.tanh(products(x))), 100 * 100),  # written over what it is made from
        (lambda x: products(x) @ products(x), 3 * 100 * 100),
        (lambda x: x + jnp.ones((100, 7)), 700),  # constants are not stored
        (lambda x: jax.lax.map(lambda row: (row[:, None] * row).sum(), x), 100 + 49 + 1 + 7),
        (jax.jit(lambda x: jnp.sin(products(x))[0]), 100 * 100),
    ],
)
def test_a_footprint_is_the_arrays_that_are_needed_at_once(function: Any, numbers: int):
    assert abs(footprint(function, ROWS) - 4 * numbers) <= 40


def test_memory_grows_with_the_batch_and_the_block_and_hangs_on_what_the_curvature_is_of(mlp: Problem):
    whole = posed(Network((8, 8, 1), "mlp", (64,), num_features=16, projector=(16,)), 64, 64)
    few = memory_of(mlp, "ekfac", num_samples=8)
    assert memory_of(whole, "ekfac", num_samples=8).fit > few.fit
    assert memory_of(whole, "identity").score > few.score > memory_of(mlp, "identity", block=2).score
    assert memory_of(mlp, "ekfac", of="alignment", num_samples=8).fit != few.fit
    with pytest.raises(UnknownNameError, match="Did you mean 'ekfac'"):
        memory_of(mlp, "kfac")


def compiled(function: Any, *arguments: Any) -> int:
    found = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_products_with_a_batch_take_what_the_compiler_says_within_a_factor_of_two(kind: Any, mlp: Problem):
    images = Network((16, 16, 3), "convnet", (16, 32), num_features=16, hidden=32, projector=(16,))
    one = mlp if kind == "mlp" else posed(images, 32, 32)
    shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct(sizes, dtype)  # noqa: E731
    directions = [shape(16, *leaf.shape) for leaf in one.leaves().arrays]
    given = (one, directions, shape(1, 32, dtype=jnp.int32), shape(1, 32), shape(16, dtype=jnp.int32))
    along = lambda *parts: own_products(*parts, 1.0, mode="batch", mesh=None)  # noqa: E731
    assert 0.5 < footprint(along, *given) / compiled(along, *given) < 2


def test_random_gradients_of_a_batch_take_more_than_both_sides_of_their_layers(mlp: Problem):
    formed, sides = (part_footprint(mlp, "objective", num_samples=64, formed=one) for one in (True, False))
    assert formed > sides > 0
