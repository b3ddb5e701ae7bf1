"""What would equiadapt 0.1.2 have shown its network, and made of its image? Its conventions, for replication alone.

It crops the middle, reduces it, pads it by half of its size with the border, turns that bilinearly, multiples of 90
degrees too, and cuts the middle out again. For reflections its canonical form is none: it mirrors first and turns then,
where its orbit turns first, so that the form of a turned image is another.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.canonicalization.groups import Elements, Group
from repsim_jax.canonicalization.planar import check_plane, factors, warped
from repsim_jax.errors import BadArrayError


def equiadapt_views(x: Float[Array, "b h w c"], *, crop: float = 0.8, size: int = 96) -> Float[Array, "b s s c"]:
    """What it makes of images before it turns them; gray ones stay as they are.

    Args:
        x: Images, square.
        crop: Share of the side that the middle keeps.
        size: Pixels to which that is brought, antialiased.

    Returns:
        Smaller images.

    Raises:
        BadArrayError: If the crop is not in (0, 1] or the size below 1.
    """
    if not 0 < crop <= 1 or size < 1:
        raise BadArrayError(f"equiadapt_views needs crop in (0, 1] and size >= 1, got {crop!r} and {size!r}.")
    b, h, w, c = x.shape
    if c == 1:
        return x
    height, width = math.ceil(h * crop), math.ceil(w * crop)
    # torchvision's center crop rounds half to even
    top, left = round((h - height) / 2), round((w - width) / 2)
    middle = x[:, top : top + height, left : left + width]
    return jax.image.resize(middle, (b, size, size, c), "linear", antialias=True)


def equiadapt_orbit(group: Group, views: Float[Array, "b s s c"]) -> Float[Array, "g b s s c"]:
    """Its orbit: turned by minus the angle, and for reflections mirrored then. Gray images are not padded.

    Args:
        group: C_n or D_n.
        views: From ``equiadapt_views``.

    Returns:
        Views, element by element; up to interpolation they are those of ``Views.orbit``.

    Raises:
        BadArrayError: If the group does not fit the images.
    """
    check_plane(group, views.shape[1], views.shape[2])
    mirrored = factors(group).flips
    num = group.order // 2 if mirrored.any() else group.order
    turned = [_turned(views, group.matrices[i].T, padded=views.shape[-1] > 1) for i in range(num)]
    flipped = [one[:, :, ::-1] for one in turned] if mirrored.any() else []
    return jnp.stack([*turned, *flipped])


def equiadapt_canonical(group: Group, elements: Elements, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Its canonical form at full size: mirrored first, and turned by minus the angle then.

    Args:
        group: C_n or D_n.
        elements: One for each image.
        x: Images, square.

    Returns:
        For C_n the canonical form up to interpolation; for reflections in D_n what the code has by mistake.

    Raises:
        BadArrayError: If the group does not fit the images.
    """
    check_plane(group, x.shape[1], x.shape[2])
    flips = jnp.asarray(factors(group).flips)
    num = group.order // 2 if factors(group).flips.any() else group.order
    start = jnp.where(flips[elements.index][:, None, None, None], x[:, :, ::-1], x)
    back = jnp.swapaxes(jnp.asarray(group.matrices[:num], x.dtype), 1, 2)[elements.index % num]
    size = x.shape[1]
    pad = math.ceil(0.5 * size) if x.shape[-1] > 1 else 0
    return _cut(warped(_padded(start, pad), back), pad, size)


def _padded(x: jax.Array, pad: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")


def _cut(x: jax.Array, pad: int, size: int) -> jax.Array:
    return x[:, pad : pad + size, pad : pad + size]


def _turned(x: jax.Array, matrix: object, *, padded: bool) -> jax.Array:
    pad = math.ceil(0.5 * x.shape[1]) if padded else 0
    every = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (len(x), 2, 2))
    return _cut(warped(_padded(x, pad), every), pad, x.shape[1])
