"""The small convolutional network: its convolutions are flax's, its strides are those that were asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from repsim_jax.encoders import ConvNet, ConvNetConfig
from repsim_jax.encoders.convnet import PatchConv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (3, 7, 10, 4), (1, 1, 2, 3)])
def test_patches_convolve_as_flax_does(shape: tuple[int, ...], stride: int):
    theirs = nnx.Conv(shape[-1], 5, (3, 3), strides=stride, rngs=nnx.Rngs(0))
    ours = PatchConv(shape[-1], 5, stride=stride, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(ours.kernel[...], theirs.kernel[...])
    for one in (theirs, ours):
        one.bias = nnx.Param(jnp.arange(5.0))
    x = jax.random.normal(jax.random.key(1), shape)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


def test_strides_shrink_the_maps_where_they_say():
    default = ConvNet(ConvNetConfig(widths=(4, 4, 4)), rngs=nnx.Rngs(0))
    strided = ConvNet(ConvNetConfig(widths=(4, 4, 4), strides=(2, 1, 2)), rngs=nnx.Rngs(0))
    x = jnp.ones((2, 8, 8, 1))
    assert [default.block_0(x).shape[1], strided.block_0(x).shape[1]] == [8, 4]
    assert [
        default.block_1(jnp.ones((2, 8, 8, 4))).shape[1],
        strided.block_1(jnp.ones((2, 4, 4, 4))).shape[1],
    ] == [4, 4]
    assert strided(x).shape == (2, 10)


def test_a_stride_is_wanted_for_every_block():
    with pytest.raises(ValueError, match="one stride per width"):
        ConvNet(ConvNetConfig(widths=(4, 4), strides=(1,)), rngs=nnx.Rngs(0))
