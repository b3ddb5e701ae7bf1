"""NumPy's .npy and .npz files, parsed so that neither a lying header nor a zip bomb can fill the memory.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import io
import math
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np

from repsim_jax.activations.contents import Contents, ids_from_values
from repsim_jax.errors import BadArrayError, UnsafeFileError

# Deflate reaches 1032 : 1 on zeros; activations, even sparse ones after a ReLU, stay far below 100 : 1. Small files may
# expand freely: 64 MiB hurts nobody.
MAX_EXPANSION = 100
FREE_EXPANSION = 64 * 2**20
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(data: bytes, path: Path) -> Contents:
    """Reads a .npy file.

    Args:
        data: The file's bytes.
        path: Where they came from; its stem names the layer.

    Returns:
        One array.

    Raises:
        UnsafeFileError: If it holds Python objects.
        ValueError: If it is not a whole .npy file; also what numpy's header parser raises.
    """
    return Contents({path.stem: _parse(data, path)})


def read_npz(data: bytes, path: Path) -> Contents:
    """Reads a .npz file.

    Args:
        data: The file's bytes.
        path: Where they came from, for messages.

    Returns:
        Its arrays in file order; the array ``ids`` as ids.

    Raises:
        UnsafeFileError: If it holds Python objects, is a torch.save file, or expands more than ``MAX_EXPANSION`` times.
        BadArrayError: If ``ids`` does not have one text or integer per row.
        ValueError: If it is not a whole .npz file; also what zipfile, zlib and numpy's header parser raise.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        _check_members(members, len(data), path)
        _check_directory(members, data)
        for member in members:
            arrays[member.filename.removesuffix(".npy")] = _parse(archive.read(member), path)
    ids = arrays.pop("ids", None)
    if ids is None:
        return Contents(arrays)
    if ids.ndim != 1:
        raise BadArrayError(f"the array 'ids' must have one id per row: got shape {ids.shape}.")
    return Contents(arrays, ids_from_values(ids.tolist()))


def _check_members(members: list[zipfile.ZipInfo], num_bytes: int, path: Path) -> None:
    names = [member.filename for member in members]
    if any(name.endswith("data.pkl") for name in names):
        advice = "Convert it where it came from: safetensors.torch.save_file(torch.load(..., weights_only=True), ...)"
        raise UnsafeFileError(path, f"is a torch.save file, which can run code when it is read. {advice}")
    total = sum(member.file_size for member in members)
    if total > max(FREE_EXPANSION, MAX_EXPANSION * num_bytes):
        reason = (
            f"would expand from {num_bytes} to {total} bytes, more than {MAX_EXPANSION} times: refused as a zip bomb."
        )
        raise UnsafeFileError(path, f"{reason} If it is yours, save it with numpy.savez (not compressed).")
    if len(set(names)) != len(names):
        raise ValueError("two members have the same name")
    for member in members:
        if not member.filename.endswith(".npy"):
            raise ValueError(f"member {member.filename!r} is not a .npy array")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"member {member.filename!r} is compressed in a way that numpy does not write")


def _check_directory(members: list[zipfile.ZipInfo], data: bytes) -> None:
    """Compares the zip directory with its end record: zipfile does not, and a damaged one can lose a layer unseen."""
    _, _, _, _, count, size, offset, _ = struct.unpack("<4s4H2LH", data[-22:])
    is_zip64 = count == 0xFFFF or 0xFFFFFFFF in (size, offset)
    if not is_zip64 and (count != len(members) or offset + size + 22 != len(data)):
        raise ValueError(f"its directory has {len(members)} members, {count} were written")


def _parse(data: bytes, path: Path) -> np.ndarray:
    stream = io.BytesIO(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and ast warn about odd headers; they are judged below
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"format version {version} is only needed for tables, not for arrays of numbers")
        shape, fortran_order, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        advice = "Convert it where it came from: numpy.save('new.npy', numpy.stack(list(x)))"
        raise UnsafeFileError(path, f"holds Python objects, which can run code when they are read. {advice}")
    if any(size < 0 for size in shape):
        raise ValueError(f"negative shape {shape}")
    start, count = stream.tell(), math.prod(shape)
    if len(data) - start != count * dtype.itemsize:
        raise ValueError(
            f"its header promises {count * dtype.itemsize} bytes of numbers, {len(data) - start} are there"
        )
    array = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
    array = array.reshape(shape, order="F" if fortran_order else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
