"""Whose rounding is the difference? Our float32 and onnxruntime's, both against the same network in float64.

    python benchmarks/pretrained_precision.py --data DIR

DIR holds imagenet_sample1000_256.parquet (column jpeg). Without it the photographs are scikit-learn's two, and nothing
is written.
"""

import argparse
from pathlib import Path
from typing import Any

import _onnx_engines
import jax
import jax.numpy as jnp
import numpy as np
from _record import record
from flax import nnx
from pretrained_checks import photographs

from repsim_jax import activations, pretrained
from repsim_jax.pretrained.registry import CARDS
from repsim_jax.pretrained.weights import read_pinned

CLIP_LAYERS = {
    "block_6": "/vision_model/encoder/layers.6/Add_1_output_0",
    "block_11": "onnx::Gather_1524",
    "head": "image_embeds",
}
VIT_LAYERS = {f"block_{index}": f"/backbone/encoder/layer.{index}/Add_1_output_0" for index in (6, 10, 11)}
VIT_LAYERS["norm"] = "/backbone/layernorm/Add_1_output_0"


def widened(model: nnx.Module) -> nnx.Module:
    """The same network with float64 parameters."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state))


def compare(model: pretrained.Pretrained, engine: Any, pixels: np.ndarray, layers: dict[str, str]) -> dict[str, Any]:
    """Largest absolute error of either float32 program, per layer, and the largest value it is an error of."""
    ours = activations.tap(model.model).read(pixels, tuple(layers))
    theirs = _onnx_engines.run(engine, pixels, layers.values())
    with jax.enable_x64(True):
        exact = activations.tap(widened(model.model)).read(pixels.astype(np.float64), tuple(layers))
        exact = {name: np.asarray(array) for name, array in exact.items()}
    assert all(array.dtype == np.float64 for array in exact.values())
    return {
        name: {
            "ours": float(np.abs(np.asarray(ours[name]) - exact[name]).max()),
            "onnxruntime": float(np.abs(theirs[other] - exact[name]).max()),
            "largest_value": float(np.abs(exact[name]).max()),
        }
        for name, other in layers.items()
    }


def main() -> None:
    """Measures both transformers on eight photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    data = parser.parse_args().data
    images = photographs(data)[0][:8]
    ids = tuple(map(str, range(len(images))))
    clip, saliency = pretrained.load("clip-vit-b16"), pretrained.load("vit-s14-saliency")
    float_graph = _onnx_engines.without_quantization(read_pinned(CARDS[clip.name].files[0]))
    content = read_pinned(CARDS[saliency.name].files[0])
    errors = {clip.name: compare(clip, float_graph, clip.prepare(images, ids).inputs, CLIP_LAYERS)}
    for size in (224, 280):
        pixels = type(saliency.prepare)(size=size, short_side=size)(images, ids).inputs
        errors[f"{saliency.name} at {size}"] = compare(saliency, content, pixels, VIT_LAYERS)
    result = {"photographs": len(images), "largest_error_against_float64": errors}
    print(result)
    if data is not None:
        packages = [
            "onnx",
            "onnxruntime",
            "pillow",
            *(CARDS[name].files[0].package for name in (clip.name, saliency.name)),
        ]
        print(record("pretrained_vision_precision", result, seeds=[], packages=packages))


if __name__ == "__main__":
    main()
