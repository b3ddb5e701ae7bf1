"""Slow textbook twins of the image encoders, in NumPy float64, and the folders that hold their weights."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Params = dict[str, np.ndarray]


def cubic_weight(distance: float, a: float = -0.75) -> float:
    """Keys' kernel, as PyTorch's documentation of bicubic interpolation has it."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resize_bicubic(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Every output from its sixteen neighbors, one at a time; (h, w, d) to (rows, columns, d)."""
    height, width, depth = grid.shape
    out = np.zeros((rows, columns, depth))
    for i in range(rows):
        for j in range(columns):
            y, x = (i + 0.5) * height / rows - 0.5, (j + 0.5) * width / columns - 0.5
            for m in range(math.floor(y) - 1, math.floor(y) + 3):
                for n in range(math.floor(x) - 1, math.floor(x) + 3):
                    pixel = grid[min(max(m, 0), height - 1), min(max(n, 0), width - 1)]
                    out[i, j] += cubic_weight(y - m) * cubic_weight(x - n) * pixel
    return out


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * weight + bias


def softmax(x: np.ndarray) -> np.ndarray:
    exponent = np.exp(x - x.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
}


def vit_params(
    rng: np.random.Generator,
    *,
    width: int = 8,
    num_layers: int = 2,
    mlp_width: int = 12,
    patch: int = 4,
    grid: int = 3,
    layer_scale: bool = False,
    pre_norm: bool = False,
    patch_bias: bool = True,
    embedding: int | None = None,
) -> Params:
    """Random parameters of a Vision Transformer, matrices (out, in) as PyTorch keeps them, under neutral names."""
    shapes: dict[str, tuple[int, ...]] = {
        "class": (width,),
        "positions": (1 + grid * grid, width),
        "patch.weight": (width, 3, patch, patch),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if patch_bias:
        shapes["patch.bias"] = (width,)
    if pre_norm:
        shapes |= {"pre.weight": (width,), "pre.bias": (width,)}
    if embedding:
        shapes["projection.weight"] = (embedding, width)
    for index in range(num_layers):
        linear = dict.fromkeys("qkvo", (width, width)) | {"up": (mlp_width, width), "down": (width, mlp_width)}
        for part, shape in linear.items():
            shapes |= {f"{index}.{part}.weight": shape, f"{index}.{part}.bias": shape[:1]}
        for part in ("ln1", "ln2"):
            shapes |= {f"{index}.{part}.weight": (width,), f"{index}.{part}.bias": (width,)}
        if layer_scale:
            shapes |= {f"{index}.scale1": (width,), f"{index}.scale2": (width,)}
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def vit_hidden(params: Params, images: np.ndarray, *, num_heads: int, activation: str, epsilon: float) -> Params:
    """Every hidden layer, from ``vit_params``; images are (b, height, width, 3)."""
    p = {name: value.astype(np.float64) for name, value in params.items()}
    d, _, side, _ = p["patch.weight"].shape
    b, rows, columns = len(images), images.shape[1] // side, images.shape[2] // side
    patches = np.zeros((b, rows, columns, d))
    for i in range(rows):
        for j in range(columns):
            window = images[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
            patches[:, i, j] = np.einsum("bhwc,dchw->bd", window, p["patch.weight"]) + p.get("patch.bias", 0)
    grid = math.isqrt(len(p["positions"]) - 1)
    patches += resize_bicubic(p["positions"][1:].reshape(grid, grid, d), rows, columns)
    first = np.broadcast_to(p["class"] + p["positions"][0], (b, 1, d))
    x = np.concatenate([first, patches.reshape(b, -1, d)], axis=1)
    if "pre.weight" in p:
        x = layer_norm(x, p["pre.weight"], p["pre.bias"], epsilon)
    hidden, index = {"stem": x}, 0
    while f"{index}.q.weight" in p:
        x = _block(p, f"{index}.", x, hidden, f"block_{index}", num_heads, activation, epsilon)
        index += 1
    hidden["norm"] = layer_norm(x, p["norm.weight"], p["norm.bias"], epsilon)
    token = hidden["norm"][:, 0]
    hidden["output"] = token @ p["projection.weight"].T if "projection.weight" in p else token
    return hidden


def _block(
    p: Params, at: str, x: np.ndarray, hidden: Params, name: str, num_heads: int, activation: str, epsilon: float
) -> np.ndarray:
    def linear(part: str, z: np.ndarray) -> np.ndarray:
        return z @ p[f"{at}{part}.weight"].T + p[f"{at}{part}.bias"]

    y = layer_norm(x, p[at + "ln1.weight"], p[at + "ln1.bias"], epsilon)
    query, key, value = (linear(part, y) for part in "qkv")
    for part, array in zip(("query", "key", "value"), (query, key, value), strict=True):
        hidden[f"{name}/attention/{part}"] = array
    size = x.shape[-1] // num_heads
    mixed = np.zeros_like(x)
    for example in range(len(x)):
        for head in range(num_heads):
            columns = slice(head * size, (head + 1) * size)
            scores = query[example, :, columns] @ key[example, :, columns].T / math.sqrt(size)
            mixed[example, :, columns] = softmax(scores) @ value[example, :, columns]
    x = x + p.get(at + "scale1", 1) * linear("o", mixed)
    y = layer_norm(x, p[at + "ln2.weight"], p[at + "ln2.bias"], epsilon)
    x = x + p.get(at + "scale2", 1) * linear("down", ACTIVATIONS[activation](linear("up", y)))
    hidden[name] = x
    return x


# Neutral names to those in files that transformers 5.23.0 writes
_BLOCK_NAMES = {
    "vit": (
        "encoder.layer.{}.",
        {
            "q": "attention.attention.query",
            "k": "attention.attention.key",
            "v": "attention.attention.value",
            "o": "attention.output.dense",
            "up": "intermediate.dense",
            "down": "output.dense",
            "ln1": "layernorm_before",
            "ln2": "layernorm_after",
        },
    ),
    "dinov2": (
        "encoder.layer.{}.",
        {
            "q": "attention.attention.query",
            "k": "attention.attention.key",
            "v": "attention.attention.value",
            "o": "attention.output.dense",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
            "ln1": "norm1",
            "ln2": "norm2",
            "scale1": "layer_scale1.lambda1",
            "scale2": "layer_scale2.lambda1",
        },
    ),
    "clip": (
        "encoder.layers.{}.",
        {
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.out_proj",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
            "ln1": "layer_norm1",
            "ln2": "layer_norm2",
        },
    ),
}


def hugging_face_tensors(params: Params, family: str, prefix: str) -> Params:
    """The parameters under the names and in the shapes of a Hugging Face file."""
    at, names = _BLOCK_NAMES[family]
    tensors = {}
    for name, value in params.items():
        index, _, rest = name.partition(".")
        if index.isdecimal():
            part, _, leaf = rest.partition(".")
            tensors[f"{prefix}{at.format(index)}{names[part]}{'.' + leaf if leaf else ''}"] = value
    if family == "clip":
        outside = {
            "class": "embeddings.class_embedding",
            "positions": "embeddings.position_embedding.weight",
            "patch.weight": "embeddings.patch_embedding.weight",
            "pre.weight": "pre_layrnorm.weight",
            "pre.bias": "pre_layrnorm.bias",
            "norm.weight": "post_layernorm.weight",
            "norm.bias": "post_layernorm.bias",
        }
        tensors |= {prefix + theirs: params[ours] for ours, theirs in outside.items()}
        if "projection.weight" in params:
            tensors["visual_projection.weight"] = params["projection.weight"]
        return tensors
    embeddings = f"{prefix}embeddings."
    return tensors | {
        f"{embeddings}cls_token": params["class"][None, None],
        f"{embeddings}position_embeddings": params["positions"][None],
        f"{embeddings}patch_embeddings.projection.weight": params["patch.weight"],
        f"{embeddings}patch_embeddings.projection.bias": params["patch.bias"],
        f"{prefix}layernorm.weight": params["norm.weight"],
        f"{prefix}layernorm.bias": params["norm.bias"],
    }


def write_folder(folder: Path, config: dict[str, Any], tensors: Params) -> Path:
    """Writes config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def convolve_same(x: np.ndarray, kernel: np.ndarray, stride: int, groups: int = 1) -> np.ndarray:
    """TensorFlow's "SAME" convolution by loops; x (b, h, w, c), kernel (height, width, c / groups, out)."""
    side, out_width = kernel.shape[0], kernel.shape[-1]
    sizes = [math.ceil(size / stride) for size in x.shape[1:3]]
    pads = [max((out - 1) * stride + side - size, 0) for out, size in zip(sizes, x.shape[1:3], strict=True)]
    x = np.pad(x, [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)])
    out = np.zeros((len(x), *sizes, out_width))
    per_group, per_out = x.shape[-1] // groups, out_width // groups
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            window = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            for g in range(groups):
                outs = slice(g * per_out, (g + 1) * per_out)
                part = window[..., g * per_group : (g + 1) * per_group]
                out[:, i, j, outs] = np.einsum("bhwc,hwco->bo", part, kernel[..., outs])
    return out
