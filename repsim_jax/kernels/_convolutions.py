"""Second moments of all positions of two sets of images on their way through wide convolutions, ReLUs and the mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.kernels._activations import CLOSED_FORMS, Moments

_WINDOW = 3


class Maps(NamedTuple):
    """Moments, as of ``Moments``, of all positions.

    Attributes:
        x: (n, h, w) variances.
        y: (m, h, w) variances.
        squared: (n, h, w, m, h, w) mean squared differences.
    """

    x: Float[Array, "n h w"]
    y: Float[Array, "m h w"]
    squared: Float[Array, "n h w m h w"]

    @property
    def kernel(self) -> Float[Array, "n h w m h w"]:
        """Mean products."""
        return (self.x[..., None, None, None] + self.y - self.squared) / 2


def pooled_kernels(
    x: Float[Array, "n h w c"],
    y: Float[Array, "m h w c"] | None,
    strides: tuple[int, ...],
    weight: Float[Array, ""],
    bias: Float[Array, ""],
) -> tuple[Moments, Float[Array, "n m"]]:
    r"""Moments and NTK of the features after convolutions and ReLUs, averaged over positions.

    The mean squared difference of two means is :math:`E_{pq} [s_{xy}(p, q) - s_{xx}(p, q) / 2 - s_{yy}(p, q) / 2]` in
    mean squared differences s of positions: large variances never enter.

    Args:
        x: Images.
        y: Other images; None means x.
        strides: Of each convolution.
        weight: Variance of the weights, times the fan-in.
        bias: Variance of the biases.

    Returns:
        Moments of the means, and the mean of the NTK over pairs of positions, as it enters the next layer.
    """
    own_x = _own(x, strides, weight, bias)
    own_y = own_x if y is None else _own(y, strides, weight, bias)
    both, ntk = _through(x, x if y is None else y, strides, weight, bias)
    squared = both.squared - own_x[:, :, :, None] / 2 - jnp.moveaxis(own_y, 0, 2) / 2
    between = jnp.maximum(jnp.mean(squared, axis=(1, 2, 4, 5)), 0.0)
    if y is None:
        between = jnp.where(jnp.eye(len(x), dtype=bool), 0.0, between)
    x_mean, y_mean = (
        jnp.mean(each, axis=(1, 2)) - jnp.mean(own, axis=(1, 2, 3, 4)) / 2
        for each, own in ((both.x, own_x), (both.y, own_y))
    )
    return Moments(x_mean, y_mean, between), jnp.mean(ntk, axis=(1, 2, 4, 5))


def _own(x: jax.Array, strides: tuple[int, ...], weight: jax.Array, bias: jax.Array) -> Float[Array, "n h w h w"]:
    """Mean squared differences between the positions of each image."""
    return jax.lax.map(
        lambda image: _through(image[None], image[None], strides, weight, bias)[0].squared[0, :, :, 0], x
    )


def _through(
    x: jax.Array, y: jax.Array, strides: tuple[int, ...], weight: jax.Array, bias: jax.Array
) -> tuple[Maps, Float[Array, "n h w m h w"]]:
    squared = jnp.mean(jnp.square(x[:, :, :, None, None, None] - y), axis=-1)
    maps = Maps(jnp.mean(jnp.square(x), axis=-1), jnp.mean(jnp.square(y), axis=-1), squared)
    ntk = jnp.zeros_like(squared)
    for stride in strides:
        after = Maps(
            *(weight * mean + shift for mean, shift in zip(_over_patches(maps, stride), (bias, bias, 0.0), strict=True))
        )
        ntk = after.kernel + weight * _pairs_over_patches(ntk, stride)
        maps, slopes = _relu(after)
        ntk = slopes * ntk
    return maps, ntk


def _relu(maps: Maps) -> tuple[Maps, jax.Array]:
    rows, columns = maps.x.size, maps.y.size
    flat = Moments(maps.x.ravel(), maps.y.ravel(), maps.squared.reshape(rows, columns))
    after, slopes, _ = CLOSED_FORMS["relu"](flat)
    shaped = (each.reshape(old.shape) for each, old in zip(after, maps, strict=True))
    return Maps(*shaped), slopes.reshape(maps.squared.shape)


def _over_patches(maps: Maps, stride: int) -> Maps:
    """Means over 3 x 3 windows; beyond the border lies a constant zero, whose distance from v is the variance of v."""
    x, y, squared = _padded(maps.x, stride), _padded(maps.y, stride), _padded_pairs(maps.squared, stride)
    outside = 1 - _padded(jnp.ones((1, *maps.x.shape[1:]), squared.dtype), stride)
    squared = squared + outside[..., None, None, None] * y + x[..., None, None, None] * outside
    shape = maps.x.shape[1:]
    return Maps(
        _window_mean(x, shape, stride, (1,)),
        _window_mean(y, shape, stride, (1,)),
        _window_mean(squared, shape, stride, (1, 4)),
    )


def _pairs_over_patches(pairs: jax.Array, stride: int) -> jax.Array:
    return _window_mean(_padded_pairs(pairs, stride), pairs.shape[1:3], stride, (1, 4))


def _same(size: int, stride: int) -> tuple[int, tuple[int, int]]:
    """How many outputs a window has along an axis, and the zeros before and after it ("SAME")."""
    outputs = -(-size // stride)
    zeros = max((outputs - 1) * stride + _WINDOW - size, 0)
    return outputs, (zeros // 2, zeros - zeros // 2)


def _padded(maps: jax.Array, stride: int) -> jax.Array:
    return jnp.pad(maps, ((0, 0), *(_same(size, stride)[1] for size in maps.shape[1:])))


def _padded_pairs(pairs: jax.Array, stride: int) -> jax.Array:
    rows, columns = (_same(size, stride)[1] for size in pairs.shape[1:3])
    return jnp.pad(pairs, ((0, 0), rows, columns, (0, 0), rows, columns))


def _window_mean(padded: jax.Array, shape: tuple[int, ...], stride: int, starts: tuple[int, ...]) -> jax.Array:
    """Mean over the window of padded maps, moved alike along every pair of axes (start, start + 1)."""
    spans = [(_same(size, stride)[0] - 1) * stride + 1 for size in shape]
    total = jnp.zeros((), padded.dtype)
    for row in range(_WINDOW):
        for column in range(_WINDOW):
            part = padded
            for start in starts:
                for axis, first, span in ((start, row, spans[0]), (start + 1, column, spans[1])):
                    part = jax.lax.slice_in_dim(part, first, first + span, stride, axis)
            total = total + part
    return total / _WINDOW**2
