"""Do the pretrained image models compute what their own engines compute?

    python benchmarks/pretrained_checks.py --data DIR [--rivals VENV]

DIR holds imagenet_sample1000_256.parquet (columns jpeg, class_index); VENV is an environment with torch, transformers.
Without DIR the photographs are scikit-learn's two, top-1 is left out, and nothing is written.
"""

import argparse
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _onnx_engines
import numpy as np
from _record import record

from repsim_jax import activations, pretrained
from repsim_jax.pretrained.registry import CARDS
from repsim_jax.pretrained.weights import locate, read_pinned

NUM_PHOTOGRAPHS = 32  # for the comparisons of hidden layers
LITES = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
FOLDERS = ("vit", "vit_classifier", "dinov2", "clip_vision", "clip", "vit_mae", "vit_mae_pretraining")
PARTS = ("query", "key", "value")


def photographs(data: Path | None) -> tuple[list[Any], np.ndarray | None]:
    """Images and, where there are, their ImageNet classes."""
    if data is None:
        from sklearn.datasets import load_sample_images

        return list(load_sample_images().images), None
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(data / "imagenet_sample1000_256.parquet", columns=["jpeg", "class_index"])
    images = [Image.open(io.BytesIO(jpeg)) for jpeg in table["jpeg"].to_pylist()]
    return images, np.asarray(table["class_index"])


def prepared(model: pretrained.Pretrained, images: list[Any]) -> np.ndarray:
    """Pixels as the model wants them."""
    return model.prepare(images, tuple(map(str, range(len(images))))).inputs


