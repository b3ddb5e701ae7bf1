"""Densities, quadrants, coresets, slices and plans do what their definitions say, on data where the answer is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.influence import curation
from repsim_jax.influence.curation.coresets import METHODS
from repsim_jax.influence.curation.selections import evenly, greedy_order, nearest_before
from repsim_jax.influence.curation.slices import holm

KEY = jax.random.key(0)
_rng = np.random.default_rng(0)
N = 60
X = _rng.normal(size=(N, 6)).astype(np.float32) + 4 * np.eye(6, dtype=np.float32)[np.arange(N) % 4]
OWN = _rng.normal(size=N)
UNIT = X / np.linalg.norm(X, axis=1, keepdims=True)


def test_density_is_the_mean_cosine_distance_to_the_nearest_others():
    centered = X - X.mean(0)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    expected = np.sort(distances, axis=1)[:, :7].mean(1)
    np.testing.assert_allclose(curation.density(jnp.asarray(X), num_neighbors=7), expected, atol=1e-5)


def test_a_group_of_like_outliers_is_sparse_to_more_neighbors_than_it_has():
    usual = _rng.normal(size=(52, 6)) * 0.1 + np.eye(6)[0]
    group = 3 * np.eye(6)[1] - np.eye(6)[0] + 0.01 * _rng.normal(size=(8, 6))
    x = jnp.asarray(np.concatenate([usual, group]), jnp.float32)
    few, many = curation.density(x, num_neighbors=7), curation.density(x, num_neighbors=12)
    assert few[52:].max() < np.median(few[:52])
    assert many[52:].min() > np.median(many[:52])
    assert (curation.rare_neighbors(1000), curation.rare_neighbors(40), curation.rare_neighbors(5)) == (50, 10, 4)


def test_quadrants_are_the_four_sides_of_both_medians():
    lonely, own = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])
    found = curation.quadrants(lonely, own)
    assert found.names.tolist() == ["redundant", "prototype", "inert", "memorized"]
    assert (found.density_cut, found.influence_cut) == (0.5, 0.5)
    given = curation.quadrants(lonely, own, trained=False)
    assert given.names.tolist() == ["redundant", "prototype", "inert", "singular"]
    few = curation.quadrants(np.arange(100.0), np.arange(100.0), sparse=0.1, high=0.2)
    assert [int((few.names == name).sum()) for name in ("memorized", "prototype", "redundant", "inert")] == [
        10,
        10,
        80,
        0,
    ]


def test_rarity_sees_what_one_sign_alone_tells():
    """An example is rare that stands out in one number only, whichever it is, and to either side of influence."""
    n = 101
    middle = np.tile(np.linspace(-0.1, 0.1, n), (3, 1))
    for row in middle:
        np.random.default_rng(1).shuffle(row)
    for place, (row, value) in enumerate([(0, 9.0), (1, 9.0), (1, -9.0), (2, 9.0)]):
        middle[row, place] = value
    found = curation.rarity(*middle)
    others = np.delete(found, np.arange(4))
    assert (found[:4] > np.median(others)).all()
    np.testing.assert_allclose(curation.rarity(*(3 * middle + 1)), found)
    everything = middle.copy()
    everything[:, 50] = [10.0, 10.0, 10.0]
    assert curation.rarity(*everything).argmax() == 50


def test_statistics_of_images_are_those_of_known_images():
    flat = np.full((1, 8, 8, 3), 0.25)
    board = np.where((np.indices((8, 8)).sum(0) % 2)[None, ..., None] > 0, 0.5, -0.5) * np.ones(3)
    red = np.concatenate([np.full((1, 8, 8, 1), 0.5), np.full((1, 8, 8, 2), -0.5)], axis=-1)
    found = curation.image_statistics(np.concatenate([flat, board, red]))
    for name, expected in {
        "brightness": [0.75, 0.5, 1 / 3], "contrast": [0, 0.5, 0], "saturation": [0, 0, 1], "sharpness": [0, 1, 0],
        "roughness": [0, 1, 0], "entropy": [0, 1, 0], "border_uniformity": [0, -0.5, 0], "flat_share": [1, 0, 1],
    }.items():  # fmt: skip
        np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, size=(40, 8, 8, 1))
    noise[7] *= 0.01
    noise[9] = 0.5
    assert set(np.argsort(-curation.unusualness(curation.image_statistics(noise)))[:2]) == {7, 9}


def brute_greedy(unit: np.ndarray) -> list[int]:
    """Chooses, one after the other, what raises the sum of cosines between chosen and left-out rows most."""
    chosen: list[int] = []
    while len(chosen) < len(unit):
        left = [i for i in range(len(unit)) if i not in chosen]
        value = {}
        for one in left:
            now = [*chosen, one]
            value[one] = sum(unit[i] @ unit[j] for i in range(len(unit)) if i not in now for j in now)
        chosen.append(max(left, key=lambda one: value[one]))
    return chosen


def test_the_greedy_order_is_that_of_the_matrix_of_all_pairs():
    unit = UNIT[:14].astype(np.float64)
    padded = jnp.zeros((16, 6)).at[:14].set(jnp.asarray(unit, jnp.float32))
    assert np.asarray(greedy_order(padded, 14))[:14].tolist() == brute_greedy(unit)


def test_the_nearest_before_is_that_of_the_matrix_of_all_pairs():
    lower = np.where(np.tril(np.ones((N, N)), -1) > 0, UNIT @ UNIT.T, -1.0).max(1)
    np.testing.assert_allclose(nearest_before(jnp.asarray(UNIT)), lower, atol=1e-6)


def test_a_total_is_shared_out_as_evenly_as_sizes_allow():
    assert evenly(np.array([3, 10, 1, 0]), 9).tolist() == [3, 5, 1, 0]
    assert evenly(np.array([5, 5, 5]), 7).tolist() == [3, 2, 2]
    sizes = np.random.default_rng(0).integers(0, 20, 12)
    for total in range(int(sizes.sum()) + 1):
        given = evenly(sizes, total)
        assert given.sum() == total
        assert (given <= sizes).all()
        full = given == sizes
        assert full.all() or given[~full].max() - given[~full].min() <= 1
        assert not full.any() or full.all() or given[full].max() <= given[~full].max() + 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_share_that_was_asked(method: Any):
    found = curation.coreset(KEY, jnp.asarray(X), method=method, keep=0.35, num_clusters=4, self_influence=OWN)
    assert len(found.kept) == round(0.35 * N)
    assert (np.diff(found.kept) > 0).all()
    assert set(found.kept) == set(np.argsort(-found.scores)[: len(found.kept)])
    again = curation.coreset(KEY, jnp.asarray(X), method=method, keep=0.35, num_clusters=4, self_influence=OWN)
    np.testing.assert_array_equal(again.kept, found.kept)


@pytest.mark.parametrize("method", METHODS)
def test_redundant_rows_go_first(method: Any):
    redundant = np.arange(0, N, 3)
    found = curation.coreset(
        KEY, jnp.asarray(X), method=method, keep=0.5, num_clusters=4, self_influence=OWN, redundant=redundant
    )
    assert not set(found.kept) & set(redundant)


def test_influence_keeps_the_highest_or_the_lowest():
    options = {"method": "influence", "keep": 0.5, "self_influence": OWN}
    hard = curation.coreset(KEY, jnp.asarray(X), **options)
    easy = curation.coreset(KEY, jnp.asarray(X), prefer="easy", **options)
    assert OWN[hard.kept].min() > OWN[easy.kept].max()


def test_prototypes_that_are_easy_are_nearer_to_the_center_of_their_cluster():
    kept = {
        prefer: curation.coreset(KEY, jnp.asarray(X), method="prototypes", keep=0.5, prefer=prefer, num_clusters=4).kept
        for prefer in ("easy", "hard")
    }
    assert not set(kept["easy"]) & set(kept["hard"])
    centered = X - X.mean(0)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    means = np.stack([unit[np.arange(N) % 4 == group].sum(0) for group in range(4)])
    cosines = (unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).max(1)
    assert cosines[kept["easy"]].mean() > cosines[kept["hard"]].mean() + 0.1


def test_semdedup_keeps_one_of_each_pair_of_copies():
    x = np.concatenate([X[:40], X[:20] + 1e-3])
    found = curation.coreset(KEY, jnp.asarray(x), method="semdedup", keep=40 / 60, num_clusters=4)
    kept = set(found.kept.tolist())
    assert all((i in kept) != (40 + i in kept) for i in range(20))


def test_balanced_takes_as_many_from_rare_kinds_as_from_frequent_ones():
    kinds = np.repeat([0, 1, 2, 3], [36, 12, 6, 6])
    x = 6 * np.eye(6)[kinds] + 0.2 * np.random.default_rng(0).normal(size=(N, 6))
    kept = curation.coreset(KEY, jnp.asarray(x, jnp.float32), method="balanced", keep=24 / N, num_clusters=4).kept
    assert np.bincount(kinds[kept]).tolist() == [6, 6, 6, 6]


def test_slices_agree_with_scipys_permutation_test():
    values = np.concatenate([np.random.default_rng(0).normal(0.6, 1, 25), np.random.default_rng(1).normal(0, 1, 60)])
    labels = ["a"] * 25 + ["b"] * 60
    found = curation.slice_test(KEY, values, labels)
    expected: Any = stats.permutation_test(
        (values[:25], values[25:]), lambda a, b: a.mean() - b.mean(), n_resamples=20_000, rng=np.random.default_rng(2)
    )
    assert found.names.tolist() == ["a", "b"]
    np.testing.assert_allclose(found.raw_p_values, expected.pvalue, atol=4 * np.sqrt(expected.pvalue / 10_000))
    np.testing.assert_allclose(found.means, [values[:25].mean(), values[25:].mean()])
    np.testing.assert_allclose(found.effects[0], (values[:25].mean() - values[25:].mean()) / values.std())
    low, high = stats.bootstrap(
        (values[:25],), np.mean, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    np.testing.assert_allclose(found.intervals[0], [low, high], atol=0.05)


def test_p_values_of_slices_that_mean_nothing_are_uniform():
    draws = np.random.default_rng(0)
    values = draws.exponential(size=120)
    p_values = [
        curation.slice_test(
            jax.random.key(i), values, draws.permutation(np.repeat(["a", "b"], [20, 100])), num_permutations=199,
            num_resamples=10,
        ).raw_p_values[0]
        for i in range(300)
    ]  # fmt: skip
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_holm_is_that_of_the_textbook():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


def test_correlations_with_statistics_are_spearmans():
    columns = {"same": OWN + 0.5 * _rng.normal(size=N), "none": _rng.normal(size=N), "constant": np.ones(N)}
    found = curation.statistic_correlations(KEY, OWN, columns)
    for name, correlation in zip(found.names[:2], found.correlations, strict=False):
        expected: Any = stats.spearmanr(OWN, columns[name])
        np.testing.assert_allclose(correlation, expected.statistic, atol=1e-6)
    assert found.correlations[2] == 0
    assert found.p_values[0] < 0.01 < found.p_values[1]


def test_the_plan_asks_for_the_kind_that_is_sparse_unstable_and_influential():
    kinds = np.repeat(np.arange(4), 15)
    x = 6 * np.eye(6)[kinds] + 0.1 * _rng.normal(size=(N, 6))
    x[kinds == 3] += 0.8 * _rng.normal(size=(15, 6))
    high = (kinds == 3).astype(float)
    lonely = curation.density(jnp.asarray(x, jnp.float32), num_neighbors=7)
    plan = curation.collection_plan(
        KEY, jnp.asarray(x, jnp.float32), lonely, high + 0.01 * _rng.normal(size=N), instability=high, num_clusters=4
    )
    assert set(kinds[plan[0].rows]) == {3}
    assert plan[0].priority == 1.0
    assert len(plan[0].reasons) == 4
    assert [one.priority for one in plan] == sorted((one.priority for one in plan), reverse=True)
    assert sorted(np.concatenate([one.rows for one in plan])) == list(range(N))


BAD = np.full((4, 2), np.nan)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: curation.density(jnp.asarray(X), num_neighbors=N), BadArrayError, "num_neighbors < n"),
        (lambda: curation.density(jnp.asarray(BAD)), BadArrayError, "NaN or infinity in 4 rows"),
        (lambda: curation.density(jnp.zeros(3)), BadArrayError, "representations"),
        (lambda: curation.quadrants(OWN, OWN[:5]), BadArrayError, "one finite number for each of 60"),
        (lambda: curation.quadrants(OWN, OWN, sparse=1.0), BadArrayError, "shares in"),
        (lambda: curation.rarity(OWN, BAD[:, 0]), BadArrayError, "self_influence must be"),
        (lambda: curation.coreset(KEY, jnp.asarray(X), method="all", keep=0.5), UnknownNameError, "method"),  # pyright: ignore
        (
            lambda: curation.coreset(KEY, jnp.asarray(X), method="random", keep=0.5, prefer="odd"),  # pyright: ignore
            UnknownNameError, "preference",
        ),
        (lambda: curation.coreset(KEY, jnp.asarray(X), method="random", keep=0.01), BadArrayError, "at least two"),
        (lambda: curation.coreset(KEY, jnp.asarray(X), method="random", keep=np.nan), BadArrayError, "got keep=nan"),
        (lambda: curation.coreset(KEY, jnp.asarray(X), method="influence", keep=0.5), BadArrayError, "needs self_infl"),
        (lambda: curation.slice_test(KEY, OWN, ["a"] * N), BadArrayError, "at least two slices"),
        (lambda: curation.statistic_correlations(KEY, OWN, {}), BadArrayError, "one statistic"),
        (lambda: curation.image_statistics(np.zeros((3, 8, 8, 4))), BadArrayError, "takes images"),
        (lambda: curation.unusualness({}), BadArrayError, "statistics by name"),
        (
            lambda: curation.collection_plan(KEY, jnp.asarray(X), OWN, OWN, num_clusters=1), BadArrayError,
            "num_clusters in",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_curated_is_refused(call: Any, error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        call()
