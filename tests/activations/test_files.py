"""Files of other programs are read whole and right, or refused with a reason; none of them can run code."""

import io
import json
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors
import safetensors.numpy
from activations import damage

from repsim_jax.activations import StoreWriter
from repsim_jax.activations.files import load_layers, read_arrays, write_checksum
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, MissingPackageError, UnsafeFileError

X = np.arange(12, dtype=np.float32).reshape(4, 3)


class Evil:
    def __reduce__(self):
        return (Path("ran").touch, ())


def npy_bytes(array: np.ndarray, **settings: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **settings)
    return stream.getvalue()


def npy_with_header(header: str, data: bytes) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def safetensors_bytes(header: dict | str, data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def parquet(path: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("kind", damage.FORMATS)
def test_a_valid_file_is_read_bit_for_bit(tmp_path, kind):
    path = tmp_path / f"layer1.{kind.removesuffix('_compressed')}"
    path.write_bytes(damage.valid_file(kind))
    found = read_arrays(path)
    for name, array in found.items():
        np.testing.assert_array_equal(array, damage.ARRAYS[name])
    assert load_layers(path).names == (("layer1",) if kind == "npy" else ("layer1", "layer2"))


@pytest.mark.parametrize("array", [X, np.asfortranarray(X), X.astype(">f8"), X.astype("f2"), X.astype("i8"), X[:, ::2]])
def test_npy_of_any_order_and_byte_order_is_read(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    found = read_arrays(tmp_path / "x.npy")["x"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, np.int8, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
def test_safetensors_of_any_dtype_are_read_in_natural_order(tmp_path, dtype):
    names = ["block_10", "block_2", "a", "2"]
    safetensors.numpy.save_file({name: X.astype(dtype) for name in names}, tmp_path / "x.safetensors")
    found = read_arrays(tmp_path / "x.safetensors")
    assert list(found) == ["2", "a", "block_2", "block_10"]
    for array in found.values():
        assert array.dtype == dtype
        np.testing.assert_array_equal(array.astype(np.float32), X.astype(dtype).astype(np.float32))


def test_ids_come_from_each_formats_own_place(tmp_path):
    np.savez(tmp_path / "x.npz", a=X, ids=np.array(["é", "b", "c", "d"]))
    np.savez(tmp_path / "y.npz", a=X, ids=np.array([b"\xc3\xa9", b"b", b"c", b"d"]))
    metadata = {"ids": json.dumps(["é", "b", "c", "d"])}
    safetensors.numpy.save_file({"a": X}, tmp_path / "x.safetensors", metadata=metadata)
    parquet(tmp_path / "x.parquet", id=["é", "b", "c", "d"], a=list(X))
    for name in ("x.npz", "y.npz", "x.safetensors", "x.parquet"):
        layers = load_layers(tmp_path / name)
        assert (layers.name, layers.names, layers.ids) == (name[0], ("a",), ("é", "b", "c", "d"))
    np.savez(tmp_path / "z.npz", a=X, ids=np.arange(4))
    assert load_layers(tmp_path / "z.npz").ids == ("0", "1", "2", "3")
    np.save(tmp_path / "x.npy", X)
    assert load_layers(tmp_path / "x.npy").ids is None


def test_parquet_layers_are_columns_of_lists_or_all_number_columns(tmp_path):
    fixed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(X.ravel()), 3)
    path = parquet(
        tmp_path / "lists.parquet", fixed=fixed, lists=list(X.astype("f8")), label=[1, 2, 3, 4], text=list("abcd")
    )
    found = read_arrays(path)
    assert list(found) == ["fixed", "lists"]
    np.testing.assert_array_equal(found["fixed"], X)
    np.testing.assert_array_equal(found["lists"], X)
    path = parquet(tmp_path / "table.parquet", a=X[:, 0], ids=[7, 8, 9, 10], b=X[:, 1])
    np.testing.assert_array_equal(read_arrays(path)["table"], X[:, :2])
    assert load_layers(path).ids == ("7", "8", "9", "10")


def test_parquet_of_many_row_groups_is_read_whole(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5000, 4))
    pyarrow.parquet.write_table(pyarrow.table({"a": list(rows)}), tmp_path / "x.parquet", row_group_size=700)
    np.testing.assert_array_equal(read_arrays(tmp_path / "x.parquet")["a"], rows)


def test_a_folder_that_is_a_store_gives_the_same_thing(tmp_path):
    with StoreWriter(tmp_path / "model") as writer:
        writer.append(list("abcd"), {"l": X})
        writer.finish()
    layers = load_layers(tmp_path / "model")
    assert (layers.name, layers.names, layers.ids) == ("model", ("l",), ("a", "b", "c", "d"))
    np.testing.assert_array_equal(layers.read("l"), X)


def test_maps_of_more_axes_are_kept_and_named_when_read_as_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 5, 6)))
    layers = load_layers(tmp_path / "x.npy")
    assert not isinstance(layers.layers, type(None))
    assert read_arrays(tmp_path / "x.npy")["x"].shape == (4, 5, 6)
    with pytest.raises(
        BadArrayError, match=r"'x' must be \(examples, features\): got shape \(4, 5, 6\).*layout policy"
    ):
        layers.read("x")


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt", "pkl", "pickle", "joblib", "PKL"])
def test_pickles_are_refused_with_a_line_that_converts_them(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"x.{suffix}").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeFileError, match=r"can run code.*Convert it where it came from"):
        load_layers(tmp_path / f"x.{suffix}")
    assert not (tmp_path / "ran").exists()


