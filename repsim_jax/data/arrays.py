"""Which arrays are in a file of examples? Read lazily where possible, and never by running what is in the file."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repsim_jax.errors import BadArrayError, CorruptFileError, UnknownNameError

SUFFIXES = (".npy", ".npz", ".safetensors")
IDS = "ids"
# As for files of activations: deflate reaches 1032 : 1 on zeros, real data stay far below 100 : 1.
_MAX_EXPANSION, _FREE_EXPANSION = 100, 64 * 2**20


class ArrayExamples(NamedTuple):
    """The rows of one array.

    Attributes:
        shape: (n, ...).
        dtype: Of the numbers.
        ids: What an array "ids" beside it says; else None.
        get: ``get(i)`` is row i.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    ids: tuple[str, ...] | None
    get: Callable[[int], np.ndarray]


def array_examples(path: Path, column: str | None) -> ArrayExamples:
    """Opens one array of a file: .npy and .safetensors stay on the disk, a .npz member is read whole.

    Args:
        path: A .npy, .npz or .safetensors file.
        column: The name of the array; may be None where there is one (an array "ids" apart).

    Returns:
        The examples.

    Raises:
        UnknownNameError: If there is no such array, or none was named where there are several.
        BadArrayError: If it does not hold numbers with a leading axis of examples, or ids do not fit.
        CorruptFileError: If the file is damaged, holds Python objects, or would expand beyond measure.
    """
    try:
        found = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}[path.suffix.lower()](path, column)
    except (UnknownNameError, BadArrayError, CorruptFileError):
        raise
    except Exception as error:  # numpy, zipfile and safetensors raise a dozen kinds on damaged files
        reason = f"is not a whole {path.suffix} file ({type(error).__name__}: {str(error)[:200]}). Save it again."
        raise CorruptFileError(path, reason) from error
    if found.dtype.kind not in "fiub" or len(found.shape) < 2 or 0 in found.shape:
        raise BadArrayError(f"{path}: expected numbers of shape (examples, ...), got {found.dtype} {found.shape}.")
    if found.ids is not None and len(found.ids) != found.shape[0]:
        raise BadArrayError(
            f"{path}: there must be one id per example: {len(found.ids)} ids, {found.shape[0]} examples."
        )
    return found


def _npy(path: Path, column: str | None) -> ArrayExamples:
    if column not in (None, path.stem):
        raise UnknownNameError.of("array", column or "", [path.stem])
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return ArrayExamples(array.shape, array.dtype, None, lambda row: np.array(array[row]))


def _npz(path: Path, column: str | None) -> ArrayExamples:
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > max(_FREE_EXPANSION, _MAX_EXPANSION * path.stat().st_size):
        raise CorruptFileError(path, f"would expand to {total} bytes: refused. Save it with numpy.savez, uncompressed.")
    with np.load(path, allow_pickle=False) as members:
        array = members[_chosen([name for name in members.files if name != IDS], column, path)]
        ids = tuple(map(str, members[IDS].ravel().tolist())) if IDS in members.files else None
    return ArrayExamples(array.shape, array.dtype, ids, array.__getitem__)


def _safetensors(path: Path, column: str | None) -> ArrayExamples:
    from safetensors import safe_open

    file: Any = safe_open(path, framework="numpy")
    rows = file.get_slice(_chosen(list(file.keys()), column, path))
    first = rows[:1]
    return ArrayExamples(tuple(rows.get_shape()), first.dtype, None, lambda row: rows[row : row + 1][0])


def _chosen(names: list[str], column: str | None, path: Path) -> str:
    if column is None and len(names) == 1:
        return names[0]
    if column is None:
        raise UnknownNameError(
            f"{path} holds {len(names)} arrays: {', '.join(names)}. Say which one: column (--column)."
        )
    if column not in names:
        raise UnknownNameError.of("array", column, names)
    return column
