"""An untrained network canonicalizes whole orbits to the same bits; ties, gates and bad input are told."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from canonicalization_cases import KEY, photographs, turned

from repsim_jax import canonicalization as canon
from repsim_jax._compat import enable_x64
from repsim_jax.canonicalization.groups import Group
from repsim_jax.errors import BadArrayError, RepsimError, UnknownNameError

SMALL = canon.Views(size=16)
D4 = canon.dihedral(4)


def small(group: Group, size: int = 16, **options: Any) -> canon.Canonicalizer:
    views = options.pop("views", SMALL)
    made = canon.untrained(KEY, (size, size, 3), group, views=views, widths=(4, 4), num_outputs=8)
    return replace(made, **options)


def orbits(x: np.ndarray, group: Group) -> np.ndarray:
    """All elements of each image, as one batch: (order * b, ...)."""
    n = group.order // 2 if group.name.startswith(("D", "O")) else group.order
    return np.concatenate([turned(x, i, n) for i in range(group.order)])


@pytest.mark.parametrize(("group", "size"), [(canon.cyclic(4), 33), (D4, 40)], ids=str)
def test_the_canonical_form_of_a_whole_orbit_is_the_same_bits(group: Group, size: int):
    """Odd and even photographs, larger than the network's view and smaller, with a network that was never trained."""
    x = photographs(size)
    canonicalizer = small(group, size)
    found = canonicalizer(orbits(x, group))
    forms = np.asarray(found.canonical).reshape(group.order, *x.shape)
    np.testing.assert_array_equal(forms, np.broadcast_to(forms[0], forms.shape))
    assert len(set(np.asarray(found.elements.index).tolist())) > 2
    first = np.asarray(found.elements.index).reshape(group.order, -1)
    np.testing.assert_array_equal(first, group.table[np.arange(group.order)[:, None], first[0]])
    back = canon.Images().act(group, found.elements, found.canonical)
    np.testing.assert_array_equal(back, orbits(x, group))


@pytest.fixture(scope="module")
def of_c8() -> canon.Canonicalized:
    return small(canon.cyclic(8))(orbits(photographs(16), canon.cyclic(4)))


def test_turns_by_90_degrees_are_exact_within_larger_groups_too(of_c8: canon.Canonicalized):
    forms = np.asarray(of_c8.canonical).reshape(4, 4, 16, 16, 3)
    np.testing.assert_array_equal(forms, np.broadcast_to(forms[0], forms.shape))
    index = np.asarray(of_c8.elements.index).reshape(4, -1)
    np.testing.assert_array_equal(index, (index[0] + 2 * np.arange(4)[:, None]) % 8)


@pytest.mark.slow
def test_float64_stays_float64_and_finds_the_same():
    x = photographs(16)
    canonicalizer = small(D4)
    with enable_x64():
        wide = canonicalizer(jnp.asarray(x, jnp.float64))
    assert wide.canonical.dtype == np.float64
    np.testing.assert_array_equal(wide.canonical.astype(np.float32), canonicalizer(x).canonical)


def test_energies_are_those_of_a_loop_over_the_orbit():
    """The convention c(x) = argmin_g E(g^-1 x), by NumPy's rot90 and one call of the energy for each element."""
    x = photographs(16)
    canonicalizer = small(D4)
    found = canonicalizer(x)
    inverses = [np.asarray(turned(x, int(D4.inverses[g]))) for g in range(8)]
    energy = jax.jit(lambda views: (canonicalizer.energy(views), canonicalizer.energy.vectors(views)))
    wanted = np.stack([energy(view)[0] for view in inverses], -1)
    np.testing.assert_allclose(found.energies, wanted, atol=1e-5)
    np.testing.assert_array_equal(found.elements.index, wanted.argmin(1))
    lowest = np.sort(wanted, 1)
    np.testing.assert_allclose(found.margin, lowest[:, 1] - lowest[:, 0], atol=1e-5)
    vectors, vector = np.asarray(energy(x)[1]), np.asarray(canonicalizer.energy.vector)
    cosines = vectors @ vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)
    np.testing.assert_allclose(found.energies[:, 0], -cosines, atol=1e-5)


def mean_of_left(params: Any, views: jax.Array) -> jax.Array:
    """An energy that is least when what is bright stands on the left."""
    middle = views.shape[2] // 2
    return views[:, :, -middle:].mean((1, 2, 3)) - views[:, :, :middle].mean((1, 2, 3))


def energy_of_one(params: Any, views: jax.Array) -> jax.Array:
    return views.mean()