def test_object_arrays_and_torch_files_in_disguise_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = np.array([[Evil()]], dtype=object)
    np.save(tmp_path / "x.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "x.npz", a=X, b=evil)
    with zipfile.ZipFile(tmp_path / "torch.npz", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Evil()))
    for name in ("x.npy", "x.npz", "torch.npz"):
        with pytest.raises(UnsafeFileError, match="can run code"):
            read_arrays(tmp_path / name)
    with pytest.raises(CorruptFileError):
        read_arrays(tmp_path / "pickle.npy")
    assert not (tmp_path / "ran").exists()


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy_bytes(np.zeros((100, 2**18), np.float32)))


def test_a_zip_bomb_is_refused_before_it_expands(tmp_path):
    zip_bomb(tmp_path / "bomb.npz")
    assert (tmp_path / "bomb.npz").stat().st_size < 2**18
    tracemalloc.start()
    with pytest.raises(UnsafeFileError, match="more than 100 times: refused as a zip bomb"):
        read_arrays(tmp_path / "bomb.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_parquet_file_that_expands_without_end_is_stopped(tmp_path):
    lists = pyarrow.array([[0.0] * 1000] * 20_000, pyarrow.list_(pyarrow.float64()))
    path = parquet(tmp_path / "bomb.parquet", a=lists)
    assert path.stat().st_size < 2**17
    with pytest.raises(UnsafeFileError, match="refused"):
        read_arrays(path)


NPY_HEADER = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"
LYING: dict[str, tuple[str, bytes]] = {
    "a trillion floats in 100 bytes": (
        "npy",
        npy_with_header(NPY_HEADER.format("<f4", "(1000000, 1000000)"), b"\0" * 48),
    ),
    "negative shape": ("npy", npy_with_header(NPY_HEADER.format("<f4", "(-4, -3)"), b"\0" * 48)),
    "bytes after the numbers": ("npy", npy_bytes(X) + b"\0"),
    "numbers missing": ("npy", npy_bytes(X)[:-1]),
    "no numpy file": ("npy", b"PK\x03\x04"),
    "empty npy": ("npy", b""),
    "python 2 integers": ("npy", npy_with_header(NPY_HEADER.format("<f4", "(4L, 4L)"), b"\0" * 48)),
    "unfinished header": ("npy", npy_with_header("{'descr': '<f4', 'shape': (", b"")),
    "header of version 3": ("npy", b"\x93NUMPY\x03\x00" + npy_bytes(X)[8:]),
    "empty npz": ("npz", b""),
    "header too long": ("safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "header longer than the file": ("safetensors", struct.pack("<Q", 100) + b"{}"),
    "header over 8 MB": ("safetensors", struct.pack("<Q", 9 * 10**6) + b" " * 9 * 10**6),
    "header is a list": ("safetensors", safetensors_bytes("[]", b"")),
    "header nested too deep": ("safetensors", safetensors_bytes("[" * 100_000, b"")),
    "duplicate name": (
        "safetensors",
        safetensors_bytes('{"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"a":{"dtype":"F32"}}', b"\0" * 4),
    ),
    "hole": (
        "safetensors",
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1, 1], "data_offsets": [4, 8]}}, b"\0" * 8),
    ),
    "overlap": (
        "safetensors",
        safetensors_bytes({n: {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]} for n in "ab"}, b"\0" * 4),
    ),
    "trailing bytes": (
        "safetensors",
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}, b"\0" * 5),
    ),
    "wrong shape": (
        "safetensors",
        safetensors_bytes({"a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 4]}}, b"\0" * 4),
    ),
    "boolean shape": (
        "safetensors",
        safetensors_bytes({"a": {"dtype": "F32", "shape": [True, 1], "data_offsets": [0, 4]}}, b"\0" * 4),
    ),
    "ids that are no list": (
        "safetensors",
        safetensors_bytes(
            {"__metadata__": {"ids": "{}"}, "a": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}, b"\0" * 4
        ),
    ),
    "no parquet file": ("parquet", b"PAR1" * 10),
}


@pytest.mark.parametrize("case", LYING)
def test_a_file_whose_header_lies_is_corrupt(tmp_path, case):
    suffix, data = LYING[case]
    if case == "python 2 integers":  # the only one that numpy reads, and its size is wrong here
        warnings.simplefilter("error")
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=f"is not a whole .{suffix} file"):
        read_arrays(path)


