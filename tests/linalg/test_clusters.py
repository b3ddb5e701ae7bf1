"""Spherical k-means ends where each row is nearest to its own center, and finds clusters that are there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax.errors import BadArrayError
from repsim_jax.linalg import spherical_kmeans, unit_rows

_rng = np.random.default_rng(0)
TRUTH = _rng.integers(0, 6, 200)
X = jnp.asarray(5 * np.eye(8)[TRUTH] + 0.3 * _rng.normal(size=(200, 8)), jnp.float32)


def test_separate_clusters_are_found_from_most_starts():
    """A start with two centers in one cluster ends there, as that of any k-means."""
    correct = 0
    for seed in range(8):
        found = spherical_kmeans(jax.random.key(seed), X, num_clusters=6)
        correct += len({(int(a), int(b)) for a, b in zip(TRUTH, np.asarray(found.labels), strict=True)}) == 6
    assert correct >= 4


def test_it_ends_where_centers_are_the_directions_of_their_rows():
    found = spherical_kmeans(jax.random.key(1), X, num_clusters=9, num_steps=40)
    rows, labels = np.asarray(unit_rows(X)), np.asarray(found.labels)
    cosines = rows @ np.asarray(found.centers).T
    np.testing.assert_array_equal(cosines.argmax(1), labels)
    np.testing.assert_allclose(cosines.max(1), found.cosines, atol=1e-6)
    for number, center in enumerate(np.asarray(found.centers)):
        mean = rows[labels == number].sum(0)
        np.testing.assert_allclose(center, mean / np.linalg.norm(mean), atol=1e-5)


def test_no_cluster_is_empty_as_long_as_there_are_different_rows():
    found = spherical_kmeans(jax.random.key(2), X[:12], num_clusters=12)
    assert len(np.unique(np.asarray(found.labels))) == 12


@pytest.mark.parametrize(("clusters", "steps"), [(0, 5), (201, 5), (3, 0)])
def test_impossible_clusters_are_refused(clusters: int, steps: int):
    with pytest.raises(BadArrayError, match="num_clusters in"):
        spherical_kmeans(jax.random.key(0), X, num_clusters=clusters, num_steps=steps)
