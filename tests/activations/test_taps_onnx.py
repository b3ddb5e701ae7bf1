"""ONNX files: any floating-point tensor inside them, several inputs, unknown shapes, and files that are no models."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import twin_models as twins

from repsim_jax.activations.extract import extract
from repsim_jax.activations.tap import tap
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, MissingPackageError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

X = np.moveaxis(twins.images(), -1, 1)


def save(path, nodes, inputs, outputs, initializers=(), functions=()):
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    ends = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs]
    graph = helper.make_graph(nodes, "g", infos, ends, list(initializers))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions)), path)
    return path


@pytest.fixture
def twin(tmp_path):
    return twins.onnx_twin(twins.weights(), tmp_path / "twin.onnx")


def test_only_float_tensors_that_depend_on_the_input_are_layers(twin):
    assert list(tap(twin).layers(X)) == ["conv", "relu", "average", "pool", "fc_in", "fc_out", "head_out"]


def test_shape_inference_needs_no_run(twin, monkeypatch):
    found = tap(twin)
    monkeypatch.setattr(type(found), "_run", lambda *_: pytest.fail("it ran the graph"))
    assert found.layers(X)["conv"].shape == (7, 5, 6, 4)


def test_the_file_is_loaded_once_and_a_session_made_per_set_of_layers(twin, monkeypatch):
    import onnxruntime

    loads, sessions = [], []
    load, session = onnx.load, onnxruntime.InferenceSession
    monkeypatch.setattr(onnx, "load", lambda *args, **more: (loads.append(args), load(*args, **more))[1])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: (sessions.append(a), session(*a, **k))[1])
    found = tap(twin)
    for _ in range(3):
        found.read(X, ("conv",))
    found.read(X, ("conv", "pool"))
    assert len(loads) == 1
    assert len(sessions) == 2


def test_the_file_stays_as_it_is(twin):
    before = twin.read_bytes()
    tap(twin).read(X, ("conv",))
    assert twin.read_bytes() == before
    assert [path.name for path in twin.parent.iterdir()] == ["twin.onnx"]


def test_tensors_that_shape_inference_cannot_tell_are_run(tmp_path):
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["fused"], domain="com.microsoft"),
        helper.make_node("Tanh", ["fused"], ["out"]),
    ]
    w = numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "w")
    path = save(tmp_path / "m.onnx", nodes, [("x", 1, ["n", 4])], [("out", 1, ["n", 3])], [w])
    for n in (1, 2, 3, 50, 51):
        layers = tap(path).layers(np.ones((n, 4)))
        assert {name: one.shape for name, one in layers.items()} == {"fused": (n, 3), "out": (n, 3)}


@pytest.mark.parametrize("rows", [2, 3])
def test_a_table_of_unknown_shape_is_not_taken_for_a_layer(tmp_path, rows):
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["fused"], domain="com.microsoft"),
        helper.make_node("ReduceSum", ["fused", "axis"], ["sum"], keepdims=1),
        helper.make_node("FusedMatMul", ["ones", "sum"], ["table"], domain="com.microsoft"),
    ]
    held = {"w": np.eye(4, 3, dtype=np.float32), "axis": np.array([0]), "ones": np.ones((rows, 1), np.float32)}
    initializers = [numpy_helper.from_array(value, name) for name, value in held.items()]
    path = save(tmp_path / "m.onnx", nodes, [("x", 1, ["n", 4])], [("fused", 1, ["n", 3])], initializers)
    for n in (4, 5):
        got = extract(path, np.ones((n, 4)), layers="*")
        assert got.names == ("fused",)


def test_scalars_that_depend_on_the_input_are_no_layers(tmp_path):
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Div", ["x", "largest"], ["out"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [("x", 1, ["n", 4])], [("out", 1, ["n", 4])])
    assert list(tap(path).layers(np.ones((2, 4)))) == ["out"]


@pytest.fixture
def two_inputs(tmp_path):
    nodes = [
        helper.make_node("Cast", ["mask"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "as_float"], ["masked"]),
    ]
    inputs = [("x", TensorProto.FLOAT, ["n", 3]), ("mask", TensorProto.INT64, ["n", 3])]
    return save(tmp_path / "m.onnx", nodes, inputs, [("masked", TensorProto.FLOAT, ["n", 3])])


def test_several_inputs_come_as_a_dict_and_are_cast(two_inputs):
    inputs = {"x": np.full((2, 3), 2.0), "mask": np.array([[1, 0, 1], [0, 0, 1]], np.int32)}
    got = extract(two_inputs, [inputs], layers="masked").read("masked")
    np.testing.assert_array_equal(got, [[2, 0, 2], [0, 0, 2]])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.ones((2, 3)), r"takes inputs \['mask', 'x'\], got one array"),
        ({"x": np.ones((2, 3))}, r"got \['x'\]"),
        ({"x": np.ones((2, 3)), "mask": np.ones((3, 3))}, "must share a leading axis"),
        ({"x": np.ones((2, 3)), "mask": np.ones(())}, "must share a leading axis"),
        ({"x": np.ones((2, 5)), "mask": np.ones((2, 5))}, "onnxruntime could not run m on inputs of shape"),
    ],
)
def test_inputs_that_are_not_those_of_the_graph_are_refused(two_inputs, inputs, message):
    with pytest.raises(BadArrayError, match=message):
        tap(two_inputs).read(inputs, ("masked",))


def test_a_graph_of_unknown_operators_is_refused(tmp_path):
    node = helper.make_node("NoSuchOperator", ["x"], ["out"])
    path = save(tmp_path / "m.onnx", [node], [("x", 1, ["n", 4])], [("out", 1, ["n", 4])])
    with pytest.raises(CorruptFileError, match="onnxruntime cannot run this graph"):
        tap(path).read(np.ones((2, 4)), ("out",))


def test_half_precision_tensors_are_layers(tmp_path):
    node = helper.make_node("Tanh", ["x"], ["out"])
    path = save(
        tmp_path / "m.onnx", [node], [("x", TensorProto.FLOAT16, ["n", 4])], [("out", TensorProto.FLOAT16, None)]
    )
    assert tap(path).layers(np.ones((2, 4)))["out"].dtype == np.float16
    assert extract(path, np.ones((2, 4))).read("out").dtype == np.float32


@pytest.mark.parametrize("content", [b"", b"not protobuf at all", b"\x08\x08"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CorruptFileError, match="not an ONNX model"):
        tap(tmp_path / "m.onnx")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileError, match="no such file; expected an ONNX model"):
        tap(tmp_path / "m.onnx")


def test_missing_external_weights_are_told(tmp_path):
    path = twins.onnx_twin(twins.weights(), tmp_path / "twin.onnx", external=True)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CorruptFileError, match="onnxruntime cannot run this graph"):
        tap(path).read(X, ("conv",))


def test_a_missing_package_is_named_with_its_command(twin, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'repsim_jax\[onnx\]'"):
        tap(twin)
