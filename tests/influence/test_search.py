"""Searches find what sorting finds; a store survives kills and notices damage; features give back influence."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import influence_cases as cases
import jax
import numpy as np
import pytest

from repsim_jax.errors import BadArrayError, CorruptFileError, MissingPackageError, StoreMismatchError
from repsim_jax.influence import (
    Damping,
    Distance,
    Identity,
    LoGra,
    Problem,
    Uniformity,
    augmented,
    influence,
    logra,
    random_projection,
)
from repsim_jax.influence.search import (
    Exact,
    Found,
    Index,
    Inverted,
    exact,
    query_features,
    recall,
    store_features,
    top_influence,
)

KEY = jax.random.key(0)


def rows(n: int = 700, d: int = 12, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def stored(folder: Path, x: np.ndarray, parts: int = 3, first: int = 0, **options) -> Exact:
    store = Exact(folder, **options)
    for part in np.array_split(np.arange(len(x)), parts):
        store.add(x[part], first + part)
    return store


def expected(x: np.ndarray, queries: np.ndarray, k: int, sign: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """By sorting all products in float64."""
    products = queries.astype(np.float64) @ x.astype(np.float64).T
    order = np.argsort(-sign * products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, order, axis=1), order


@pytest.mark.parametrize("elements", [1, 2**24])
@pytest.mark.parametrize("k", [3, 50])
def test_exact_search_is_sorting_whatever_the_blocks(tmp_path, monkeypatch, elements: int, k: int):
    monkeypatch.setattr(exact, "_BLOCK_ELEMENTS", elements)
    store, queries = stored(tmp_path, rows()), rows(5, seed=1)
    found = store.ends(queries, k=k)
    for got, sign in ((found.largest, 1), (found.smallest, -1)):
        values, ids = expected(rows(), queries, k, sign)
        np.testing.assert_array_equal(got.ids, ids)
        np.testing.assert_allclose(got.values, values, atol=1e-5)
    np.testing.assert_array_equal(store.search(queries, k=k).ids, found.largest.ids)
    assert isinstance(store, Index)


def test_runs_that_hold_several_of_the_largest_are_searched_whole(tmp_path):
    """All large values stand in one run of neighboring rows; the others are far below."""
    x = 0.01 * rows(3000, 4)
    x[1000:1010] += 5
    found = stored(tmp_path, x, parts=1).search(np.ones((1, 4)), k=10)
    assert sorted(found.ids[0]) == list(range(1000, 1010))


def test_all_rows_are_found_when_all_are_asked_for(tmp_path):
    found = stored(tmp_path, rows(9)).search(rows(2, seed=1), k=9)
    assert [sorted(line) for line in found.ids] == [list(range(9))] * 2


def test_rows_that_are_added_later_are_found(tmp_path):
    store, queries = stored(tmp_path, rows()), rows(5, seed=1)
    store.add(10 * queries, 900 + np.arange(5))
    for one in (store, Exact(tmp_path)):
        assert len(one) == 705
        np.testing.assert_array_equal(one.search(queries, k=1).ids[:, 0], 900 + np.arange(5))
    np.testing.assert_array_equal(store.ids(), [*range(700), *range(900, 905)])


def test_half_precision_stores_half_the_bytes(tmp_path):
    store, queries = stored(tmp_path, rows(), dtype="float16"), rows(5, seed=1)
    found = store.search(queries, k=4)
    np.testing.assert_array_equal(found.ids, expected(rows().astype("float16"), queries, 4)[1])
    assert next(store.blocks(10))[0].dtype == np.float16
    with pytest.raises(BadArrayError, match="do not fit float16"):
        store.add(np.full((1, 12), 1e6), [1000])


@pytest.mark.parametrize(
    ("x", "ids", "message"),
    [
        (rows(2, 5), [900, 901], r"rows \(n, 12\)"),
        (rows(2).astype(int), [900, 901], "floating-point"),
        (rows(2), [900, 900], "one integer id for each of 2 rows"),
        (rows(2), [900], "one integer id"),
        (rows(2), [0.0, 1.0], "one integer id"),
        (rows(2), [-1, 900], "must be >= 0"),
        (rows(2), [900, 5], "1 of the ids are stored already, the first is 5"),
        (np.full((1, 12), np.nan), [900], "NaN or infinity, the first has id 900"),
    ],
)
def test_bad_rows_are_refused_and_change_nothing(tmp_path, x, ids, message: str):
    store = stored(tmp_path, rows(20))
    with pytest.raises(BadArrayError, match=message):
        store.add(x, np.asarray(ids))
    assert len(Exact(tmp_path)) == 20


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (rows(2, 5), 1, "rows of 12 numbers"),
        (rows(2), 0, "1 <= k <= n rows, got k=0 for n=20"),
        (rows(2), 21, "got k=21"),
        (np.full((1, 12), np.inf), 1, "NaN or infinity"),
    ],
)
def test_bad_queries_are_refused(tmp_path, queries, k: int, message: str):
    store = stored(tmp_path, rows(20))
    for search in (store.search, store.ends):
        with pytest.raises(BadArrayError, match=message):
            search(queries, k=k)


def test_an_add_that_is_repeated_stores_nothing_twice(tmp_path):
    store = stored(tmp_path, rows(20))
    stored(tmp_path, rows(20))
    assert len(Exact(tmp_path)) == 20
    assert len(store.ids()) == 20


def test_a_damaged_file_is_named(tmp_path):
    stored(tmp_path, rows(20))
    path = tmp_path / "000001.values.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"000001.values.npy: is not what was written"):
        Exact(tmp_path).search(rows(1), k=1)
    path.unlink()
    with pytest.raises(CorruptFileError, match="cannot be read"):
        Exact(tmp_path).search(rows(1), k=1)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(CorruptFileError, match="is no manifest"):
        Exact(tmp_path)


def test_another_store_is_refused(tmp_path):
    stored(tmp_path, rows(20), about="one model")
    with pytest.raises(StoreMismatchError, match="float16 in format 1 was asked for"):
        Exact(tmp_path, dtype="float16")
    with pytest.raises(StoreMismatchError, match="holds rows of 'one model', not of 'another'"):
        Exact(tmp_path, about="another")
    with pytest.raises(BadArrayError, match="float32 or float16"):
        Exact(tmp_path / "new", dtype="int8")
    assert Exact(tmp_path).about == "one model"


KILLED = """
    import os, sys, numpy as np
    from repsim_jax import durable
    from repsim_jax.influence.search import Exact, exact

    place = sys.argv[2]
    original = getattr(exact, place)
    def dies(*arguments):
        if place == "replace_file":
            os._exit(9)
        original(*arguments)
        os._exit(9)
    store = Exact(sys.argv[1])
    x = np.random.default_rng(0).standard_normal((20, 12)).astype("float32")
    store.add(x[:10], np.arange(10))
    setattr(exact, place, dies)
    store.add(x[10:], np.arange(10, 20))
