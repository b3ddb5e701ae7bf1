"""Every registered measure equals its textbook twin and keeps the promises of its registry entry."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from bad_inputs import pair
from judging import value_of
from scipy.stats import ortho_group

from repsim_jax import similarity
from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.similarity import cka

X, Y = pair()
WIDE = np.random.default_rng(3).standard_normal((64, 100)).astype(np.float32) + 2 * Y[:, :1]
NAMES = list(similarity.measures())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("y", [Y, WIDE], ids=["n > d", "n < d"])
def test_a_measure_equals_its_textbook_twin(name: str, y: np.ndarray):
    np.testing.assert_allclose(value_of(name, X, y), oracles.TWINS[name](X, y), atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_representation_is_entirely_like_itself(name: str):
    expected = oracles.linear_predictivity(X, X) if name == "linear_predictivity" else 1.0
    np.testing.assert_allclose(value_of(name, X, X), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_declared_invariances_hold_on_either_side_and_the_others_do_not(name: str):
    generator = np.random.default_rng(1)
    changes = {
        "translation": lambda x: x + generator.standard_normal(x.shape[1]).astype(np.float32),
        "isotropic scaling": lambda x: 7 * x,
        "orthogonal": lambda x: x @ ortho_group.rvs(x.shape[1], random_state=2).astype(np.float32),
        "permutation": lambda x: x[:, generator.permutation(x.shape[1])],
        "invertible linear": lambda x: (x @ generator.standard_normal((x.shape[1],) * 2)).astype(np.float32),
    }
    score, broken = value_of(name, X, Y), set()
    for invariance, change in changes.items():
        moved = max(abs(value_of(name, change(X), Y) - score), abs(value_of(name, X, change(Y)) - score))
        if moved > 1e-4:
            broken.add(invariance)
    assert broken == set(changes) - similarity.measure(name).invariances


@pytest.mark.parametrize("name", NAMES)
def test_symmetry_is_as_declared(name: str):
    same = abs(value_of(name, X, Y) - value_of(name, Y, X)) < 1e-5
    assert same == similarity.measure(name).symmetric


@pytest.mark.parametrize("name", NAMES)
def test_independent_noise_stays_within_the_declared_range(name: str):
    generator = np.random.default_rng(5)
    low, high = similarity.measure(name).range
    assert low <= value_of(name, *generator.standard_normal((2, 64, 16))) <= high


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rbf_cka", {"bandwidth": 0.4}),
        ("rbf_cka", {"bandwidth": 30.0}),
        ("minibatch_cka", {"batch_size": 16}),
        ("minibatch_cka", {"batch_size": 20}),
        ("minibatch_cka", {"batch_size": 21}),
        ("svcca", {"variance": 0.6}),
        ("rsa", {"dissimilarity": "euclidean"}),
        ("rsa", {"dissimilarity": "euclidean", "comparison": "pearson"}),
        ("rsa", {"comparison": "pearson"}),
        ("mutual_knn", {"k": 3}),
        ("mutual_knn", {"k": 5, "metric": "euclidean"}),
        ("linear_predictivity", {"folds": 3, "ridge": 0.5}),
    ],
)
def test_options_do_what_the_textbook_does(name: str, options: dict):
    found = float(getattr(similarity, name)(X, Y, **options))
    np.testing.assert_allclose(found, getattr(oracles, name)(X, Y, **options), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("rbf_cka", {"bandwidth": 0.0}, BadArrayError, "positive finite bandwidth"),
        ("rbf_cka", {"bandwidth": float("nan")}, BadArrayError, "positive finite bandwidth"),
        ("minibatch_cka", {"batch_size": 3}, BadArrayError, "batch_size >= 4"),
        ("svcca", {"variance": 0.0}, BadArrayError, r"\(0, 1\]"),
        ("svcca", {"variance": 1.5}, BadArrayError, r"\(0, 1\]"),
        ("mutual_knn", {"k": 64}, BadArrayError, "1 <= k <= n - 1"),
        ("mutual_knn", {"k": 0}, BadArrayError, "1 <= k <= n - 1"),
        ("mutual_knn", {"metric": "cosin"}, UnknownNameError, "Did you mean 'cosine'"),
        ("rsa", {"dissimilarity": "euclid"}, UnknownNameError, "Did you mean 'euclidean'"),
        ("rsa", {"comparison": "kendall"}, UnknownNameError, "There are: spearman, pearson"),
        ("linear_predictivity", {"folds": 1}, BadArrayError, "folds >= 2"),
        ("linear_predictivity", {"ridge": -1.0}, BadArrayError, "positive finite ridge"),
        ("linear_predictivity", {"folds": 65}, BadArrayError, "at least 65 examples"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict, error: type, said: str):
    with pytest.raises(error, match=said):
        getattr(similarity, name)(X, Y, **options)


def test_rsa_refuses_examples_without_a_correlation_distance():
    flat = X.copy()
    flat[17] = 0.25
    with pytest.raises(BadArrayError, match=r"rsa by correlation is undefined for y .* row 17.*euclidean"):
        similarity.rsa(X, flat)
    assert np.isfinite(similarity.rsa(X, flat, dissimilarity="euclidean"))


def test_rsa_refuses_examples_that_are_all_equally_far_apart():
    with pytest.raises(BadArrayError, match="equally dissimilar"):
        similarity.rsa(np.eye(64, dtype=np.float32), X)


def test_unbiased_cka_refuses_a_self_similarity_that_is_not_positive():
    """Unbiased HSICs of four orthogonal examples with themselves are negative: there is nothing to divide by."""
    with pytest.raises(BadArrayError, match="nothing but noise varies"):
        similarity.linear_cka(np.eye(4, dtype=np.float32), X[:4], unbiased=True)


def test_unbiased_cka_of_independent_wide_noise_is_zero_and_the_biased_one_is_not():
    draws = np.random.default_rng(0).standard_normal((20, 2, 64, 100)).astype(np.float32)
    unbiased = [float(similarity.linear_cka(*draw, unbiased=True)) for draw in draws]
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / np.sqrt(20)
    assert min(float(similarity.linear_cka(*draw)) for draw in draws[:3]) > 0.5


def test_examples_tied_for_the_last_place_share_it():
    """Ten classes of identical examples: neighbors within a class, chance beyond it, no agreement from row order."""
    labels = np.random.default_rng(2).permutation(64) % 8
    one_hot, other = np.eye(8, dtype=np.float32)[labels], np.eye(8, dtype=np.float32)[np.roll(labels, 1)]
    np.testing.assert_allclose(
        similarity.mutual_knn(one_hot, other, k=10), oracles.mutual_knn(one_hot, other, k=10), atol=1e-5
    )


@pytest.mark.parametrize("name", ["linear_cka", "minibatch_cka", "rbf_cka", "procrustes", "svcca", "rsa", "mutual_knn"])
def test_float64_is_used_where_it_is_enabled(name: str):
    with enable_x64():
        found = getattr(similarity, name)(X.astype(np.float64), Y.astype(np.float64))
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, oracles.TWINS[name](X, Y), rtol=1e-9)


def test_measures_work_inside_jit_vmap_and_grad():
    stacked = jnp.stack([jnp.asarray(X), 2 * jnp.asarray(X) ** 3])
    scores = jax.jit(jax.vmap(lambda x: similarity.linear_cka(x, Y)))(stacked)
    np.testing.assert_allclose(scores[1], oracles.linear_cka(2 * X.astype(np.float64) ** 3, Y), atol=1e-5)
    direction = np.random.default_rng(4).standard_normal(X.shape).astype(np.float32)
    slope = float(jnp.vdot(jax.grad(lambda x: similarity.linear_cka(x, Y))(jnp.asarray(X)), direction))
    step = 1e-4
    above, below = (oracles.linear_cka(X + sign * step * direction, Y) for sign in (1, -1))
    difference = (above - below) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-2)


def _largest_array(n: int, widths: tuple[int, ...]) -> int:
    """Elements of the largest array in the compiled program's trace, sub-programs included."""
    layers = tuple(jax.ShapeDtypeStruct((n, d), jnp.float32) for d in widths)
    jaxpr = jax.make_jaxpr(lambda xs: cka.linear_cka_pairs(xs, xs, unbiased=True))(layers)

    def sizes(program):
        for equation in program.eqns:
            yield from (int(np.prod(v.aval.shape)) for v in equation.outvars)
            for value in equation.params.values():
                for inner in jax.tree.leaves(value, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from sizes(inner)

    return max(sizes(jaxpr.jaxpr))


@pytest.mark.parametrize(("n", "widths"), [(4096, (32, 32, 48)), (2048, (256,) * 4), (64, (4096, 4096))])
def test_no_matrix_of_all_examples_or_of_all_features_is_ever_held(n: int, widths: tuple[int, ...]):
    layers, tile = n * sum(widths), 256 * 256 * len(widths)
    assert _largest_array(n, widths) <= 2 * max(layers, tile)
    assert _largest_array(n, widths) < (n * n if max(widths) < n else min(widths) ** 2)


def test_public_measures_and_registry_agree():
    public = {name for name in similarity.__all__ if "unbiased" not in name and name in oracles.TWINS}
    assert public == {name.removesuffix("_unbiased") for name in similarity.measures()}
    for name in public:
        assert "x" in inspect.signature(getattr(similarity, name)).parameters
