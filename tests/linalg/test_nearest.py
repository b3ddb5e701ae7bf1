"""Nearest rows are those of a brute-force search in float64, whatever the blocks; the index finds nearly all."""

import sys

import jax.numpy as jnp
import numpy as np
import oracles_contrasim as oracles
import pytest

from repsim_jax.errors import BadArrayError, MissingPackageError
from repsim_jax.linalg import largest, nearest, nearest_rows


def rows(n: int = 60, d: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d", "k"), [(60, 7, 1), (60, 7, 5), (61, 3, 60), (17, 40, 4), (2, 3, 1)])
def test_exact_search_is_brute_force(n: int, d: int, k: int):
    found, (expected, _) = np.asarray(nearest_rows(jnp.asarray(rows(n, d)), k=k)), oracles.nearest_rows(rows(n, d), k)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("elements", [1, 60 * 7, 60 * 23, 60 * 60])
def test_blocks_that_do_not_divide_n_change_nothing(monkeypatch, elements: int):
    monkeypatch.setattr(nearest, "_BLOCK_ELEMENTS", elements)
    nearest._exact.clear_cache()
    found = np.asarray(nearest_rows(jnp.asarray(rows()), k=4))
    nearest._exact.clear_cache()
    np.testing.assert_array_equal(found, oracles.nearest_rows(rows(), 4)[0])


def test_a_duplicate_is_found_first_and_a_row_is_never_its_own_neighbor():
    x = np.concatenate([rows(20), rows(20)])
    found = np.asarray(nearest_rows(jnp.asarray(x), k=3))
    np.testing.assert_array_equal(found[:, 0], (np.arange(40) + 20) % 40)
    assert not (found == np.arange(40)[:, None]).any()


def test_equal_rows_have_each_other_and_never_themselves():
    x = np.concatenate([np.zeros((5, 4)), rows(3, 4)]).astype(np.float32)
    found = np.asarray(nearest_rows(jnp.asarray(x), k=7))
    for i, line in enumerate(found):
        assert sorted(line) == [j for j in range(8) if j != i]


def test_offset_and_massive_directions_keep_the_neighbors():
    """Where one direction is a thousand times larger, cosines differ in their last digits only."""
    x = rows(60, 8)
    x[:, 0] = np.sign(x[:, 0]) * 1000 + x[:, 0]
    found, (_, cosines) = np.asarray(nearest_rows(jnp.asarray(x), k=5)), oracles.nearest_rows(x, 5)
    best = -np.sort(-cosines, axis=1)[:, :5]
    np.testing.assert_allclose(np.take_along_axis(cosines, found, 1), best, atol=1e-6)
    shifted = np.asarray(nearest_rows(jnp.asarray(rows() + 1000), k=1))
    assert np.mean(shifted == oracles.nearest_rows(rows(), 1)[0]) > 0.95


@pytest.mark.parametrize("k", [0, -1, 60, 61])
def test_k_out_of_range_is_refused(k: int):
    with pytest.raises(BadArrayError, match=f"1 <= k <= n - 1 neighbors, got k={k} for n=60"):
        nearest_rows(jnp.asarray(rows()), k=k)


def test_a_missing_index_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'repsim_jax\[neighbors\]'"):
        nearest_rows(jnp.asarray(rows()), k=3, exact=False)


def test_the_index_finds_nearly_all_neighbors():
    pytest.importorskip("faiss", reason="the index of the extra 'neighbors' is not installed")
    generator = np.random.default_rng(0)
    centers = 4 * generator.standard_normal((40, 16))
    x = (centers[generator.integers(40, size=3000)] + generator.standard_normal((3000, 16))).astype(np.float32)
    found = np.asarray(nearest_rows(jnp.asarray(x), k=5, exact=False))
    exact = np.asarray(nearest_rows(jnp.asarray(x), k=5))
    assert found.shape == (3000, 5)
    assert not (found == np.arange(3000)[:, None]).any()
    assert ((found >= 0) & (found < 3000)).all()
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, exact, strict=True)]) > 0.9


@pytest.mark.parametrize(("n", "k"), [(30, 29), (200, 150)])
def test_the_index_gives_k_neighbors_even_where_its_cells_are_small(n: int, k: int):
    pytest.importorskip("faiss", reason="the index of the extra 'neighbors' is not installed")
    found = np.asarray(nearest_rows(jnp.asarray(rows(n)), k=k, exact=False))
    assert ((found >= 0) & (found < n)).all()
    assert all(len(set(line)) == k and i not in line for i, line in enumerate(found))


@pytest.mark.parametrize(("s", "k"), [(1000, 3), (1000, 8), (129, 1), (100, 100), (5, 2)])
def test_the_largest_values_are_those_of_sorting(s: int, k: int):
    values = np.random.default_rng(0).standard_normal((6, s)).astype(np.float32)
    values[1] = np.sort(values[1])  # all of the largest in the last run
    values[2, : s // 2] = -np.inf
    found, places = largest(jnp.asarray(values), k=k)
    np.testing.assert_array_equal(found, -np.sort(-values, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(values, np.asarray(places), axis=1), found)
    assert all(len(set(line)) == k for line in np.asarray(places).tolist())