def npz_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
        if "a__npy" in members and len(members) == 1:
            archive.writestr("a.npy", members["a__npy"])
    return stream.getvalue()


def test_an_npz_with_anything_but_arrays_of_unique_names_is_corrupt(tmp_path):
    path = tmp_path / "x.npz"
    for data in (npz_of(a__npy=npy_bytes(X)), npz_of(a__npy=npy_bytes(X), readme__txt=b"hello")):
        path.write_bytes(data)
        with pytest.raises(CorruptFileError, match=r"same name|not a \.npy array"):
            read_arrays(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy_bytes(X))
    with pytest.raises(CorruptFileError, match="compressed in a way"):
        read_arrays(path)


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "1-D": (lambda p: np.save(p / "x.npy", X[0]), r"got shape \(3,\).*x\[:, None\]"),
    "0-D": (lambda p: np.save(p / "x.npy", X[0, 0]), r"got shape \(\)"),
    "no rows": (lambda p: np.save(p / "x.npy", X[:0]), "is empty"),
    "text": (lambda p: np.save(p / "x.npy", X.astype(str)), "must hold numbers: got dtype"),
    "bfloat16 as npy": (lambda p: np.save(p / "x.npy", X.astype(ml_dtypes.bfloat16)), "as .safetensors"),
    "dates": (lambda p: np.save(p / "x.npy", X.astype("M8[s]")), "must hold numbers"),
    "no arrays": (lambda p: np.savez(p / "x.npz"), "there is none"),
    "labels": (lambda p: np.savez(p / "x.npz", a=X, labels=np.arange(4)), "'labels' must be"),
    "different rows": (lambda p: np.savez(p / "x.npz", a=X, b=X[:3]), "'a' has 4, 'b' has 3"),
    "too few ids": (lambda p: np.savez(p / "x.npz", a=X, ids=np.array(["a"])), "got 1 ids and 4 rows"),
    "repeated ids": (lambda p: np.savez(p / "x.npz", a=X, ids=np.array(list("abca"))), "'a' a second time at row 3"),
    "empty ids": (lambda p: np.savez(p / "x.npz", a=X, ids=np.array(["a", ""] * 2)), "an empty id at row 1"),
    "float ids": (lambda p: np.savez(p / "x.npz", a=X, ids=np.ones(4)), "ids must be text or integers: got 1.0"),
    "matrix of ids": (lambda p: np.savez(p / "x.npz", a=X, ids=np.ones((4, 1), int)), "one id per row"),
    "list with gaps": (lambda p: parquet(p / "x.parquet", a=[[1.0, None], [2.0, 3.0]]), "'a' must have a number"),
    "rows with gaps": (lambda p: parquet(p / "x.parquet", a=[[1.0, 2.0], None]), "row 1 has none"),
    "ragged lists": (lambda p: parquet(p / "x.parquet", a=[[1.0], [2.0, 3.0]]), "lists of one length: got 1 to 2"),
    "a column of text": (lambda p: parquet(p / "x.parquet", a=[1.0], b=["x"]), "'b' must hold floating-point"),
    "no columns": (lambda p: parquet(p / "x.parquet", id=["x"]), "there is none"),
    "no rows of lists": (
        lambda p: parquet(p / "x.parquet", a=pyarrow.array([], pyarrow.list_(pyarrow.float32()))),
        "is empty",
    ),
    "a dtype of no numpy": (
        lambda p: (p / "x.safetensors").write_bytes(
            safetensors_bytes({"a": {"dtype": "F4", "shape": [2, 1], "data_offsets": [0, 1]}}, b"\0")
        ),
        "'a' has dtype 'F4'",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_whole_file_that_holds_no_layers_says_what_is_wrong(tmp_path, case):
    save, message = UNFIT[case]
    save(tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(BadArrayError, match=message) as caught:
        load_layers(path)
    assert str(path) in str(caught.value)


def test_files_that_are_not_there_or_of_another_format_are_named(tmp_path):
    with pytest.raises(FileError, match=r"x\.npy: does not exist"):
        read_arrays(tmp_path / "x.npy")
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(FileError, match=r"must be one of \.npy, \.npz, \.safetensors, \.parquet"):
        read_arrays(tmp_path / "x.h5")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(FileError, match="cannot be read"):
        read_arrays(tmp_path / "folder.npy")


def test_a_file_with_a_checksum_beside_it_must_have_that_checksum(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    sidecar = write_checksum(path)
    assert sidecar.name == "x.npy.sha256"
    np.testing.assert_array_equal(read_arrays(path)["x"], X)
    np.save(path, X + 1)
    with pytest.raises(CorruptFileError, match=r"does not have the checksum in x\.npy\.sha256"):
        read_arrays(path)
    sidecar.write_text("")
    with pytest.raises(CorruptFileError, match="is not a checksum file"):
        read_arrays(path)
    with pytest.raises(FileError, match="does not exist"):
        write_checksum(tmp_path / "absent.npy")


def test_the_checksum_file_is_that_of_sha256sum(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert write_checksum(tmp_path / "x.npy").read_text() == f"{known}  x.npy\n"


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, monkeypatch):
    path = parquet(tmp_path / "x.parquet", a=[1.0])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"repsim_jax\[table\]"):
        read_arrays(path)


@pytest.mark.parametrize("kind", damage.FORMATS)
def test_damaged_files_raise_only_this_packages_errors(tmp_path, kind):
    outcomes = damage.fuzz(kind, 300, 0, tmp_path)
    assert set(outcomes) <= {"identical", "changed", *(error.__name__ for error in damage.EXPECTED)}
    if kind.startswith("npz"):  # a zip has checksums of its own
        assert outcomes["changed"] == 0


@pytest.mark.parametrize("kind", damage.FORMATS)
def test_damaged_files_with_a_checksum_are_never_read_as_something_else(tmp_path, kind):
    outcomes = damage.fuzz(kind, 300, 1, tmp_path, checksum=True)
    assert set(outcomes) <= {"CorruptFileError", "identical"}
    assert outcomes["identical"] < 5  # a mutation that changed nothing


def test_what_the_safetensors_library_refuses_is_refused_here(tmp_path):
    import random

    rng, data, path = random.Random(0), damage.valid_file("safetensors"), tmp_path / "x.safetensors"
    for _ in range(500):
        damaged = damage.mutated(data, rng)
        try:
            safetensors.deserialize(damaged)
        except safetensors.SafetensorError:
            path.write_bytes(damaged)
            with pytest.raises(damage.EXPECTED):
                read_arrays(path)