def bright_left(group: Group, **options: Any) -> canon.Canonicalizer:
    options = {"views": canon.Views(size=None), "energy": canon.Custom(mean_of_left)} | options
    return canon.Canonicalizer(group, **options)


def test_ties_of_symmetric_inputs_are_counted_and_averaged():
    """An image that is its own mirror image up and down, and one that is the same all around."""
    x = np.zeros((2, 6, 6, 1), np.float32)
    x[0, :, :2] = 1
    x[1] = 0.5
    first = bright_left(D4)(x)
    assert first.num_ties.tolist() == [2, 8]
    np.testing.assert_allclose(first.margin, 0, atol=1e-6)
    np.testing.assert_array_equal(first.canonical[0], x[0])
    _, frames = bright_left(D4, selection=canon.Selection(ties="average")).frames(x)
    np.testing.assert_allclose(frames.weights.sum(1), 1, atol=1e-6)
    assert (np.asarray(frames.weights) > 0).sum(1).tolist() == [2, 8]
    drawn = bright_left(D4, selection=canon.Selection(ties="sample"))
    keys = jax.random.split(KEY, 12)
    index = np.stack([drawn.sample(key, x).elements.index for key in keys])
    assert len(set(index[:, 0].tolist())) == 2
    assert len(set(index[:, 1].tolist())) > 4
    with pytest.raises(RepsimError, match="sample\\(key, x\\)"):
        drawn(x)


def test_a_temperature_weights_all_poses_and_a_gate_leaves_small_gains():
    x = photographs(6)
    energies = np.asarray(bright_left(D4)(x).energies)
    soft = bright_left(D4, selection=canon.Selection(temperature=0.05))
    weights = np.exp(-energies / 0.05)
    np.testing.assert_allclose(soft.frames(x)[1].weights, weights / weights.sum(1, keepdims=True), rtol=1e-4)
    gain = energies[:, 0] - energies.min(1)
    gate = float(np.sort(gain)[2]) + 1e-6
    gated = bright_left(D4, selection=canon.Selection(gate=gate))(x)
    np.testing.assert_array_equal(gated.elements.index == 0, gain <= gate)
    np.testing.assert_array_equal(gated.gated, (gain <= gate) & (energies.argmin(1) != 0))
    np.testing.assert_array_equal(gated.canonical[gain <= gate], x[gain <= gate])


@pytest.mark.slow
def test_a_coarse_search_finds_what_the_whole_orbit_has_around_its_best(of_c8: canon.Canonicalized):
    x = orbits(photographs(16), canon.cyclic(4))
    group = canon.cyclic(8)
    coarse = small(group, search=canon.Search(coarse=canon.cyclic(4)))(x)
    looked = np.isfinite(coarse.energies)
    assert (looked.sum(1) == 6).all()
    np.testing.assert_allclose(np.asarray(coarse.energies)[looked], np.asarray(of_c8.energies)[looked], atol=1e-4)
    with pytest.raises(BadArrayError, match="other elements"):
        small(group, search=canon.Search(coarse=canon.cyclic(3)))(x)


def test_refinement_finds_an_angle_that_the_grid_has_not():
    """A bright edge that is 20 degrees off: least energy is at -20 degrees, between the elements of C8."""
    rows, columns = np.mgrid[:33, :33] - 16.0
    angle = np.deg2rad(20)
    side = np.cos(angle) * columns - np.sin(angle) * -rows
    x = (1 / (1 + np.exp(side)))[None, :, :, None].astype(np.float32)
    found = bright_left(canon.so2(8), search=canon.Search(num_steps=12))(x)
    matrix = np.asarray(found.elements.matrix[0])
    assert abs(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])) + 20) < 1.5
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-5)
    grid = bright_left(canon.cyclic(8))(x)
    at = lambda forms: float(mean_of_left(None, canon.Views(None)._masked(canon.so2(8), forms))[0])  # noqa: E731
    assert at(found.canonical) < at(grid.canonical) - 1e-3
    later = bright_left(canon.so2(8), search=canon.Search(num_steps=12))(np.rot90(x, axes=(1, 2)).copy())
    np.testing.assert_allclose(later.canonical, found.canonical, atol=1e-4)


def test_images_that_are_not_square_are_turned_by_half():
    x = photographs(16)[:, :9]
    group = canon.dihedral(2)
    canonicalizer = canon.untrained(KEY, (9, 16, 3), group, views=canon.Views(size=8), widths=(4,), num_outputs=8)
    orbit = np.concatenate([x, x[:, ::-1, ::-1], x[:, :, ::-1], x[:, ::-1]])
    forms = np.asarray(canonicalizer(orbit).canonical).reshape(4, *x.shape)
    np.testing.assert_array_equal(forms, np.broadcast_to(forms[0], forms.shape))
    with pytest.raises(BadArrayError, match="square"):
        replace(canonicalizer, group=D4)(x)


