"""The conventions of equiadapt: the same orbit as ours up to interpolation, and its canonical form of reflections."""

import jax
import numpy as np
import pytest
from canonicalization_cases import photographs

from repsim_jax import canonicalization as canon
from repsim_jax.canonicalization.planar import orbit
from repsim_jax.errors import BadArrayError

D8 = canon.dihedral(8)


@pytest.mark.parametrize("size", [12, 13])
def test_padding_by_half_and_turning_is_holding_the_border(size: int):
    x = photographs(size, 2)
    theirs = jax.jit(canon.equiadapt_orbit, static_argnums=0)(D8, x)
    np.testing.assert_allclose(theirs, jax.jit(orbit, static_argnums=0)(D8, x), atol=1e-5)


def test_rotations_are_undone_and_reflections_are_not():
    """Finding 1: they mirror first where the orbit mirrors last."""
    x = np.repeat(photographs(12, 1), 16, 0)
    theirs = jax.jit(canon.equiadapt_canonical, static_argnums=0)(D8, D8.elements(np.arange(16)), x)
    ours = np.asarray(jax.jit(orbit, static_argnums=0)(D8, x[:1]))[:, 0]
    np.testing.assert_allclose(theirs[:8], ours[:8], atol=1e-5)
    apart = np.abs(np.asarray(theirs)[8:] - ours[8:]).max((1, 2, 3))
    assert [i for i in range(8) if apart[i] < 1e-4] == [0, 4]


def test_views_are_the_reduced_middle_and_gray_images_as_they_are():
    x = photographs(40, 2)
    views = canon.equiadapt_views(x, size=16)
    np.testing.assert_allclose(views, jax.image.resize(x[:, 4:36, 4:36], (2, 16, 16, 3), "linear"), atol=1e-6)
    gray = x[..., :1]
    assert canon.equiadapt_views(gray) is gray
    with pytest.raises(BadArrayError, match="crop"):
        canon.equiadapt_views(x, crop=1.5)