"""


@pytest.mark.parametrize("place", ["write_file", "replace_file"])
def test_a_killed_add_leaves_the_store_as_it_was_and_can_be_repeated(tmp_path, place: str):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), place]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    assert subprocess.run(command, check=False, env=environment).returncode == 9
    store = Exact(tmp_path)
    assert len(store) == 10
    x = rows(20, 12)
    store.add(x[10:], np.arange(10, 20))
    np.testing.assert_array_equal(Exact(tmp_path).search(x[[15]], k=3).ids, expected(x, x[[15]], 3)[1])


@pytest.mark.parametrize("kind", [None, "Flat"])
def test_an_inverted_index_that_looks_everywhere_is_exact(tmp_path, kind):
    pytest.importorskip("faiss", reason="the index of the extra 'neighbors' is not installed")
    store, queries = stored(tmp_path / "rows", rows()), rows(5, seed=1)
    index = Inverted.of(store, kind=kind, probes=100)
    index.add(10 * queries, 900 + np.arange(5))
    x = np.concatenate([rows(), 10 * queries])
    index.save(tmp_path / "index.faiss")
    again = Inverted.load(tmp_path / "index.faiss")
    again.probes = 100
    for one in (index, again):
        found = one.ends(queries, k=4)
        for got, sign in ((found.largest, 1), (found.smallest, -1)):
            ids = expected(x, queries, 4, sign)[1]
            np.testing.assert_array_equal(np.where(got.ids >= 900, got.ids - 200, got.ids), ids)
    assert len(again) == 705
    assert isinstance(index, Index)


def test_more_cells_are_searched_and_more_is_found(tmp_path):
    pytest.importorskip("faiss", reason="the index of the extra 'neighbors' is not installed")
    store, queries = stored(tmp_path, rows(3000)), rows(50, seed=1)
    truth, index = store.search(queries, k=10), Inverted.of(store, kind="IVF32,Flat")
    seen = []
    for probes in (1, 8, 32):
        index.probes = probes
        seen.append(recall(index.search(queries, k=10), truth))
    assert seen[0] < seen[1] < seen[2] == 1


def test_an_inverted_index_refuses_what_it_cannot_hold(tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="the index of the extra 'neighbors' is not installed")
    with pytest.raises(BadArrayError, match="faiss refuses 'IVF8,PQ5'"):
        Inverted(rows(400), kind="IVF8,PQ5")
    with pytest.raises(BadArrayError, match="there are no rows"):
        Inverted.of(Exact(tmp_path / "none"))
    with pytest.raises(BadArrayError, match=r"rows \(n, 12\)"):
        Inverted(rows(400)).add(rows(2, 5), np.arange(2))
    (tmp_path / "index.faiss").write_bytes(b"nothing")
    with pytest.raises(CorruptFileError, match="no index of faiss"):
        Inverted.load(tmp_path / "index.faiss")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'repsim_jax\[neighbors\]'"):
        Inverted(rows(400))


def test_recall_counts_what_was_found():
    truth = Found(np.zeros((2, 2)), np.asarray([[1, 2], [3, 4]]))
    assert recall(Found(np.zeros((2, 2)), np.asarray([[2, 7], [-1, -1]])), truth) == 0.25
    with pytest.raises(BadArrayError, match="same queries and k"):
        recall(truth, Found(np.zeros((1, 2)), np.asarray([[1, 2]])))


@pytest.fixture(scope="module")
def projected() -> tuple[Problem, LoGra]:
    posed = cases.small_problem(batch_size=6)
    return posed, logra(KEY, posed, rank=2, num_samples=64)


@pytest.mark.parametrize(("kind", "mode"), [("logra", "batch"), ("random_projection", "paper")])
def test_the_top_of_the_index_is_the_top_of_the_influence_matrix(tmp_path, projected, kind: str, mode):
    (posed, curvature), damping = projected, Damping(relative=0.3)
    if kind == "random_projection":
        curvature = random_projection(KEY, posed, dimension=16, num_samples=64)
    queries = cases.examples(slice(0, 5))
    dense = influence(KEY, posed, queries, curvature=curvature, mode=mode, damping=damping).values
    store = store_features(KEY, posed, tmp_path, curvature=curvature, mode=mode, block=4)
    made = query_features(posed, queries, curvature=curvature, damping=damping, block=2)
    found = top_influence(store, made, k=3)
    scale = np.abs(dense).max()
    for got, sign in ((found.raising, -1), (found.lowering, 1)):
        order = np.argsort(sign * dense, axis=1)[:, :3]
        np.testing.assert_array_equal(got.ids, order)
        np.testing.assert_allclose(got.values / scale, np.take_along_axis(dense, order, 1) / scale, atol=2e-5)


def test_stored_features_resume_and_notice_another_model(tmp_path, projected):
    posed, curvature = projected

    def stops(done: int, every: int) -> None:
        assert every == 2
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_features(KEY, posed, tmp_path / "a", curvature=curvature, block=4, on_progress=stops)
    assert len(Exact(tmp_path / "a")) == 6
    for name in "ab":
        store_features(KEY, posed, tmp_path / name, curvature=curvature, block=4)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert [(tmp_path / "a" / name).read_bytes() for name in files] == [
        (tmp_path / "b" / name).read_bytes() for name in files
    ]
    other = cases.small_problem(train=cases.examples(slice(0, 11)), batch_size=6)
    with pytest.raises(StoreMismatchError, match="another model"):
        store_features(KEY, other, tmp_path / "a", curvature=curvature)
    with pytest.raises(StoreMismatchError, match="another model"):
        store_features(jax.random.key(1), posed, tmp_path / "a", curvature=curvature)
    # the same keys draw other views by another augmentation
    for number, scale in enumerate((0.1, 0.2)):
        views = augmented(KEY, posed.train.x, lambda key, x, scale=scale: x + scale * jax.random.normal(key, x.shape))
        drawn = cases.small_problem(train=views, batch_size=6)
        if number == 0:
            store_features(KEY, drawn, tmp_path / "drawn", curvature=curvature, block=4)
        else:
            with pytest.raises(StoreMismatchError, match="another model"):
                store_features(KEY, drawn, tmp_path / "drawn", curvature=curvature, block=4)


def test_features_are_of_projections_and_single_queries(tmp_path, projected):
    posed, curvature = projected
    with pytest.raises(BadArrayError, match="from logra or random_projection; got Identity"):
        store_features(KEY, posed, tmp_path, curvature=Identity())  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadArrayError, match="block >= 1"):
        store_features(KEY, posed, tmp_path, curvature=curvature, block=0)
    for measurement in (Uniformity(), Distance()):
        with pytest.raises(BadArrayError, match="measurement of single queries"):
            query_features(posed, cases.examples(), curvature=curvature, measurement=measurement)
