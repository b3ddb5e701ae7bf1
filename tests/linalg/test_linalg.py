"""The ground floor's pieces against NumPy in float64, on inputs where float32 alone would lose its digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

from repsim_jax import linalg
from repsim_jax.linalg import products

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((300, 12)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1.0, 1e30, 3e38])
def test_scaling_by_a_power_of_two_is_exact_for_every_magnitude(scale: float):
    x = (X / np.abs(X).max() * np.float32(scale)).astype(np.float32)
    scaled = np.asarray(linalg.power_of_two_scale(jnp.asarray(x)))
    largest = np.abs(scaled).max()
    assert 0.5 <= largest < 1
    ratio = scaled.astype(np.float64)[x != 0] / x.astype(np.float64)[x != 0]
    normal = np.abs(x[x != 0]) > 1.2e-38  # numbers below the smallest normal one may be flushed to zero
    assert np.unique(ratio[normal]).size == 1
    assert np.log2(ratio[normal][0]) % 1 == 0


def test_standardized_data_are_centered_at_any_offset():
    centered = np.asarray(linalg.standardize(jnp.asarray(X + np.float32(1e4))), np.float64)
    expected = (X + np.float32(1e4)).astype(np.float64)
    expected = expected - expected.mean(0)
    np.testing.assert_allclose(centered, expected / np.linalg.norm(expected), atol=1e-7)


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_distances_keep_their_digits_beside_huge_directions(factor: float):
    x = X.copy()
    x[:, :2] *= factor
    rows = np.asarray(linalg.unit_rows(jnp.asarray(x)))
    exact = np.square(rows[:, None].astype(np.float64) - rows[None].astype(np.float64)).sum(-1)
    found = np.asarray(linalg.pairwise_sq_distances(jnp.asarray(rows)), np.float64)
    apart = ~np.eye(300, dtype=bool)
    error = np.abs(found - exact)[apart] / exact[apart]
    assert np.median(error) < 1e-5
    assert np.quantile(error, 0.999) < 1e-2
    assert (np.diag(found) == 0).all()


def test_ranks_share_ties_as_scipy_does():
    values = GENERATOR.integers(0, 40, 500).astype(np.float32)
    np.testing.assert_array_equal(linalg.average_ranks(jnp.asarray(values)), rankdata(values))


def test_rounding_ties_what_differs_in_the_last_bits_only():
    values = jnp.asarray([1.0, 1.0 + 2**-22, 1.001, 3e-20, 0.0], jnp.float32)
    rounded = np.asarray(linalg.round_significant(values))
    assert rounded[0] == rounded[1] != rounded[2]
    np.testing.assert_allclose(rounded, values, rtol=2e-5)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_a_basis_spans_the_data_and_counts_its_rank(shape: tuple[int, int]):
    low = GENERATOR.standard_normal((shape[0], 5)) @ GENERATOR.standard_normal((5, shape[1]))
    x = jnp.asarray(low - low.mean(0), jnp.float32)
    basis = linalg.orthonormal_basis(linalg.compact(x))
    assert int(basis.rank) == np.linalg.matrix_rank(low - low.mean(0))
    np.testing.assert_allclose(basis.vectors @ (basis.vectors.T @ x), x, atol=1e-4)


def test_compact_coordinates_keep_the_gram_matrix():
    wide = jnp.asarray(GENERATOR.standard_normal((10, 50)), jnp.float32)
    compact = linalg.compact(wide)
    assert compact.shape == (10, 10)
    np.testing.assert_allclose(compact @ compact.T, wide @ wide.T, rtol=1e-4, atol=1e-4)


def test_all_pairs_fills_the_matrix_in_layer_order_for_mixed_shapes():
    a = [X[:, :3], X[:, :7], X[:, 3:6]]
    b = [X[:, :7], X[:, :2], X[:, 1:8], X[:, 5:7]]
    stacks = (linalg.stacked([jnp.asarray(layer) for layer in side]) for side in (a, b))
    found = linalg.all_pairs(lambda x, y: jnp.sum(x) * 1000 + jnp.sum(y**2), *stacks)
    expected = [[x.sum() * 1000 + np.square(y).sum() for y in b] for x in a]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0.5)
    assert [layer.shape for layer in linalg.unstacked(linalg.stacked(a))] == [layer.shape for layer in a]


@pytest.mark.parametrize(
    ("n", "widths_a", "widths_b"), [(300, (4, 9, 4), (6, 4)), (70, (90, 20), (80,)), (9, (30,), (3,))]
)
def test_both_routes_give_the_norms_of_all_products(n: int, widths_a: tuple, widths_b: tuple):
    a, b = ([GENERATOR.standard_normal((n, d)).astype(np.float32) for d in widths] for widths in (widths_a, widths_b))
    expected = [[np.square(x.astype(np.float64).T @ y).sum() for y in b] for x in a]
    arrays = [list(map(jnp.asarray, side)) for side in (a, b)]
    tiles = jax.jit(products._by_gram_tiles)(*arrays)
    np.testing.assert_allclose(tiles.cross, expected, rtol=1e-5)
    chosen = jax.jit(linalg.squared_products)(*arrays)
    np.testing.assert_allclose(chosen.cross, expected, rtol=1e-5)
    for norms in (tiles.self_a, chosen.self_a):
        np.testing.assert_allclose(norms, [np.square(x.astype(np.float64).T @ x).sum() for x in a], rtol=1e-5)


def test_row_sums_of_tiles_are_those_of_the_whole_matrix():
    state = [jnp.asarray(X)]
    sums = jax.jit(lambda s: linalg.tile_sums(lambda left, right, _: jnp.einsum("lid,ljd->lij", left, right), s, s))(
        state
    )
    np.testing.assert_allclose(sums.rows_a[0], (X @ X.T).sum(1), rtol=1e-3, atol=1e-2)
