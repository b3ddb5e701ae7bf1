"""Half of the blocks of a second moment tell the other half."""

import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.linalg import mirrored, upper_strips


@pytest.mark.parametrize("d", [1, 7, 256, 259])
def test_strips_of_parts_add_up_to_the_second_moment_of_all(d: int):
    with enable_x64():
        x = np.random.default_rng(d).normal(size=(9, d))
        parts = [upper_strips(jnp.asarray(part)) for part in (x[:4], x[4:])]
        found = np.asarray(mirrored([left + right for left, right in zip(*parts, strict=True)]))
        np.testing.assert_allclose(found, x.T @ x, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(found, found.T)
