"""Frames turn with the points, repeated eigenvalues included, and make any model of points equivariant."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from repsim_jax import canonicalization as canon
from repsim_jax.errors import BadArrayError, UnknownNameError

TURNS = Rotation.random(6, random_state=0).as_matrix().astype(np.float32)
RNG = np.random.default_rng(0)
NUM = 12
SIGNS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
# Each of 12 points, so that all share one compiled program; the names say which eigenvalues are equal.
CLOUDS = {
    "none": RNG.normal(size=(NUM, 3)) * [3, 2, 1],
    "smaller two": np.concatenate([np.eye(3), -np.eye(3), 3 * np.eye(3)[:1], -3 * np.eye(3)[:1], np.zeros((4, 3))]),
    "larger two": np.concatenate([np.diag([2, 2, 1]), -np.diag([2, 2, 1]), np.zeros((6, 3))]),
    "all": np.concatenate([SIGNS, np.zeros((4, 3))]),
    "on a line": np.outer(np.linspace(-1, 2, NUM), [1, 2, 3]),
    "in a plane": RNG.normal(size=(NUM, 3)) * [3, 2, 0],
    "one place": np.full((NUM, 3), 0.5),
}  # fmt: skip


def orbit(name: str) -> np.ndarray:
    """The cloud in six orientations."""
    return np.einsum("rij,nj->rni", TURNS, CLOUDS[name].astype(np.float32))


def as_set(x: Any) -> np.ndarray:
    rows = np.round(np.asarray(x, np.float64), 3) + 0.0
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("group", [canon.so3(), canon.o3()], ids=str)
def test_frames_are_rotations_that_turn_with_the_points(name: str, group: canon.Group):
    """The set of all forms in all frames is the same in every orientation."""
    x = orbit(name)
    found, frames = canon.PCAFrames(group).frames(x)
    matrix = np.asarray(frames.elements.matrix)
    determinants = np.linalg.det(matrix)
    np.testing.assert_allclose(np.abs(determinants), 1, atol=1e-5)
    assert (determinants > 0).all() == group.name.startswith("S")
    np.testing.assert_allclose(
        matrix @ np.swapaxes(matrix, -1, -2), np.broadcast_to(np.eye(3), matrix.shape), atol=1e-5
    )
    if name == "one place":
        return
    centered = x - x.mean(1, keepdims=True)
    forms = np.einsum("fbij,bni->bfnj", matrix, centered)
    for one in forms[1:]:
        best = [min(np.abs(as_set(a) - as_set(b)).max() for b in forms[0]) for a in one]
        assert max(best) < 3e-3
    np.testing.assert_allclose(canon.Points().act(group, found.elements, found.canonical), x, atol=1e-5)


def test_axes_are_those_of_numpys_covariance():
    axes = np.asarray(canon.PCAFrames().frames(orbit("none"))[1].elements.matrix)[0]
    wanted = TURNS @ np.linalg.eigh(np.cov(CLOUDS["none"].T))[1][:, ::-1]
    np.testing.assert_allclose(np.abs(np.sum(axes * wanted, 1)), 1, atol=1e-4)
    np.testing.assert_allclose(canon.principal_axes(orbit("none")), axes, atol=1e-6)


def test_a_pick_by_skewness_is_one_form_for_all_orientations():
    x = orbit("none")
    found = canon.PCAFrames(pick="skewness")(x)
    np.testing.assert_allclose(found.canonical, np.broadcast_to(found.canonical[:1], x.shape), atol=1e-4)
    assert (np.asarray(found.margin) > 1e-3).all()
    mirrored = canon.PCAFrames(canon.o3(), pick="skewness")(x * np.float32([-1, 1, 1]))
    whole = canon.PCAFrames(canon.o3(), pick="skewness")(x)
    np.testing.assert_allclose(mirrored.canonical, whole.canonical, atol=1e-4)


def model(x: jax.Array) -> dict[str, jax.Array]:
    """Of no symmetry at all."""
    return {
        "energy": jnp.tanh(x[:, 0, 0] - x[:, 1, 2]),
        "force": jnp.stack([x[:, 0, 0], x[:, 1, 1] ** 2, x[:, 2, 0]], -1),
    }


@pytest.mark.parametrize("pick", ["average", "skewness"])
def test_a_model_of_points_becomes_equivariant(pick: Any):
    x = orbit("none")
    actions = {"energy": canon.Trivial(), "force": canon.Vectors()}
    answer = canon.equivariant(model, canon.PCAFrames(pick=pick), out_action=actions)(x)
    np.testing.assert_allclose(answer.outputs["energy"], np.full(6, answer.outputs["energy"][0]), atol=1e-4)
    forces = np.asarray(answer.outputs["force"])
    np.testing.assert_allclose(forces, np.einsum("rij,j->ri", TURNS @ TURNS[0].T, forces[0]), atol=1e-3)


def away_from_up(params: Any, x: jax.Array) -> jax.Array:
    """An energy that is least where the first point is up."""
    return -x[:, 0, 2]


def test_energies_over_a_grid_of_rotations_are_refined():
    x = orbit("none")[:2]
    finder = canon.Canonicalizer(
        canon.so3(), canon.Custom(away_from_up), canon.Points(), search=canon.Search(num_steps=30, shrink=0.8)
    )
    found = finder(x)
    height = np.linalg.norm(x[:, 0], axis=1)
    np.testing.assert_allclose(found.canonical[:, 0, 2], height, rtol=2e-3)
    assert (np.asarray(found.canonical)[:, 0, 2] > -np.asarray(found.energies).min(1)).all()
    matrix = np.asarray(found.elements.matrix)
    np.testing.assert_allclose(matrix @ np.swapaxes(matrix, 1, 2), np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-5)
    np.testing.assert_allclose(canon.Points().act(finder.group, found.elements, found.canonical), x, atol=1e-4)


def test_what_has_no_frames_is_refused():
    with pytest.raises(BadArrayError, match="so3"):
        canon.PCAFrames(canon.cyclic(4))
    with pytest.raises(UnknownNameError, match="skewness"):
        canon.PCAFrames(pick="first")  # pyright: ignore[reportArgumentType]
    cases = {
        "b, n, 3": np.zeros((2, 3), np.float32),
        "3": np.zeros((2, 5, 2), np.float32),
        "NaN": np.full((2, 5, 3), np.nan, np.float32),
        "one input": np.zeros((0, 5, 3), np.float32),
    }
    for message, x in cases.items():
        with pytest.raises(BadArrayError, match=message):
            canon.PCAFrames()(x)
