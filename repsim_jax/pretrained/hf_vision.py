"""Local Hugging Face folders of image models: ViT, DINOv2, CLIP's image tower and the encoder of ViT-MAE."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from repsim_jax.encoders.transformer import ACTIVATIONS
from repsim_jax.encoders.vit import ViT, ViTConfig, hidden_layers
from repsim_jax.errors import CorruptFileError, FileError
from repsim_jax.pretrained import preparation
from repsim_jax.pretrained.assembly import assemble
from repsim_jax.pretrained.huggingface import read_config, read_safetensors
from repsim_jax.pretrained.preparation import ImagePreparation
from repsim_jax.pretrained.registry import Pretrained
from repsim_jax.pretrained.vit_families import CLIP_VISION, DINOV2, VIT, VIT_LAYOUT, Family, origins

_HF_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # the numbers are Pillow's
_MAX_SIDE = 4096  # far above any model's; keeps a wrong number from filling the memory

# What a configuration leaves out has these values: the defaults of each class in transformers
_VIT_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
}
_CLIP_DEFAULTS = _VIT_DEFAULTS | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_DINOV2_DEFAULTS = _VIT_DEFAULTS | {"patch_size": 14, "mlp_ratio": 4, "layer_norm_eps": 1e-6, "use_swiglu_ffn": False}


def load_vit(folder: Path) -> Pretrained:
    """Loads a ViT (``model_type`` "vit").

    Args:
        folder: The folder.

    Returns:
        The model; a classifier or pooler in the file is left out.

    Raises:
        FileError: If a file is missing, damaged or not supported.

    Source:
        Dosovitskiy et al. (ICLR 2021); names of transformers' ``ViTModel``.
    """
    values = _VIT_DEFAULTS | read_config(folder)
    config = _vit_config(folder, values, qkv_bias=bool(values["qkv_bias"]))
    default = ImagePreparation(config.image_size, None, *preparation.HALVES, resample="bilinear")
    return _assembled(folder, config, VIT, read_safetensors(folder), default)


def load_mae(folder: Path) -> Pretrained:
    """Loads the encoder of a masked autoencoder (``model_type`` "vit_mae"), which then sees every patch.

    Args:
        folder: The folder.

    Returns:
        The model; the decoder is left out.

    Raises:
        FileError: If a file is missing, damaged or not supported.

    Source:
        He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022); names of ``ViTMAEModel``.
    Differs:
        Nothing is masked and patches stay in order; transformers masks and shuffles unless told mask_ratio = 0.
    """
    values = _VIT_DEFAULTS | read_config(folder)
    config = _vit_config(folder, values, qkv_bias=bool(values["qkv_bias"]))
    default = ImagePreparation(config.image_size, None, *preparation.IMAGENET, resample="bilinear")
    return _assembled(folder, config, VIT, read_safetensors(folder), default)


def load_dinov2(folder: Path) -> Pretrained:
    """Loads a DINOv2 (``model_type`` "dinov2") without registers.

    Args:
        folder: The folder.

    Returns:
        The model.

    Raises:
        FileError: If a file is missing or damaged, or the MLPs are gated (SwiGLU, as in ViT-g/14).

    Source:
        Oquab et al., "DINOv2" (TMLR 2024); names of ``Dinov2Model``.
    """
    values = _DINOV2_DEFAULTS | read_config(folder)
    if values["use_swiglu_ffn"]:
        reason = "expected use_swiglu_ffn = false; gated MLPs (DINOv2 ViT-g/14) are not supported."
        raise FileError(folder / "config.json", reason)
    values["intermediate_size"] = _count(folder, values, "hidden_size") * _count(folder, values, "mlp_ratio")
    config = _vit_config(folder, values, qkv_bias=bool(values["qkv_bias"]), layer_scale=True)
    default = ImagePreparation(224, 256, *preparation.IMAGENET)
    return _assembled(folder, config, DINOV2, read_safetensors(folder), default)


def load_clip(folder: Path) -> Pretrained:
    """Loads the image tower of a CLIP (``model_type`` "clip" or "clip_vision_model").

    Args:
        folder: The folder.

    Returns:
        The model; it embeds images (b, q) where the file holds the projection, else as class tokens (b, d).

    Raises:
        FileError: If a file is missing or not supported.
        CorruptFileError: If a file is damaged.

    Source:
        Radford et al. (ICML 2021); names of ``CLIPModel`` and ``CLIPVisionModelWithProjection``.
    """
    whole = read_config(folder)
    nested = whole.get("vision_config", whole)
    if not isinstance(nested, dict):
        raise CorruptFileError(folder / "config.json", "expected vision_config to be an object.")
    tensors = read_safetensors(folder)
    projection = tensors.get("visual_projection.weight")
    width = None if projection is None or not projection.ndim else projection.shape[0]
    options = {"patch_bias": False, "pre_norm": True, "embedding_width": width}
    config = _vit_config(folder, _CLIP_DEFAULTS | nested, **options)
    default = ImagePreparation(config.image_size, config.image_size, *preparation.CLIP)
    return _assembled(folder, config, CLIP_VISION, tensors, default)


def _vit_config(folder: Path, values: dict[str, Any], **options: Any) -> ViTConfig:
    path = folder / "config.json"
    if values["num_channels"] != 3:
        raise FileError(path, f"expected num_channels = 3, got {values['num_channels']!r}.")
    activation = _HF_ACTIVATIONS.get(str(values["hidden_act"]), str(values["hidden_act"]))
    if activation not in ACTIVATIONS:
        known = ", ".join(sorted({*ACTIVATIONS, *_HF_ACTIVATIONS} - {"gelu_tanh"}))
        raise FileError(path, f"expected hidden_act to be one of {known}; got {activation!r}.")
    counts = {
        "image_size": _count(folder, values, "image_size", most=_MAX_SIDE),
        "patch_size": _count(folder, values, "patch_size", most=_MAX_SIDE),
        "width": _count(folder, values, "hidden_size"),
        "num_layers": _count(folder, values, "num_hidden_layers", most=1000),
        "num_heads": _count(folder, values, "num_attention_heads"),
        "mlp_width": _count(folder, values, "intermediate_size"),
    }
    try:
        return ViTConfig(**counts, activation=activation, norm_epsilon=float(values["layer_norm_eps"]), **options)
    except (TypeError, ValueError) as error:
        raise CorruptFileError(path, str(error)) from None


def _count(folder: Path, values: dict[str, Any], key: str, most: int = 2**20) -> int:
    value = values[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise CorruptFileError(folder / "config.json", f"expected {key} of 1 to {most}, got {value!r}.")
    return value


def _assembled(
    folder: Path, config: ViTConfig, family: Family, tensors: dict[str, np.ndarray], default: ImagePreparation
) -> Pretrained:
    held = [prefix for prefix in family.prefixes if prefix + family.class_token in tensors]
    model = assemble(
        lambda: ViT(config, rngs=nnx.Rngs(0)),
        tensors,
        origins(family, config, held[0] if held else family.prefixes[0]),
        path=folder / "model.safetensors",
        ignored=family.ignored,
    )
    return Pretrained(
        name=str(folder),
        model=model,
        modality="image",
        prepare=_preparation(folder, default),
        layers=hidden_layers(config),
        layout=dict(VIT_LAYOUT),
        source=f"local Hugging Face folder {folder.name}",
        license="unknown: ask where the folder came from",
    )


def _preparation(folder: Path, default: ImagePreparation) -> ImagePreparation:
    """What preprocessor_config.json says, or the family's usual preprocessing where there is none."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return default
    values = read_config(folder, path.name)
    size = values.get("size", default.size)
    crop = values.get("crop_size") if values.get("do_center_crop", True) else None
    keeps_proportions = crop is not None or (isinstance(size, dict) and "shortest_edge" in size)
    try:
        side, resized = _square(size if crop is None else crop), _square(size)
        if side > resized:
            raise ValueError(f"a crop of {side} from {resized} pixels")
        mean, std = values.get("image_mean", default.mean), values.get("image_std", default.std)
        return ImagePreparation(
            size=side,
            short_side=resized if keeps_proportions else None,
            mean=_triple(mean if values.get("do_normalize", True) else (0, 0, 0)),
            std=_triple(std if values.get("do_normalize", True) else (1, 1, 1), positive=True),
            resample=_FILTERS[values["resample"]] if "resample" in values else default.resample,
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f"expected a square size, three means, three deviations and a filter of Pillow's; got {error}."
        raise CorruptFileError(path, reason) from None


def _square(size: Any) -> int:
    """Side in pixels of 224, {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if len(sides) != 1 or not all(isinstance(side, int) and 0 < side <= _MAX_SIDE for side in sides):
        raise ValueError(f"size {size}")
    return sides.pop()


def _triple(values: Any, *, positive: bool = False) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    if positive and not min(red, green, blue) > 0:
        raise ValueError(f"deviations {values}")
    return (red, green, blue)
