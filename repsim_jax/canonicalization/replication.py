"""What would equiadapt 0.1.2 have shown its network, and made of its image? Its conventions, for replication alone.

It crops the middle, reduces it, pads it by half of its size with the border, turns that bilinearly, multiples of 90
degrees too, and cuts the middle out again. Gray images are neither cropped nor reduced nor padded, so that zeros come
in at their corners. For reflections its canonical form is none: it mirrors first and turns then, where its orbit turns
first, so that the form of a turned image is another.

``Views(size, compat="equiadapt")`` makes a canonicalizer follow all of them.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.canonicalization.actions import Images
from repsim_jax.canonicalization.groups import Elements, Group
from repsim_jax.canonicalization.planar import check_plane, factors, warped
from repsim_jax.errors import BadArrayError

# The published share of the side that is kept, and the only one that is used with ``compat``.
CROP = 0.8


def check_equiadapt(group: Group) -> None:
    """Refuses groups that it does not have.

    Args:
        group: What is to act.

    Raises:
        BadArrayError: If the group is not C_n or D_n.
    """
    if not re.fullmatch(r"[CD]\d+", group.name):
        raise BadArrayError(
            f"compat='equiadapt' has cyclic(n) and dihedral(n) alone, of which equiadapt 0.1.2 has energies: got "
            f"{group.name}. Use Views() without compat."
        )


def equiadapt_views(x: Float[Array, "b h w c"], *, crop: float = CROP, size: int = 96) -> Float[Array, "b s s c"]:
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
    """Its orbit: turned by minus the angle, and for reflections mirrored then. Gray images get zeros in their corners.

    Args:
        group: C_n or D_n.
        views: From ``equiadapt_views``.

    Returns:
        Views, element by element; of color ones, up to interpolation, those of ``Views.orbit`` without a mask.

    Raises:
        BadArrayError: If the group does not fit the images.
    """
    check_plane(group, views.shape[1], views.shape[2])
    matrices, has_flips = jnp.asarray(group.matrices[: _num_turns(group)], views.dtype), _has_flips(group)
    backwards = jnp.swapaxes(matrices, 1, 2)
    turned = [_turned(views, jnp.broadcast_to(one, (len(views), 2, 2))) for one in backwards]
    flipped = [one[:, :, ::-1] for one in turned] if has_flips else []
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
    start = jnp.where(flips[elements.index][:, None, None, None], x[:, :, ::-1], x)
    return _turned(start, jnp.swapaxes(_turns_of(group, elements, x.dtype), 1, 2))


def equiadapt_restored(group: Group, elements: Elements, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """What it makes of a map that a model drew of canonical forms ("scalar"): turned back, with zeros in the corners.

    Args:
        group: C_n; what it does with reflections undoes nothing.
        elements: One for each map.
        x: Maps, square.

    Returns:
        Maps in the pose of the inputs.

    Raises:
        BadArrayError: If the group has reflections, or does not fit the maps.
    """
    check_plane(group, x.shape[1], x.shape[2])
    check_undone(group)
    return _turned(x, _turns_of(group, elements, x.dtype), mode="constant")


def check_undone(group: Group) -> None:
    """Refuses to undo what it does not undo.

    Args:
        group: C_n or D_n.

    Raises:
        BadArrayError: If the group has reflections.
    """
    if _has_flips(group):
        raise BadArrayError(
            f"compat='equiadapt' cannot turn outputs back for {group.name}: equiadapt 0.1.2 mirrors the images that it "
            "should leave, and its canonical form is none. Use out_action=Trivial(), cyclic(n), or no compat."
        )


@dataclass(frozen=True)
class EquiadaptImages(Images):
    """Images as equiadapt 0.1.2 moves them: what ``Views(compat="equiadapt")`` makes of ``Images()``.

    Differs:
        From ``Images``: multiples of 90 degrees are interpolated, canonical forms of reflections depend on the pose of
        the input, and outputs are turned back with zeros in their corners, or not at all for D_n.
    """

    def check(self, group: Group, x: Any) -> None:
        """Refuses other groups, and what ``Images`` refuses.

        Args:
            group: C_n or D_n.
            x: Images.

        Raises:
            BadArrayError: If it cannot act on them.
        """
        check_equiadapt(group)
        super().check(group, x)

    def act(self, group: Group, elements: Elements, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Turns back what a model drew: ``equiadapt_restored``.

        Args:
            group: C_n.
            elements: One for each image.
            x: Images.

        Returns:
            Images.
        """
        return equiadapt_restored(group, elements, x)

    def invert(self, group: Group, elements: Elements, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Brings images into what it takes for their canonical form: ``equiadapt_canonical``.

        Args:
            group: C_n or D_n.
            elements: One for each image.
            x: Images.

        Returns:
            Images.
        """
        return equiadapt_canonical(group, elements, x)


def _has_flips(group: Group) -> bool:
    return bool(factors(group).flips.any())


def _num_turns(group: Group) -> int:
    return group.order // 2 if _has_flips(group) else group.order


def _turns_of(group: Group, elements: Elements, dtype: Any) -> Float[Array, "b 2 2"]:
    num = _num_turns(group)
    return jnp.asarray(group.matrices[:num], dtype)[elements.index % num]


def _turned(x: jax.Array, matrix: jax.Array, *, mode: str | None = None) -> jax.Array:
    """Turns images that were padded by half of their size, with the border or, gray ones, with zeros."""
    size = x.shape[1]
    pad = math.ceil(0.5 * size)
    wide = jnp.pad(
        x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode or ("edge" if x.shape[-1] > 1 else "constant")
    )
    return warped(wide, matrix)[:, pad : pad + size, pad : pad + size]
