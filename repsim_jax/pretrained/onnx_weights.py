"""What are the weights in an ONNX file that PyTorch exported, under the names that PyTorch gave them?"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from repsim_jax.errors import MissingPackageError


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """Reads every weight as float32, without running the model.

    The exporter keeps the names of biases and norms, but transposes matrices and calls them "onnx::MatMul_1541"; the
    node that multiplies by one is named after its module, "/encoder/layer.0/mlp/fc1/MatMul". Integer matrices of
    dynamic quantization become ``(quantized - zero_point) * scale``, column by column.

    Args:
        content: The bytes of the file.

    Returns:
        Tensors by name; matrices as PyTorch's (out, in), named "encoder.layer.0.mlp.fc1.weight".

    Raises:
        MissingPackageError: If onnx is not installed.

    Source:
        The ONNX operators MatMul and MatMulInteger.
    """
    try:
        import onnx
    except ImportError:
        raise MissingPackageError.of("onnx", "to read the weights of this model", "onnx") from None
    graph = onnx.load_from_string(content).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors, used = {}, set()
    for name, parts, matrix in _matrices(graph, stored):
        tensors[name] = matrix.T
        used.update(parts)
    return tensors | {name: array for name, array in stored.items() if name not in used}


def _matrices(graph: Any, stored: dict[str, np.ndarray]) -> Iterator[tuple[str, tuple[str, ...], np.ndarray]]:
    """Yields (module's name, names of the stored parts, matrix (in, out)) of every product with a stored matrix."""
    for node in graph.node:
        if node.op_type not in ("MatMul", "MatMulInteger") or node.input[1] not in stored:
            continue
        name = node.name.rpartition("/")[0].strip("/").replace("/", ".") + ".weight"
        if node.op_type == "MatMul":
            yield name, (node.input[1],), stored[node.input[1]]
        else:
            base = node.input[1].removesuffix("_quantized")
            parts = (node.input[1], f"{base}_zero_point", f"{base}_scale")
            quantized, zero_point, scale = (stored[part].astype(np.float32) for part in parts)
            yield name, parts, (quantized - zero_point) * scale