def test_a_canonicalizer_works_inside_jit_and_a_sweep_compiles_once():
    x = photographs(16)
    canonicalizer = small(D4)
    inside = jax.jit(lambda one, x: one(x).canonical)(canonicalizer, x)
    np.testing.assert_array_equal(inside, canonicalizer(x).canonical)
    traces = []

    @jax.jit
    def gated(selection: canon.Selection, x: jax.Array) -> jax.Array:
        traces.append(1)
        return replace(canonicalizer, selection=selection)(x).gated

    counts = [int(gated(canon.Selection(gate=gate), x).sum()) for gate in (0.0, 0.1, 10.0)]
    assert counts[0] == 0
    assert counts[2] >= 2
    assert len(traces) == 1


def test_energies_of_logits_and_of_distances_are_what_they_say():
    generator = np.random.default_rng(0)
    views = generator.normal(size=(12, 2, 2, 1)).astype(np.float32)
    flat = views.reshape(12, 4).astype(float)
    read = lambda params, x: x.reshape(len(x), -1) * params  # noqa: E731
    shares = np.exp(flat) / np.exp(flat).sum(1, keepdims=True)
    wanted = {
        "logsumexp": -np.log(np.exp(flat).sum(1)),
        "max-probability": -np.log(shares.max(1)),
        "entropy": -(shares * np.log(shares)).sum(1),
        "contrast": flat.mean(1) - flat.max(1) / 2,
    }
    one = jnp.ones(())
    for score, energies in wanted.items():
        got = canon.from_logits(read, one, score=score)(jnp.asarray(views))  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(got, energies, rtol=1e-5)
    fitted = canon.mahalanobis(read, one, jnp.asarray(views), shrinkage=0.2)
    covariance = np.cov(flat.T, bias=True)
    covariance = 0.8 * covariance + 0.2 * np.trace(covariance) / 4 * np.eye(4)
    apart = flat - flat.mean(0)
    distances = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart) / 4
    np.testing.assert_allclose(fitted(jnp.asarray(views)), distances, rtol=1e-4)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    nearest = 1 - np.sort(unit @ unit.T, axis=1)[:, -3:].mean(1)
    np.testing.assert_allclose(
        canon.neighbors(read, one, jnp.asarray(views), k=3)(jnp.asarray(views)), nearest, atol=1e-5
    )
    for bad in (lambda: canon.neighbors(read, one, views, k=13), lambda: canon.mahalanobis(read, one, views[:1])):
        with pytest.raises(BadArrayError, match="needs"):
            bad()
    with pytest.raises(UnknownNameError, match="logsumexp"):
        canon.from_logits(read, one, score="logsum")  # pyright: ignore[reportArgumentType]


NAN = photographs(16).copy()
NAN[2, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (NAN, "NaN or infinity in 1 rows, the first is 2"),
        (photographs(16)[:0], "at least one input"),
        (photographs(16)[0], "height, width, channels"),
        (photographs(16)[:, :9], "square"),
        ((255 * photographs(16)).astype(np.uint8), "floating-point inputs, got uint8"),
    ],
    ids=["nan", "empty", "rank", "not square", "bytes"],
)
def test_bad_images_are_refused(x: np.ndarray, message: str):
    with pytest.raises(BadArrayError, match=message):
        small(D4)(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: canon.Views(size=0), "size >= 1"),
        (lambda: canon.Search(num_steps=-1), "num_steps >= 0"),
        (lambda: canon.Search(shrink=1.0), "shrink"),
        (lambda: canon.Selection(temperature=0.0), "temperature > 0"),
        (lambda: canon.Selection(gate=-1.0), "gate >= 0"),
        (lambda: canon.ViewNetwork((0, 4, 3)), "whole sizes"),
        (lambda: bright_left(D4, energy=canon.Custom(energy_of_one))(photographs(6)), "one number for each view"),
        (lambda: small(canon.cyclic(64), 8)(photographs(8)), "too large for images of 8 x 8"),
        (lambda: bright_left(canon.scalings(1, 2, 2), search=canon.Search(canon.cyclic(1)))(photographs(6)), "closed"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(make: Any, message: str):
    with pytest.raises(BadArrayError, match=message):
        make()


def test_an_unknown_rule_for_ties_is_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="average"):
        canon.Selection(ties="mean")
