"""The packaged image models: which flax module each is, where its tensors are, and what its pictures look like."""

import numpy as np
from flax import nnx

from repsim_jax.encoders import efficientnet, vit
from repsim_jax.encoders.efficientnet import EfficientNet, EfficientNetConfig
from repsim_jax.encoders.vit import ViT, ViTConfig
from repsim_jax.pretrained import _torch_file, onnx_weights, preparation
from repsim_jax.pretrained.assembly import Origin, assemble, kernel_last, transposed
from repsim_jax.pretrained.preparation import ImagePreparation
from repsim_jax.pretrained.registry import ModelCard, Pretrained
from repsim_jax.pretrained.vit_families import CLIP_VISION, DINOV2, VIT_LAYOUT, origins

MAP_LAYOUT = {"*": "spatial_mean"}

CLIP_B16 = ViTConfig(activation="quick_gelu", norm_epsilon=1e-5, patch_bias=False, pre_norm=True, embedding_width=512)
SALIENCY_S14 = ViTConfig(image_size=518, patch_size=14, width=384, num_heads=6, mlp_width=1536, layer_scale=True)
# Table of the released code: factors of width and depth, and the side of the training images
LITE = {
    "efficientnet-lite0": (EfficientNetConfig(1.0, 1.0), 224),
    "efficientnet-lite1": (EfficientNetConfig(1.0, 1.1), 240),
    "efficientnet-lite2": (EfficientNetConfig(1.1, 1.2), 260),
}


def clip_vit_b16(name: str, card: ModelCard, contents: tuple[bytes, ...]) -> Pretrained:
    """CLIP's image tower, from an ONNX file with int8 matrices.

    Args:
        name: What to call it.
        card: Its line in the registry.
        contents: The bytes of the ONNX file.

    Returns:
        The model; its output is the embedding (b, 512), not normalized to length one.

    Source:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021).
    Differs:
        The weights went through int8 (a scale per column) and back; activations stay float32. The packaged file
        quantizes these too: over 32 photographs its embeddings have cosines of 0.945 to 0.989 to these, while with
        float activations they agree to 2e-5 (benchmarks/results/pretrained_vision.json).
    """
    tensors = onnx_weights.read_tensors(contents[0])
    model = assemble(
        lambda: ViT(CLIP_B16, rngs=nnx.Rngs(0)),
        tensors,
        origins(CLIP_VISION, CLIP_B16, "vision_model."),
        path=card.files[0].path,
    )
    prepare = ImagePreparation(224, 224, *preparation.CLIP)
    return Pretrained(
        name, model, "image", prepare, vit.hidden_layers(CLIP_B16), dict(VIT_LAYOUT), _source(card), card.license
    )


def vit_s14_saliency(name: str, card: ModelCard, contents: tuple[bytes, ...]) -> Pretrained:
    """A ViT-S/14 of DINOv2's shape that was fine-tuned to predict saliency; its saliency head is left out.

    Args:
        name: What to call it.
        card: Its line in the registry.
        contents: The bytes of the ONNX file.

    Returns:
        The model; its output is the normalized class token (b, 384).

    Source:
        Oquab et al., "DINOv2" (TMLR 2024), for the architecture.
    Differs:
        These are not DINOv2's weights. The package pads images to a square; here the center is cropped, as for the
        other models, so that all of them see the same part. Every block agrees with onnxruntime to 5e-4 on values
        up to 31, at 224 pixels and others; against float64, this is rounding, and more of it onnxruntime's than ours.
    """
    tensors = onnx_weights.read_tensors(contents[0])
    class_position, positions = tensors.pop("onnx::Concat_1957"), tensors.pop("onnx::Reshape_1962")
    tensors["backbone.embeddings.position_embeddings"] = np.concatenate([class_position, positions], axis=1)
    model = assemble(
        lambda: ViT(SALIENCY_S14, rngs=nnx.Rngs(0)),
        tensors,
        origins(DINOV2, SALIENCY_S14, "backbone."),
        path=card.files[0].path,
        ignored=DINOV2.ignored,
    )
    prepare = ImagePreparation(224, 224, *preparation.IMAGENET)
    return Pretrained(
        name, model, "image", prepare, vit.hidden_layers(SALIENCY_S14), dict(VIT_LAYOUT), _source(card), card.license
    )


def efficientnet_lite(name: str, card: ModelCard, contents: tuple[bytes, ...]) -> Pretrained:
    """An EfficientNet-Lite classifier, from a PyTorch file that holds converted TensorFlow weights.

    Args:
        name: "efficientnet-lite0", "-lite1" or "-lite2".
        card: Its line in the registry.
        contents: The bytes of the PyTorch file.

    Returns:
        The model; its output is the logits (b, 1000).

    Source:
        Tan & Le, "EfficientNet" (ICML 2019); Lite variants and preprocessing from their released TensorFlow code.
    Differs:
        In nothing known: logits of photographs agree with PyTorch's to 2e-5.
    """
    config, size = LITE[name]
    model = assemble(
        lambda: EfficientNet(config, rngs=nnx.Rngs(0)),
        _torch_file.read_state(contents[0]),
        lite_origin,
        path=card.files[0].path,
        ignored=("*.num_batches_tracked",),
    )
    prepare = ImagePreparation(size, size + 32, *preparation.LITE)  # 32: the released code's CROP_PADDING
    layers = efficientnet.hidden_layers(config)
    return Pretrained(name, model, "image", prepare, layers, dict(MAP_LAYOUT), _source(card), card.license)


_BLOCK_PARTS = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
_BLOCK_PARTS["project"] = ("_project_conv", "_bn2")
_NORM_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def lite_origin(path: str) -> Origin:
    """Tells where in the file a parameter of an ``EfficientNet`` is.

    Args:
        path: The parameter's path ("block_3/expand/norm/scale").

    Returns:
        Its place.
    """
    if path.startswith("classifier/"):
        return Origin("_fc.weight", transposed) if path.endswith("kernel") else Origin("_fc.bias")
    *where, kind, leaf = path.split("/")
    if where == ["stem"]:
        place, (convolution, norm) = "", ("_conv_stem", "_bn0")
    elif where == ["head"]:
        place, (convolution, norm) = "", ("_conv_head", "_bn1")
    else:
        place, (convolution, norm) = f"_blocks.{where[0].removeprefix('block_')}.", _BLOCK_PARTS[where[1]]
    if kind == "convolution":
        return Origin(f"{place}{convolution}.weight", kernel_last)
    return Origin(f"{place}{norm}.{_NORM_LEAVES[leaf]}")


def _source(card: ModelCard) -> str:
    file = card.files[0]
    return f"{card.title}; {file.path.rpartition('/')[2]} of the package {file.package} {file.version}"
