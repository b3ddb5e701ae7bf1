"""Views belong to their example; measurements are their NumPy twins; what has no influence is refused at the door."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from influence_cases import VIEWS, K, N, V, W, X, examples, linear, small, small_problem

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, RepsimError
from repsim_jax.influence import (
    Distance,
    FeatureDirection,
    Identity,
    ProbeLogit,
    SimCLR,
    Stability,
    TrainingLoss,
    Uniformity,
    augmented,
    influence,
    problem,
    with_views,
)
from repsim_jax.influence.problems import in_batches, with_params

KEY = jax.random.key(2)


def noise(key: jax.Array, x: jax.Array) -> jax.Array:
    return x + jax.random.normal(key, x.shape)


def test_the_views_of_an_example_depend_on_its_id_and_the_key_alone():
    whole = augmented(KEY, X, noise, num_views=3).seen()
    some = augmented(KEY, X[[4, 1]], noise, num_views=3, ids=[4, 1]).seen()
    np.testing.assert_array_equal(some, whole[np.array([4, 1])])
    assert np.abs(augmented(jax.random.key(9), X, noise, num_views=3).seen() - whole).max() > 0.1
    assert len({float(view) for view in np.asarray(whole)[:, 1:].sum(-1).ravel()}) == 3 * N


def test_the_example_comes_first_and_its_views_follow():
    seen = examples().seen()
    np.testing.assert_allclose(seen[:, 0], X, rtol=1e-6)
    np.testing.assert_allclose(seen[:, 1:], VIEWS, rtol=1e-6)
    np.testing.assert_allclose(examples().some_views([2, 0]).seen()[:, 1:], VIEWS[:, [2, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: augmented(KEY, X, noise, num_views=1), "num_views >= 2"),
        (lambda: augmented(KEY, X, "noise"), "needs a function augment"),  # pyright: ignore[reportArgumentType]
        (lambda: augmented(KEY, X, noise, ids=[1, 2]), "one id for each of 12"),
        (lambda: augmented(KEY, X, lambda key, x: x[:2]), "keep the shape"),
        (lambda: augmented(KEY, np.full((3, 2), np.nan), noise), "x holds NaN or infinity in 3 rows"),
        (lambda: augmented(KEY, np.zeros((3, 2), np.uint8), noise), "scale images as in training"),
        (lambda: augmented(KEY, np.zeros((0, 2)), noise), "at least one example"),
        (lambda: with_views(X, VIEWS[:, :1]), "v >= 2"),
        (lambda: with_views(X, VIEWS[:5]), "the same examples"),
    ],
)
def test_examples_that_are_none_are_refused(call: Any, match: str):
    with pytest.raises(BadArrayError, match=match):
        call()


def constant(params: Any, x: jax.Array) -> jax.Array:
    return jnp.ones((len(x), 3)) + 1e-9 * (x @ params["w"])


def mixing(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["w"] - (x @ params["w"]).mean(0)


def on_a_line(params: Any, x: jax.Array) -> jax.Array:
    return (x @ params["w"][:, :1]) * jnp.arange(1.0, 11.0) + 1e-3 * jnp.tanh(jnp.tile(x, 2))


def at_the_door(model: Any = linear, params: Any = None, train: Any = None, **options: Any) -> Any:
    params = {"w": jnp.asarray(W)} if params is None else params
    return problem(model, params, examples() if train is None else train, objective=SimCLR(), **options)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: at_the_door(constant), "has collapsed"),
        (lambda: at_the_door(on_a_line), "effective rank 1.* collapsed to a line"),
        (lambda: at_the_door(mixing), "BatchNorm in training mode"),
        (lambda: at_the_door(params={"w": jnp.full((5, 3), jnp.nan)}), "parameters hold NaN"),
        (lambda: at_the_door(train=examples(slice(1))), "at least two training examples"),
        (lambda: at_the_door(batch_size=1), "batch_size >= 2"),
        (lambda: at_the_door(train=with_views(X, np.repeat(X[:, None], 2, 1))), "the examples themselves"),
        (lambda: at_the_door(train=augmented(KEY, X, lambda key, x: x / 0)), "augmentation gives NaN"),
        (lambda: at_the_door(represent=lambda params, x: jnp.sqrt(x - 100)), "representation holds NaN"),
        (lambda: at_the_door(model="linear"), "expected a flax module or a function"),
    ],
)
def test_problems_without_influence_are_refused(call: Any, match: str):
    with pytest.raises(RepsimError, match=match):
        call()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_parameters_of_half_precision_are_taken_as_float32(dtype: Any):
    half = {"w": jnp.asarray(W).astype(dtype)}
    single = {"w": half["w"].astype(jnp.float32)}
    found = [
        influence(KEY, at_the_door(params=one), examples(slice(2)), curvature=Identity()) for one in (half, single)
    ]
    np.testing.assert_array_equal(found[0].values, found[1].values)
    assert with_params(at_the_door(), half).params["w"].dtype == jnp.float32


def test_batches_hold_every_example_once_and_differ_by_one_at_most():
    for n, size, multiple in ((11, 4, 1), (12, 5, 2), (3, 8, 1)):
        batches = in_batches(KEY, n, size, multiple=multiple)
        present = batches.rows[batches.weights > 0]
        assert sorted(present) == list(range(n))
        assert len(batches.rows) % multiple == 0
        filled = batches.weights.sum(1)[batches.weights.any(1)]
        assert filled.max() - filled.min() <= 1
        assert filled.max() <= size
        values = batches.rows[None].astype(float)
        np.testing.assert_array_equal(batches.scattered(values, n), [np.arange(n)])


def units(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def twins() -> dict[str, tuple[Any, np.ndarray]]:
    with enable_x64():
        params = small_problem().params
        z, views = (np.asarray(small(params, jnp.asarray(x))) for x in (X, VIEWS.reshape(N * V, -1)))
    views = views.reshape(N, V, K)
    cosine = np.einsum("nk,nvk->nv", units(z), units(views))
    pairs = [(a, c) for a in range(V) for c in range(a + 1, V)]
    among = np.mean([(units(views)[:, a] * units(views)[:, c]).sum(1) for a, c in pairs], axis=0)
    weights, biases = np.arange(6.0).reshape(K, 2), np.array([0.5, -1.0])
    far = np.square(units(z)[:, None] - units(z)[None]).sum(-1)
    potential = np.log(np.mean([np.exp(-2 * far[i, j]) for i in range(N) for j in range(N) if i != j]))
    return {
        "clean": (Stability(), 1 - cosine.mean(1)),
        "views": (Stability("views"), 1 - among),
        "direction": (FeatureDirection(jnp.asarray([1.0, -2.0, 0.5])), z @ [1.0, -2.0, 0.5]),
        "unit direction": (FeatureDirection(jnp.asarray([1.0, 0, 0]), normalize=True), units(z)[:, 0]),
        "probe": (ProbeLogit(jnp.asarray(weights), jnp.asarray(biases), 1), (z @ weights + biases)[:, 1]),
        "distance": (Distance(), 1 - (units(z)[::2] * units(z)[1::2]).sum(1)),
        "uniformity": (Uniformity(), np.array([potential])),
    }


@pytest.mark.parametrize("name", twins())
def test_a_measurement_is_its_twin(name: str):
    with enable_x64():
        posed = small_problem()
        measurement, expected = twins()[name]
        found = influence(KEY, posed, posed.train, curvature=Identity(), measurement=measurement)
        np.testing.assert_allclose(found.measurements, expected, rtol=1e-6)
        assert found.values.shape == (len(expected), N)


def test_the_training_loss_of_the_training_examples_is_the_objective():
    with enable_x64():
        posed = small_problem()
        found = influence(KEY, posed, posed.train, curvature=Identity(), measurement=TrainingLoss(posed.objective))
        loss = posed.loss(posed.leaves().arrays, posed.train.seen(), jnp.ones(N))
        np.testing.assert_allclose(found.measurements, [loss], rtol=1e-10)


class Encoder(nnx.Module):
    """An encoder with a projector."""

    def __init__(self, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(5, 4, rngs=rngs)
        self.projector = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.projector(nnx.relu(self.encoder(x)))


def test_the_representation_may_leave_the_projector_out():
    module = Encoder(nnx.Rngs(0))

    def encoder_only(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["encoder"]["kernel"][...] + params["encoder"]["bias"][...]

    posed = problem(module, None, examples(), objective=SimCLR(), represent=encoder_only)
    found = influence(KEY, posed, posed.train, curvature=Identity())
    rows = np.asarray(module.encoder(jnp.asarray(X, jnp.float32)))
    views = np.asarray(module.encoder(jnp.asarray(VIEWS, jnp.float32)))
    expected = 1 - np.einsum("nk,nvk->nv", units(rows), units(views)).mean(1)
    np.testing.assert_allclose(found.measurements, expected, atol=1e-5)
    assert found.options["represents"] == "another output"
    assert np.abs(found.values).max() > 0
