"""Slow textbook twins of the text encoders, in NumPy float64, one unpadded text at a time, and the files they read."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from repsim_jax.encoders.bert import Bert, BertConfig

Tensors = dict[str, np.ndarray]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "on", "mat", "a", "é"]


def erf_gelu(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda one: 0.5 * one * (1 + math.erf(one / math.sqrt(2))))(x)


def layer_norm(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, epsilon: float) -> np.ndarray:
    rows = [(row - row.mean()) / math.sqrt(row.var() + epsilon) for row in x]
    return np.stack(rows) * scale + shift


def bert_layers(tensors: Tensors, ids: Sequence[int], config: BertConfig) -> Tensors:
    """Every hidden layer of one text under our names, from tensors under Hugging Face's names without a prefix."""
    double = {name: value.astype(np.float64) for name, value in tensors.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ double[f"{name}.weight"].T + double[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return layer_norm(x, double[f"{name}.weight"], double[f"{name}.bias"], config.norm_epsilon)

    rows = [
        double["embeddings.word_embeddings.weight"][word]
        + double["embeddings.position_embeddings.weight"][config.first_position + place]
        + double["embeddings.token_type_embeddings.weight"][0]
        for place, word in enumerate(ids)
    ]
    x = norm("embeddings.LayerNorm", np.stack(rows))
    layers = {"embeddings": x}
    for index in range(config.num_layers):
        at = f"encoder.layer.{index}."
        three = {part: linear(f"{at}attention.self.{part}", x) for part in ("query", "key", "value")}
        q, k, v = three.values()
        size = config.width // config.num_heads
        mixed = np.zeros_like(q)
        for head in range(config.num_heads):
            part = slice(head * size, (head + 1) * size)
            for t in range(len(ids)):
                scores = np.array([q[t, part] @ k[s, part] / math.sqrt(size) for s in range(len(ids))])
                weights = np.exp(scores - scores.max())
                mixed[t, part] = weights / weights.sum() @ v[:, part]
        x = norm(f"{at}attention.output.LayerNorm", x + linear(f"{at}attention.output.dense", mixed))
        hidden = erf_gelu(linear(f"{at}intermediate.dense", x))
        x = norm(f"{at}output.LayerNorm", x + linear(f"{at}output.dense", hidden))
        layers |= {f"block_{index}/attention/{part}": one for part, one in three.items()}
        layers[f"block_{index}"] = x
    return layers


def bert_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a Hugging Face BERT without its pooler."""
    d, m = config.width, config.mlp_width
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, d),
        "embeddings.position_embeddings.weight": (config.num_positions, d),
        "embeddings.token_type_embeddings.weight": (config.num_types, d),
    }
    linears = {"attention.self.query": (d, d), "attention.self.key": (d, d), "attention.self.value": (d, d)}
    linears |= {"attention.output.dense": (d, d), "intermediate.dense": (m, d), "output.dense": (d, m)}
    norms = ["embeddings.LayerNorm"]
    for index in range(config.num_layers):
        at = f"encoder.layer.{index}."
        for name, shape in linears.items():
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    return shapes | {f"{name}.{leaf}": (d,) for name in norms for leaf in ("weight", "bias")}


def bert_tensors(config: BertConfig, seed: int = 0) -> Tensors:
    """Random tensors, large enough that every one of them is felt in the output."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(size=shape, scale=0.5).astype(np.float32) for name, shape in bert_shapes(config).items()
    }


def filled(model: Bert, tensors: Tensors) -> Bert:
    """Writes the tensors into a module, part by part."""

    def put(linear: nnx.Linear, name: str) -> None:
        linear.kernel = nnx.Param(tensors[f"{name}.weight"].T)
        linear.bias = nnx.Param(tensors[f"{name}.bias"])

    def put_norm(norm: nnx.LayerNorm, name: str) -> None:
        norm.scale, norm.bias = nnx.Param(tensors[f"{name}.weight"]), nnx.Param(tensors[f"{name}.bias"])

    for part in ("word", "position"):
        getattr(model.embeddings, part).embedding = nnx.Param(tensors[f"embeddings.{part}_embeddings.weight"])
    model.embeddings.type.embedding = nnx.Param(tensors["embeddings.token_type_embeddings.weight"])
    put_norm(model.embeddings.norm, "embeddings.LayerNorm")
    for index in range(model.config.num_layers):
        block, at = getattr(model, f"block_{index}"), f"encoder.layer.{index}."
        for part in ("query", "key", "value"):
            put(getattr(block.attention, part), f"{at}attention.self.{part}")
        put(block.attention.out, f"{at}attention.output.dense")
        put_norm(block.norm_attention, f"{at}attention.output.LayerNorm")
        put(block.mlp.expand, f"{at}intermediate.dense")
        put(block.mlp.project, f"{at}output.dense")
        put_norm(block.norm_mlp, f"{at}output.LayerNorm")
    return model


def write_bert_folder(folder: Path, config: BertConfig, tensors: Tensors, **settings: Any) -> Path:
    """A folder as ``save_pretrained`` leaves it, with a WordPiece vocabulary of twelve tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.num_positions,
        "type_vocab_size": config.num_types,
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": "gelu",
        "pad_token_id": 0,
    }
    kept = {name: value for name, value in (values | settings).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def use_embedding(
    tensors: Mapping[str, np.ndarray], ids: Sequence[int], orders: Sequence[int], epsilon: float
) -> Tensors:
    """The convolutional Universal Sentence Encoder on one text; tensors under the names of our module's parameters."""
    p = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    words = p["word/embedding"][list(ids)]
    projected = layer_norm(
        words @ p["projection/kernel"] + p["projection/bias"], p["projected/scale"], p["projected/bias"], epsilon
    )
    layers = {"word": words, "projected": projected}
    parts = [words]
    for order, part in zip(orders, np.split(projected, len(orders), axis=1), strict=True):
        for half in ("first", "second"):
            part = _gram_residual(part, p[f"branch_{order}/{half}/conv/kernel"], p[f"branch_{order}/{half}/conv/bias"])
            layers[f"branch_{order}/{half}"] = part
        parts.append(part)
    layers["joined"] = layer_norm(np.concatenate(parts, axis=1), p["joined/scale"], p["joined/bias"], epsilon)
    layers["tokens"] = layers["joined"] @ p["tokens/kernel"] + p["tokens/bias"]
    average = layers["average"] = layers["tokens"].sum(0) / math.sqrt(len(ids))
    first = np.maximum(average @ p["dense_0/main/kernel"], 0)
    second = np.maximum(first @ p["dense_1/main/kernel"] + average @ p["dense_1/skip/kernel"], 0)
    third = np.maximum(second @ p["dense_2/main/kernel"], 0)
    sentence = np.tanh(third @ p["sentence/main/kernel"] + second @ p["sentence/skip/kernel"])
    layers |= {"dense_0": first, "dense_1": second, "dense_2": third, "sentence": sentence}
    return layers | {"output": sentence / np.linalg.norm(sentence)}


def _gram_residual(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    order, left = len(kernel), (len(kernel) - 1) // 2
    out = np.tile(bias, (len(x), 1))
    for t in range(len(x)):
        for place in range(order):
            if 0 <= t - left + place < len(x):
                out[t] += x[t - left + place] @ kernel[place]
    return x + np.maximum(out, 0)


def best_segmentation(text: str, scores: Mapping[str, float], unknown: float) -> tuple[float, list[str]]:
    """Tries every way to cut a text; single characters outside of the vocabulary score ``unknown``."""
    if not text:
        return 0.0, []
    tries = []
    for size in range(1, len(text) + 1):
        score = scores.get(text[:size], unknown if size == 1 else None)
        if score is not None:
            rest, pieces = best_segmentation(text[size:], scores, unknown)
            tries.append((score + rest, [text[:size], *pieces]))
    return max(tries, key=lambda one: one[0])


def q4_0(matrix: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Packs a matrix into blocks of 32 numbers of 4 bits; returns the bytes and what they mean."""
    packed, meant = b"", []
    for block in matrix.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7 or 1)
        numbers = np.clip(np.round(block / np.float32(scale)), -8, 7).astype(int) + 8
        packed += scale.tobytes() + bytes(low | high << 4 for low, high in zip(numbers[:16], numbers[16:], strict=True))
        meant.append((numbers - 8) * np.float32(scale))
    return packed, np.concatenate(meant).reshape(matrix.shape).astype(np.float32)


E5_NAMES = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
E5_NAMES |= {"ao": "attention.output.dense", "aln": "attention.output.LayerNorm"}
E5_NAMES |= {"fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm"}


def e5_file(config: BertConfig, tensors: Tensors, pieces: Sequence[tuple[str, float]]) -> tuple[bytes, Tensors]:
    """An E5S1 file with the tokenizer "<s> <pad> </s> <unk> ...", and the tensors as its 4 bits keep them."""
    places = {"emb.word": "embeddings.word_embeddings.weight", "emb.pos": "embeddings.position_embeddings.weight"}
    places |= {"emb.type": "embeddings.token_type_embeddings.weight"}
    places |= {f"emb.ln.{short}": f"embeddings.LayerNorm.{leaf}" for short, leaf in (("w", "weight"), ("b", "bias"))}
    for index in range(config.num_layers):
        for short, name in E5_NAMES.items():
            places |= {
                f"l{index}.{short}.{leaf[0]}": f"encoder.layer.{index}.{name}.{leaf}" for leaf in ("weight", "bias")
            }
    header = b"E5S1" + struct.pack(
        "<I7ifi5i", 1, config.width, config.num_layers, config.num_heads, config.mlp_width, config.vocab_size,
        config.num_positions, config.num_types, config.norm_epsilon, 32, len(pieces), 0, 2, 1, 3,
    )  # fmt: skip
    words = [piece.encode() for piece, _ in pieces]
    ends = np.cumsum([0, *map(len, words)]).astype("<u4").tobytes()
    scores = np.array([score for _, score in pieces], "<f4").tobytes()
    replaced = struct.pack("<IB2I", ord("ﬁ"), 2, ord("f"), ord("i")) + struct.pack("<IB", 0x200B, 0)
    header += struct.pack("<Q", sum(map(len, words))) + ends + scores + b"".join(words)
    header += struct.pack("<iI", 2, len(replaced)) + replaced + struct.pack("<i", len(places))
    start = len(header) + sum(2 + len(name) + 21 for name in places)
    body, meant = b"", {}
    for ours, theirs in places.items():
        is_packed = ours == "emb.word" or (ours.endswith(".w") and "ln." not in ours)
        content, meant[theirs] = q4_0(tensors[theirs]) if is_packed else (tensors[theirs].tobytes(), tensors[theirs])
        header += struct.pack("<H", len(ours)) + ours.encode()
        header += struct.pack("<BIQQ", is_packed, tensors[theirs].size, start + len(body), len(content))
        body += content
    return header + body, meant
