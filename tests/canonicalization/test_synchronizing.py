"""Copies in random poses are brought into line exactly; noise and other groups do as they say; bad input is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from canonicalization_cases import KEY, photographs

from repsim_jax import canonicalization as canon
from repsim_jax.data import open_source
from repsim_jax.errors import BadArrayError


def posed(group: canon.Group, x: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    places = np.random.default_rng(seed).integers(0, group.order, len(x))
    return np.asarray(canon.Images().act(group, group.elements(jnp.asarray(places), jnp.float32), x)), places


def relative(group: canon.Group, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Where each image comes to lie, in its upright pose's own terms: the same for all that are in line."""
    return np.asarray(group.table)[np.asarray(group.inverses)[true], found]


@pytest.mark.parametrize("group", [canon.cyclic(4), canon.dihedral(4), canon.cyclic(8)], ids=["C4", "D4", "C8"])
def test_noisy_copies_of_a_photograph_come_into_one_pose(group: canon.Group):
    one = np.asarray(photographs(33)[:1], np.float32)
    copies = one + 0.1 * np.random.default_rng(1).normal(size=(24, *one.shape[1:])).astype(np.float32)
    x, true = posed(group, copies)
    found = canon.synchronized(group, x)
    assert len(set(relative(group, found, true).tolist())) == 1


def test_digits_of_a_class_come_to_lie_alike_more_than_at_random():
    source = open_source("digits")
    x = np.stack([source.get(row) for row in range(400)]).astype(np.float32).reshape(-1, 8, 8, 1)
    labels, group = np.asarray(source.labels)[:400], canon.cyclic(4)
    turned, true = posed(group, x)
    lying = relative(group, canon.synchronized(group, turned), true)
    most = sum(np.bincount(lying[labels == one]).max() for one in range(10)) / 400
    before = sum(np.bincount(true[labels == one]).max() for one in range(10)) / 400
    assert most > 0.7 > before + 0.3


def test_a_fit_on_images_in_any_pose_starts_in_line():
    one = np.asarray(photographs(33), np.float32)[:2]
    x, _ = posed(canon.cyclic(4), np.repeat(one, 16, axis=0))
    recipe = canon.Recipe(num_steps=30, batch_size=16, widths=(8,), num_outputs=16, num_neighbors=5)
    found = canon.fit(KEY, x, canon.cyclic(4), objective=canon.UNALIGNED, recipe=recipe)
    assert found.identity_rate > 0.9


def test_bad_input_is_refused():
    x = np.zeros((4, 8, 8, 1), np.float32)
    with pytest.raises(BadArrayError, match="num_neighbors"):
        canon.synchronized(canon.cyclic(4), x, num_neighbors=4)
    with pytest.raises(BadArrayError, match="closed group"):
        canon.synchronized(canon.scalings(0.5, 2.0, 5), x, num_neighbors=2)
    with pytest.raises(BadArrayError, match="num_neighbors >= 0"):
        canon.Recipe(num_neighbors=-1)
