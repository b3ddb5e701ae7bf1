"""A network of group convolutions says of a turned image what its elements say, up to rounding for C4 and D4."""

import jax
import numpy as np
import pytest
import scipy.signal
from canonicalization_cases import KEY, photographs, turned

from repsim_jax import canonicalization as canon
from repsim_jax.canonicalization.lifting import filter_bank
from repsim_jax.errors import BadArrayError

C4, D4 = canon.cyclic(4), canon.dihedral(4)


@pytest.mark.parametrize(("group", "size"), [(C4, 7), (D4, 20)], ids=str)
def test_fields_permute_as_the_image_turns(group: canon.Group, size: int):
    x = photographs(size)
    network = canon.LiftingNetwork(group, 3, (3, 2), 2, size=3)
    params = network.initial(KEY)
    every = np.concatenate([turned(x, i) for i in range(group.order)])
    regular = jax.jit(network.regular)(params, every)
    elements = group.elements(np.repeat(np.arange(group.order), len(x)))
    first = np.tile(regular[: len(x)].reshape(len(x), -1), (group.order, 1))
    moved = canon.Regular().act(group, elements, first)
    np.testing.assert_allclose(regular.reshape(len(every), -1), moved, atol=1e-5)
    assert np.asarray(regular).std(-1).min() > 1e-3
    invariant = np.asarray(jax.jit(network.invariant)(params, every)).reshape(group.order, len(x), 2)
    np.testing.assert_allclose(invariant, np.broadcast_to(invariant[0], invariant.shape), atol=1e-5)


def test_a_group_convolution_is_a_sum_over_the_group_by_scipy():
    """One layer over C4, element by element: filters turned by g, read at g^-1 h."""
    generator = np.random.default_rng(0)
    filters = generator.normal(size=(3, 3, 4, 1)).astype(np.float32)
    fields = generator.normal(size=(6, 6, 4))
    bank = np.asarray(filter_bank(C4, filters, lifts=False))
    for g in range(4):
        wanted = sum(
            scipy.signal.correlate2d(fields[..., h], np.rot90(filters[..., (h - g) % 4, 0], g), mode="same")
            for h in range(4)
        )
        got = sum(scipy.signal.correlate2d(fields[..., h], bank[..., h, g], mode="same") for h in range(4))
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.slow
def test_it_canonicalizes_as_energies_do():
    x = photographs(20)
    canonicalizer = canon.lifted(KEY, 3, D4, views=canon.Views(size=None), widths=(3, 2), size=3)
    every = np.concatenate([turned(x, i) for i in range(8)])
    forms = np.asarray(canonicalizer(every).canonical).reshape(8, *x.shape)
    np.testing.assert_array_equal(forms, np.broadcast_to(forms[0], forms.shape))
    np.testing.assert_allclose(canonicalizer.energy(x), canonicalizer(x).energies[:, 0], atol=1e-6)


def test_a_network_of_another_group_is_refused():
    for group in (canon.so3(), canon.scalings(0.5, 2.0, 3)):
        with pytest.raises(BadArrayError, match="closed group of rotations"):
            canon.LiftingNetwork(group, 3)
    with pytest.raises(BadArrayError, match="odd filters"):
        canon.LiftingNetwork(C4, 3, size=4)
    network = canon.LiftingNetwork(C4, 3, (2,), 1, 3)
    with pytest.raises(BadArrayError, match="no energies of D4"):
        canon.Lifted(network, network.initial(KEY)).of_orbit(D4, photographs(7))
