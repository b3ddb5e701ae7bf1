"""How does a map or a sequence of tokens become one row of features per example? By a policy that the user names.

========================  =======================  =====================================================================
policy                    of a layer               gives
========================  =======================  =====================================================================
``flatten``               (b, ...)                 (b, d): every number, maps in the order (h, w, c)
``spatial_mean``          (b, h, w, c)             (b, c): the mean over the map (global average pooling)
``cls``                   (b, t, d)                (b, d): the first token
``token_mean``            (b, t, d)                (b, d): the mean over the real tokens (``Batch.mask``), else over all
``space_as_samples``      (b, h, w, c), (b, t, d)  (b h w, c): every position is an example, "id@row,col" or "id@token"
========================  =======================  =====================================================================

Layers (b, d) need none and are taken as they are.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax.errors import BadArrayError, UnknownNameError

POLICIES = ("flatten", "spatial_mean", "cls", "token_mean", "space_as_samples")
AS_IT_IS = "none"
_FOR_TOKENS = ("cls", "token_mean", "flatten", "space_as_samples")
_FOR_MAPS = ("spatial_mean", "flatten", "space_as_samples")

Layout = str | Mapping[str, str] | None


def check_layout(layout: Layout) -> None:
    """Checks that every policy exists, before anything is computed.

    Args:
        layout: A policy for all layers, {glob: policy}, or None.

    Raises:
        UnknownNameError: If a policy does not exist.
    """
    for policy in [layout] if isinstance(layout, str) else (layout or {}).values():
        if policy not in POLICIES:
            raise UnknownNameError.of("layout policy", policy, POLICIES)


def suitable(rank: int) -> tuple[str, ...]:
    """Lists the policies for layers of a rank.

    Args:
        rank: Number of axes, the examples' among them.

    Returns:
        Names of policies; none for rank 2.
    """
    return () if rank <= 2 else _FOR_TOKENS if rank == 3 else _FOR_MAPS


def policy_for(layer: str, shape: tuple[int, ...], layout: Layout) -> str:
    """Chooses the policy of one layer: of the mapping's globs that match the name, the first one written wins.

    Args:
        layer: The layer's name.
        shape: Its shape, (b, ...).
        layout: A policy for all layers, {glob: policy}, or None. "*" matches "/" too.

    Returns:
        The policy; "none" for a layer (b, d), whatever ``layout`` says.

    Raises:
        BadArrayError: If the layer has rank above 2 and no policy, or one that is not for its rank.
        UnknownNameError: If a policy does not exist.
    """
    check_layout(layout)
    if len(shape) == 2:
        return AS_IT_IS
    policies = {"*": layout} if isinstance(layout, str) else (layout or {})
    policy = next((p for glob, p in policies.items() if glob == layer or fnmatchcase(layer, glob)), None)
    fitting = suitable(len(shape))
    if policy in fitting:
        return policy
    came = "no layout policy is given for it" if policy is None else f"{policy!r} is not for rank {len(shape)}"
    raise BadArrayError(
        f"layer {layer!r} has shape {shape} and {came}. Similarity compares (examples, features): "
        f"choose one of {', '.join(fitting)}, for example layout={{{layer!r}: {fitting[0]!r}}}."
    )


def apply_policy(x: jax.Array, policy: str, *, channel_axis: int = -1, mask: jax.Array | None = None) -> jax.Array:
    """Lays out one layer as (b, d), or as (b, positions, d) for ``space_as_samples``; works inside jit.

    Means are taken in float32 at least, so that float16 maps do not overflow.

    Args:
        x: A layer, (b, ...).
        policy: One of ``POLICIES``, or "none".
        channel_axis: Where maps of rank 4 and more hold their channels; rank 3 is always (b, t, d).
        mask: For ``token_mean``, (b, t) with 1 where a token is real; all are where None.

    Returns:
        The layer's features.

    Raises:
        BadArrayError: If the mask is not (b, t) of the layer.
    """
    x = jnp.moveaxis(x, channel_axis, -1) if x.ndim > 3 else x
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if policy == "flatten":
        return x.reshape(x.shape[0], -1)
    if policy == "spatial_mean":
        return wide.mean(axis=tuple(range(1, x.ndim - 1)))
    if policy == "cls":
        return x[:, 0]
    if policy == "space_as_samples":
        return x.reshape(x.shape[0], -1, x.shape[-1])
    if policy == "token_mean":
        return wide.mean(axis=1) if mask is None else _masked_mean(wide, mask)
    return x


def _masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    if mask.shape != x.shape[:2]:
        raise BadArrayError(
            f"token_mean averages over the tokens of the batch's mask: got a mask {mask.shape} for a layer {x.shape}. "
            "Give the layer another policy, or batches without a mask."
        )
    weights = mask.astype(x.dtype)[..., None]
    return jnp.where(weights > 0, x, 0).sum(axis=1) / weights.sum(axis=1)


def positions(shape: tuple[int, ...], *, channel_axis: int = -1) -> tuple[str, ...]:
    """Names the positions of a map or sequence, in the order of ``space_as_samples``.

    Args:
        shape: The layer's shape, (b, h, w, c) or (b, t, d).
        channel_axis: As in ``apply_policy``.

    Returns:
        "row,col" for maps, "token" for sequences.
    """
    channels = (channel_axis if len(shape) > 3 else -1) % len(shape)
    sizes = [size for axis, size in enumerate(shape) if axis not in (0, channels)]
    return tuple(",".join(map(str, index)) for index in np.ndindex(*sizes))
