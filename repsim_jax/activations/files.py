"""Which arrays are in this file? Arrays that other programs saved, read without running anything that is in the file.

Formats, and where the example ids come from:

* ``.npy``: one layer, named after the file; no ids.
* ``.npz``: a layer per array, in file order; an array ``ids`` (text or integers, one per row) gives the ids.
* ``.safetensors``: a layer per tensor, in natural order ("block_2" before "block_10"); the metadata key ``ids``,
  a JSON list of strings, gives the ids.
* ``.parquet``: a layer per column of lists of numbers, or else one layer of all number columns, named after the file; a
  column ``id`` or ``ids`` gives the ids.

A file is read once: the bytes that the checksum was compared with are the bytes that are parsed. Put ``sha256sum FILE >
FILE.sha256`` (or ``write_checksum``) beside a file, since .npy and .safetensors have no checksum of their own.
"""

import hashlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from repsim_jax.activations.contents import Contents
from repsim_jax.activations.layers import Layers
from repsim_jax.activations.numpy_files import read_npy, read_npz
from repsim_jax.activations.parquet_files import read_parquet
from repsim_jax.activations.reader import open_store
from repsim_jax.activations.safetensors_files import read_safetensors
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, RepsimError, UnsafeFileError

_READERS: dict[str, Callable[[bytes, Path], Contents]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".parquet": read_parquet,
}
_TORCH = (
    "Convert it where it came from: import torch, safetensors.torch as s; "
    "s.save_file(torch.load('old.pt', weights_only=True), 'new.safetensors')"
)
_PICKLE = "Convert it where it came from, if you trust it: numpy.savez('new.npz', layer=array)"
_REFUSED = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _TORCH),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), _PICKLE),
}
# A closed list: what the parsers were seen to raise on damaged files (benchmarks/store_faults.py) or are documented to
# raise. pyarrow's own errors derive from these. Anything else is no damage of the file, and must not be hidden as such.
_UNREADABLE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RuntimeError,  # also NotImplementedError and RecursionError
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tokenize.TokenError,
)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads every array of a .npy, .npz, .safetensors or .parquet file.

    Args:
        path: The file. If ``path.sha256`` is beside it, the file must have that checksum.

    Returns:
        Name to array of numbers, at least (n, d), n and d >= 1; perhaps read-only. The ids are not among them.

    Raises:
        FileError: If there is no such file, or its format is not one of these.
        UnsafeFileError: If reading could run code or fill the memory: pickles, torch.save, object arrays, zip bombs.
        CorruptFileError: If it is truncated, damaged, or does not have its checksum.
        BadArrayError: If an array is not numbers, is empty, or has fewer than two axes.
        MissingPackageError: If pyarrow is needed and not installed.
    """
    return _read(Path(path)).arrays


def load_layers(path: str | os.PathLike[str]) -> Layers:
    """Opens the layers that a file or a store holds.

    Args:
        path: A file as for ``read_arrays``, or the folder of a store.

    Returns:
        Layers named after the file or folder. Arrays of more than two axes are kept as they are.

    Raises:
        FileError: As ``read_arrays``, and as ``open_store`` for a folder.
        BadArrayError: As ``read_arrays``, or if arrays or ids differ in their number of rows, or ids repeat.
    """
    path = Path(path)
    if path.is_dir():
        store = open_store(path)
        return Layers(path.resolve().name, store, store.ids)
    contents = _read(path)
    (first, rows), *others = ((name, len(array)) for name, array in contents.arrays.items())
    for name, count in others:
        if count != rows:
            text = f"layers of one model must have the same rows: {first!r} has {rows}, {name!r} has {count}."
            raise BadArrayError(f"{path}: {text} Save them from the same examples.")
    _check_ids(path, contents.ids, rows)
    return Layers(path.stem, contents.arrays, contents.ids)


def write_checksum(path: str | os.PathLike[str]) -> Path:
    """Writes ``path.sha256``, the checksum that ``read_arrays`` compares the file with from then on.

    Args:
        path: An existing file.

    Returns:
        The path of the checksum file; its format is that of ``sha256sum``.

    Raises:
        FileError: If the file cannot be read or the checksum file cannot be written.
    """
    path = Path(path)
    sidecar = _sidecar(path)
    digest = hashlib.sha256(_bytes(path)).hexdigest()
    try:
        sidecar.write_text(f"{digest}  {path.name}\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise FileError(sidecar, f"cannot be written: {error.strerror}.") from error
    return sidecar


def _read(path: Path) -> Contents:
    suffix = path.suffix.lower()
    if suffix in _REFUSED:
        reason = f"a {suffix} file can run code when it is read, and is refused. {_REFUSED[suffix]}"
        raise UnsafeFileError(path, reason)
    if suffix not in _READERS:
        raise FileError(
            path, f"must be one of {', '.join(_READERS)}, or the folder of a store: got {suffix or 'no'!r} suffix."
        )
    data = _bytes(path)
    _check_sidecar(path, data)
    try:
        contents = _READERS[suffix](data, path)
    except BadArrayError as error:
        raise BadArrayError(f"{path}: {error}") from error
    except RepsimError:
        raise
    except _UNREADABLE as error:
        reason = f"is not a whole {suffix} file ({type(error).__name__}: {str(error)[:300] or 'no reason given'})."
        raise CorruptFileError(path, f"{reason} Save or copy it again.") from error
    if not contents.arrays:
        raise BadArrayError(
            f"{path}: at least one array is needed, and there is none. Save (examples, features) arrays."
        )
    for name, array in contents.arrays.items():
        _check_array(path, name, array)
    return contents


def _check_array(path: Path, name: str, array: np.ndarray) -> None:
    if array.dtype.kind in "OSUMmV" and array.dtype.name not in _EXTENDED:
        text = f"array {name!r} must hold numbers: got dtype {array.dtype}. Save it as float32, without this array, or"
        raise BadArrayError(f"{path}: {text} (bfloat16) as .safetensors.")
    if array.ndim < 2:
        text = f"array {name!r} must be (examples, features): got shape {array.shape}. Save x[:, None] if it is one"
        raise BadArrayError(f"{path}: {text} feature per example, else leave it out.")
    if array.size == 0:
        raise BadArrayError(
            f"{path}: array {name!r} is empty, shape {array.shape}: at least one row and feature are needed."
        )


_EXTENDED = frozenset({"bfloat16", "float8_e4m3fn", "float8_e5m2"})


def _check_ids(path: Path, ids: tuple[str, ...] | None, rows: int) -> None:
    if ids is None:
        return
    if len(ids) != rows:
        raise BadArrayError(f"{path}: there must be one id per row: got {len(ids)} ids and {rows} rows.")
    seen: set[str] = set()
    for row, one in enumerate(ids):
        if not one or one in seen:
            what = f"{one!r} a second time" if one else "an empty id"
            raise BadArrayError(f"{path}: ids must be unique, non-empty strings: got {what} at row {row}.")
        seen.add(one)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _check_sidecar(path: Path, data: bytes) -> None:
    sidecar = _sidecar(path)
    if not sidecar.exists():
        return
    words = _bytes(sidecar)[:4096].split()
    wanted = words[0].removeprefix(b"\\").lower() if words else b""  # sha256sum marks escaped names by a backslash
    if len(wanted) != 64:
        raise CorruptFileError(sidecar, "is not a checksum file. Write it again: sha256sum FILE > FILE.sha256")
    if hashlib.sha256(data).hexdigest().encode() != wanted:
        reason = (
            f"does not have the checksum in {sidecar.name}: it was changed or damaged since. Restore it from a copy."
        )
        raise CorruptFileError(path, reason)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except MemoryError as error:
        raise FileError(path, "does not fit into memory. Extract into a store instead: repsim extract.") from error
    except FileNotFoundError as error:
        raise FileError(path, "does not exist. Check the path.") from error
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror}.") from error
