"""Under which names do ViT, DINOv2, CLIP and ViT-MAE keep the same parameters? One table per family."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from repsim_jax.encoders.vit import ViTConfig
from repsim_jax.pretrained.assembly import Origin, kernel_last, transposed

# Before the first block the class token is the same for every image: only the mean over tokens tells images apart.
VIT_LAYOUT = {"stem/patch_embed*": "spatial_mean", "stem*": "token_mean", "block_*": "cls", "norm": "cls"}


class Family(NamedTuple):
    """How one family of Vision Transformers names its tensors in a Hugging Face file.

    Attributes:
        prefixes: What may stand before every name; the one whose class token is in the file counts.
        class_token: Name of the class token.
        positions: Name of the positions, class token first.
        patches: Name of the patch projection.
        block: Where block {} is.
        outside: Our names of layers outside the blocks to theirs.
        inside: Our names of layers inside a block to theirs.
        ignored: Globs of tensors that are not part of the encoder.
        unprefixed: Our names of layers that stand outside the prefix.
    """

    prefixes: tuple[str, ...]
    class_token: str
    positions: str
    patches: str
    block: str
    outside: Mapping[str, str]
    inside: Mapping[str, str]
    ignored: tuple[str, ...]
    unprefixed: Mapping[str, str] = {}


_ATTENTION = {f"attention/{part}": f"attention.attention.{part}" for part in ("query", "key", "value")}

VIT = Family(
    prefixes=("", "vit."),
    class_token="embeddings.cls_token",
    positions="embeddings.position_embeddings",
    patches="embeddings.patch_embeddings.projection",
    block="encoder.layer.{}.",
    outside={"norm": "layernorm"},
    inside={
        **_ATTENTION,
        "attention/out": "attention.output.dense",
        "norm_attention": "layernorm_before",
        "norm_mlp": "layernorm_after",
        "mlp/expand": "intermediate.dense",
        "mlp/project": "output.dense",
    },
    ignored=("classifier.*", "*pooler.dense.*", "*embeddings.mask_token", "decoder.*"),
)
DINOV2 = VIT._replace(
    prefixes=("", "dinov2.", "backbone."),
    inside={
        **_ATTENTION,
        "attention/out": "attention.output.dense",
        "norm_attention": "norm1",
        "norm_mlp": "norm2",
        "mlp/expand": "mlp.fc1",
        "mlp/project": "mlp.fc2",
        "scale_attention": "layer_scale1",
        "scale_mlp": "layer_scale2",
    },
)
CLIP_VISION = Family(
    prefixes=("vision_model.",),
    class_token="embeddings.class_embedding",
    positions="embeddings.position_embedding.weight",
    patches="embeddings.patch_embedding",
    block="encoder.layers.{}.",
    outside={"stem/pre_norm": "pre_layrnorm", "norm": "post_layernorm"},  # their spelling
    inside={
        "attention/query": "self_attn.q_proj",
        "attention/key": "self_attn.k_proj",
        "attention/value": "self_attn.v_proj",
        "attention/out": "self_attn.out_proj",
        "norm_attention": "layer_norm1",
        "norm_mlp": "layer_norm2",
        "mlp/expand": "mlp.fc1",
        "mlp/project": "mlp.fc2",
    },
    ignored=("text_model.*", "text_projection.*", "logit_scale", "*embeddings.position_ids"),
    unprefixed={"head": "visual_projection"},
)


def origins(family: Family, config: ViTConfig, prefix: str) -> Callable[[str], Origin]:
    """Tells where in the file each parameter of a ``ViT`` is.

    Args:
        family: The names.
        config: The shape of the ViT, for the grid of positions.
        prefix: What stands before every name.

    Returns:
        A function from the parameter's path ("block_3/attention/query/kernel") to its place.
    """
    flat = {
        "stem/class_token": Origin(prefix + family.class_token, np.ravel),
        "stem/class_position": Origin(prefix + family.positions, lambda table: table.reshape(-1, config.width)[0]),
        "stem/positions": Origin(
            prefix + family.positions,
            lambda table: table.reshape(-1, config.width)[1:].reshape(config.grid, config.grid, config.width),
        ),
        "stem/patch_embed/projection/kernel": Origin(f"{prefix}{family.patches}.weight", kernel_last),
        "stem/patch_embed/projection/bias": Origin(f"{prefix}{family.patches}.bias"),
    }

    def origin_of(path: str) -> Origin:
        if path in flat:
            return flat[path]
        layer, _, leaf = path.rpartition("/")
        change = transposed if leaf == "kernel" else np.asarray
        tensor = "bias" if leaf == "bias" else "lambda1" if layer.rpartition("/")[2].startswith("scale_") else "weight"
        if layer in family.unprefixed:
            return Origin(f"{family.unprefixed[layer]}.{tensor}", change)
        if layer in family.outside:
            return Origin(f"{prefix}{family.outside[layer]}.{tensor}", change)
        block, _, inside = layer.partition("/")
        place = family.block.format(block.removeprefix("block_"))
        return Origin(f"{prefix}{place}{family.inside[inside]}.{tensor}", change)

    return origin_of