def differences(ours: dict[str, Any], theirs: dict[str, np.ndarray], names: dict[str, str]) -> dict[str, float]:
    """Largest absolute difference per layer; ``names`` maps our layers to theirs."""
    return {name: float(np.abs(np.asarray(ours[name]) - theirs[other]).max()) for name, other in names.items()}


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine of each row of x with the same row of y."""
    return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def check_clip(images: list[Any]) -> dict[str, Any]:
    """Against the int8 engine (a cosine), and against the same graph with its activations in float32 (exactly)."""
    name = "clip-vit-b16"
    model, content = pretrained.load(name), read_pinned(CARDS[name].files[0])
    pixels = prepared(model, images[:NUM_PHOTOGRAPHS])
    layers = {
        "block_0": "/vision_model/encoder/layers.0/Add_1_output_0",
        "block_6": "/vision_model/encoder/layers.6/Add_1_output_0",
        "block_11": "onnx::Gather_1524",
        "head": "image_embeds",
    }
    projections = {part: f"/vision_model/encoder/layers.6/self_attn/{part[0]}_proj/Add_output_0" for part in PARTS}
    layers |= {f"block_6/attention/{part}": other for part, other in projections.items()}
    ours = activations.tap(model.model).read(pixels, tuple(layers))
    exact = _onnx_engines.run(_onnx_engines.without_quantization(content), pixels, layers.values())
    integer = _onnx_engines.run(content, pixels, layers.values())
    alike = cosine(np.asarray(ours["head"]), integer["image_embeds"])
    return {
        "photographs": len(pixels),
        "cosine_to_int8_engine": {"min": float(alike.min()), "mean": float(alike.mean()), "max": float(alike.max())},
        "largest_difference_to_float_graph": differences(ours, exact, layers),
        "largest_value": {name: float(np.abs(exact[other]).max()) for name, other in layers.items()},
    }


def check_vit_s(images: list[Any]) -> dict[str, Any]:
    """Against onnxruntime, at the packaged size and at two that resize the positions in other ways."""
    name = "vit-s14-saliency"
    model, content = pretrained.load(name), read_pinned(CARDS[name].files[0])
    layers = {f"block_{index}": f"/backbone/encoder/layer.{index}/Add_1_output_0" for index in range(12)}
    layers["norm"] = "/backbone/layernorm/Add_1_output_0"
    for part in PARTS:
        layers[f"block_6/attention/{part}"] = f"/backbone/encoder/layer.6/attention/attention/{part}/Add_output_0"
    found = {}
    for height, width in ((224, 224), (280, 280), (196, 308)):
        preparation = type(model.prepare)(size=max(height, width), short_side=max(height, width))
        pixels = preparation(images[:8], tuple(map(str, range(8)))[: len(images)]).inputs[:, :height, :width]
        ours = activations.tap(model.model).read(pixels, tuple(layers))
        found[f"{height} x {width}"] = differences(ours, _onnx_engines.run(content, pixels, layers.values()), layers)
    return {"photographs": min(8, len(images)), "largest_difference": found}


def check_top1(images: list[Any], classes: np.ndarray) -> dict[str, float]:
    """Share of photographs whose class is the largest logit, in percent."""
    found = {}
    for name in LITES:
        model = pretrained.load(name)
        tap = activations.tap(model.model)
        said = [
            np.asarray(tap.read(prepared(model, images[start : start + 50]), ("output",))["output"]).argmax(-1)
            for start in range(0, len(images), 50)
        ]
        found[name] = float(100 * (np.concatenate(said) == classes).mean())
    return found


def check_rivals(venv: Path, images: list[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """PyTorch's logits of EfficientNet-Lite; transformers' hidden states of small random models of every family."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "weights").mkdir()
        lites = {name: pretrained.load(name) for name in LITES}
        pixels = {name: prepared(model, images[:8]) for name, model in lites.items()}
        for name in LITES:
            shutil.copyfile(locate(CARDS[name].files[0]), folder / "weights" / f"{name}.pth")
        pixels["square"] = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
        pixels["oblong"] = rng.normal(size=(4, 48, 40, 3)).astype(np.float32)
        np.savez(folder / "images.npz", **pixels)
        script = Path(__file__).with_name("_pretrained_rival.py")
        command = [str(venv / "bin" / "python"), str(script), str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        words = done.stdout.split()
        logits = np.load(folder / "efficientnet.npz")
        torch = {
            name: float(np.abs(np.asarray(model.model(pixels[name])) - logits[name]).max())
            for name, model in lites.items()
        }
        transformers = {name: check_folder(folder / name, pixels) for name in FOLDERS}
    found = {
        "efficientnet_logits_largest_difference_to_torch": torch,
        "largest_logit": {name: float(np.abs(logits[name]).max()) for name in LITES},
        "hidden_layers_largest_difference_to_transformers": transformers,
    }
    return found, dict(zip(words[::2], words[1::2], strict=True))


def check_folder(folder: Path, pixels: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference over all hidden states and the output, per image size."""
    model, found = pretrained.load_local(folder), {}
    hidden = {name: f"hidden_{index}" for index, name in enumerate(model.layers[:-1])}
    for shape, file in (("square", "outputs.npz"), ("oblong", "outputs_other_size.npz")):
        if (folder / file).exists():
            ours = activations.tap(model.model).read(pixels[shape], (*hidden, "output"))
            found[shape] = max(differences(ours, np.load(folder / file), hidden | {"output": "output"}).values())
    return found


def attempt(name: str, check: Callable[[], Any]) -> Any:
    """Runs a check and says what it found."""
    print(f"{name} ...", flush=True)
    found = check()
    print(found, flush=True)
    return found


def main() -> None:
    """Runs every check that can run here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rivals", type=Path, default=os.environ.get("RIVALS"))
    asked = parser.parse_args()
    images, classes = photographs(asked.data)
    result = {
        "clip-vit-b16": attempt("clip-vit-b16", lambda: check_clip(images)),
        "vit-s14-saliency": attempt("vit-s14-saliency", lambda: check_vit_s(images)),
    }
    rivals = {}
    if asked.rivals and (Path(asked.rivals) / "bin" / "python").exists():
        result["rivals"], rivals = attempt("rivals", lambda: check_rivals(Path(asked.rivals), images))
    if classes is not None:
        result["top1_percent_of_1000_imagenet_images"] = attempt("top-1", lambda: check_top1(images, classes))
        packages = ["onnx", "onnxruntime", "pillow", *(CARDS[name].files[0].package for name in pretrained.names()[:5])]
        print(record("pretrained_vision", result, seeds=[0], packages=packages, rivals=rivals))


if __name__ == "__main__":
    main()
