"""What does any tensor inside an ONNX file hold? Asks onnxruntime for it as one more output of the graph."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from repsim_jax.activations.tap import known_layer
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, MissingPackageError

# Weights above this many numbers cannot be the target of a Reshape, so shape inference can do without their values.
_SHAPE_CONSTANT = 1024
# The folder of external weights, for a session that is made from bytes (onnxruntime_session_options_config_keys.h).
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


class OnnxTap:
    """Any floating-point tensor of an ONNX graph that depends on its inputs, by its name in the file.

    The file is loaded once; a session is made for each set of layers that is read, with these as its only outputs, so
    onnxruntime keeps no other. A graph with a fixed batch size is fed in batches of that size, the last one padded.
    Inputs are one array for a graph with one input, else {input: array}; they are cast to the type that it declares.

    Attributes:
        name: The name of the file, without its suffix.
        channel_axis: Maps are (b, c, h, w).

    Raises:
        CorruptFileError: If the file is not an ONNX model.
        FileError: If there is no such file.
        MissingPackageError: If onnx or onnxruntime is not installed.
    """

    def __init__(self, path: Path):
        self.name = path.stem
        self.channel_axis = 1
        self._path = path
        self._model = _load(path)
        self._outputs = [output.name for output in self._model.graph.output]
        held = {initializer.name for initializer in self._model.graph.initializer}
        self._inputs = {i.name: i.type.tensor_type for i in self._model.graph.input if i.name not in held}
        self._session: tuple[tuple[str, ...], Any] | None = None

    def weights_sha256(self) -> str:
        """Tells this file from another version of it.

        Returns:
            The sha256 of the file and of the files beside it that hold its weights, in hexadecimal.
        """
        digest = hashlib.sha256(self._model.SerializeToString(deterministic=True))
        folder = self._path.resolve().parent
        entries = [entry for held in self._model.graph.initializer for entry in held.external_data]
        for location in sorted({entry.value for entry in entries if entry.key == "location"}):
            beside = (folder / location).resolve()
            if beside.is_file() and beside.is_relative_to(folder):
                with beside.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def layers(self, inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Names every floating-point tensor with its shape, by ONNX shape inference; runs only where that cannot tell.

        Args:
            inputs: An array with leading axis b, or {input: array}.

        Returns:
            The names of the file, in the order of computation.

        Raises:
            BadArrayError: If the inputs are not those of the graph.
        """
        feed = self._feed(inputs)
        size, batch = self._rows(feed)
        inferred = _inferred(self._model, {name: (batch, *value.shape[1:]) for name, value in feed.items()})
        names = _computed(self._model.graph, self._inputs)
        unknown = tuple(name for name in names if name not in inferred)
        # Few rows, since all of these tensors are held at once; an odd number of them for odd batches, so that a tensor
        # whose leading axis happens to be as long is found out when the caller asks again with one example more.
        few = batch if batch != size else min(batch, 2 + batch % 2)
        ran = self._run({name: _rows(value, 0, few) for name, value in feed.items()}, unknown) if unknown else {}
        found = {name: inferred[name] if name in inferred else _struct(ran.get(name), few, batch) for name in names}
        floating = {
            name: one for name, one in found.items() if one is not None and np.issubdtype(one.dtype, np.floating)
        }
        return {
            name: jax.ShapeDtypeStruct((size if one.shape[0] == batch else one.shape[0], *one.shape[1:]), one.dtype)
            for name, one in floating.items()
            if one.shape
        }

    def read(self, inputs: Any, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Runs the graph and returns the named tensors.

        Args:
            inputs: An array with leading axis b, or {input: array}.
            names: Some of the names that ``layers`` gives.

        Returns:
            One array per name.

        Raises:
            UnknownNameError: If a tensor does not exist.
            BadArrayError: If the inputs are not those of the graph, or onnxruntime refuses them.
        """
        known = _computed(self._model.graph, self._inputs)
        for name in names:
            known_layer(name, known)
        feed = self._feed(inputs)
        size, batch = self._rows(feed)
        parts = [
            self._run({name: _rows(value, start, batch) for name, value in feed.items()}, names)
            for start in range(0, size, batch)
        ]
        return {name: np.concatenate([part[name] for part in parts])[:size] for name in names}

    def _feed(self, inputs: Any) -> dict[str, np.ndarray]:
        given = dict(inputs) if isinstance(inputs, Mapping) else {next(iter(self._inputs), "input"): inputs}
        if set(given) != set(self._inputs):
            got = sorted(map(str, given)) if isinstance(inputs, Mapping) else "one array"
            raise BadArrayError(f"{self.name} takes inputs {sorted(self._inputs)}, got {got}. Pass {{name: array}}.")
        return {name: np.asarray(one).astype(_numpy_type(self._inputs[name].elem_type)) for name, one in given.items()}

    def _rows(self, feed: Mapping[str, np.ndarray]) -> tuple[int, int]:
        """The rows that came, and the rows that one run of the graph takes."""
        sizes = {value.shape[0] if value.ndim else None for value in feed.values()}
        if len(sizes) != 1 or not all(sizes):
            got = sorted(map(str, sizes))
            raise BadArrayError(f"the inputs of {self.name} must share a leading axis of examples, got {got}.")
        size = next(iter(feed.values())).shape[0]
        fixed = {t.shape.dim[0].dim_value for t in self._inputs.values() if t.shape.dim and t.shape.dim[0].dim_value}
        return size, fixed.pop() if len(fixed) == 1 else size

    def _run(self, feed: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
        if self._session is None or self._session[0] != names:
            self._session = (names, _session(self._model, self._path, names))
        try:
            return dict(zip(names, self._session[1].run(list(names), feed), strict=True))
        except Exception as error:  # onnxruntime has no public base class of its errors
            shapes = {name: value.shape for name, value in feed.items()}
            text = f"onnxruntime could not run {self.name} on inputs of shape {shapes}: {error}"
            raise BadArrayError(text) from error


def _load(path: Path) -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (asked for now, so that a missing package is told before the data are read)
    except ImportError as error:
        raise MissingPackageError.of(error.name or "onnx", "to read ONNX files", "onnx") from error
    if not path.is_file():
        raise FileError(path, "no such file; expected an ONNX model.")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError comes from a module that depends on its back end
        raise CorruptFileError(path, f"not an ONNX model ({type(error).__name__}). Export it again.") from error
    if not model.graph.node:
        raise CorruptFileError(path, "not an ONNX model: its graph has no nodes. Export it again.")
    return model


def _session(model: Any, path: Path, names: Iterable[str]) -> Any:
    import onnx
    import onnxruntime

    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(_EXTERNAL_FOLDER, str(path.resolve().parent))
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(asked.SerializeToString(), options, providers=providers)
    except Exception as error:  # onnxruntime has no public base class of its errors
        raise CorruptFileError(path, f"onnxruntime cannot run this graph: {error}") from error


def _computed(graph: Any, inputs: Iterable[str]) -> tuple[str, ...]:
    """The tensors that depend on the graph's inputs, in the order of the nodes, which in ONNX is topological."""
    live, found = set(inputs), []
    for node in graph.node:
        if live.intersection(node.input) or node.op_type in ("If", "Loop", "Scan"):  # which may read any outer tensor
            outputs = [name for name in node.output if name]
            found.extend(outputs)
            live.update(outputs)
    return tuple(found)


def _inferred(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the tensors that ONNX shape inference can tell, for inputs of these shapes."""
    import onnx

    skeleton = _without_weights(model)
    for value in skeleton.graph.input:
        if value.name in shapes:
            value.type.tensor_type.ClearField("shape")
            for size in shapes[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = size
    for value in skeleton.graph.output:
        value.type.tensor_type.ClearField("shape")
    del skeleton.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return {}
    found = {}
    for value in (*graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes = [dim.dim_value for dim in kind.shape.dim if dim.HasField("dim_value")]
        if kind.elem_type and kind.HasField("shape") and len(sizes) == len(kind.shape.dim):
            found[value.name] = jax.ShapeDtypeStruct(tuple(sizes), _numpy_type(kind.elem_type))
    return found


def _without_weights(model: Any) -> Any:
    """The model with its large weights declared as inputs: all that shape inference needs, and small to pass around."""
    import onnx

    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    held = {initializer.name for initializer in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in held)
    for initializer in model.graph.initializer:
        external = initializer.data_location == onnx.TensorProto.EXTERNAL
        if external or np.prod(initializer.dims) > _SHAPE_CONSTANT:
            shape = list(initializer.dims)
            graph.input.append(onnx.helper.make_tensor_value_info(initializer.name, initializer.data_type, shape))
        else:
            graph.initializer.append(initializer)
    return skeleton


def _numpy_type(elem_type: int) -> np.dtype[Any]:
    import onnx

    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def _struct(value: Any, few: int, batch: int) -> jax.ShapeDtypeStruct | None:
    if not isinstance(value, np.ndarray):  # a sequence or a map
        return None
    shape = (batch, *value.shape[1:]) if value.shape[:1] == (few,) else value.shape
    return jax.ShapeDtypeStruct(shape, value.dtype)


def _rows(value: np.ndarray, start: int, batch: int) -> np.ndarray:
    part = value[start : start + batch]
    return part if len(part) == batch else np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
