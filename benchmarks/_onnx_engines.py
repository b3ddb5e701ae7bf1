"""What onnxruntime computes from a packaged ONNX file: any hidden tensor, at any image size, with or without int8."""

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime


def run(content: bytes | onnx.ModelProto, images: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Runs the graph on NHWC images of any size and returns the named tensors."""
    model = onnx.load_from_string(content) if isinstance(content, bytes) else content
    (entry,) = model.graph.input
    for axis in (2, 3):
        entry.type.tensor_type.shape.dim[axis].dim_param = f"size_{axis}"
    known = {output.name for output in model.graph.output}
    names = list(names)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the declared sizes have changed, as they should
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return dict(zip(names, session.run(names, {entry.name: pixels}), strict=True))


def without_quantization(content: bytes) -> onnx.ModelProto:
    """Replaces each integer product of quantized activations by a float product with the dequantized matrix."""
    model = onnx.load_from_string(content)
    graph = model.graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    users = {node_input: node for node in graph.node for node_input in node.input}
    dropped, products = set(), {}
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        activation = makers[node.input[0]].input[0]
        cast = users[node.output[0]]
        scaled = users[cast.output[0]]
        base = node.input[1].removesuffix("_quantized")
        matrix = (stored[node.input[1]].astype(np.float32) - stored[f"{base}_zero_point"]) * stored[f"{base}_scale"]
        graph.initializer.append(onnx.numpy_helper.from_array(matrix, f"{base}_float"))
        products[scaled.name] = onnx.helper.make_node("MatMul", [activation, f"{base}_float"], [scaled.output[0]])
        dropped.update((node.name, cast.name))
    nodes = [products.get(node.name, node) for node in graph.node if node.name not in dropped]
    del graph.node[:]
    graph.node.extend(nodes)
    return model
